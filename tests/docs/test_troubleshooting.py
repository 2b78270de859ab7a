"""Each message that these pages quote is one that the source can say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / f"docs/{name}.md" for name in ("troubleshooting", "own-loop")]
QUOTED = re.compile(r"^### (\w+): `(.+)`$", re.MULTILINE)
GAP = "…"


def messages() -> list[str]:
    """Every string of the source, with a gap where a value is filled in."""
    found = []
    for path in (ROOT / "src/stas").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.BinOp):
                found.append(text(node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [one for one in found if one.strip(GAP)]


def text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(text(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text(node.left) + text(node.right)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return GAP


SAID = messages()


def said(quoted: str) -> bool:
    """Whether one message has all words of the quotation, in order and with nothing between.

    A gap of the page stands for anything; a gap of the source is quoted as a gap.
    """
    pattern = re.compile(".*".join(re.escape(part) for part in quoted.split(GAP)), re.DOTALL)
    return any(pattern.search(message) for message in SAID)


@pytest.mark.parametrize(
    "quoted", [quoted for page in PAGES for _, quoted in QUOTED.findall(page.read_text())]
)
def test_the_source_says_it(quoted):
    assert max(map(len, quoted.split(GAP))) > 10, "too short to be one message"
    assert said(quoted), f"no message of the source: {quoted}"


def test_another_message_is_not_found():
    assert not said("The window of steered steps is empty or leaves the plan")
    assert not said("No step is steered: … tokens")
