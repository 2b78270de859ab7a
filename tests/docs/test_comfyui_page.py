"""docs/comfyui.md is what the rows give."""

from __future__ import annotations

from dataclasses import replace

from docs.make_comfyui import PAGE, table
from docs.make_models import filled
from stas.comfyui.table import MODELS


def test_the_page_is_made_from_the_rows():
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, table()) == text, "the rows have changed: run `make docs`"


def test_another_row_is_another_page(monkeypatch):
    before = table()
    monkeypatch.setitem(MODELS, "WanModel", replace(MODELS["WanModel"], note="a new limit"))
    assert table() != before
