"""Tables in Markdown, and the pages that they fill.

What is made stands in its page between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

END = "<!-- end -->"


def table(lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown, its headings first."""
    headings, *rest = (tuple(line) for line in lines)
    return "".join(
        f"| {' | '.join(line)} |\n" for line in (headings, ("---",) * len(headings), *rest)
    )


def names(text: str) -> list[str]:
    """The places of a page, in their order."""
    return [name for name in re.findall(r"^<!-- (.+) -->$", text, re.MULTILINE) if name != "end"]


def filled(text: str, name: str, made: str) -> str:
    """The page with `made` in the place of that name."""
    begin = f"<!-- {name} -->\n"
    before, rest = text.split(begin)
    _, after = rest.split(END, 1)
    return "".join((before, begin, made, END, after))
