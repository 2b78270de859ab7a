"""Pictures of comparisons and studies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from stas.media.pictures import labelled
from stas.pipelines.sample import STRIP
from stas.studies.tables import AxisTable

if TYPE_CHECKING:
    from stas.studies.compare import Comparison
    from stas.studies.study import StudyRun

# Okabe and Ito's colours, told apart with any colour vision; the lines differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
PANELS = 3  # of an axis, beside one another


def draw_curves(run: Comparison) -> Figure:
    """The curves over the transitions, the mean over samples, cross-chunk transitions marked.

    With a DINO or CLIP encoder this is the paper's Fig. 4. Drawn are the pixel difference, SSIM
    and the encoders' similarities; the other curves are in `curves.csv`.
    """
    whole = run.whole_samples()
    first = run.metrics(whole[0], run.settings[0])
    shown = [
        name
        for name in first.curves
        if name in ("pixel difference", "ssim") or "similarity" in name
    ]
    figure = Figure(figsize=(8.0, 0.8 + 2.6 * len(shown)), dpi=100, layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    places = np.arange(len(first.cross))
    for axes, name in zip(panels, shown, strict=True):
        for number, place in enumerate(places[first.cross]):
            label = "cross-chunk transition" if number == 0 else None
            axes.axvspan(place - 0.5, place + 0.5, color="0.88", label=label, zorder=0)
        for number, setting in enumerate(run.settings):
            curves = [run.metrics(sample, setting).curves[name] for sample in whole]
            values = np.mean(curves, axis=0)
            axes.plot(
                places,
                values,
                LINES[number % len(LINES)],
                color=COLOURS[number % len(COLOURS)],
                marker="o",
                markersize=3.5,
                label=setting.name,
            )
        axes.set_ylabel(name)
    panels[-1].set_xlabel("transition from pixel frame p to p + 1")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)))
    count = len(whole)
    panels[0].set_title(f"mean over {count} video{'s' * (count > 1)} a run", fontsize=10)
    return figure


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
    figure = Figure(figsize=(8.0, 0.5 + 1.75 * lines), dpi=100, layout="constrained")
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


def frames_over(run: StudyRun, axis: str) -> Image.Image | None:
    """Frames of the first whole sample under every value of an axis, one below the other."""
    names = [run.settings[0].name, *(found[0].name for _, found in run.study.settings_of(axis))]
    numbers = [
        next(i for i, setting in enumerate(run.settings) if setting.name == n) for n in names
    ]
    sample = next(
        (s for s in run.samples if all((s.name, name) in run.finished for name in names)), None
    )
    if sample is None:
        return None
    rows = []
    for number, name in zip(numbers, names, strict=True):
        with Image.open(run.files(number, sample).path(STRIP)) as picture:
            frames = np.asarray(picture.convert("RGB"))[None]
        rows.append(labelled(frames, f"{name}: {sample.prompt}")[0])
    return Image.fromarray(np.concatenate(rows))
