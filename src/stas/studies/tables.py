"""Tables of comparisons and studies."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from statistics import fmean

from stas.files import whole_file
from stas.studies.differences import Difference, all_names, difference
from stas.studies.plan import Cell, in_words
from stas.studies.run import StudyRun

Rows = Iterable[Sequence[object]]


def write_table(path: Path, rows: Rows) -> None:
    """Write rows as CSV; the file appears whole or not at all."""
    with (
        whole_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(rows)


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

    Pairs are those of `stas.studies.differences.difference`: a prompt counts once. In a study of every
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
