"""The truth of the bundled model's task, on rendered clips and on ones that were spoilt."""

from __future__ import annotations

import doctest
import random

import numpy as np
import pytest

import training.clips
import training.truth
from stas.media.video import Frames, to_frames
from training.classifier import LABELS
from training.clips import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    Mix,
    Scene,
    Thing,
    draw_scenes,
    read_caption,
    render,
    scenes,
)
from training.truth import truth

PATH, SIZE = "path roughness", "size roughness"
MEASURED = (PATH, SIZE, "colour error", "background error")


def rendered(scene: Scene, seed: int = 0) -> Frames:
    clip, _ = render([scene], random.Random(seed))
    return to_frames((clip[0].permute(1, 2, 3, 0).numpy() + 1) / 2)


def scene_of(motion: str, size: str = "", shape: str = "triangle") -> Scene:
    return Scene((Thing(size, "red", shape, motion),), "gray")


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_a_caption_is_read_as_the_scene_that_it_says(split):
    mix = Mix(two=0.3, patterned=0.5, placed=0.5)
    for scene in (*scenes(split), *draw_scenes(400, split, random.Random(0), mix)):
        assert read_caption(scene.caption) == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle moving right",
        "a red circle moving right on a blue background, seen from above",
        "look: a red circle moving right on a blue background",
        "a tiny red circle moving right on a blue background",
        "a red circle jumping on a blue background",
        "a red circle growing and a blue ring on a gray background",
        "a red circle moving up at the top on a gray background",
        "a red circle growing on a gray background drifting left",
        "a red circle growing on a striped gray background",
    ],
)
def test_what_is_no_caption_is_refused(text):
    with pytest.raises(ValueError, match=r"A caption reads .*cyan.*growing"):
        read_caption(text)


def test_a_caption_with_two_objects_or_a_pattern_is_refused():
    for mix in (Mix(two=1.0), Mix(patterned=1.0)):
        (scene,) = draw_scenes(1, "held-out", random.Random(0), mix)
        with pytest.raises(ValueError, match="one object on a background without a pattern"):
            truth(rendered(scene), scene.caption)


def test_floats_are_refused():
    scene = scene_of("growing")
    with pytest.raises(TypeError, match="uint8"):
        truth(rendered(scene) / 255, scene.caption)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("motion", MOTIONS)
def test_what_is_rendered_is_right(motion, size):
    scene = scene_of(motion, size)
    found = truth(rendered(scene), scene.caption)
    assert found["all right"] == 1.0
    assert all(-0.01 < found[f"{label}, log-probability"] <= 0 for label in LABELS)
    assert found[PATH] < 0.0005
    assert found[SIZE] < 0.002
    assert found["colour error"] < 0.5 and found["background error"] < 0.5


@pytest.mark.parametrize(
    ("label", "other"),
    [
        ("shape", "a red cross moving up on a gray background"),
        ("colour", "a purple square moving up on a gray background"),
        ("motion", "a red square moving down on a gray background"),
        ("background", "a red square moving up on a black background"),
    ],
)
def test_each_word_is_judged_by_itself(label, other):
    found = truth(rendered(read_caption("a red square moving up on a gray background")), other)
    assert found["all right"] == 0.0
    assert [name for name in LABELS if found[f"{name}, log-probability"] < -3] == [label]


def test_a_shuffled_path_is_rough():
    scene = scene_of("moving left")
    frames = rendered(scene)
    shuffled = np.random.default_rng(0).permutation(frames)
    found = truth(shuffled, scene.caption)
    assert found[PATH] > 0.05
    assert found["motion, log-probability"] < -1
    assert found[SIZE] < 0.002


def test_a_path_that_jitters_is_as_rough_as_the_jitter():
    scene = scene_of("standing still")
    frames = rendered(scene)
    frames[1::2] = np.roll(frames[1::2], 3, axis=1)
    found = truth(frames, scene.caption)
    # Up and down by 3 of 128 pixels: every second difference is twice that.
    assert found[PATH] == pytest.approx(2 * 3 / 128, rel=0.01)
    assert found[SIZE] < 0.002


