"""Make the table of docs/comfyui.md from the rows of src/stas/comfyui/table.py.

python -m docs.make_comfyui
"""

from __future__ import annotations

from pathlib import Path

from docs.make_models import filled
from stas.comfyui.table import MODELS

PAGE = Path(__file__).with_name("comfyui.md")
HEADINGS = ("class", "blocks", "reached by", "the video's tokens", "remarks")


def table() -> str:
    """The rows as a table in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    for row in MODELS.values():
        blocks = ", ".join(f"`{stack.blocks}`" for stack in row.stacks)
        reached = "a hook" if row.stacks[0].key is None else "ComfyUI's patches"
        lines.append((f"`{row.transformer}`", blocks, reached, row.lies, row.note))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
