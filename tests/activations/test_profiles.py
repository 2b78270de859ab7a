"""Profiles: found by id or folder, only when they fit, and refused when broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import WanTransformer3DModel

from stas.activations.profiles import (
    FOLDER_PROFILE,
    Profile,
    cached_profile,
    default_steering,
    find_profile,
    keep_steering,
)
from stas.assets import BUNDLED_MODEL, shipped
from stas.checks import StasWarning
from stas.hooks.steer import steer
from stas.method.config import STASConfig

FEW = ("--steps", "2", "--frames", "5", "--size", "32x32", "--device", "cpu")
WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN_CONFIG = {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128}
GOOD = {
    "format": "stas.profile/1",
    "model": "mine",
    "transformer": "WanTransformer3DModel",
    "config": {"num_layers": 3},
    "dims": [5],
    "ratios": [31.0],
    "source": "measured",
}


def test_every_shipped_profile_loads():
    paths = shipped("profiles", ".json").values()
    assert paths
    for path in paths:
        Profile.load(path)


def test_the_papers_dimension_for_wan():
    profile = find_profile(WAN, "WanTransformer3DModel", WAN_CONFIG)
    assert profile is not None
    assert profile.dims == (1188,)
    assert profile.source == "paper"


@pytest.mark.parametrize(
    ("name", "transformer", "config"),
    [
        (None, "WanTransformer3DModel", WAN_CONFIG),
        ("somebody/else", "WanTransformer3DModel", WAN_CONFIG),
        (WAN, "CogVideoXTransformer3DModel", WAN_CONFIG),
        (WAN, "WanTransformer3DModel", WAN_CONFIG | {"num_layers": 40}),
    ],
)
def test_a_profile_that_does_not_fit_is_not_used(name, transformer, config):
    assert find_profile(name, transformer, config) is None


def test_a_folder_carries_its_own_profile(tmp_path):
    (tmp_path / FOLDER_PROFILE).write_text(json.dumps(GOOD))
    (tmp_path / "transformer").mkdir()
    for place in (tmp_path, tmp_path / "transformer"):
        profile = find_profile(str(place), "WanTransformer3DModel", {"num_layers": 3})
        assert profile is not None
        described = "profile mine (measured): dimension 5 at 31.0x the mean (massive)"
        assert profile.describe() == described


def test_what_was_measured_here_comes_before_the_folders_own(tmp_path):
    (tmp_path / FOLDER_PROFILE).write_text(json.dumps(GOOD))
    measured = cached_profile(str(tmp_path))
    measured.parent.mkdir(parents=True)
    measured.write_text(json.dumps(GOOD | {"dims": [7]}))
    assert find_profile(str(tmp_path), "WanTransformer3DModel", {"num_layers": 3}).dims == (7,)
    measured.write_text(json.dumps(GOOD | {"dims": [7], "config": {"num_layers": 9}}))
    assert find_profile(str(tmp_path), "WanTransformer3DModel", {"num_layers": 3}).dims == (5,)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other/1"},
        {"dims": []},
        {"dims": [1, 2]},
        {"dims": 5},
        {"dims": [-1]},
        {"dims": [True]},
        {"dims": [5.0]},
        {"dims": ["a"]},
        {"dims": [5, 5], "ratios": [31.0, 31.0]},
        {"ratios": ["x"]},
        {"ratios": [-1.0]},
        {"ratios": [float("nan")]},
        {"config": [1]},
        {"extra": 1},
        {"videos": 0},
        {"source": None, "model": None, "transformer": None, "unknown": 0},
    ],
)
def test_a_broken_profile_is_refused_by_name(tmp_path, change):
    path = tmp_path / FOLDER_PROFILE
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=r"stas_profile\.json is not a stas profile"):
        find_profile(str(tmp_path), "WanTransformer3DModel", {"num_layers": 3})


@pytest.mark.parametrize(
    ("own", "here", "used"),
    [(256, 2, 5), (256, 256, 7), (2, 256, 7), (None, 2, 5), (None, 6, 7), (7, None, 5)],
)
def test_the_profile_of_more_videos_is_used(tmp_path, own, here, used):
    (tmp_path / FOLDER_PROFILE).write_text(json.dumps(GOOD | {"videos": own}))
    measured = cached_profile(str(tmp_path))
    measured.parent.mkdir(parents=True)
    measured.write_text(json.dumps(GOOD | {"dims": [7], "videos": here}))
    assert find_profile(str(tmp_path), "WanTransformer3DModel", {"num_layers": 3}).dims == (used,)


def test_what_can_not_be_read_in_the_cache_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / FOLDER_PROFILE).write_text(json.dumps(GOOD))
    measured = cached_profile(str(tmp_path))
    measured.parent.mkdir(parents=True)
    measured.write_text("{")
    with pytest.warns(StasWarning, match="is ignored: .* is not a stas profile"):
        found = find_profile(str(tmp_path), "WanTransformer3DModel", {"num_layers": 3})
    assert found.dims == (5,)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("STAS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.warns(StasWarning, match="can't be read: Could not determine home"):
        found = find_profile(str(tmp_path), "WanTransformer3DModel", {"num_layers": 3})
    assert found.dims == (5,)


def test_a_tuned_steering_is_the_default_of_its_model(run):
    tuned = STASConfig(blocks="all", scale=0.8)
    assert default_steering("bundled") == STASConfig()
    path = keep_steering("bundled", tuned)
    assert Profile.load(path).steering == {"blocks": "all", "scale": 0.8}
    transformer = WanTransformer3DModel.from_pretrained(BUNDLED_MODEL, subfolder="transformer")
    for given, wanted in (
        ({}, tuned),
        ({"scale": 1.5}, STASConfig(blocks="all", scale=1.5)),
        ({"config": STASConfig()}, STASConfig()),
    ):
        with steer(transformer, **given) as handle:
            assert handle.config == wanted and "tuned" in handle.summary()
    code, _, err = run("generate", "x", *FEW, "-o", "x.mp4")
    assert code == 0, err
    assert json.loads(Path("x.json").read_text())["steering"]["scale"] == 0.8
    code, out, _ = run("profile", "list")
    assert "tuned" in out
    # A new measurement keeps it.
    code, _, err = run("profile", *FEW, "--count", "2", "--force")
    assert code == 0 and Profile.load(path).steering == {"blocks": "all", "scale": 0.8}, err
    with pytest.raises(FileNotFoundError, match="Measure it first: stas profile --model some/one"):
        keep_steering("some/one", tuned)


@pytest.mark.parametrize("steering", [[], {"scale": -1.0}, {"colour": 1}])
def test_a_steering_that_is_none_is_refused(tmp_path, steering):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(GOOD | {"steering": steering}))
    with pytest.raises(ValueError, match="is not a stas profile"):
        Profile.load(path)
