"""`stas models`."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from stas.models.table import MODELS


def test_models_shows_every_row_whole_in_80_columns(run, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    code, out, _ = run("models")
    assert code == 0
    table = out[: out.index(f"{len(MODELS)} transformer classes")]
    assert max(len(line) for line in table.splitlines()) <= 80
    words = set(re.findall(r"\w+", table))
    for spec in MODELS.values():
        assert {spec.transformer, *spec.pipelines, *spec.verified} <= words
        for text in (spec.note, *spec.refusals.values()):
            assert set(re.findall(r"\w+", text)) <= words


def test_models_as_json_is_the_rows(run):
    code, out, _ = run("models", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["transformer"] for row in rows] == list(MODELS)
    assert rows == [spec.facts() for spec in MODELS.values()]


def test_models_imports_no_diffusers():
    probe = (
        "import sys; from stas.cli import main as cli; sys.argv = ['stas', 'models']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, stdout=subprocess.DEVNULL)
