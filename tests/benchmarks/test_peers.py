"""benchmarks/peers.py compares what it says, and docs/peers.md is what it measured."""

from __future__ import annotations

import json
import math

import diffusers.guiders
import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from diffusers.guiders import LTX2Guidance, MagnitudeAwareGuidance, SmoothedEnergyGuidance
from diffusers.hooks import SmoothedEnergyGuidanceConfig

import stas
from benchmarks.peers import (
    AGAIN,
    BASELINE,
    FRAMES,
    HIGHER,
    LEFT_OUT,
    LOWER,
    Maker,
    Method,
    against,
    named,
    record_pair,
    schedule,
    summarise,
)
from docs.make_peers import PAGE, load, number, page
from stas.assets import BUNDLED_MODEL
from stas.pipelines.model import LoadedPipeline

PROMPT, SEED = "a red circle moving right on a blue background", 3
STEPS = 10  # in fewer, skip-layer and perturbed attention guidance have no step of their own


@pytest.fixture(scope="module")
def maker():
    parts = WanPipeline.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    return Maker(parts, num_inference_steps=STEPS, height=32, width=32, num_frames=5)


@pytest.fixture(scope="module")
def made(maker):
    return {name: make(maker, method) for name, method in maker.methods.items()}


def make(maker, method):
    (video,) = maker.make(method, [PROMPT], [SEED])
    return video


def test_plain_guidance_is_what_the_pipeline_makes(maker, monkeypatch):
    maker.check_route(PROMPT, SEED)
    monkeypatch.setattr(maker, "scale", maker.scale + 1)
    with pytest.raises(RuntimeError, match="differs from WanPipeline's"):
        maker.check_route(PROMPT, SEED)


def test_steering_is_what_it_is_in_the_pipeline(maker, made):
    arguments = maker.arguments | {"prompt": PROMPT, "guidance_scale": maker.scale}
    with stas.steer(maker.parts):
        expected = LoadedPipeline(maker.parts).generate(arguments, SEED)
    assert np.array_equal(made["STAS"].frames, expected)


def test_each_method_changes_the_video_and_leaves_nothing_behind(maker, made):
    same = [name for name in made if np.array_equal(made[name].frames, made[BASELINE].frames)]
    assert same == [BASELINE, AGAIN]
    after_all = make(maker, maker.methods[BASELINE])
    assert np.array_equal(after_all.frames, made[BASELINE].frames)


def test_the_forwards_are_counted(made):
    # Their window of steps is half of 0.01 to 0.2: diffusers leaves out the first.
    more = {"SLG": 1, "PAG": 1, "DG": STEPS}
    counted = {name: video.forwards for name, video in made.items()}
    assert counted == {name: 2 * STEPS + more.get(name, 0) for name in made}


def test_all_have_the_models_guidance_scale(maker):
    assert {m.guider.config["guidance_scale"] for m in maker.methods.values()} == {maker.scale}
    assert maker.scale == 4


def test_no_guider_of_diffusers_is_passed_over(maker):
    names = {name for name in vars(diffusers.guiders) if name.endswith("Guidance")}
    used = {type(method.guider).__name__ for method in maker.methods.values()}
    assert used - {"DetailGuidance"} | set(LEFT_OUT) == names - {"BaseGuidance"}
    assert not used & set(LEFT_OUT)


def test_what_is_left_out_says_why(maker, made):
    plain = made[BASELINE].frames
    blurred = SmoothedEnergyGuidanceConfig(indices=[maker.block])
    smoothed = SmoothedEnergyGuidance(maker.scale, seg_guidance_config=blurred)
    video = make(maker, Method(smoothed))
    assert video.forwards > 2 * STEPS
    assert np.array_equal(video.frames, plain)
    with pytest.raises(RuntimeError, match="dim must be a 2-tuple"):
        make(maker, Method(MagnitudeAwareGuidance(maker.scale)))
    # The same in another order of operations.
    video = make(maker, Method(LTX2Guidance(maker.scale)))
    assert np.abs(video.frames.astype(int) - plain).max() <= 1


