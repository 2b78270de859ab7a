"""Fills the tables of docs/defaults.md from the studies under benchmarks/results/studies.

    python -m docs.make_defaults

A table stands between `<!-- STUDY AXIS -->` and `<!-- end -->`: each measure's difference from
steering off for each value of the axis. `<!-- helps pairs -->` begins that of `benchmarks.helps`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from stas.files import whole_file
from stas.studies.differences import NO_DIFFERENCE, TOO_FEW

PAGE = Path(__file__).with_name("defaults.md")
HELPS = Path(__file__).parent.parent / "benchmarks/results/helps.json"
STUDIES = Path(__file__).parent.parent / "benchmarks/results/studies"
TABLE = re.compile(r"(<!-- (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
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


def table(study: str, axis: str) -> Iterator[str]:
    """The lines of one table; bold where the interval leaves out zero."""
    with (STUDIES / study / "differences.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["axis"] == axis]
    found = {(row["measure"], row["value"]): row for row in rows}
    values = list(dict.fromkeys(row["value"] for row in rows))
    if not rows:
        raise ValueError(f"The study {study} has no axis {axis}.")
    yield f"| measure | off | {' | '.join(values)} |"
    yield "|" + "---|" * (len(values) + 2)
    for measure in MEASURES:
        # Of the value with most pairs: those of others lack videos without an object.
        fullest = max(values, key=lambda value: int(found[measure, value]["n"] or 0))
        off = float(found[measure, fullest]["mean off"])
        cells = " | ".join(cell(found[measure, value]) for value in values)
        yield f"| {measure} | {off:.3g} | {cells} |"
    counts = [sorted({int(row["n"] or 0) for row in rows if row["value"] == v}) for v in values]
    spans = (str(n[0]) if n[0] == n[-1] else f"{n[0]} to {n[-1]}" for n in counts)
    yield f"| pairs | | {' | '.join(spans)} |"


def helps_table() -> Iterator[str]:
    """The lines of what thousands of pairs say of whether steering helps."""
    found = json.loads(HELPS.read_text(encoding="utf-8"))
    heads = "question", "setting", "right", "difference", "better, worse", "p", "Holm"
    yield f"| {' | '.join((*heads, 'across chunks', 'within chunks'))} |"
    yield "|" + "---|" * 9
    asked = [(name, each, each["answers"]) for name, each in found["questions"].items()]
    again = found["confirmation"]
    for name, head, answers in (*asked, ("confirmation, other seeds", again, [again["answer"]])):
        yield f"| {name}, {head['pairs']:,} pairs | off | {head['off']:.4f} | | | | | | |"
        for each in answers:
            right, across, within = (
                f"{change:+.4f} ({low:+.4f} to {high:+.4f})"
                for change, low, high in each["difference"].values()
            )
            more, _, less = each["captions"]
            corrected = head.get("holm", {}).get(each["setting"])
            yield (
                f"| | {each['setting']} | {each['right']:.4f} | {right} | {more}, {less} | "
                f"{each['p']:.2g} | {'' if corrected is None else f'{corrected:.2g}'} | {across} | "
                f"{within} |"
            )


def cell(row: dict[str, str]) -> str:
    if not row["difference"]:
        return "-"  # no pair has a number
    difference, low, high = (f"{float(row[name]):+.2g}" for name in ("difference", "low", "high"))
    text = f"{difference} ({low} to {high})"
    return text if row["words"] in (NO_DIFFERENCE, TOO_FEW) else f"**{text}**"


def fill(text: str) -> str:
    """The page with its tables made anew."""

    def lines(match: re.Match[str]) -> str:
        made = helps_table() if match[2] == "helps" else table(match[2], match[3])
        return match[1] + "\n".join(made) + "\n" + match[4]

    return TABLE.sub(lines, text)


if __name__ == "__main__":
    page = fill(PAGE.read_text(encoding="utf-8"))
    with whole_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
