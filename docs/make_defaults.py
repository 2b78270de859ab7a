"""Fills the tables of docs/defaults.md from the studies under benchmarks/results/studies.

    python -m docs.make_defaults

A table stands between `<!-- STUDY AXIS -->` and `<!-- end -->`: each measure's difference from
steering off for each value of the axis. `<!-- helps pairs -->` begins that of `benchmarks.helps`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from docs import tables
from stas.files import whole_file
from stas.studies.differences import NO_DIFFERENCE, TOO_FEW

PAGE = Path(__file__).with_name("defaults.md")
HELPS = Path(__file__).parent.parent / "benchmarks/results/helps.json"
STUDIES = Path(__file__).parent.parent / "benchmarks/results/studies"
# Of all that is in the CSV files: the task's truth, and what the paper speaks of.
MEASURES = (
    "all right",
    "shape, log-probability",
    "motion, log-probability",
    "path roughness",
    "size roughness",
    "colour error",
    "background error",
    "pixel difference, across chunks",
    "ssim, across chunks",
    "ssim, within chunks",
    "warping error, across chunks",
    "warping error, within chunks",
    "sharpness, first frame",
)


def table(study: str, axis: str) -> Iterator[Iterable[str]]:
    """The rows of one table; bold where the interval leaves out zero."""
    with (STUDIES / study / "differences.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["axis"] == axis]
    found = {(row["measure"], row["value"]): row for row in rows}
    values = list(dict.fromkeys(row["value"] for row in rows))
    if not rows:
        raise ValueError(f"The study {study} has no axis {axis}.")
    yield "measure", "off", *values
    for measure in MEASURES:
        # Of the value with most pairs: those of others lack videos without an object.
        fullest = max(values, key=lambda value: int(found[measure, value]["n"] or 0))
        off = float(found[measure, fullest]["mean off"])
        yield measure, f"{off:.3g}", *(cell(found[measure, value]) for value in values)
    counts = [sorted({int(row["n"] or 0) for row in rows if row["value"] == v}) for v in values]
    spans = (str(n[0]) if n[0] == n[-1] else f"{n[0]} to {n[-1]}" for n in counts)
    yield "pairs", "", *spans


def helps_table() -> Iterator[Iterable[str]]:
    """The rows of what thousands of pairs say of whether steering helps."""
    found = json.loads(HELPS.read_text(encoding="utf-8"))
    heads = "question", "setting", "right", "difference", "better, worse", "p", "Holm"
    yield *heads, "across chunks", "within chunks"
    asked = [(name, each, each["answers"]) for name, each in found["questions"].items()]
    again = found["confirmation"]
    for name, head, answers in (*asked, ("confirmation, other seeds", again, [again["answer"]])):
        yield f"{name}, {head['pairs']:,} pairs", "off", f"{head['off']:.4f}", *[""] * 6
        for each in answers:
            right, across, within = (
                f"{change:+.4f} ({low:+.4f} to {high:+.4f})"
                for change, low, high in each["difference"].values()
            )
            more, _, less = each["captions"]
            corrected = head.get("holm", {}).get(each["setting"])
            numbers = f"{each['right']:.4f}", right, f"{more}, {less}", f"{each['p']:.2g}"
            holm = "" if corrected is None else f"{corrected:.2g}"
            yield "", each["setting"], *numbers, holm, across, within


def cell(row: dict[str, str]) -> str:
    if not row["difference"]:
        return "-"  # no pair has a number
    difference, low, high = (f"{float(row[name]):+.2g}" for name in ("difference", "low", "high"))
    text = f"{difference} ({low} to {high})"
    return text if row["words"] in (NO_DIFFERENCE, TOO_FEW) else f"**{text}**"


def fill(text: str) -> str:
    """The page with its tables made anew."""
    for name in tables.names(text):
        study, axis = name.split()
        made = helps_table() if study == "helps" else table(study, axis)
        text = tables.filled(text, name, tables.table(made))
    return text


if __name__ == "__main__":
    page = fill(PAGE.read_text(encoding="utf-8"))
    with whole_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
