"""The notebooks run from top to bottom, and are kept with what they show."""

from __future__ import annotations

import nbformat
import pytest

from docs.make_notebooks import FOLDER, LIMIT, executed

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def pictures(notebook):
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def test_both_are_there():
    assert len(NOTEBOOKS) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_has_pictures_and_is_small(path):
    assert pictures(nbformat.read(path, as_version=4))
    assert path.stat().st_size < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path):
    assert pictures(executed(path))
