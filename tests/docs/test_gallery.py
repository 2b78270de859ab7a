"""docs/gallery.md shows every picture, and what it says makes them is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from docs import make_badges
from stas.cli.main import app

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "docs/images"
TEXT = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
SHOWN = re.compile(r"!\[[^\]]+\]\(images/([^)]+)\)")
COMMAND = re.compile(r"`((?:\w+=\S+ )?(python -m|stas|make) ([\w.]+)[^`]*)`")


def test_every_picture_is_shown_once():
    files = {str(path.relative_to(PICTURES)) for path in PICTURES.rglob("*") if path.is_file()}
    assert sorted(SHOWN.findall(TEXT)) == sorted(files)


def test_a_command_follows_each_picture():
    """The next thing that is neither a picture nor a gap begins with it."""
    for rest in SHOWN.split(TEXT)[2::2]:
        words = rest.strip().split("\n")[0]
        assert not words or words.startswith("`"), words
    assert COMMAND.match(SHOWN.split(TEXT)[-1].strip())


def test_the_commands_are_there():
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = {each.name or each.callback.__name__ for each in app.registered_commands}
    found = COMMAND.findall(TEXT)
    assert len(found) > 8
    for _, program, name in found:
        if program == "python -m":
            assert importlib.util.find_spec(name), name
        else:
            assert name in known if program == "stas" else f"\n{name}:" in make, name


def test_the_badges_say_what_the_package_says():
    made = {path.name: path.read_text(encoding="utf-8") for path in make_badges.FOLDER.iterdir()}
    assert made == make_badges.badges(), "run `make docs`"