def test_pairs_without_a_value_are_left_out():
    nan = math.nan
    plain, other = [1, 2, nan, 4, 5, 6, 7, 8], [2, 3, 4, nan, 6, 7, 8, 9]
    found = against(plain, other, "abcdefgh", "path roughness")
    assert found == {"difference": 1.0, "interval": [1.0, 1.0], "pairs": 6, "in words": "worse"}
    assert against([nan], [1.0], "a", "ssim") == {"pairs": 0}
    assert against([0] * 6, [1] * 6, "abcdef", "all right")["in words"] == "better"
    assert against([0] * 6, [1] * 6, "abcdef", "ssim")["in words"] == "higher"


def test_a_caption_counts_once():
    plain, other = [0.0] * 8, [8.0, 8.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    found = against(plain, other, "aaabcdef", "ssim")
    assert found == against(plain[:6], [8.0, 1.0, 2.0, 3.0, 4.0, 5.0], "abcdef", "ssim") | {
        "pairs": 8
    }


def test_every_other_batch_runs_in_reverse():
    found = schedule(("a", "b"), 5, 2)
    batches = range(2), range(2, 4), range(4, 5)
    order = (0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")
    assert found == [(batches[number], name) for number, name in order]


def test_a_batch_makes_the_videos_of_singles(maker, made):
    """To a level of 255: kernels round by the size of the batch."""
    prompts = [PROMPT, "a small green ring growing on a white background", PROMPT, PROMPT]
    seeds = [SEED, SEED, SEED + 1, SEED + 2]
    for name, method in maker.methods.items():
        batch = maker.make(method, prompts, seeds)
        assert {video.forwards for video in batch} == {made[name].forwards}
        (second,) = maker.make(method, prompts[1:2], seeds[1:2])
        for video, single in zip(batch, (made[name], second), strict=False):
            assert np.abs(video.frames.astype(int) - single.frames).max() <= 1, name
        assert not np.array_equal(batch[0].frames, batch[2].frames)


def test_a_result_has_every_method_and_measure(maker, made):
    result = summarise([record_pair((PROMPT, made), maker.frame_map)] * 2, maker, batch=1)
    assert set(result["measures"]) == {*HIGHER, *LOWER, *FRAMES}
    assert list(result["methods"]) == list(maker.methods)
    assert result["methods"][AGAIN]["same video as CFG"] == 2
    assert result["methods"]["SLG"]["forwards per step"] == 2.1
    assert result["methods"]["DG"]["forwards per step"] == 3
    assert result["methods"]["DG"]["settings"]["disruption"]["op"] == "zero"
    assert result["methods"][BASELINE]["time against CFG"] == 1
    for row in result["measures"].values():
        assert list(row["against CFG"]) == [n for n in maker.methods if n not in (BASELINE, AGAIN)]
    json.dumps(result)
    batched = summarise([record_pair((PROMPT, made), maker.frame_map)] * 2, maker, batch=2)
    assert not any("time" in key for row in batched["methods"].values() for key in row)
    for each in (result, batched):
        text = page(PAGE.read_text(encoding="utf-8"), [each | {"torch": "2", "threads": 1}])
        assert f"1 captions; on cpu, videos at a time: {each['batch']}." in text
        assert ("| time a step |" in text) == (each is result)


def test_videos_that_change_sides_are_counted():
    sure, unsure = math.log(0.6), math.log(0.4)
    plain, other = [sure, sure, unsure, unsure], [sure, unsure, sure, sure]
    assert named(plain, other) == {"right": 3, "gained": 2, "lost": 1}


def test_the_page_is_made_from_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, load()) == text, "the results have changed: run `make docs`"


def test_numbers_have_three_digits_or_decimals():
    assert [number(x) for x in (-1.4e-8, 0.30567, -4.25678, 37.42)] == [
        *("-0.000", "+0.306", "-4.26", "+37.4")
    ]
    assert number(0.5, "") == "0.500"
