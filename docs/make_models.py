"""Make the table of docs/models.md from the rows of src/stas/models/table.py.

python -m docs.make_models
"""

from __future__ import annotations

from pathlib import Path

from stas.models.table import MODELS

PAGE = Path(__file__).with_name("models.md")
BEGIN, END = (f"<!-- made by `make docs`: {word} -->\n" for word in ("begin", "end"))
GUIDANCE = {"separate": "two calls, cond first", "batched": "one batch, uncond first"}
HEADINGS = ("class", "pipelines", "tested", "guidance", "the video's tokens", "limits")


def table() -> str:
    """The rows as a table in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
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
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def filled(text: str, made: str) -> str:
    """The page with `made` between its two marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{made}{END}{after}"


def page(text: str) -> str:
    """The page with the table that the rows give."""
    return filled(text, table())


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
