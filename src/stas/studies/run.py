"""Running a study: one set of files a video, so that nothing is lost or made twice after a kill."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import av
from filelock import FileLock, Timeout

from stas.activations.massive import find_massive_activations
from stas.activations.stats import ActivationStats
from stas.files import whole_file
from stas.hooks.steer import steer
from stas.measures.features import AestheticScorer, ImageEncoder
from stas.measures.measure import Measure, available_names, measure
from stas.measures.result import VideoMetrics
from stas.media.pictures import strip
from stas.media.video import write_mp4
from stas.method.config import STASConfig
from stas.pipelines.arguments import call_arguments, check_has_transitions
from stas.pipelines.manifest import PACKAGES, Manifest
from stas.pipelines.model import frame_map, generate
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.recorder import record_videos
from stas.pipelines.sample import make_sample
from stas.studies.plan import Cell, Study, folder_name, with_dims

RECORD = "study.json"


ACTIVATIONS = "activations.safetensors"


LOCK = ".lock"


FORMAT = "stas.study/1"


SUFFIXES = (".mp4", ".png", ".metrics.json", ".json")  # the manifest is the last to appear


PROBES = (2, 4)  # denoising steps of the two videos that tell how long all will take


Report = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Finished:
    """A finished video: its manifest, and what was measured."""

    manifest: Manifest
    metrics: VideoMetrics


@dataclass
class StudyRun:
    """A study in its folder: what it will make, and what is finished. Made by `read_run`.

    Args:
        study: The study.
        folder: Its run directory, which need not exist.
        cells: Its settings, "off" first, with dimensions in place of their classes once found.
        samples: Its prompts and seeds.
        names: The measures that are taken of frames.
        finished: By name of sample and cell.
    """

    study: Study
    folder: Path
    cells: Sequence[Cell]
    samples: Sequence[Sample]
    names: Sequence[str]
    finished: dict[tuple[str, str], Finished] = field(default_factory=dict)

    @property
    def videos(self) -> int:
        """How many videos the whole study has."""
        return len(self.cells) * len(self.samples)

    @property
    def left(self) -> int:
        """How many are still to be made."""
        return self.videos - len(self.finished)

    def file(self, number: int, sample: Sample, suffix: str) -> Path:
        """A file of a sample under the cell of that number in `cells`."""
        return self.folder / folder_name(number, self.cells[number]) / f"{sample.name}{suffix}"

    def read(self) -> None:
        """Look into the folder for what is finished, and for the classes of dimensions."""
        path = self.folder / ACTIVATIONS
        if _classes(self) and path.is_file():
            stats = ActivationStats.load(path)
            if stats.metadata.get("finished") == stats.metadata.get("videos"):
                _replace_classes(self, stats)
        self.finished = {
            (sample.name, cell.name): found
            for number, cell in enumerate(self.cells)
            for sample in self.samples
            if (found := _read(self, number, sample)) is not None
        }


def read_run(study: Study, folder: Path) -> StudyRun:
    """A study and what is finished of it in its folder, which is only read.

    Raises:
        NotADirectoryError: It is a file.
        ValueError: It is the folder of another study, the message says what differs; or a measure
            needs a package that is not installed.
        FileExistsError: It holds other things.
    """
    _check_folder(study, folder)
    able = available_names()
    names = able if study.measures is None else study.measures
    if missing := [name for name in names if name not in able]:
        raise ValueError(f"{', '.join(missing)}: these need pip install 'stas[metrics]'.")
    run = StudyRun(study, folder, study.cells(), study.samples(), names)
    run.read()
    return run


def _check_folder(study: Study, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, but a study is a folder.")
    record = folder / RECORD
    if record.is_file():
        differing = _differing(_load_record(record)["study"], study.to_dict())
        if differing:
            raise ValueError(
                f"{str(folder)!r} holds another study, so it can't be gone on with: {differing}. "
                "Give another -o."
            )
    elif folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty and holds no study. Give another -o.")


def _load_record(path: Path) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT or not isinstance(data["study"], dict):
            raise ValueError(f"expected the format {FORMAT}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no record of a study: {error}") from error
    return data


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


def _read(run: StudyRun, number: int, sample: Sample) -> Finished | None:
    """A finished video; None when any of its files is missing or broken."""
    paths = {suffix: run.file(number, sample, suffix) for suffix in SUFFIXES}
    if not all(path.is_file() for path in paths.values()):
        return None
    try:
        manifest = Manifest.load(paths[".json"])
        with av.open(str(paths[".mp4"])) as container:
            packets = sum(packet.size > 0 for packet in container.demux(video=0))
        if packets != manifest.frames.get("count"):
            return None
        metrics = VideoMetrics.from_json(paths[".metrics.json"].read_text(encoding="utf-8"))
        return Finished(manifest, metrics)
    except (OSError, ValueError, IndexError):
        return None


def check_model(run: StudyRun, pipeline: Any) -> list[dict[str, Any]]:
    """See that a pipeline can make every video of a study.

    Returns:
        For each sample, the arguments of the pipeline's call.

    Raises:
        ValueError: What the pipeline or `steer` refuses, or videos of one frame.
    """
    arguments = run.study.arguments
    calls = [call_arguments(pipeline, {**arguments, "prompt": s.prompt}) for s in run.samples]
    check_has_transitions(calls[0])
    frame_map(pipeline)  # a pipeline that decodes part by part has none
    for cell in run.cells:
        if cell.config is not None:
            known = {} if cell.dims_class is None else {"dims": (0,)}
            with steer(pipeline, _config(cell, **known)):
                pass
    return calls


def _config(cell: Cell, **changes: Any) -> STASConfig:
    return STASConfig.from_dict({**(cell.config or {}), **changes})


@contextmanager
def claim(run: StudyRun, options: PipelineOptions) -> Iterator[None]:
    """Make the folder of a study this process's own while it works there.

    Args:
        run: The study.
        options: What its pipeline was loaded with, resolved.

    Raises:
        RuntimeError: Another process runs this study.
        ValueError: What is finished was made with another type of device, dtype, versions or
            measures: pairs of both would differ by that and not by steering.
        OSError: The folder can't be written to.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"Another process runs the study in {str(run.folder)!r}. Wait for it, or give another "
            "-o."
        ) from None
    try:
        _check_folder(run.study, run.folder)  # another process may have come first
        made_with = {
            "device": options.device.partition(":")[0],
            "dtype": options.dtype,
            "measures": list(run.names),
            **{name: version(name) for name in PACKAGES},
        }
        record = run.folder / RECORD
        if record.is_file():
            if differing := _differing(_load_record(record)["made_with"], made_with):
                raise ValueError(
                    f"The videos in {str(run.folder)!r} were made otherwise: {differing}. Go on as "
                    "before, or give another -o."
                )
        else:
            data = {"format": FORMAT, "study": run.study.to_dict(), "made_with": made_with}
            with whole_file(record) as temporary:
                temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        for number, cell in enumerate(run.cells):
            (run.folder / folder_name(number, cell)).mkdir(exist_ok=True)
        # Of a process that was killed.
        for path in [*run.folder.glob(".*-*"), *run.folder.glob("*/.*-*")]:
            if path.is_file():
                path.unlink()
        run.read()
        yield
    finally:
        lock.release()


