"""docs/comfyui.md is what the rows and the benchmark's results give."""

from __future__ import annotations

import json
from dataclasses import replace

from docs import make_comfyui
from docs.make_comfyui import PAGE, page
from stas.comfyui.table import MODELS


def test_the_page_is_made_from_rows_and_results():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "the rows or the results have changed: run `make docs`"


def test_another_row_or_result_is_another_page(monkeypatch, tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    monkeypatch.setitem(MODELS, "WanModel", replace(MODELS["WanModel"], note="a new limit"))
    other = page(text)
    assert other != text
    results = json.loads(make_comfyui.RESULTS.read_text(encoding="utf-8"))
    results["ratios"]["all blocks"]["high"] = 3.0
    monkeypatch.setattr(make_comfyui, "RESULTS", tmp_path / "results.json")
    make_comfyui.RESULTS.write_text(json.dumps(results))
    assert page(text) != other and " to 3.000)" in page(text)
