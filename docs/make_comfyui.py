"""Make the table of docs/comfyui.md from the rows of src/stas/comfyui/table.py.

python -m docs.make_comfyui
"""

from __future__ import annotations

from pathlib import Path

from docs.make_models import filled
from stas.comfyui.table import MODELS, REFUSED

PAGE = Path(__file__).with_name("comfyui.md")
HEADINGS = ("class", "blocks", "the video's tokens", "tested", "remarks")
TESTED = {"run": "run on the real class", "read": "read in its source"}


def table() -> str:
    """The rows as a table in Markdown, and what is refused."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    for row in MODELS.values():
        blocks = ", ".join(f"`{stack.blocks}`" for stack in row.stacks)
        tested = TESTED[row.verified]
        lines.append((f"`{row.transformer}`", blocks, row.lies, tested, row.note))
    made = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{made}\nRefused, when the node is executed:\n\n" + "".join(
        f"- `{name}`: {reason}\n" for name, reason in REFUSED.items()
    )


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
