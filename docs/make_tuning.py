"""Make the table of docs/tuning.md from benchmarks/results/tuning.json.

python -m docs.make_tuning
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs import tables

PAGE = Path(__file__).with_name("tuning.md")
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "tuning.json"
HEADINGS = ("noise", "effects", "guard worse by", "method", "says it helps", "videos")


def table(results: dict[str, Any]) -> str:
    """What each method said in each world, as a table in Markdown."""
    lines = [HEADINGS]
    for row in results["rows"]:
        guard = "" if row["guard"] is None else f"{row['guard']:g}"
        said, videos = f"{row['says it helps']:.1%}", f"{row['videos']:.0f}"
        lines.append((row["noise"], row["effects"], guard, row["method"], said, videos))
    runs = results["rows"][0]["runs"]
    return (
        f"{results['settings']} settings, at most {results['budget']} videos, "
        f"{runs:,} runs of each world:\n\n{tables.table(lines)}"
    )


def page(text: str) -> str:
    """The page with what the results say."""
    return tables.filled(text, "worlds", table(json.loads(RESULTS.read_text(encoding="utf-8"))))


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
