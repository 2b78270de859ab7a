"""docs/models.md is what the rows give."""

from __future__ import annotations

from dataclasses import replace

from docs.make_models import PAGE, page, table
from stas.models.table import MODELS


def test_the_page_is_made_from_the_rows():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "the rows have changed: run `make docs`"


def test_another_row_is_another_page(monkeypatch):
    text = PAGE.read_text(encoding="utf-8")
    name = "MochiTransformer3DModel"
    monkeypatch.setitem(MODELS, name, replace(MODELS[name], note="a new limit"))
    assert page(text) != text


def test_no_cell_breaks_the_table():
    for line in table().splitlines():
        assert line.count("|") == 7
