"""LoadedPipeline: what can be asked of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

import stas
from stas.assets import BUNDLED_MODEL
from stas.checks import StasWarning
from stas.pipelines.load import load_pipeline
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from tests.pipelines.test_load import PROMPT, bundled, small, tiny_folder

__all__ = ["bundled", "tiny_folder"]  # fixtures


def test_generation_is_deterministic_and_reports_every_step(bundled):
    arguments = small(bundled)
    reports = []
    first = bundled.generate(arguments, 3, report=lambda *where: reports.append(where))
    assert first.shape == (5, 64, 64, 3)
    assert first.dtype == np.uint8
    assert reports == [(0, 2), (1, 2), (2, 2)]
    assert np.array_equal(bundled.generate(arguments, 3), first)
    assert not np.array_equal(bundled.generate(arguments, 4), first)
    assert "progress_bar" not in vars(bundled)


def test_defaults_come_from_the_model_folder(bundled, tiny_folder):
    defaults = json.loads((BUNDLED_MODEL / "defaults.json").read_text())
    arguments = bundled.arguments({"prompt": PROMPT, "num_inference_steps": None})
    assert arguments["num_inference_steps"] == defaults["num_inference_steps"]
    assert "fps" not in arguments
    assert bundled.fps == defaults["fps"]
    other = load_pipeline(PipelineOptions(model=str(tiny_folder), device="cpu"))
    assert other.arguments({"prompt": PROMPT}) == {"prompt": PROMPT}
    assert other.fps == 16


def test_a_working_folder_that_changes_hides_nothing_in_silence(monkeypatch, tmp_path):
    shutil.copytree(BUNDLED_MODEL, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    pipeline = WanPipeline.from_pretrained("tiny")
    known, loaded = LoadedPipeline(pipeline), load_pipeline("tiny", device="cpu")
    monkeypatch.chdir("/")
    assert (
        known.defaults
        == loaded.defaults
        == json.loads((tmp_path / "tiny/defaults.json").read_text())
    )
    assert known.options.model == str(tmp_path / "tiny")
    with stas.steer(loaded) as handle:
        assert handle.origins == {"transformer": "profile"}
    with pytest.warns(StasWarning, match="from 'tiny/transformer', and there is no such folder"):
        stas.steer(pipeline).remove()


@pytest.mark.parametrize("wrong", [lambda: 0, "bundled", WanPipeline, torch.nn.Linear(1, 1)])
def test_defaults_of_no_pipeline_are_refused(wrong):
    with pytest.raises(TypeError, match="Expected a diffusers pipeline, but got"):
        stas.defaults(wrong)
