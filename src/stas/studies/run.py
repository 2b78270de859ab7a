"""A run: samples under settings in a folder, which can be stopped and gone on with.

A run's state is its files. A video is finished when its manifest is there, which appears last,
beside files that can be read; all else is made again. All settings of one sample are made by one
process before its next sample, so that pairs are whole and both halves of one machine.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import torch

from stas.checks import expect, what_differs
from stas.files import whole_file
from stas.measures.measure import Measures
from stas.pipelines.job import PipelineJob, is_out_of_memory
from stas.pipelines.job import carry_out as carry_out_job
from stas.pipelines.manifest import known_dims, package_versions
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import MANIFEST, Finished, VideoFiles, make_samples, write_all
from stas.studies.plan import Setting
from stas.workers.executors import HERE, Workers
from stas.workers.job import Report, TaskError, Tell

PROBES = (2, 4)  # denoising steps of the two videos that tell how long all will take


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

    def find_dims(self, loaded: LoadedPipeline, tell: Tell) -> None:  # noqa: B027
        """Put dimensions in place of their classes; most runs have none."""

    def sample_made(self, sample: Sample) -> None:  # noqa: B027
        """Write what a sample has beside its videos, which are all finished; some have nothing."""

    def is_finished(self, samples: Sequence[Sample]) -> bool:
        """Whether samples have all their files, under all settings."""
        return all(
            self.files(number, sample).read() is not None
            for number, _ in enumerate(self.settings)
            for sample in samples
        )

    def count_finished(self) -> int:
        """How many videos are finished, by a quick look: their files are not read."""
        return sum(
            self.files(number, sample).path(MANIFEST).exists()
            for number, _ in enumerate(self.settings)
            for sample in self.samples
        )

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
        calls = [loaded.arguments({**self.arguments, **s.arguments}) for s in self.samples]
        loaded.check_comparable(calls[0])
        for setting in self.settings:
            known = {} if setting.dims_class is None else {"dims": (0,)}
            with loaded.steered(setting.steering(**known)):
                pass
        return calls

    def begin(self, options: PipelineOptions) -> None:
        """Make the folder ready, or see that it is; by one process at a time.

        Args:
            options: What the pipeline was loaded with, resolved.

        Raises:
            ValueError: What is finished was made with another type of device, dtype, versions or
                measures: pairs of both would differ by that and not by steering.
            OSError: The folder can't be written to.
        """
        self._check_folder()  # another process may have come first
        self.folder.mkdir(parents=True, exist_ok=True)
        self._keep_record(options)
        # The order of additions, so the last bits, are the same for all that go on with the run.
        if options.device == "cpu" and (threads := self._load_record().get("threads")):
            torch.set_num_threads(threads)
        for number, _ in enumerate(self.settings):
            self.files(number, self.samples[0]).stem.parent.mkdir(parents=True, exist_ok=True)
        self.read()

    def check_dims(self, loaded: LoadedPipeline) -> None:
        """See that what is finished was steered in the dimensions that the rest will be.

        Raises:
            ValueError: The profile that is used has changed since.
        """
        for setting in self.settings:
            with loaded.steered(setting.steering()) as handle:
                now = None if handle is None else known_dims(handle)
            for (_, name), found in self.finished.items():
                then = found.manifest.known_dims
                if name == setting.name and (
                    differing := what_differs({"dims": then}, {"dims": now})
                ):
                    raise ValueError(
                        f"The videos of {name} in {str(self.folder)!r} were made otherwise: "
                        f"{differing}. The profile has changed since: give another -o."
                    )

    def make(
        self,
        loaded: LoadedPipeline,
        calls: Sequence[Mapping[str, Any]],
        measures: Measures,
        samples: Sequence[Sample],
        tell: Tell,
    ) -> None:
        """Make what some samples lack, in one call of the pipeline for each setting.

        Args:
            loaded: The pipeline.
            calls: Its arguments for each of the samples.
            measures: What is measured.
            samples: One; or several, all of whose videos of a setting are made where one is
                missing, since a batch's size changes the last bits of its videos.
            tell: Told the steps of each video.

        Raises:
            OSError: A file can't be written; what is finished is kept.
            TaskError: A video or its measures failed; the message says which.
        """
        frame_map = loaded.frame_map
        for number, setting in enumerate(self.settings):
            files = [self.files(number, sample) for sample in samples]
            missing = [each.read() is None for each in files]
            if not any(missing):
                continue

            try:
                with loaded.steered(setting.steering()) as handle:

                    def report(
                        step: int, steps: int, name: str = setting.name, handle: Any = handle
                    ) -> None:
                        state = "" if handle is None else f" {handle.state(step, steps)}"
                        tell(step, steps, f"{name}{state}")

                    made = make_samples(loaded, samples, calls, handle, fps=self.fps, report=report)
                metrics = [
                    measures.of(frames, frame_map, sample.prompt) if lacks else None
                    for (frames, _), sample, lacks in zip(made, samples, missing, strict=True)
                ]
            except Exception as error:
                of = ", ".join(f"{sample.name} ({sample.prompt!r})" for sample in samples)
                raise TaskError(
                    f"{setting.name} of {of} failed: {error}", again=is_out_of_memory(error)
                ) from error
            write_all(
                [
                    (each, (frames, manifest, found))
                    for each, (frames, manifest), found in zip(files, made, metrics, strict=True)
                    if found is not None
                ]
            )
        for sample in samples:
            self.sample_made(sample)

    def _check_folder(self) -> None:
        where = repr(str(self.folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{where} is a file, but a {self.noun} is a folder.")
        if self.record.is_file():
            # As JSON gives it back.
            plan = json.loads(json.dumps(self.plan()))
            if differing := what_differs(self._load_record()[self.noun], plan):
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
            if differing := what_differs(self._load_record()["made_with"], made_with):
                raise ValueError(
                    f"The videos in {str(self.folder)!r} were made otherwise: {differing}. Go on "
                    "as before, or give another -o."
                )
            return
        data = {
            "format": self._format,
            self.noun: self.plan(),
            "made_with": made_with,
            "threads": torch.get_num_threads(),
        }
        with whole_file(self.record, alone=True) as temporary:
            temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def carry_out(
    run: Run,
    loaded: LoadedPipeline | PipelineOptions,
    measures: Measures,
    *,
    workers: Workers = HERE,
    batch: int = 1,
    report: Report | None = None,
) -> None:
    """Do what is left of a run that was read: check, find dimensions, make.

    The same run may be carried out in its folder by other processes at the same time, on any
    machines that see it: they share the samples.

    Args:
        run: The run; afterwards it knows all that is finished, by whomever.
        loaded: Its pipeline; or how to load it, which several workers need.
        measures: What is measured.
        workers: How many processes, and where.
        batch: How many samples are made in one call of the pipeline.
        report: Called with how far all is.

    Raises:
        What `Run.check`, `Run.begin`, `Run.find_dims` and `stas.pipelines.job.carry_out` raise.
    """
    try:
        carry_out_job(RunJob(run, loaded, measures, batch), workers, report)
    except BaseException:
        with suppress(ValueError):  # of another run's folder, which is what is told
            run.read()
        raise
    run.read()


class RunJob(PipelineJob):
    """A run as work for many processes: a task is a sample, or as many as are made in one call.

    Args:
        run: The run.
        loaded: Its pipeline; or how to load it, as other processes must.
        measures: What is measured.
        batch: How many samples are made in one call.
    """

    def __init__(
        self,
        run: Run,
        loaded: LoadedPipeline | PipelineOptions,
        measures: Measures,
        batch: int = 1,
    ) -> None:
        super().__init__(loaded, batch)
        self.folder, self.videos = run.folder, run.videos
        self._run, self._measures = run, measures
        groups = [run.samples[i : i + batch] for i in range(0, len(run.samples), batch)]
        self._groups = {group[0].name: list(group) for group in groups}

    @property
    def tasks(self) -> Sequence[str]:
        return list(self._groups)

    def open(self) -> None:
        super().open()
        self._measures.on(self.loaded.options.device)
        names = [sample.name for sample in self._run.samples]
        self._calls = dict(zip(names, self._run.check(self.loaded), strict=True))

    def begin(self, tell: Tell) -> None:
        self._run.begin(self.loaded.options)
        self._run.find_dims(self.loaded, tell)
        self._run.check_dims(self.loaded)

    def is_finished(self, task: str) -> bool:
        return self._run.is_finished(self._groups[task])

    def make(self, task: str, tell: Tell) -> None:
        samples = self._groups[task]
        calls = [self._calls[sample.name] for sample in samples]
        self._run.make(self.loaded, calls, self._measures, samples, tell)

    def finished_videos(self) -> int:
        return self._run.count_finished()


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