def test_a_size_that_pulses_is_rough_in_size_alone():
    scene = scene_of("standing still", shape="circle")
    grown = rendered(scene_of("growing", shape="circle"))
    found = truth(grown[[4, 6] * 8], scene.caption)
    # The radii of frames 4 and 6: every second difference is twice theirs.
    radii = 0.5 + 0.65 * np.array([4, 6]) / 16
    assert found[SIZE] == pytest.approx(2 * np.diff(radii)[0] / radii.mean(), rel=0.02)
    assert found[PATH] < 0.0005


@pytest.mark.parametrize(("motion", "axis"), [("moving right", 2), ("moving down", 1)])
def test_frames_in_which_the_border_cuts_the_object_are_left_out(motion, axis):
    scene = scene_of(motion)
    # Pushed over the border, which stops the centre of what is left.
    frames = np.moveaxis(rendered(scene), axis, 0)
    frames = np.concatenate([np.repeat(frames[:1], 35, 0), frames[:-35]])
    assert np.ptp(frames[-1]) > 0
    frames = np.moveaxis(frames, 0, axis)
    found = truth(frames, scene.caption)
    assert found[PATH] < 0.0005 and found[SIZE] < 0.002
    always = truth(np.repeat(frames[-1:], 5, 0), scene.caption)
    assert np.isnan(always[PATH]) and np.isnan(always[SIZE])


def test_what_is_beyond_the_backgrounds_colour_has_no_weight():
    scene = scene_of("standing still")
    frames = rendered(scene)
    frames[::2, :20, :20] = frames[0, 0, 0] - np.array([70, 0, 0], np.uint8)
    found = truth(frames, scene.caption)
    assert found[PATH] < 0.0005 and found[SIZE] < 0.002
    assert found["background error"] > 0.1


def test_the_errors_of_the_colours_are_in_levels():
    scene = scene_of("standing still")
    frames = rendered(scene)
    exact = truth(frames, scene.caption)
    inside = np.abs(frames - 255 * np.array(COLOURS["red"])).max(-1, keepdims=True) < 1
    changed = np.where(inside, frames - np.array([18, 0, 0], np.uint8), frames)
    found = truth(changed, scene.caption)
    assert found["background error"] == 0
    assert found["colour error"] - exact["colour error"] == pytest.approx(18 / 3, abs=0.5)
    # A quarter of the background, which is not where the object stands.
    changed = frames.copy()
    changed[:, :32, :, 2] -= 12
    found = truth(changed, scene.caption)
    assert exact["background error"] == 0
    assert 12 / 3 / 4 < found["background error"] < 12 / 3 / 3
    assert found["colour error"] == exact["colour error"]


@pytest.mark.parametrize("what", ["empty", "full", "of another colour"])
def test_an_object_that_is_not_found_is_not_measured(what):
    scene = scene_of("standing still")
    frames = rendered(scene)
    colours = {"empty": frames[7, 0, 0], "full": 255 * np.array(COLOURS["red"])}
    if what in colours:
        frames[7] = colours[what]
    else:
        frames = rendered(read_caption("a cyan triangle standing still on a gray background"))
    found = truth(frames, scene.caption)
    assert all(np.isnan(found[name]) for name in MEASURED)
    assert all(np.isfinite(found[f"{label}, log-probability"]) for label in LABELS)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_there_is_nothing_to_measure_by_is_nan():
    frames = np.zeros((5, 64, 64, 3)) + BACKGROUNDS["gray"]
    frames[:, ::3] = COLOURS["red"]
    found = truth(to_frames(frames), scene_of("growing").caption)
    assert found["all right"] == 0.0
    assert found["colour error"] == 0
    # The border cuts the stripes in every frame, and no pixel is away from them.
    assert all(np.isnan(found[name]) for name in (PATH, SIZE, "background error"))


@pytest.mark.parametrize("module", [training.clips, training.truth])
def test_the_examples_run(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
