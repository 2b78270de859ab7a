"""Pictures of comparisons and studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from stas.media.figure import Picture
from stas.media.pictures import labelled
from stas.media.video import Frames, read_video
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import EXACT, STRIP, VIDEO
from stas.studies.tables import AxisTable

if TYPE_CHECKING:
    from stas.studies.compare import Comparison
    from stas.studies.run import Run
    from stas.studies.study import StudyRun

# Okabe and Ito's colours, told apart with any colour vision; the lines differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
PANELS = 3  # of an axis, beside one another


def draw_curves(run: Comparison) -> Figure:
    """The curves over the transitions, the mean over samples, cross-chunk transitions marked.

    With a DINO or CLIP encoder these are the curves of the paper's Fig. 4. Drawn are the pixel
    difference, SSIM and the encoders' similarities; the other curves are in `curves.csv`.
    """
    whole = run.whole_samples()
    first = run.metrics(whole[0], run.settings[0])
    shown = [
        name
        for name in first.curves
        if name in ("pixel difference", "ssim") or "similarity" in name
    ]
    figure = Picture(0.8 + 2.6 * len(shown))
    if not shown:
        figure.suptitle("neither pixel difference, SSIM nor a similarity was measured", fontsize=10)
        return figure
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        _mark_cross(axes, first.cross)
        for number, setting in enumerate(run.settings):
            curves = [run.metrics(sample, setting).curves[name] for sample in whole]
            _plot_curve(axes, np.mean(curves, axis=0), number, setting.name)
        axes.set_ylabel(name)
    panels[-1].set_xlabel("transition from pixel frame p to p + 1")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
    count = len(whole)
    panels[0].set_title(f"mean over {count} video{'s' * (count > 1)} a run", fontsize=10)
    return figure


def draw_first_frames(run: Run, sample: Sample, score: str) -> Figure:
    """The paper's Fig. 3: the first frame under each setting, a score under each.

    Args:
        run: A comparison or study with the sample finished under every setting.
        sample: Which video.
        score: What was measured, by the name that its numbers have, such as "aesthetic, first
            frame".

    Returns:
        The figure, 1600 pixels wide, three frames in a row.

    Raises:
        ValueError: The sample is not finished, or the score was not taken.
    """
    videos, numbers = _videos(run, sample), run.numbers()
    across = min(3, len(videos))
    down = -(-len(videos) // across)
    figure = Picture(0.4 + 3.0 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, frames) in zip(panels, videos.items(), strict=False):
        found = numbers.get((sample.name, name), {})
        if score not in found:
            raise ValueError(f"{score!r} was not measured; measured were {', '.join(found)}.")
        _show(axes, frames[0], name, "")
        axes.set_xlabel(f"{found[score]:.4g}")
    for axes in panels[len(videos) :]:
        axes.set_axis_off()
    figure.suptitle(f"{sample.prompt}\nbelow: {score}", fontsize=9)
    return figure


def draw_transitions(run: Comparison, sample: Sample) -> Figure:
    """The paper's Fig. 4: similarity of consecutive frames of one video, over strips of its frames.

    Drawn are the encoders' similarities; where there are none SSIM, else what was measured first.
    Cross-chunk transitions are marked. A strip has the frames on both sides of the first of these
    that lie within the video.

    Args:
        run: A comparison with the sample finished under every setting.
        sample: Which video.

    Returns:
        The figure, 1600 pixels wide.

    Raises:
        ValueError: The sample is not finished.
    """
    videos = _videos(run, sample)
    first = run.metrics(sample, run.settings[0])
    similar = [name for name in first.curves if name.endswith(" similarity")]
    names = similar or [name for name in ("ssim", *first.curves) if name in first.curves][:1]
    marked = [int(place) for place in np.flatnonzero(first.cross)[1:4]] or [0]
    chosen = [frame for place in marked for frame in (place, place + 1)]
    rows = len(names) + len(videos)
    figure = Picture(2.2 * len(names) + 1.6 * len(videos))
    ratios = [2.2] * len(names) + [1.6] * len(videos)
    grid = figure.add_gridspec(rows, len(chosen), height_ratios=ratios)
    for number, name in enumerate(names):
        axes = figure.add_subplot(grid[number, :])
        _mark_cross(axes, first.cross)
        for place, setting in enumerate(run.settings):
            _plot_curve(axes, run.metrics(sample, setting).curves[name], place, setting.name)
        axes.set_ylabel(name)
        axes.set_xlabel("transition from pixel frame p to p + 1")
        axes.margins(y=0.3)  # room for the legend
        axes.legend(loc="upper center", ncols=3, fontsize=8)
    for row, (name, frames) in enumerate(videos.items(), len(names)):
        for column, frame in enumerate(chosen):
            axes = figure.add_subplot(grid[row, column])
            _show(axes, frames[frame], f"frame {frame}", name if column == 0 else "")
    figure.suptitle(sample.prompt, fontsize=9)
    return figure


def draw_frames(run: Run, sample: Sample, *, count: int = 6) -> Figure:
    """The paper's Fig. 5: frames of one video side by side, a row a setting.

    Args:
        run: A comparison or study with the sample finished under every setting.
        sample: Which video.
        count: How many evenly spaced frames, first and last included; 2 or more.

    Returns:
        The figure, 1600 pixels wide.

    Raises:
        ValueError: The sample is not finished.
    """
    videos = _videos(run, sample)
    last = len(next(iter(videos.values()))) - 1
    chosen = np.unique(np.linspace(0, last, count).round().astype(int))
    height = 0.5 + 8.0 / len(chosen) * len(videos)
    figure = Picture(height)
    panels = figure.subplots(len(videos), len(chosen), squeeze=False)
    for row, (name, frames) in zip(panels, videos.items(), strict=True):
        for axes, frame in zip(row, chosen, strict=True):
            _show(axes, frames[frame], f"frame {frame}", name if axes is row[0] else "")
    figure.suptitle(sample.prompt, fontsize=9)
    return figure


def _videos(run: Run, sample: Sample) -> dict[str, Frames]:
    """A sample's frames by setting, exact ones where they were kept."""
    if sample not in run.whole_samples():
        raise ValueError(f"Sample {sample.name!r} is not finished under every setting.")
    files = {setting.name: run.files(number, sample) for number, setting in enumerate(run.settings)}
    return {
        name: read_video(each.path(EXACT if EXACT in each.kinds else VIDEO))
        for name, each in files.items()
    }


