"""What a study found: one table and one picture per axis, as CSV, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from statistics import fmean

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from stas import __version__
from stas.compare import COLOURS, labelled, write_table
from stas.comparison import Difference, difference_of_pairs
from stas.files import whole_file
from stas.paired import DRAWS, FEWEST_PAIRS, NO_DIFFERENCE, TOO_FEW
from stas.report import html_page, inside
from stas.study import Cell, in_words
from stas.study_runner import StudyRun

matplotlib.use("Agg")

PANELS = 3  # beside one another


@dataclass(frozen=True)
class AxisTable:
    """What a study says of one axis: each of its values against steering off.

    Args:
        axis: Its name.
        values: Its values, in words.
        measures: What was measured.
        differences: By measure, then by value.
        before: By measure, the mean with steering off.
    """

    axis: str
    values: Sequence[str]
    measures: Sequence[str]
    differences: Sequence[Sequence[Difference]]
    before: Sequence[float]


def axis_table(run: StudyRun, axis: str) -> AxisTable:
    """Paired differences of each value of an axis against steering off.

    The pairs are of prompts: a prompt's samples are averaged first, since they are alike, and in a
    study of every combination so are the cells that share the value. With one prompt alone the
    pairs are of its seeds, and speak of that prompt.
    """
    rows = run.study.cells_of(axis)
    off = run.cells[0]
    measures = list(next(iter(run.finished.values())).summary())
    numbers = {key: found.summary() for key, found in run.finished.items()}

    def pairs(measure: str, cells: Sequence[Cell]) -> list[tuple[float, float]]:
        by_unit: dict[str, list[tuple[float, float]]] = {}
        for sample in run.samples:
            keys = [(sample.name, cell.name) for cell in (off, *cells)]
            if not all(key in numbers for key in keys):
                continue
            before, *after = (numbers[key].get(measure, float("nan")) for key in keys)
            if isfinite(before) and all(map(isfinite, after)):
                unit = sample.prompt if len(set(run.study.prompts)) > 1 else sample.name
                by_unit.setdefault(unit, []).append((before, fmean(after)))
        return [
            (fmean(b for b, _ in found), fmean(a for _, a in found)) for found in by_unit.values()
        ]

    table = [
        [difference_of_pairs(measure, value, pairs(measure, cells)) for value, cells in rows]
        for measure in measures
    ]
    return AxisTable(
        axis=axis,
        values=[value for value, _ in rows],
        measures=measures,
        differences=table,
        before=[next((d.before for d in row if d.found), float("nan")) for row in table],
    )


def write_study_report(run: StudyRun) -> Path:
    """Write `values.csv`, `differences.csv`, `tables.md`, a picture per axis and `report.html`.

    Args:
        run: A study with at least one finished video.

    Returns:
        The page: pictures and tables are inside it.

    Raises:
        ValueError: Nothing is finished.
    """
    if not run.finished:
        raise ValueError(f"No video of the study in {str(run.folder)!r} is finished.")
    tables = [axis_table(run, axis) for axis in run.study.axes]
    write_table(run.folder / "values.csv", _value_rows(run))
    write_table(run.folder / "differences.csv", _difference_rows(tables))
    with whole_file(run.folder / "tables.md") as temporary:
        temporary.write_text("\n".join(markdown(run, tables)), encoding="utf-8")
    for table in tables:
        with whole_file(run.folder / f"{table.axis}.png") as temporary:
            draw_axis(table).savefig(temporary)
        with whole_file(run.folder / f"{table.axis}-frames.png") as temporary:
            _frames(run, table.axis).save(temporary)
    path = run.folder / "report.html"
    with whole_file(path) as temporary:
        page = html_page(run.study.name, _body(run, tables))
        temporary.write_text(page, encoding="utf-8")
    return path


def _value_rows(run: StudyRun) -> Iterator[Sequence[object]]:
    axes = list(run.study.axes)
    yield ["cell", *axes, "sample", "prompt", "seed", "measure", "value"]
    for sample in run.samples:
        for cell in run.cells:
            if (found := run.finished.get((sample.name, cell.name))) is None:
                continue
            config = {**(cell.config or {}), **cell.values}
            values = [in_words(config[axis]) if axis in config else "" for axis in axes]
            for measure, value in found.summary().items():
                yield [cell.name, *values, sample.name, sample.prompt, sample.seed, measure, value]


def _difference_rows(tables: Sequence[AxisTable]) -> Iterator[Sequence[object]]:
    yield [
        "axis",
        "value",
        "measure",
        "mean off",
        "mean",
        "difference",
        "low",
        "high",
        "n",
        "words",
    ]
    for table in tables:
        for measure, row in zip(table.measures, table.differences, strict=True):
            for each in row:
                found = each.found
                numbers = (
                    (found.difference, found.low, found.high, found.pairs) if found else ("",) * 4
                )
                head = (table.axis, each.run, measure, each.before, each.after)
                yield [*head, *numbers, each.words]


def _told(difference: Difference) -> bool:
    return difference.found is not None and difference.words not in (NO_DIFFERENCE, TOO_FEW)


def _counts(table: AxisTable) -> list[str]:
    """The pairs of each value, as a range where measures differ in it."""
    texts = []
    for column in zip(*table.differences, strict=True):
        counts = [each.found.pairs if each.found else 0 for each in column]
        low, high = min(counts), max(counts)
        texts.append(str(low) if low == high else f"{low} to {high}")
    return texts


def _cell(difference: Difference) -> str:
    if difference.found is None:
        return "-"
    return f"{difference.found.difference:+.3g} ({difference.interval})"


def markdown(run: StudyRun, tables: Sequence[AxisTable]) -> Iterator[str]:
    """The tables as lines of Markdown, for documents; bold where the interval leaves out zero."""
    yield from (line + "\n" for line in _lead(run, tables))
    for table in tables:
        yield f"### {table.axis}\n"
        yield f"| measure | off | {' | '.join(table.values)} |"
        yield "|" + "---|" * (len(table.values) + 2)
        for measure, before, row in zip(
            table.measures, table.before, table.differences, strict=True
        ):
            cells = (f"**{_cell(each)}**" if _told(each) else _cell(each) for each in row)
            yield f"| {measure} | {before:.4g} | {' | '.join(cells)} |"
        yield f"| n | | {' | '.join(_counts(table))} |\n"


def _lead(run: StudyRun, tables: Sequence[AxisTable]) -> Iterator[str]:
    study = run.study
    prompts, per_prompt = len(set(study.prompts)), study.samples_per_prompt
    unit = "prompts" if prompts > 1 else "seeds of one prompt"
    arguments = ", ".join(f"{key} {value}" for key, value in sorted(study.arguments.items()))
    yield (
        f"{len(run.finished)} of {run.videos} videos: {len(run.cells)} settings x {prompts} "
        f"prompt{'s' * (prompts > 1)} x {per_prompt} seed{'s' * (per_prompt > 1)}, "
        f"model {study.model}, stas {__version__}"
        f"{f', {arguments}' if arguments else ''}."
    )
    comparisons = sum(len(row) for table in tables for row in table.differences)
    yield (
        f"Each value minus steering off, mean over pairs of {unit}, with the 95 % percentile "
        f"bootstrap interval ({DRAWS:,} draws), n at least {FEWEST_PAIRS} for a verdict. Higher "
        "or lower is not better or worse by itself: a still picture flickers least. Of "
        f"{comparisons} comparisons about {comparisons / 20:.0f} would stand out by chance alone."
    )
    if base := {name: in_words(value) for name, value in study.base.items()}:
        yield "Base: " + ", ".join(f"{name} {value}" for name, value in base.items()) + "."
    for cell in run.study.cells():
        if cell.dims_class is not None:
            config = next(c.config for c in run.cells if c.name == cell.name) or {}
            yield f"The {cell.dims_class} dimensions: {', '.join(map(str, config['dims']))}."


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
    lines = -(-len(shown) // PANELS)
    figure = Figure(figsize=(8.0, 0.5 + 1.75 * lines), dpi=100, layout="constrained")
    panels = figure.subplots(lines, PANELS, squeeze=False).ravel()
    places = np.arange(len(table.values))
    for axes, (measure, row) in zip(panels, shown, strict=False):
        axes.axhline(0, color="0.6", linewidth=0.8)
        for place, each in zip(places, row, strict=True):
            if (found := each.found) is None:
                continue
            told = _told(each)
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
        axes.margins(x=0.08)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    count = max((each.found.pairs for _, row in shown for each in row if each.found), default=0)
    figure.suptitle(
        f"{table.axis}: difference from steering off, 95 % interval, n up to {count}; filled where "
        "it leaves out zero",
        fontsize=9,
    )
    return figure


def _short(value: str) -> str:
    return value if len(value) <= 14 else f"{value[:13]}…"


def _frames(run: StudyRun, axis: str) -> Image.Image:
    """Frames of the first sample under every value of an axis, one below the other."""
    cells = [run.cells[0]] + [
        next(cell for cell in run.cells if cell.name == found[0].name)
        for _, found in run.study.cells_of(axis)
    ]
    sample = next(
        (s for s in run.samples if all((s.name, c.name) in run.finished for c in cells)), None
    )
    rows = []
    for cell in cells:
        if sample is not None:
            path = run.stem(cell, sample)
            with Image.open(path.with_name(path.name + ".png")) as picture:
                frames = np.asarray(picture.convert("RGB"))[None]
            rows.append(labelled(frames, f"{cell.name}: {sample.prompt}")[0])
    return Image.fromarray(np.concatenate(rows)) if rows else Image.new("RGB", (8, 8))


def _body(run: StudyRun, tables: Sequence[AxisTable]) -> Iterable[str]:
    yield from (f"<p>{escape(line)}</p>" for line in _lead(run, tables))
    if run.left:
        yield f"<p><strong>Not finished:</strong> {run.left} videos are missing.</p>"
    for table in tables:
        yield f"<h2>{escape(table.axis)}</h2>"
        alt = escape(f"Differences over {table.axis}")
        yield f'<img class="curves" alt="{alt}" src="{inside(run.folder / f"{table.axis}.png")}">'
        yield from _html_table(table)
        alt = escape(f"Frames of one sample over {table.axis}")
        yield f'<img alt="{alt}" src="{inside(run.folder / f"{table.axis}-frames.png")}">'
    yield "<h2>Settings</h2><ul>"
    for cell in run.cells:
        config = "nothing is steered"
        if cell.config is not None:
            config = ", ".join(
                f"{key} {in_words(value)}"
                for key, value in cell.config.items()
                if value is not None
            )
        yield f"<li><strong>{escape(cell.name)}</strong>: {escape(config)}</li>"
    yield "</ul>"


def _html_table(table: AxisTable) -> Iterator[str]:
    yield '<div class="wide"><table class="line"><thead><tr><th scope="col">measure</th>'
    yield '<th scope="col">off</th>'
    yield "".join(f'<th scope="col">{escape(value)}</th>' for value in table.values)
    yield "</tr></thead><tbody>"
    for measure, before, row in zip(table.measures, table.before, table.differences, strict=True):
        cells = "".join(
            f"<td{' class=told' * _told(each)} title='{each.words}'>{_cell(each)}</td>"
            for each in row
        )
        yield f"<tr><td>{escape(measure)}</td><td>{before:.4g}</td>{cells}</tr>"
    counts = "".join(f"<td>{count}</td>" for count in _counts(table))
    yield f"<tr><td>n</td><td></td>{counts}</tr></tbody></table></div>"
