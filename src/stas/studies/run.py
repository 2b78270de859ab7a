"""A run: samples under settings in a folder, which can be stopped and gone on with.

A run's state is its files. A video is finished when its manifest is there, which appears last,
beside files that can be read; all else is made again. All settings of one sample are made before
the next sample, so that a run that was stopped has whole pairs.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from stas.checks import expect
from stas.files import whole_file
from stas.measures.measure import Measures
from stas.pipelines.manifest import package_versions
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import Finished, VideoFiles, make_sample
from stas.studies.plan import Setting

LOCK = ".lock"
PROBES = (2, 4)  # denoising steps of the two videos that tell how long all will take

Report = Callable[[int, int, int], None]  # of finished videos, finished steps, steps


@dataclass
class Run(ABC):
    """Samples under settings in a folder: what it will make, and what is finished.

    Args:
        folder: Its folder, which need not exist.
        settings: The first is what the others are compared with; classes of dimensions give way to
            dimensions once they are found.
        samples: Its prompts and seeds.
        arguments: Further arguments of the pipeline's call.
        measured: Names of the measures that are taken of frames.
        fps: Of the files; None for the model's own.
        finished: By name of sample and setting.
        beside_others: Whether its folder may hold other things when it begins.
    """

    noun: ClassVar[str]  # what it is called in messages and in its record
    folder: Path
    settings: Sequence[Setting]
    samples: Sequence[Sample]
    arguments: Mapping[str, Any]
    measured: Sequence[str]
    fps: float | None = None
    finished: dict[tuple[str, str], Finished] = field(default_factory=dict)
    beside_others: bool = False

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.folder)!r}: {len(self.finished)} of {self.videos} "
            f"videos finished, {len(self.settings)} settings x {len(self.samples)} samples)"
        )

    @abstractmethod
    def plan(self) -> dict[str, Any]:
        """All that decides the run's videos and numbers, as JSON's own types."""

    @abstractmethod
    def files(self, number: int, sample: Sample) -> VideoFiles:
        """The files of a sample under the setting of that number."""

    def find_dims(self, loaded: LoadedPipeline, report: Report | None = None) -> None:  # noqa: B027
        """Put dimensions in place of their classes; most runs have none."""

    def sample_made(self, sample: Sample) -> None:  # noqa: B027
        """Write what a sample has beside its videos, which are all finished; some have nothing."""

    @property
    def videos(self) -> int:
        """How many videos the whole run has."""
        return len(self.settings) * len(self.samples)

    @property
    def left(self) -> int:
        """How many are still to be made."""
        return self.videos - len(self.finished)

    @property
    def record(self) -> Path:
        """The file that says what the run is and what it was made with."""
        return self.folder / f"{self.noun}.json"

    def whole_samples(self) -> list[Sample]:
        """The samples that are finished under every setting."""
        return [
            sample
            for sample in self.samples
            if all((sample.name, setting.name) in self.finished for setting in self.settings)
        ]

    def numbers(self) -> dict[tuple[str, str], dict[str, float]]:
        """By name of sample and setting, one number for each thing measured."""
        return {
            key: found.metrics.summary()
            for key, found in self.finished.items()
            if found.metrics is not None
        }

    def steered(self, *settings: Setting) -> bool:
        """Whether any video of these settings was steered; true where none was to be."""
        names = {setting.name for setting in settings if setting.config is not None}
        made = [found.manifest for (_, name), found in self.finished.items() if name in names]
        return not made or any(manifest.steered for manifest in made)

    def read(self) -> None:
        """Look into the folder for what is finished.

        Raises:
            NotADirectoryError: It is a file.
            ValueError: It is the folder of another run; the message says what differs.
            FileExistsError: It holds other things.
        """
        self._check_folder()
        self.finished = {
            (sample.name, setting.name): found
            for number, setting in enumerate(self.settings)
            for sample in self.samples
            if (found := self.files(number, sample).read()) is not None
        }

    def check(self, loaded: LoadedPipeline) -> list[dict[str, Any]]:
        """See that a pipeline can make every video.

        Returns:
            For each sample, the arguments of the pipeline's call.

        Raises:
            ValueError: What the pipeline or `steer` refuses, or videos of one frame.
        """
        calls = [loaded.arguments({**self.arguments, "prompt": s.prompt}) for s in self.samples]
        loaded.check_comparable(calls[0])
        for setting in self.settings:
            known = {} if setting.dims_class is None else {"dims": (0,)}
            with loaded.steered(setting.steering(**known)):
                pass
        return calls

    @contextmanager
    def claim(self, options: PipelineOptions) -> Iterator[None]:
        """Make the folder this process's own while it works there.

        Args:
            options: What the pipeline was loaded with, resolved.

        Raises:
            RuntimeError: Another process works in it.
            ValueError: What is finished was made with another type of device, dtype, versions or
                measures: pairs of both would differ by that and not by steering.
            OSError: The folder can't be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(
                f"Another process runs the {self.noun} in {str(self.folder)!r}. Wait for it, or "
                "give another -o."
            ) from None
        try:
            self._check_folder()  # another process may have come first
            self._keep_record(options)
            for number, _ in enumerate(self.settings):
                self.files(number, self.samples[0]).stem.parent.mkdir(parents=True, exist_ok=True)
            # Of a process that was killed.
            for path in [*self.folder.glob(".*-*"), *self.folder.glob("*/.*-*")]:
                if path.is_file():
                    path.unlink()
            self.read()
            yield
        finally:
            lock.release()

    def make(
        self,
        loaded: LoadedPipeline,
        calls: Sequence[Mapping[str, Any]],
        measures: Measures,
        report: Report | None = None,
    ) -> None:
        """Make every video that is not finished, all settings of one sample before the next sample.

        Args:
            loaded: The pipeline.
            calls: What `check` returned.
            measures: What is measured.
            report: Called with (videos made now, finished steps, steps) as it goes on.

        Raises:
            OSError: A file can't be written; what is finished is kept.
            RuntimeError: A video or its measures failed; the message says which.
        """
        made, frame_map = 0, loaded.frame_map
        for sample, call in zip(self.samples, calls, strict=True):
            for number, setting in enumerate(self.settings):
                if (sample.name, setting.name) in self.finished:
                    continue

                def tell(done: int, steps: int, made: int = made) -> None:
                    if report is not None:
                        report(made, done, steps)

                try:
                    with loaded.steered(setting.steering()) as handle:
                        frames, manifest = make_sample(
                            loaded, sample, call, handle, fps=self.fps, report=tell
                        )
                    metrics = measures.of(frames, frame_map, sample.prompt)
                except Exception as error:
                    raise RuntimeError(
                        f"{setting.name} of {sample.name} ({sample.prompt!r}) failed: {error}"
                    ) from error
                self.files(number, sample).write(frames, manifest, metrics)
                self.finished[sample.name, setting.name] = Finished(manifest, metrics)
                made += 1
            self.sample_made(sample)

    def _check_folder(self) -> None:
        where = repr(str(self.folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{where} is a file, but a {self.noun} is a folder.")
        if self.record.is_file():
            # As JSON gives it back.
            plan = json.loads(json.dumps(self.plan()))
            if differing := _differing(self._load_record()[self.noun], plan):
                raise ValueError(
                    f"{where} holds another {self.noun}, so it can't be gone on with: {differing}. "
                    "Give another -o."
                )
        elif self.beside_others:
            return
        elif self.folder.exists() and any(path.name[0] != "." for path in self.folder.iterdir()):
            raise FileExistsError(
                f"{where} is not empty and holds no {self.noun}. Give another -o."
            )

    def _load_record(self) -> Any:
        try:
            data = json.loads(self.record.read_text(encoding="utf-8"))
            known = data["format"] == self._format and isinstance(data[self.noun], dict)
            expect(known, f"expected the format {self._format}")
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{self.record} is no record of a {self.noun}: {error}") from error
        return data

    @property
    def _format(self) -> str:
        return f"stas.{self.noun}/1"

    def _keep_record(self, options: PipelineOptions) -> None:
        made_with = {
            "device": options.device.partition(":")[0],
            "dtype": options.dtype,
            "measures": list(self.measured),
            **package_versions(),
        }
        if self.record.is_file():
            if differing := _differing(self._load_record()["made_with"], made_with):
                raise ValueError(
                    f"The videos in {str(self.folder)!r} were made otherwise: {differing}. Go on "
                    "as before, or give another -o."
                )
            return
        data = {"format": self._format, self.noun: self.plan(), "made_with": made_with}
        with whole_file(self.record) as temporary:
            temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def carry_out(
    run: Run,
    loaded: LoadedPipeline,
    measures: Measures,
    *,
    report: Report | None = None,
    recorded: Report | None = None,
) -> None:
    """Do what is left of a run that was read: check, claim its folder, find dimensions, make.

    Args:
        run: The run.
        loaded: Its pipeline.
        measures: What is measured.
        report: Called with (videos made now, finished steps, steps) as videos are made.
        recorded: The same as videos are recorded to find classes of dimensions.

    Raises:
        What `Run.check`, `Run.claim`, `Run.find_dims` and `Run.make` raise.
    """
    calls = run.check(loaded)
    with run.claim(loaded.options):
        run.find_dims(loaded, recorded)
        run.make(loaded, calls, measures, report)


def seconds_per_video(loaded: LoadedPipeline, call: Mapping[str, Any], seed: int) -> float:
    """About how long one video takes, from two of a few denoising steps after one to warm up."""
    (few, more), times = PROBES, []
    parameters = inspect.signature(type(loaded.pipeline).__call__).parameters
    if "num_inference_steps" not in parameters:
        return float("nan")
    wanted = call.get("num_inference_steps", parameters["num_inference_steps"].default)
    for steps in (few, *PROBES):
        started = monotonic()
        loaded.generate({**call, "num_inference_steps": steps}, seed)
        times.append(monotonic() - started)
    step = max(0.0, times[2] - times[1]) / (more - few)
    return max(times[1], times[2] + step * (int(wanted) - more))


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs, in words; the order of axes and values counts, for folders follow it."""
    texts = [{name: json.dumps(value) for name, value in each.items()} for each in (old, new)]
    return "; ".join(
        f"{name} {_short(texts[0].get(name))} -> {_short(texts[1].get(name))}"
        for name in sorted(set(old) | set(new))
        if texts[0].get(name) != texts[1].get(name)
    )


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    return text if len(text) <= 60 else f"{text[:57]}..."
