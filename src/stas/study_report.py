"""What a study found: one table and one picture per axis, as CSV, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite, nan
from pathlib import Path
from statistics import fmean

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from stas import __version__
from stas.compare import COLOURS, labelled, write_table
from stas.comparison import Difference, all_names, difference, unit_of_pairs
from stas.files import whole_file
from stas.metrics import NAMES
from stas.report import how_to_read, html_page, inside
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

    Pairs are those of `stas.comparison.difference`: a prompt counts once. In a study of every
    combination a sample's cells that share the value are averaged.
    """
    rows = run.study.cells_of(axis)
    off = run.cells[0].name
    numbers = {key: found.metrics.summary() for key, found in run.finished.items()}
    measures = all_names(numbers.values())

    def pairs(measure: str, cells: Sequence[Cell]) -> dict[str, tuple[float, float]]:
        found = {}
        for sample in run.samples:
            keys = [(sample.name, name) for name in (off, *(cell.name for cell in cells))]
            if all(key in numbers for key in keys):
                before, *after = (numbers[key].get(measure, nan) for key in keys)
                found[sample.name] = (before, fmean(after))
        return found

    return AxisTable(
        axis=axis,
        values=[value for value, _ in rows],
        measures=measures,
        differences=[
            [
                difference(measure, value, run.samples, pairs(measure, cells))
                for value, cells in rows
            ]
            for measure in measures
        ],
        before=[
            _mean(numbers[s.name, off].get(m, nan) for s in run.samples if (s.name, off) in numbers)
            for m in measures
        ],
    )


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if isfinite(value)]
    return fmean(known) if known else nan


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
        if (picture := _frames(run, table.axis)) is not None:
            with whole_file(run.folder / f"{table.axis}-frames.png") as temporary:
                picture.save(temporary)
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
            for measure, value in found.metrics.summary().items():
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


def _counts(table: AxisTable) -> list[str]:
    """The pairs of each value, as a range where measures differ in it."""
    texts = []
    for column in zip(*table.differences, strict=True):
        counts = [each.found.pairs if each.found else 0 for each in column]
        low, high = min(counts), max(counts)
        texts.append(str(low) if low == high else f"{low} to {high}")
    return texts


def _cell(each: Difference) -> str:
    if each.found is None:
        return "-"
    return f"{each.found.difference:+.3g} ({each.interval})"


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
            cells = (f"**{_cell(each)}**" if each.told else _cell(each) for each in row)
            yield f"| {measure} | {before:.4g} | {' | '.join(cells)} |"
        yield f"| n | | {' | '.join(_counts(table))} |\n"


def _lead(run: StudyRun, tables: Sequence[AxisTable]) -> Iterator[str]:
    study = run.study
    prompts, per_prompt = len(set(study.prompts)), study.samples_per_prompt
    made = next(iter(run.finished.values())).manifest
    arguments = ", ".join(
        f"{key} {value}" for key, value in sorted(made.arguments.items()) if key != "prompt"
    )
    yield (
        f"{len(run.finished)} of {run.videos} videos: {len(run.cells)} settings x {prompts} "
        f"prompt{'s' * (prompts > 1)} x {per_prompt} seed{'s' * (per_prompt > 1)}, "
        f"model {study.model} on {made.device}, stas {__version__}, {arguments}."
    )
    rows = [each for table in tables for row in table.differences for each in row]
    yield f"Each value minus steering off. {how_to_read(unit_of_pairs(run.samples), rows)}"
    if missing := [name for name in NAMES if name not in run.names]:
        yield f"Not measured: {', '.join(missing)}."
    if base := {name: in_words(value) for name, value in study.base.items()}:
        yield "Base: " + ", ".join(f"{name} {value}" for name, value in base.items()) + "."
    classes = {cell.name: cell.dims_class for cell in run.study.cells() if cell.dims_class}
    found = {classes[c.name]: c.config["dims"] for c in run.cells if c.config and c.name in classes}
    for name, dims in found.items():
        yield f"The {name} dimensions: {in_words(dims)}."


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


def _frames(run: StudyRun, axis: str) -> Image.Image | None:
    """Frames of the first whole sample under every value of an axis, one below the other."""
    names = [run.cells[0].name, *(found[0].name for _, found in run.study.cells_of(axis))]
    numbers = [next(i for i, cell in enumerate(run.cells) if cell.name == n) for n in names]
    sample = next(
        (s for s in run.samples if all((s.name, name) in run.finished for name in names)), None
    )
    if sample is None:
        return None
    rows = []
    for number, name in zip(numbers, names, strict=True):
        with Image.open(run.file(number, sample, ".png")) as picture:
            frames = np.asarray(picture.convert("RGB"))[None]
        rows.append(labelled(frames, f"{name}: {sample.prompt}")[0])
    return Image.fromarray(np.concatenate(rows))


def _body(run: StudyRun, tables: Sequence[AxisTable]) -> Iterable[str]:
    yield from (f"<p>{escape(line)}</p>" for line in _lead(run, tables))
    if run.left:
        yield f"<p><strong>Not finished:</strong> {run.left} videos are missing.</p>"
    for table in tables:
        yield f"<h2>{escape(table.axis)}</h2>"
        alt = escape(f"Differences over {table.axis}")
        yield f'<img class="curves" alt="{alt}" src="{inside(run.folder / f"{table.axis}.png")}">'
        yield from _html_table(table)
        if (path := run.folder / f"{table.axis}-frames.png").is_file():
            alt = escape(f"Frames of one sample over {table.axis}")
            yield f'<img alt="{alt}" src="{inside(path)}">'
    yield "<h2>Settings</h2><ul>"
    for cell in run.cells:
        yield f"<li><strong>{escape(cell.name)}</strong>: {escape(_settings(run, cell))}</li>"
    yield "</ul>"


def _settings(run: StudyRun, cell: Cell) -> str:
    """A cell's config, and whether it did anything."""
    if cell.config is None:
        return "nothing is steered"
    text = ", ".join(
        f"{key} {in_words(value)}" for key, value in cell.config.items() if value is not None
    )
    made = [found.manifest for (_, name), found in run.finished.items() if name == cell.name]
    dims = {in_words(e["dims"]) for m in made for e in (m.dims or {}).values()}
    plain = {
        name: found.manifest.frames["sha256"]
        for (name, each), found in run.finished.items()
        if each == run.cells[0].name
    }
    same: int = sum(
        plain.get(sample) == found.manifest.frames["sha256"]
        for (sample, name), found in run.finished.items()
        if name == cell.name
    )
    said = f"{text}. Steered dimensions: {' or '.join(sorted(dims)) or 'none'}."
    if same:
        said += f" {same} of {len(made)} videos equal those without steering in every pixel."
    return said


def _html_table(table: AxisTable) -> Iterator[str]:
    yield '<div class="wide"><table class="line"><thead><tr><th scope="col">measure</th>'
    yield '<th scope="col">off</th>'
    yield "".join(f'<th scope="col">{escape(value)}</th>' for value in table.values)
    yield "</tr></thead><tbody>"
    for measure, before, row in zip(table.measures, table.before, table.differences, strict=True):
        cells = "".join(
            f"<td{' class=told' * each.told} title='{each.words}'>{_cell(each)}</td>"
            for each in row
        )
        yield f"<tr><td>{escape(measure)}</td><td>{before:.4g}</td>{cells}</tr>"
    counts = "".join(f"<td>{count}</td>" for count in _counts(table))
    yield f"<tr><td>n</td><td></td>{counts}</tr></tbody></table></div>"
