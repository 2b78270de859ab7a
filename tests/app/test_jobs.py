"""Pairs, cancelling, and a model that can't be loaded."""

from __future__ import annotations

import shlex
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from stas.activations.profiles import keep_steering
from stas.app.jobs import CancelledError, Studio
from stas.app.page import Runs
from stas.app.settings import Settings
from stas.hooks.steer import find_handle
from stas.media.video import read_video
from stas.method.config import STASConfig
from stas.pipelines.manifest import Manifest, frames_record

CHANGED = STASConfig(scale=3, blocks=(0, -1), regions=("first_frame",), branches=("cond",), stop=1)
QUICK = Settings(prompt="a red circle moving right on a blue background", steps=2, frames=5)


def test_a_pair_a_cancel_and_a_bad_model(tmp_path):
    studio = Studio(tmp_path, "cpu")
    heard = []
    pair = studio.make(QUICK, lambda *said: heard.append(said), threading.Event())
    assert heard[:2] == [(0, 0, "Loading the model"), (0, 4, "off: step 0 of 2")]
    assert heard[-1] == (4, 4, "on: step 2 of 2")
    assert {path.name for path in pair.maps} >= {"steps.png", "ratios.png", "map.png"}
    off, on = (pair.files[name].read() for name in ("off", "on"))
    assert off.manifest.steering is None and on.manifest.steered
    assert studio.gallery() == [pair.video]
    scale = studio.make_scales(QUICK, [1.0, 3.0], lambda *said: None, threading.Event())[3.0]
    assert studio.gallery()[0] == scale.paths[0] and len(studio.gallery()) == 3
    again = Settings.from_manifest(Manifest.load(pair.files["on"].path(".json")))
    assert (again.prompt, again.steps) == (QUICK.prompt, 2)
    assert again.steering == on.manifest.steering_config()

    before = sorted(tmp_path.iterdir())
    cancelled = threading.Event()

    told = []

    def cancel(step, steps, words):
        told.append(words)
        if words == "on: step 1 of 2":
            cancelled.set()

    with pytest.raises(CancelledError):
        studio.make(QUICK, cancel, cancelled)
    assert told[-1] == "on: step 1 of 2"  # it ended there
    assert sorted(tmp_path.iterdir()) == before
    assert find_handle(studio._loaded[1].pipeline) is None

    with pytest.raises((OSError, ValueError)):
        bad = Settings(prompt="x", model=str(tmp_path / "none"))
        studio.make(bad, cancel, threading.Event())
    assert studio._loaded[0] == ("bundled", "auto")


def test_the_command_and_the_python_make_the_same_video(run, tmp_path):
    settings = replace(
        QUICK,
        prompt="-a red circle",
        dtype="bfloat16",
        seed=3,
        fps=4.0,
        negative_prompt="blur",
        steering=CHANGED,
    )
    pair = Studio(tmp_path / "app", "cpu").make(settings, lambda *said: None, threading.Event())
    made = pair.files["on"].read().manifest.frames["sha256"]
    program, *words = shlex.split(settings.to_command("cpu"))
    assert program == "stas"
    code, _, err = run(words[0], "-o", "command.mp4", *words[1:])
    assert code == 0, err
    assert Manifest.load("command.json").frames["sha256"] == made
    names = {}
    exec(settings.to_python("cpu"), names)
    assert frames_record(names["frames"])["sha256"] == made
    assert read_video("video.mp4").shape == names["frames"].shape


@pytest.mark.parametrize("make", ["off", "on"])
def test_one_video_alone(run, tmp_path, make):
    settings = replace(QUICK, make=make, steering=CHANGED)
    studio = Studio(tmp_path / "app", "cpu")
    made = studio.make(settings, lambda *said: None, threading.Event())
    (files,) = made.files.values()
    assert studio.gallery() == [made.video] == [files.path(".mp4")]
    assert bool(made.maps) == (make == "off")
    found = files.read().manifest
    assert found.steered == (make == "on")
    again = Settings.from_manifest(found)
    assert (again.make, again.seed) == ({"on": "both", "off": "off"}[make], 0)
    code, _, err = run("generate", "-o", "c.mp4", *shlex.split(settings.to_command("cpu"))[2:])
    assert code == 0, err
    assert Manifest.load("c.json").frames["sha256"] == found.frames["sha256"]
    names = {}
    exec(settings.to_python("cpu"), names)
    assert frames_record(names["frames"])["sha256"] == found.frames["sha256"]


def test_who_waits_is_told_the_place_and_can_cancel(tmp_path):
    studio, heard = Studio(tmp_path, "cpu"), []
    studio._line += [threading.Event(), threading.Event()]
    cancelled = threading.Event()

    def hear(*said):
        heard.append(said)
        cancelled.set()

    with pytest.raises(CancelledError):
        studio.make(QUICK, hear, cancelled)
    assert heard == [(0, 0, "Waiting for 2 before this one")] and len(studio._line) == 2


def test_a_page_that_was_reloaded_ends_what_is_being_made(tmp_path):
    studio, request = Studio(tmp_path, "cpu"), SimpleNamespace(session_hash="new")
    studio._line += [threading.Event(), threading.Event()]
    Runs(studio).cancel(request)
    assert [each.is_set() for each in studio._line] == [True, False]


def test_the_command_says_what_a_tuned_model_would_not_do(tmp_path):
    keep_steering("bundled", STASConfig(scale=0.8))
    assert "--scale=1.0" in QUICK.to_command()
    assert "--scale" not in replace(QUICK, steering=STASConfig(scale=0.8)).to_command()


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
