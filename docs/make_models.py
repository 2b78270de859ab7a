"""Make the table of docs/models.md from the rows of src/stas/models/table.py.

python -m docs.make_models
"""

from __future__ import annotations

from pathlib import Path

from docs import tables
from stas.models.table import MODELS

PAGE = Path(__file__).with_name("models.md")
GUIDANCE = {"separate": "two calls, cond first", "batched": "one batch, uncond first"}
HEADINGS = ("class", "pipelines", "tested", "guidance", "the video's tokens", "limits")


def table() -> str:
    """The rows as a table in Markdown."""
    lines = [HEADINGS]
    for spec in MODELS.values():
        facts = spec.facts()
        lines.append(
            (
                f"`{facts['transformer']}`",
                "<br>".join(f"`{name}`" for name in facts["pipelines"]) or "none",
                ", ".join(facts["verified"]) or "nothing",
                GUIDANCE[facts["guidance"]],
                facts["tokens"],
                "<br>".join(facts["limits"]),
            )
        )
    return tables.table(lines)


def page(text: str) -> str:
    """The page with the table that the rows give."""
    return tables.filled(text, "models", table())


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