def seconds_per_video(pipeline: Any, call: Mapping[str, Any], seed: int) -> float:
    """About how long one video takes, from two of a few denoising steps after one to warm up."""
    (few, more), times = PROBES, []
    parameters = inspect.signature(type(pipeline).__call__).parameters
    if "num_inference_steps" not in parameters:
        return float("nan")
    wanted = call.get("num_inference_steps", parameters["num_inference_steps"].default)
    for steps in (few, *PROBES):
        started = monotonic()
        generate(pipeline, {**call, "num_inference_steps": steps}, seed)
        times.append(monotonic() - started)
    step = max(0.0, times[2] - times[1]) / (more - few)
    return max(times[1], times[2] + step * (int(wanted) - more))


def _classes(run: StudyRun) -> set[str]:
    return {cell.dims_class for cell in run.cells if cell.dims_class is not None}


def find_dims(run: StudyRun, pipeline: Any, report: Report | None = None) -> None:
    """Put dimensions in place of their classes, by recording videos of the first prompts.

    Args:
        run: The study; its cells are changed.
        pipeline: Its pipeline.
        report: Called with (finished videos, finished steps, steps).

    Raises:
        ValueError: The model has no massive dimension, too few of a class, or two configs have
            become alike.
    """
    if not _classes(run):
        return
    path = run.folder / ACTIVATIONS
    stats = record_videos(
        pipeline,
        list(dict.fromkeys(run.study.prompts))[: run.study.recorded],
        run.study.arguments,
        path,
        seed=run.study.seed,
        resume=path.exists(),
        report=report,
    )
    _replace_classes(run, stats)


