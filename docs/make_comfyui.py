"""Make the tables of docs/comfyui.md.

The models are the rows of src/stas/comfyui/table.py, the costs benchmarks/results/comfyui.json.

python -m docs.make_comfyui
"""

from __future__ import annotations

import json
from pathlib import Path

from docs import tables
from stas.comfyui.table import MODELS

PAGE = Path(__file__).with_name("comfyui.md")
RESULTS = PAGE.parent.parent / "benchmarks/results/comfyui.json"
HEADINGS = ("class", "blocks", "reached by", "the video's tokens", "remarks")


def table() -> str:
    """The rows as a table in Markdown."""
    lines = [HEADINGS]
    for row in MODELS.values():
        blocks = ", ".join(f"`{stack.blocks}`" for stack in row.stacks)
        reached = "a hook" if row.stacks[0].key is None else "ComfyUI's patches"
        lines.append((f"`{row.transformer}`", blocks, reached, row.lies, row.note))
    return tables.table(lines)


def costs() -> str:
    """Medians with the middle half of the rounds."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))

    def spread(kind: str, name: str, digits: int) -> str:
        times = results[kind].get(name)
        if times is None:
            return ""
        median, low, high = (f"{times[key]:.{digits}f}" for key in ("median", "low", "high"))
        return f"{median} ({low} to {high})"

    lines = [("steered", "seconds", "ratio to the plain sampling of the same round")]
    for name in results["seconds"]:
        lines.append((name, spread("seconds", name, 2), spread("ratios", name, 3)))
    return tables.table(lines)


def page(text: str) -> str:
    """The page with both tables."""
    return tables.filled(tables.filled(text, "models", table()), "costs", costs())


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
