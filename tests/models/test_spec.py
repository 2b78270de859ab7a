"""What a row's functions are given and keep: numbers of watched methods, memory of a forward."""

from __future__ import annotations

import dataclasses
import gc

import pytest
import torch

import stas
from stas import LoopSpec, ModelSpec, TokenSpec
from stas.models.registry import find_spec
from stas.models.table import MODELS
from tests.zoo import all_tinies

TINIES = all_tinies()
PIPELINES = {run.name: run for tiny in TINIES.values() for run in tiny.pipelines}
ROW = ModelSpec(
    transformer="Small", pipelines=("SmallPipeline",), tokens=TokenSpec(stacks=("layers",))
)


def call(pipeline, run):
    pipeline.set_progress_bar_config(disable=True)
    options = dict(run.call) | dict(run.guided[0])
    pipeline(**options, num_inference_steps=4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def reads(monkeypatch):
    """The shapes of the coordinates, (3, N), for which the host waited."""
    shapes, cpu = [], torch.Tensor.cpu

    def spy(tensor, *args, **kwargs):
        if tensor.ndim == 2 and tensor.shape[0] == 3:
            shapes.append(tuple(tensor.shape))
        return cpu(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "cpu", spy)
    return shapes


@pytest.mark.parametrize(
    "name", ["ltx condition without conditions", "ltx condition with condition tokens"]
)
def test_the_host_waits_for_coordinates_once_a_call(name, reads):
    pipeline = PIPELINES[name].build()
    call(pipeline, PIPELINES[name])
    assert not reads  # the pipeline itself never waits for them
    with stas.steer(pipeline, dims=(3,), stop=1.0) as handle:
        for calls in (1, 2):
            call(pipeline, PIPELINES[name])
            assert len(reads) == calls
    assert handle.steered_forwards["transformer"] > 2


def test_coordinates_are_read_again_when_they_are_others(reads):
    tiny = TINIES["ltx by coordinates"]
    spec, memory = MODELS["LTXVideoTransformer3DModel"], {}
    for number, grid in enumerate(tiny.grids, start=1):
        inputs = tiny.inputs(grid, 1)
        for _ in range(2):
            found = spec.video_tokens({}, inputs, memory=memory).grid
            assert (found.frames, found.height, found.width) == grid
        assert len(reads) == number
    spec.video_tokens({}, inputs)  # another's memory is another
    assert len(reads) == len(tiny.grids) + 1


def test_memory_keeps_no_tensor_alive():
    tiny = TINIES["ltx by coordinates"]
    spec, memory = MODELS["LTXVideoTransformer3DModel"], {}
    inputs = tiny.inputs(tiny.grids[0], 1)
    spec.video_tokens({}, inputs, memory=memory)
    known, _ = memory["video_coords"]
    assert known() is inputs["video_coords"]
    del inputs
    gc.collect()
    assert known() is None


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("wan vace", {"prepare_masks": 0}),
        ("wan vace, two references and a video", {"prepare_masks": 2}),
        (
            "skyreels diffusion forcing",
            {"generate_timestep_matrix": (0, 0), "prepare_latents": False},
        ),
    ],
)
def test_of_watched_methods_numbers_are_kept(name, kept):
    pipeline, seen = PIPELINES[name].build(), []
    transformer = pipeline.transformer
    spec = find_spec(transformer)
    video_tokens = ModelSpec.video_tokens

    def spy(self, config, inputs, given=None, memory=None):
        seen.append(dict(given))
        return video_tokens(self, config, inputs, given, memory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelSpec, "video_tokens", spy)
        with stas.steer(pipeline, dims=(3,)):
            call(pipeline, PIPELINES[name])
    assert set(kept) == set(spec.loop.watches)
    assert seen and all(each == kept for each in seen)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"watches": ("prepare",)}, TypeError, "watches must be a mapping"),
        ({"watches": {"prepare": "image"}}, TypeError, "prepare needs a function, but got 'image'"),
        ({"starters": {"Other": "begin"}}, ValueError, "keys of starters: expected one of Small"),
        ({"counts_early": "SmallPipeline"}, TypeError, "counts_early must be a tuple of names"),
        ({"counts_early": ("Other",)}, ValueError, "counts_early: expected one of SmallPipeline"),
        ({"idle": True}, TypeError, "idle must be a function of the forward"),
    ],
)
def test_a_bad_loop_is_refused_by_field(fields, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(ROW, loop=LoopSpec(**fields))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("tokens", r"tokens must be a stas\.TokenSpec"),
        ("loop", r"loop must be a stas\.LoopSpec"),
        ("loading", r"loading must be a stas\.LoadingSpec"),
    ],
)
def test_a_part_of_another_kind_is_refused(part, message):
    with pytest.raises(TypeError, match=message):
        dataclasses.replace(ROW, **{part: {}})
