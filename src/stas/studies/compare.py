"""The same prompts and seeds under several steering configs: videos, curves and paired differences.

The first run is what the others are compared with. Every number is taken from the exact frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from stas.files import whole_file
from stas.hooks.steer import steer
from stas.measures.features import AestheticScorer, ImageEncoder
from stas.measures.frames import check_frames
from stas.measures.measure import Measure, available_names, measure
from stas.measures.result import VideoMetrics
from stas.media.pictures import side_by_side, strips
from stas.media.video import Frames, write_exact, write_mp4
from stas.pipelines.arguments import call_arguments, check_has_transitions
from stas.pipelines.model import frame_map, frames_per_second
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import make_sample
from stas.studies.comparison import Comparison, Run
from stas.studies.figures import draw_curves
from stas.studies.page import write_report
from stas.studies.tables import Rows, write_table

matplotlib.use("Agg")


def compare(
    pipeline: Any,
    runs: Sequence[Run],
    samples: Sequence[Sample],
    folder: str | os.PathLike[str],
    *,
    options: PipelineOptions,
    arguments: Mapping[str, Any] | None = None,
    fps: float | None = None,
    encoders: Sequence[ImageEncoder] = (),
    own: Sequence[Measure] = (),
    aesthetic: AestheticScorer | None = None,
    report: Callable[[int, int, int], None] | None = None,
) -> Comparison:
    """Make every sample under every run, measure, and write what there is to see.

    Into `folder` go, for each sample, one video with the runs side by side (.mp4) and a strip of
    frames (.png); `videos/` with each video for people (.mp4), exact to the bit (.mkv, H.264 in
    RGB without loss), and its manifest (.json); `curves.png` and `curves.csv`, `values.csv`,
    `differences.csv`, and `report.html`, one file that holds all to look at.

    Ctrl-C keeps the finished videos and writes tables and report of the samples that are whole.

    Args:
        pipeline: A pipeline from `load_pipeline`; each video is steered anew.
        runs: Two or more of different names; the first is what the others are compared with.
        samples: At least one, with names that differ.
        folder: Made if it isn't there; files of the same names are replaced.
        options: What the pipeline was loaded with, for the manifests.
        arguments: Further arguments of the pipeline's call.
        fps: Of the videos; the model's own by default.
        encoders: Image encoders for similarity curves, see `stas.measures.features.load_encoder`.
        own: Measures of your own, see `stas.measures.measure.load_measure`.
        aesthetic: Scores each frame, see `stas.measures.features.load_aesthetic`.
        report: Called with (finished videos, finished steps, steps) as it goes on.

    Returns:
        What was measured.

    Raises:
        ValueError: Fewer than two runs, a name twice, nothing to compare, or what the pipeline or
            `steer` refuses; all before the first video.
        OSError: The folder can't be written to.
    """
    for what, names in (("run", [r.name for r in runs]), ("sample", [s.name for s in samples])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Two {what}s have the name {twice[0]!r}: their files would be one.")
    if len(runs) < 2 or not samples:
        raise ValueError(
            f"A comparison needs two runs and one sample at least, but got {len(runs)} and "
            f"{len(samples)}."
        )
    calls = [
        call_arguments(pipeline, {**(arguments or {}), "prompt": sample.prompt})
        for sample in samples
    ]
    check_has_transitions(calls[0])
    frame_map(pipeline)  # a pipeline that decodes part by part has none
    for run in runs:
        if run.config is not None:
            with steer(pipeline, run.config):
                pass
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    result = Comparison(
        runs=runs,
        samples=samples,
        arguments={k: v for k, v in calls[0].items() if k != "prompt"},
        model=options.model,
        device=options.device,
        fps=frames_per_second(pipeline) if fps is None else fps,
        names=available_names(),
    )
    take = partial(measure, names=result.names, encoders=encoders, aesthetic=aesthetic, own=own)
    try:
        for number, (sample, call) in enumerate(zip(samples, calls, strict=True)):
            videos: dict[str, Frames] = {}
            for place, run in enumerate(runs, number * len(runs)):

                def tell(done: int, steps: int, place: int = place) -> None:
                    if report is not None:
                        report(place, done, steps)

                stem = folder / "videos" / f"{sample.name}-{run.name}"
                videos[run.name] = _make(pipeline, run, sample, call, stem, options, result, tell)
            _finish_sample(pipeline, sample, videos, folder, take, result)
    finally:
        # After an error or Ctrl-C too: what is whole is worth its tables.
        if result.finished:
            write_summary(result, folder)
    return result


def _make(
    pipeline: Any,
    run: Run,
    sample: Sample,
    arguments: Mapping[str, Any],
    stem: Path,
    options: PipelineOptions,
    result: Comparison,
    report: Callable[[int, int], None],
) -> Frames:
    """One video: its files, and its exact frames."""
    with nullcontext() if run.config is None else steer(pipeline, run.config) as handle:
        frames, record = make_sample(
            pipeline, sample, arguments, handle, options=options, fps=result.fps, report=report
        )
        # Without the first line, which repeats the config.
        said = "nothing" if handle is None else "\n".join(handle.summary().splitlines()[1:])
    result.steered[run.name] = said
    # The last to open is the first to appear: a manifest only beside its videos.
    with (
        whole_file(_with_suffix(stem, ".json")) as manifest,
        whole_file(_with_suffix(stem, ".mkv")) as exact,
        whole_file(_with_suffix(stem, ".mp4")) as video,
    ):
        write_mp4(video, frames, result.fps)
        write_exact(exact, frames, result.fps)
        manifest.write_text(record.to_json(), encoding="utf-8")
    return frames


def _with_suffix(stem: Path, suffix: str) -> Path:
    """`Path.with_suffix` would cut a run named by a config like scale-1.2."""
    return stem.with_name(stem.name + suffix)


def _finish_sample(
    pipeline: Any,
    sample: Sample,
    videos: Mapping[str, Frames],
    folder: Path,
    take: Callable[..., VideoMetrics],
    result: Comparison,
) -> None:
    """Measure a sample whose videos are all there, and put them side by side."""
    first = next(iter(videos.values()))
    frames_of = frame_map(pipeline)
    measured = {
        name: take(check_frames(frames), frames_of, prompt=sample.prompt)
        for name, frames in videos.items()
    }
    with (
        whole_file(_with_suffix(folder / sample.name, ".png")) as picture,
        whole_file(_with_suffix(folder / sample.name, ".mp4")) as video,
    ):
        write_mp4(video, side_by_side(videos), result.fps)
        strips(videos).save(picture)
    for name, frames in videos.items():
        same = int(np.array_equal(frames, first))
        result.identical[name] = result.identical.get(name, 0) + same
    result.finished.append(measured)


def write_summary(result: Comparison, folder: Path) -> None:
    """Write the curves, the tables and the report of the finished samples."""
    with whole_file(folder / "curves.png") as path:
        draw_curves(result).savefig(path)
    write_table(folder / "curves.csv", _curve_rows(result))
    write_table(folder / "values.csv", _value_rows(result))
    write_table(folder / "differences.csv", _difference_rows(result))
    write_report(result, folder)


def _curve_rows(result: Comparison) -> Rows:
    yield ["sample", "run", "measure", "transition", "cross-chunk", "value"]
    for sample, by_run in zip(result.samples, result.finished, strict=False):
        for run, metrics in by_run.items():
            for name, curve in metrics.curves.items():
                for place, value in enumerate(curve):
                    cross = int(metrics.cross[place])
                    yield [sample.name, run, name, place, cross, float(value)]


def _value_rows(result: Comparison) -> Rows:
    yield ["sample", "prompt", "seed", "run", "measure", "value"]
    for sample, by_run in zip(result.samples, result.finished, strict=False):
        for run, metrics in by_run.items():
            for name, value in metrics.summary().items():
                yield [sample.name, sample.prompt, sample.seed, run, name, value]


def _difference_rows(result: Comparison) -> Rows:
    base = result.runs[0].name
    yield ["measure", "run", f"mean {base}", "mean run", "difference", "low", "high", "n", "words"]
    for row in result.differences():
        found = row.found
        numbers = (found.difference, found.low, found.high, found.pairs) if found else ("",) * 4
        yield [row.measure, row.run, row.before, row.after, *numbers, row.words]
