"""What a study found: one table and one picture per axis, as CSV, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import matplotlib

from stas import __version__
from stas.files import whole_file
from stas.measures.measure import NAMES
from stas.studies.differences import unit_of_pairs
from stas.studies.figures import _frames, draw_axis
from stas.studies.page import how_to_read, html_page, inside
from stas.studies.plan import Cell, in_words
from stas.studies.run import StudyRun
from stas.studies.tables import (
    AxisTable,
    _cell,
    _counts,
    _difference_rows,
    _value_rows,
    axis_table,
    write_table,
)

matplotlib.use("Agg")


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