def _show(axes: Any, frame: Any, title: str, label: str) -> None:
    axes.imshow(frame)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)
    axes.set_ylabel(label, fontsize=9)


def _mark_cross(axes: Any, cross: Any) -> None:
    for number, place in enumerate(np.flatnonzero(cross)):
        label = "cross-chunk transition" if number == 0 else None
        axes.axvspan(
            place - 0.5, place + 0.5, color="0.5", alpha=0.25, linewidth=0, label=label, zorder=0
        )


def _plot_curve(axes: Any, values: Any, number: int, name: str) -> None:
    axes.plot(
        np.arange(len(values)),
        values,
        LINES[number % len(LINES)],
        color=COLOURS[number % len(COLOURS)],
        marker="o",
        markersize=3.5,
        label=name,
    )


def draw_axis(table: AxisTable) -> Figure:
    """One panel per measure: the differences over the axis, with their intervals.

    Drawn are means over the video, across chunks and of the first frame; means within chunks are
    in the tables.
    """
    shown = [
        (measure, row)
        for measure, row in zip(table.measures, table.differences, strict=True)
        if ", within chunks" not in measure and any(each.found for each in row)
    ]
    lines = max(1, -(-len(shown) // PANELS))
    figure = Picture(0.5 + 1.75 * lines)
    panels = figure.subplots(lines, PANELS, squeeze=False).ravel()
    places = np.arange(len(table.values))
    for axes, (measure, row) in zip(panels, shown, strict=False):
        axes.axhline(0, color="0.6", linewidth=0.8)
        for place, each in zip(places, row, strict=True):
            if (found := each.found) is None:
                continue
            told = each.told
            axes.plot([place, place], [found.low, found.high], color=COLOURS[0], linewidth=1.6)
            axes.plot(
                place,
                found.difference,
                "o" if told else "D",
                color=COLOURS[0],
                markerfacecolor=COLOURS[0] if told else "white",
                markersize=5,
            )
        axes.set_title(measure, fontsize=8)
        axes.set_xticks(places, [_short(value) for value in table.values], fontsize=7, rotation=30)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_xlim(-0.5, len(places) - 0.5)  # the same in every panel, with or without numbers
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    count = max((each.found.pairs for _, row in shown for each in row if each.found), default=0)
    figure.suptitle(
        f"{table.axis}: difference from steering off, 95 % interval, n up to {count}; filled where "
        "a difference is shown",
        fontsize=9,
    )
    return figure


def _short(value: str) -> str:
    return value if len(value) <= 14 else f"{value[:13]}…"


@dataclass(frozen=True)
class Clip:
    """A video of a study: what it stands for, and its file."""

    name: str
    sample: Sample
    video: Path
    strip: Path


def clips_over(run: StudyRun, axis: str) -> list[Clip]:
    """The videos of the first whole sample: off, and under every value of an axis."""
    names = [run.settings[0].name, *(found[0].name for _, found in run.study.settings_of(axis))]
    sample = next(
        (s for s in run.samples if all((s.name, name) in run.finished for name in names)), None
    )
    if sample is None:
        return []
    numbers = {setting.name: number for number, setting in enumerate(run.settings)}
    files = {name: run.files(numbers[name], sample) for name in names}
    return [Clip(name, sample, each.path(VIDEO), each.path(STRIP)) for name, each in files.items()]


def frames_over(run: StudyRun, axis: str) -> Image.Image | None:
    """Frames of the first whole sample under every value of an axis, one below the other."""
    rows = []
    for clip in clips_over(run, axis):
        with Image.open(clip.strip) as picture:
            frames = np.asarray(picture.convert("RGB"))[None]
        rows.append(labelled(frames, f"{clip.name}: {clip.sample.prompt}")[0])
    return Image.fromarray(np.concatenate(rows)) if rows else None
