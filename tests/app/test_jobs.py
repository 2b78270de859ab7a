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
    assert ("off" in {said[2] for said in heard}) and (2, 2, "on") in heard
    off, on = pair.off.read(), pair.on.read()
    assert off.manifest.steering is None and on.manifest.steered
    assert studio.gallery() == [pair.both]
    again = Settings.from_manifest(Manifest.load(pair.on.path(".json")))
    assert (again.prompt, again.steps) == (QUICK.prompt, 2)
    assert again.steering == on.manifest.steering_config()

    before = sorted(tmp_path.iterdir())
    cancelled = threading.Event()

    def cancel(step, steps, word):
        if word == "on" and step == 1:
            cancelled.set()

    with pytest.raises(CancelledError):
        studio.make(QUICK, cancel, cancelled)
    assert sorted(tmp_path.iterdir()) == before
    assert find_handle(studio._loaded[1].pipeline) is None

    with pytest.raises((OSError, ValueError)):
        bad = Settings(prompt="x", model=str(tmp_path / "none"))
        studio.make(bad, cancel, threading.Event())
    assert studio._loaded[0] == "bundled"
