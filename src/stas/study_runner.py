"""Running a study: one file a video, so that nothing is lost or made twice after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import av
from filelock import FileLock, Timeout

from stas.api import steer
from stas.config import STASConfig
from stas.files import whole_file
from stas.manifest import Manifest
from stas.massive import find_massive_activations
from stas.metrics import (
    NAMES,
    AestheticScorer,
    ImageEncoder,
    Measure,
    VideoMetrics,
    available_names,
    measure,
)
from stas.pipelines import PipelineOptions, call_arguments, frame_map, generate
from stas.recorder import record_videos
from stas.sample import Sample, make_sample
from stas.study import DIMS_CLASSES, Cell, Study, folder_name, with_dims
from stas.video import strip, write_mp4

RECORD = "study.json"
ACTIVATIONS = "activations.safetensors"
FORMAT = "stas.study/1"
PROBES = (2, 4)  # denoising steps of the two videos that tell how long all will take


@dataclass
class StudyRun:
    """A study in its folder: what it will make, and what is finished.

    Args:
        study: The study.
        folder: Its run directory.
        cells: Its settings, "off" first, with dimensions in place of their classes.
        samples: Its prompts and seeds.
        calls: For each sample, the arguments of the pipeline's call.
        names: The measures that are taken of frames.
        finished: By sample and cell, what was measured.
    """

    study: Study
    folder: Path
    cells: Sequence[Cell]
    samples: Sequence[Sample]
    calls: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    finished: dict[tuple[str, str], VideoMetrics] = field(default_factory=dict)

    @property
    def videos(self) -> int:
        """How many videos the whole study has."""
        return len(self.cells) * len(self.samples)

    @property
    def left(self) -> int:
        """How many are still to be made."""
        return self.videos - len(self.finished)

    def stem(self, cell: Cell, sample: Sample) -> Path:
        """The path of a sample's files without their suffix."""
        return self.folder / folder_name(self.cells.index(cell), cell) / sample.name


