"""Tables of comparisons and studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import fmean
from typing import TYPE_CHECKING

from stas.files import Rows
from stas.studies.differences import Difference, all_names, difference
from stas.studies.plan import Setting, in_words

if TYPE_CHECKING:
    from stas.studies.compare import Comparison
    from stas.studies.study import StudyRun


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

    @property
    def counts(self) -> list[str]:
        """The pairs of each value, as a range where measures differ in it."""
        texts = []
        for column in zip(*self.differences, strict=True):
            counts = [each.found.pairs if each.found else 0 for each in column]
            low, high = min(counts), max(counts)
            texts.append(str(low) if low == high else f"{low} to {high}")
        return texts


def axis_table(run: StudyRun, axis: str) -> AxisTable:
    """Paired differences of each value of an axis against steering off.

    Pairs are those of `stas.studies.differences.difference`: a prompt counts once. In a study of
    every combination a sample's settings that share the value are averaged.
    """
    rows = run.study.settings_of(axis)
    off = run.settings[0].name
    numbers = run.numbers()
    measures = all_names(numbers.values())

    def pairs(measure: str, settings: Sequence[Setting]) -> dict[str, tuple[float, float]]:
        found = {}
        for sample in run.samples:
            keys = [(sample.name, name) for name in (off, *(setting.name for setting in settings))]
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
                difference(
                    measure,
                    value,
                    run.samples,
                    pairs(measure, settings),
                    steered=run.steered(*settings),
                )
                for value, settings in rows
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


def study_values(run: StudyRun) -> Rows:
    """Every number of every finished video of a study."""
    axes, numbers = list(run.study.axes), run.numbers()
    yield ["cell", *axes, "sample", "prompt", "seed", "measure", "value"]
    for sample in run.samples:
        for setting in run.settings:
            if (found := numbers.get((sample.name, setting.name))) is None:
                continue
            config = {**(setting.config or {}), **setting.values}
            values = [in_words(config[axis]) if axis in config else "" for axis in axes]
            for measure, value in found.items():
                yield [
                    setting.name,
                    *values,
                    sample.name,
                    sample.prompt,
                    sample.seed,
                    measure,
                    value,
                ]


def study_differences(tables: Sequence[AxisTable]) -> Rows:
    """The tables of a study, a row for each value and measure."""
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


def curve_rows(run: Comparison) -> Rows:
    """Every curve of a comparison's whole samples."""
    yield ["sample", "run", "measure", "transition", "cross-chunk", "value"]
    for sample in run.whole_samples():
        for setting in run.settings:
            metrics = run.metrics(sample, setting)
            for name, curve in metrics.curves.items():
                for place, value in enumerate(curve):
                    cross = int(metrics.cross[place])
                    yield [sample.name, setting.name, name, place, cross, float(value)]


def comparison_values(run: Comparison) -> Rows:
    """Every number of a comparison's whole samples."""
    yield ["sample", "prompt", "seed", "run", "measure", "value"]
    for sample in run.whole_samples():
        for setting in run.settings:
            for name, value in run.metrics(sample, setting).summary().items():
                yield [sample.name, sample.prompt, sample.seed, setting.name, name, value]


def comparison_differences(run: Comparison, rows: Sequence[Difference]) -> Rows:
    """The table of a comparison."""
    base = run.settings[0].name
    yield ["measure", "run", f"mean {base}", "mean run", "difference", "low", "high", "n", "words"]
    for row in rows:
        found = row.found
        numbers = (found.difference, found.low, found.high, found.pairs) if found else ("",) * 4
        yield [row.measure, row.run, row.before, row.after, *numbers, row.words]
