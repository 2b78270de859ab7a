"""A study in its folder."""

from __future__ import annotations

import sys

import pytest

from stas.studies.study import open_study
from tests.command import BUNDLED_DIMS
from tests.studies.test_run import FEW, OPTIONS, make, pipeline

__all__ = ["pipeline"]  # fixtures


def test_a_measure_that_needs_a_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"ssim: these need pip install 'stas\[metrics\]'"):
        open_study(make(measures=("ssim", "colourfulness")), tmp_path)
    assert "ssim" not in open_study(make(), tmp_path / "all").measured


def test_classes_are_found_by_recording(pipeline, tmp_path):
    study = make(arguments=FEW, axes={"dims": ("massive", "random")}, recorded=1)
    run = open_study(study, tmp_path / "run")
    run.begin(OPTIONS)
    told = []
    run.find_dims(pipeline, lambda step, steps, state="": told.append((step, steps)))
    assert told[-1][0] == told[-1][1]
    massive, random = (cell.config["dims"] for cell in run.settings[1:])
    assert (
        massive[0] == BUNDLED_DIMS[0] and len(random) == len(massive) and not {*random} & {*massive}
    )
    again = open_study(study, tmp_path / "run")
    assert [cell.config["dims"] for cell in again.settings[1:]] == [massive, random]
