"""The manifest: what it holds, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import stas
from stas.pipelines.manifest import (
    Manifest,
    dims_record,
    frames_record,
    model_record,
    versions_record,
)
from tests.tiny import generate, plant_massive_dimension, tiny_wan

STEERING = stas.STASConfig().to_dict()


def manifest(**changes):
    values = {
        "pipeline": {"model": "bundled"},
        "model": {"class": "WanPipeline", "commit": None},
        "arguments": {"prompt": "a red circle", "num_frames": 5},
        "prompt_file": None,
        "seed": 3,
        "fps": 8,
        "steering": STEERING,
        "dims": {"transformer": {"dims": [7], "origin": "profile", "source": "profile x"}},
        "frames": {"sha256": "00"},
        "versions": {"stas": "0.1.0"},
        "device": "cpu",
        "seconds": 1.5,
        "created": "2026-01-01T00:00:00+00:00",
    }
    return values | changes


def test_it_comes_back_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    one = Manifest(**manifest())
    path.write_text(one.to_json())
    assert Manifest.load(path) == one
    assert json.loads(path.read_text())["format"] == "stas.manifest/1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a manifest"),
        ("[]", 'expected an object with "format": "stas.manifest/1"'),
        ('{"format": "stas.profile/1"}', 'expected an object with "format"'),
        ('{"format": "stas.manifest/1"}', "missing keys arguments, created"),
        ({"colour": 1}, "unknown keys colour"),
        ({"seed": -1}, "seed must be an integer, 0 or more"),
        ({"seed": 2**63}, r"below 2\*\*63"),
        ({"versions": {"threads": 0}}, "threads must be an integer above 0"),
        ({"pipeline": {"loras": 3}}, "loras must be an object"),
        ({"seed": "1"}, "seed must be an integer"),
        ({"fps": 0}, r"fps must be from 0\.001 to 1000"),
        ({"arguments": {}}, "arguments must hold a prompt"),
        ({"arguments": None}, "arguments must be an object"),
        ({"frames": {}}, "frames must hold their sha256"),
        ({"steering": {"alpha": 1}}, "Unknown key in the steering config: 'alpha'"),
        ({"steering": {"scale": "big"}}, "scale must be a number"),
        ({"dims": {"transformer": [7]}}, "dims must say which dimensions"),
        ({"dims": None}, "dims must say which dimensions"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "a.json"
    if isinstance(text, dict):
        text = json.dumps({"format": "stas.manifest/1"} | manifest(**text))
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is not a manifest") as caught:
        Manifest.load(path)
    assert caught.match(message)


@pytest.mark.parametrize(
    ("origin", "given", "expected"),
    [("profile", None, (7,)), ("detected", None, None), ("given", [4], (4,))],
)
def test_a_repeat_takes_a_profiles_dims_and_detects_again(origin, given, expected):
    dims = {"transformer": {"dims": given or [7], "origin": origin, "source": ""}}
    one = Manifest(**manifest(dims=dims, steering=STEERING | {"dims": given}))
    assert one.steering_config().dims == expected


def test_experts_with_a_profile_each_look_theirs_up_again():
    dims = {
        name: {"dims": [dim], "origin": "profile", "source": ""}
        for name, dim in (("transformer", 7), ("transformer_2", 9))
    }
    assert Manifest(**manifest(dims=dims)).steering_config().dims is None


def test_nothing_steered_stays_nothing():
    assert Manifest(**manifest(steering=None, dims=None)).steering_config() is None


def test_dims_are_recorded_with_their_origin():
    pipeline = tiny_wan()
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    with stas.steer(pipeline) as handle:
        generate(pipeline, steps=2)
        record = dims_record(handle)["transformer"]
    assert (record["dims"], record["origin"]) == ([5], "detected")
    assert "dimension 5 at" in record["source"]
    with stas.steer(pipeline, dims=(2, 1), stop=0.5) as handle:
        assert dims_record(handle)["transformer"]["dims"] == [2, 1]
        generate(pipeline, steps=2)
        assert dims_record(handle)["transformer"]["steered_forwards"] == 2  # of one step


def test_one_changed_pixel_changes_the_record():
    frames = np.zeros((2, 4, 6, 3), dtype=np.uint8)
    one = frames_record(frames)
    assert (one["count"], one["height"], one["width"]) == (2, 4, 6)
    frames[1, 2, 3, 0] = 1
    assert frames_record(frames)["sha256"] != one["sha256"]


def test_the_commit_of_a_hub_model_is_that_of_its_snapshot(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789" * 4
    for place in ("refs", f"snapshots/{commit}"):
        (tmp_path / "models--owner--name" / place).mkdir(parents=True)
    (tmp_path / "models--owner--name/refs/main").write_text(commit)
    (tmp_path / f"models--owner--name/snapshots/{commit}/model_index.json").touch()
    pipeline = tiny_wan()
    pipeline.register_to_config(_name_or_path="owner/name")
    assert model_record(pipeline, None)["commit"] == commit


def test_records_of_model_and_versions():
    assert model_record(tiny_wan(), None) == {"class": "WanPipeline", "commit": None}
    versions = versions_record()
    assert versions["stas"] == stas.__version__
    assert versions["threads"] >= 1