def check_folder(study: Study, folder: Path) -> None:
    """See that a folder can be that of a study, before anything is loaded.

    Raises:
        NotADirectoryError: It is a file.
        ValueError: It is the folder of another study; the message says what differs.
        FileExistsError: It holds other things.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, but a study is a folder.")
    record = folder / RECORD
    if record.is_file():
        try:
            data = json.loads(record.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError(f"expected the format {FORMAT}")
        except (AttributeError, KeyError, ValueError) as error:
            raise ValueError(f"{record} is no record of a study: {error}") from error
        wanted = json.loads(json.dumps(study.to_dict()))
        differing = [
            f"{name} {_short(data.get(name))} -> {_short(wanted.get(name))}"
            for name in sorted(set(data) | set(wanted))
            if data.get(name) != wanted.get(name)
        ]
        if differing:
            raise ValueError(
                f"{str(folder)!r} holds another study, so it can't be gone on with: "
                f"{'; '.join(differing)}. Give another -o."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty and holds no study. Give another -o.")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@contextmanager
def open_study(study: Study, folder: Path, pipeline: Any) -> Iterator[StudyRun]:
    """Open a study's folder for one process, with what is finished in it.

    Everything that can be wrong with it is found here: after this only the making can fail.

    Args:
        study: The study.
        folder: Its run directory; made if it isn't there.
        pipeline: What `load_pipeline` returned for its model.

    Raises:
        ValueError: See `check_folder`, or what the pipeline or `steer` refuses.
        RuntimeError: Another process runs this study.
        OSError: The folder can't be written to.
    """
    check_folder(study, folder)
    samples = study.samples()
    calls = [call_arguments(pipeline, {**study.arguments, "prompt": s.prompt}) for s in samples]
    frame_map(pipeline)  # a pipeline that decodes part by part has none
    cells = study.cells()
    for cell in cells:
        if cell.config is not None:
            known = {} if cell.dims_class is None else {"dims": (0,)}
            with steer(pipeline, _config(cell, **known)):
                pass
    names = available_names() if study.measures is None else study.measures
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(
            f"There is no measure {', '.join(map(repr, unknown))}. Known: {', '.join(NAMES)}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"Another process runs the study in {str(folder)!r}. Wait for it, or give another -o."
        ) from None
    try:
        with whole_file(folder / RECORD) as temporary:
            record = {"format": FORMAT, **study.to_dict()}
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        run = StudyRun(study, folder, cells, samples, calls, names)
        for number, cell in enumerate(cells):
            place = folder / folder_name(number, cell)
            place.mkdir(exist_ok=True)
            for left_over in place.glob(".*"):  # of a process that was killed
                left_over.unlink()
            for sample in samples:
                if (found := _read(place / sample.name)) is not None:
                    run.finished[sample.name, cell.name] = found
        yield run
    finally:
        lock.release()


def _config(cell: Cell, **changes: Any) -> STASConfig:
    return STASConfig.from_dict({**(cell.config or {}), **changes})


def _read(stem: Path) -> VideoMetrics | None:
    """What was measured of a finished sample; None when any of its files is missing or broken."""
    try:
        manifest = Manifest.load(_with_suffix(stem, ".json"))
        metrics = _with_suffix(stem, ".metrics.json").read_text(encoding="utf-8")
        with av.open(str(_with_suffix(stem, ".mp4"))) as container:
            whole = container.streams.video[0].frames == manifest.frames["count"]
        return VideoMetrics.from_json(metrics) if whole else None
    except (OSError, ValueError, IndexError):
        return None


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def seconds_per_video(run: StudyRun, pipeline: Any) -> float:
    """About how long one video takes, from two of a few denoising steps."""
    (few, more), times = PROBES, []
    call = dict(run.calls[0])
    for steps in PROBES:
        started = monotonic()
        generate(pipeline, {**call, "num_inference_steps": steps}, run.study.seed)
        times.append(monotonic() - started)
    step = max(0.0, times[1] - times[0]) / (more - few)
    return times[1] + step * max(0, int(call.get("num_inference_steps", 50)) - more)


def find_dims(
    run: StudyRun, pipeline: Any, report: Callable[[int, int, int], None] | None = None
) -> None:
    """Put dimensions in place of their classes, by recording the first videos with steering off.

    Args:
        run: The study; its cells are changed.
        pipeline: Its pipeline.
        report: Called with (finished videos, finished steps, steps).

    Raises:
        ValueError: The model has no massive dimension, or too few of a class.
    """
    if all(cell.dims_class is None for cell in run.cells):
        return
    path = run.folder / ACTIVATIONS
    stats = record_videos(
        pipeline,
        [sample.prompt for sample in run.samples[: run.study.recorded]],
        run.study.arguments,
        path,
        seed=run.study.seed,
        resume=path.exists(),
        report=report,
    )
    found = find_massive_activations(stats)
    if not found.dims:
        raise ValueError(
            f"No dimension reaches {found.threshold:g} times the mean magnitude, so there are no "
            f"classes to compare. Strongest: {found.describe()}. Give dims as numbers."
        )
    count = len(found.dims)
    others = [dim for dim in range(stats.width) if dim not in found.dims]
    makers: dict[str, Callable[[], tuple[int, ...]]] = {
        "massive": lambda: found.dims,
        "weak": lambda: found.of_class("weak", count),
        "ordinary": lambda: found.of_class("ordinary", count),
        "random": lambda: tuple(sorted(Random(run.study.seed).sample(others, count))),
    }
    assert set(makers) == set(DIMS_CLASSES)
    wanted = {cell.dims_class for cell in run.cells} - {None}
    run.cells = with_dims(run.cells, {name: makers[name]() for name in makers if name in wanted})


def make_all(
    run: StudyRun,
    pipeline: Any,
    *,
    options: PipelineOptions,
    own: Sequence[Measure] = (),
    encoders: Sequence[ImageEncoder] = (),
    aesthetic: AestheticScorer | None = None,
    report: Callable[[int, int, int], None] | None = None,
) -> None:
    """Make every video that is not finished, all cells of one sample before the next sample.

    Args:
        run: The study; its `finished` grows.
        pipeline: Its pipeline.
        options: What it was loaded with.
        own: Measures of your own.
        encoders: Image encoders.
        aesthetic: Scores each frame.
        report: Called with (videos made now, finished steps, steps) as it goes on.

    Raises:
        OSError: A file can't be written; what is finished is kept.
    """
    made = 0
    take = partial(measure, names=run.names, encoders=encoders, aesthetic=aesthetic, own=own)
    frames_of = frame_map(pipeline)
    for sample, call in zip(run.samples, run.calls, strict=True):
        for cell in run.cells:
            if (sample.name, cell.name) in run.finished:
                continue

            def tell(done: int, steps: int, made: int = made) -> None:
                if report is not None:
                    report(made, done, steps)

            with nullcontext() if cell.config is None else steer(pipeline, _config(cell)) as handle:
                frames, manifest = make_sample(
                    pipeline, sample, call, handle, options=options, report=tell
                )
            found = take(frames, frames_of, prompt=sample.prompt)
            stem = run.stem(cell, sample)
            # The last to open is the first to appear: a manifest only beside everything else.
            with (
                whole_file(_with_suffix(stem, ".json")) as record,
                whole_file(_with_suffix(stem, ".metrics.json")) as metrics,
                whole_file(_with_suffix(stem, ".png")) as picture,
                whole_file(_with_suffix(stem, ".mp4")) as video,
            ):
                write_mp4(video, frames, manifest.fps)
                strip(frames, count=6).save(picture)
                metrics.write_text(found.to_json(), encoding="utf-8")
                record.write_text(manifest.to_json(), encoding="utf-8")
            run.finished[sample.name, cell.name] = found
            made += 1
