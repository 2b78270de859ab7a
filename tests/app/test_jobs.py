"""Pairs, cancelling, and a model that can't be loaded."""

from __future__ import annotations

import threading

import pytest

from stas.app.jobs import CancelledError, Studio
from stas.app.settings import Settings
from stas.hooks.steer import find_handle
from stas.pipelines.manifest import Manifest

QUICK = Settings(prompt="a red circle moving right on a blue background", steps=2, frames=5)


def test_a_pair_a_cancel_and_a_bad_model(tmp_path):
    studio = Studio(tmp_path, "cpu")
    heard = []
    pair = studio.make(QUICK, lambda *said: heard.append(said), threading.Event())
    assert heard[0] == (0, 4, "off: step 0 of 2") and heard[-1] == (4, 4, "on: step 2 of 2")
    assert {path.name for path in pair.maps} >= {"steps.png", "ratios.png", "map.png"}
    off, on = pair.off.read(), pair.on.read()
    assert off.manifest.steering is None and on.manifest.steered
    assert studio.gallery() == [pair.both]
    again = Settings.from_manifest(Manifest.load(pair.on.path(".json")))
    assert (again.prompt, again.steps) == (QUICK.prompt, 2)
    assert again.steering == on.manifest.steering_config()

    before = sorted(tmp_path.iterdir())
    cancelled = threading.Event()

    def cancel(step, steps, words):
        if words == "on: step 1 of 2":
            cancelled.set()

    with pytest.raises(CancelledError):
        studio.make(QUICK, cancel, cancelled)
    assert sorted(tmp_path.iterdir()) == before
    assert find_handle(studio._loaded[1].pipeline) is None

    with pytest.raises((OSError, ValueError)):
        bad = Settings(prompt="x", model=str(tmp_path / "none"))
        studio.make(bad, cancel, threading.Event())
    assert studio._loaded[0] == "bundled"


def test_scales_are_made_all_or_none(tmp_path):
    studio = Studio(tmp_path, "cpu")
    made = studio.make_scales(QUICK, [1.0, 3.0], lambda *said: None, threading.Event())
    for scale, files in made.items():
        assert files.read().manifest.steering["scale"] == scale
    digests = {files.read().manifest.frames["sha256"] for files in made.values()}
    assert len(digests) == 2
    before = sorted(tmp_path.iterdir())
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(CancelledError):
        studio.make_scales(QUICK, [1.0, 3.0], lambda *said: None, cancelled)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arguments": {"prompt": "x", "image": {"file": "a", "sha256": "b"}}}, "image, of which"),
        ({"pipeline": {"model": "bundled", "loras": {"a": 1.0}}}, "loras, of which"),
        ({"steering": None}, "has no steering"),
    ],
)
def test_a_manifest_that_the_form_would_cut_is_refused(tmp_path, change, message):
    whole = {
        "pipeline": {"model": "bundled"},
        "model": {},
        "arguments": {"prompt": "x"},
        "prompt_file": None,
        "seed": 0,
        "fps": 8,
        "steering": {},
        "dims": {"transformer": {"dims": [1]}},
        "frames": {"sha256": ""},
        "versions": {},
        "device": "cpu",
        "seconds": 1.0,
        "created": "",
    }
    assert Settings.from_manifest(Manifest(**whole)).prompt == "x"
    with pytest.raises(ValueError, match=message):
        Settings.from_manifest(Manifest(**(whole | change)))