def _replace_classes(run: StudyRun, stats: ActivationStats) -> None:
    found = find_massive_activations(stats)
    if not found.dims:
        raise ValueError(
            f"No dimension reaches {found.threshold:g} times the mean magnitude, so there are no "
            f"classes to compare. Strongest: {found.describe()}. Give dims as numbers."
        )
    count, wanted = len(found.dims), _classes(run)
    dims = {"massive": found.dims}
    if "weak" in wanted:
        dims["weak"] = found.of_class("weak", count)
    if "ordinary" in wanted:
        dims["ordinary"] = found.of_class("ordinary", count, seed=run.study.seed)
    if "random" in wanted:
        taken = {dim for each in dims.values() for dim in each}
        others = [dim for dim in range(stats.width) if dim not in taken]
        dims["random"] = tuple(sorted(Random(run.study.seed).sample(others, count)))
    run.cells = with_dims(run.cells, dims)


def make_all(
    run: StudyRun,
    pipeline: Any,
    *,
    options: PipelineOptions,
    own: Sequence[Measure] = (),
    encoders: Sequence[ImageEncoder] = (),
    aesthetic: AestheticScorer | None = None,
    report: Report | None = None,
) -> None:
    """Make every video that is not finished, all cells of one sample before the next sample.

    Args:
        run: The study, within `claim` and with its dimensions found; its `finished` grows.
        pipeline: Its pipeline.
        options: What it was loaded with.
        own: Measures of your own.
        encoders: Image encoders.
        aesthetic: Scores each frame.
        report: Called with (videos made now, finished steps, steps) as it goes on.

    Raises:
        OSError: A file can't be written; what is finished is kept.
        RuntimeError: A video or its measures failed; the message says which.
    """
    made = 0
    take = partial(measure, names=run.names, encoders=encoders, aesthetic=aesthetic, own=own)
    frames_of = frame_map(pipeline)
    calls = check_model(run, pipeline)
    for sample, call in zip(run.samples, calls, strict=True):
        for number, cell in enumerate(run.cells):
            if (sample.name, cell.name) in run.finished:
                continue

            def tell(done: int, steps: int, made: int = made) -> None:
                if report is not None:
                    report(made, done, steps)

            try:
                with (
                    nullcontext() if cell.config is None else steer(pipeline, _config(cell))
                ) as handle:
                    frames, manifest = make_sample(
                        pipeline, sample, call, handle, options=options, report=tell
                    )
                found = take(frames, frames_of, prompt=sample.prompt)
            except Exception as error:
                raise RuntimeError(
                    f"{cell.name} of {sample.name} ({sample.prompt!r}) failed: {error}"
                ) from error
            paths = [run.file(number, sample, suffix) for suffix in SUFFIXES]
            # The last to open is the first to appear: a manifest only beside everything else.
            with (
                whole_file(paths[3]) as record,
                whole_file(paths[2]) as metrics,
                whole_file(paths[1]) as picture,
                whole_file(paths[0]) as video,
            ):
                write_mp4(video, frames, manifest.fps)
                strip(frames, count=6).save(picture)
                metrics.write_text(found.to_json(), encoding="utf-8")
                record.write_text(manifest.to_json(), encoding="utf-8")
            run.finished[sample.name, cell.name] = Finished(manifest, found)
            made += 1
