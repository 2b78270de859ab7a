"""Lines of a benchmark's table, whatever benchmark it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stas.files import Rows
from stas.studies.differences import Difference


@dataclass(frozen=True)
class Row:
    """One line: a dimension, a category or a total.

    Args:
        name: Its name.
        cells: By name of setting, what stands there.
        values: By name of setting, the number; missing where there is none.
        differences: Of each setting but the first.
    """

    name: str
    cells: Mapping[str, str]
    values: Mapping[str, float]
    differences: Sequence[Difference] = ()


def table_rows(rows: Sequence[Row], settings: Sequence[str]) -> Rows:
    """The table, a row for each line and setting; scores are from 0 to 1."""
    yield ["name", "setting", "score", "note", "difference", "low", "high", "n", "words"]
    for row in rows:
        told = {each.run: each for each in row.differences}
        for setting in settings:
            found = told[setting].found if setting in told else None
            numbers = (found.difference, found.low, found.high, found.pairs) if found else ("",) * 4
            words = told[setting].words if setting in told else ""
            yield [
                row.name,
                setting,
                row.values.get(setting, ""),
                row.cells[setting],
                *numbers,
                words,
            ]
