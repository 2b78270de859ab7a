"""Classes outside diffusers: one is added, steered and recorded, and bad rows are refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

import stas
from stas import ModelSpec, TokenSpec, register_model
from stas.method.frames import FrameMap
from stas.method.operators import steer_
from stas.method.tokens import TokenGrid
from stas.models.table import MODELS
from stas.pipelines.model import LoadedPipeline

ROW = ModelSpec(
    transformer="Small",
    pipelines=("SmallPipeline",),
    tokens=TokenSpec(stacks=("layers",), width=("width",)),
)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, tokens):
        return tokens + self.linear(tokens)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"width": 8, "patch_size": 2}
        self.patchify = nn.Conv3d(4, 8, (1, 2, 2), stride=(1, 2, 2))
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.unpatchify = nn.ConvTranspose3d(8, 4, (1, 2, 2), stride=(1, 2, 2))

    def forward(self, hidden_states, timestep):
        patches = self.patchify(hidden_states)
        tokens = patches.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.unpatchify(tokens.transpose(1, 2).reshape(patches.shape))


class SmallPipeline:
    vae_scale_factor_temporal = 4

    def __init__(self):
        self.transformer, self.scheduler = Small(), FlowMatchEulerDiscreteScheduler()

    @property
    def components(self):
        return {"transformer": self.transformer, "scheduler": self.scheduler}

    @torch.no_grad()
    def __call__(self, latents, steps):
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:
            velocity = self.transformer(latents, timestep)
            latents = self.scheduler.step(velocity, timestep, latents).prev_sample
        return latents


@pytest.fixture
def registered():
    register_model(ROW)
    yield
    del MODELS["Small"]


def latents():
    return torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_class_of_ones_own_is_steered_at_the_intended_tokens(registered):
    model, outputs = Small(), []
    model.layers[1].register_forward_hook(lambda *a: outputs.append(a[-1].detach().clone()))
    with torch.no_grad(), stas.steer(model, dims=(3,), blocks=(1,), scale=2.0) as handle:
        handle.set_step(0, 5)
        model(latents(), torch.tensor(1.0))
        handle.set_step(4, 5)
        model(latents(), torch.tensor(0.1))
    steered, plain = outputs
    expected = steer_(plain.clone(), TokenGrid(3, 4, 4), (3,), scale=2.0)
    assert torch.equal(steered, expected)
    assert not torch.equal(steered, plain)
    assert handle.steered_forwards == {"transformer": 1}


def test_a_class_of_ones_own_is_recorded(registered):
    model = Small()
    with torch.no_grad(), stas.record(model) as recording:
        recording.set_step(0, 1)
        model(latents(), None)
    assert recording.stats.width == 8
    assert recording.stats.metadata["dtype"] == "torch.float32"
    assert recording.stats.pooled().count.unique().tolist() == [2 * 3 * 4 * 4]


def test_a_pipeline_of_ones_own_is_followed_by_its_scheduler(registered):
    pipeline = SmallPipeline()
    plain = pipeline(latents(), 5)
    with stas.steer(pipeline, dims=(3,), start=0.2, stop=0.6, scale=2.0) as handle:
        assert not torch.equal(pipeline(latents(), 5), plain)
        assert handle.steered_forwards == {"transformer": 2}
        pipeline(latents(), 10)
        assert handle.steered_forwards == {"transformer": 6}
    assert torch.equal(pipeline(latents(), 5), plain)
    assert LoadedPipeline(pipeline).frame_map == FrameMap(4)


def test_a_pipeline_that_says_nothing_of_its_frames_has_no_map(registered):
    pipeline = SmallPipeline()
    pipeline.vae_scale_factor_temporal = None
    with pytest.raises(ValueError, match="does not say how many pixel frames"):
        _ = LoadedPipeline(pipeline).frame_map


@pytest.mark.parametrize("change", ["layers", "width", "patch_size"])
def test_a_row_that_does_not_fit_the_class_says_where(registered, change):
    model = Small()
    if change == "layers":
        del model.layers
    else:
        del model.config[change]
    with (
        pytest.raises(stas.UnsupportedModelError, match=f"has no {change!r}"),
        torch.no_grad(),
        stas.steer(model, dims=(3,)),
    ):
        model(latents(), None)


@pytest.mark.parametrize("row", [None, "Small", {"transformer": "Small"}, ModelSpec])
def test_only_rows_are_registered(row):
    with pytest.raises(TypeError, match=r"register_model expects a stas\.ModelSpec, but got"):
        register_model(row)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"transformer": Small}, TypeError, "transformer must be the name of a class"),
        ({"transformer": ""}, ValueError, "transformer must not be empty"),
        ({"stacks": "layers"}, TypeError, "stacks must be a tuple of names, but got 'layers'"),
        ({"stacks": ()}, ValueError, "stacks must not be empty"),
        ({"stacks": (1,)}, TypeError, "stacks must hold names, but got 1"),
        ({"pipelines": "SmallPipeline"}, TypeError, "pipelines must be a tuple of names"),
        ({"width": ()}, ValueError, "width must not be empty"),
        ({"latents": "BCHW"}, ValueError, "latents: expected one of BCFHW.*but got 'BCHW'"),
        ({"latents": ["BCFHW"]}, ValueError, "latents: expected one of BCFHW"),
        ({"place": "middle"}, ValueError, "place: expected one of all, head, tail"),
        ({"guidance": "both"}, ValueError, "guidance: expected one of separate, batched"),
        ({"axes": {"layers": "DNB"}}, ValueError, "axes: expected one of BND"),
        ({"axes": {"blocks": "BND"}}, ValueError, "keys of axes: expected one of layers"),
        ({"axes": "BND"}, TypeError, "axes must be a mapping"),
        ({"contexts": {"a": "main"}}, ValueError, "contexts: expected one of cond, uncond"),
        ({"refusals": {"steering": "no"}}, ValueError, "keys of refusals: expected one of steer"),
        ({"needs": {"Other": "image"}}, ValueError, "keys of needs: expected one of Small"),
        ({"chunked": ("Other",)}, ValueError, "chunked: expected one of SmallPipeline"),
        ({"verified": ("all",)}, ValueError, "verified: expected one of class, pipeline"),
        ({"video_output": "0"}, TypeError, "video_output must be an integer or None"),
        ({"video_output": True}, TypeError, "video_output must be an integer or None"),
        ({"video_output": -1}, ValueError, "video_output must be at least 0"),
        ({"grid": "packed"}, TypeError, "grid must be a function of the forward"),
        ({"lead_frames": 1.0}, TypeError, "lead_frames must be an integer or a function"),
        ({"lead_frames": -1}, ValueError, "lead_frames must be at least 0"),
        ({"frame_step": 0}, ValueError, "frame_step must be at least 1"),
        ({"fps": 0}, ValueError, "fps must be a finite number above 0"),
        ({"fps": "16"}, TypeError, "fps must be a number"),
        ({"causal": 1}, TypeError, "causal must be True or False"),
    ],
)
def test_a_bad_row_is_refused_by_field(fields, error, message):
    parts = {"tokens": ROW.tokens, "loop": ROW.loop, "loading": ROW.loading}
    (name,) = fields
    part = next((key for key, each in parts.items() if hasattr(each, name)), None)
    with pytest.raises(error, match=message):
        if part is not None:
            fields = {part: dataclasses.replace(parts[part], **fields)}
        dataclasses.replace(ROW, **fields)
