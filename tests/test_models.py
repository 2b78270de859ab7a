"""The rows against the real classes: order of tokens, grids, blocks, width."""

from __future__ import annotations

import diffusers
import pytest
import torch

from stas import ModelSpec, register_model
from stas.models import MODELS, find_spec
from tests.tiny import tiny_cogvideox, tiny_wan


def first_block_input(pipeline, latents):
    """The visual tokens that enter the first block."""
    transformer = pipeline.transformer
    spec = find_spec(transformer)
    seen = []
    handle = spec.blocks(transformer)[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or tuple(kwargs.values()))[0].clone()),
        with_kwargs=True,
    )
    with torch.no_grad():
        transformer(
            hidden_states=latents,
            timestep=torch.tensor([500]),
            encoder_hidden_states=torch.zeros(1, 16, 16),
        )
    handle.remove()
    return seen[0]


PIPELINES = {
    "wan": tiny_wan,
    "cogvideox 1.0": tiny_cogvideox,
    "cogvideox 1.5": lambda: tiny_cogvideox(version="1.5"),
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("size", [(4, 4, 4), (2, 4, 8), (6, 8, 4)])
def test_tokens_are_in_raster_order(name, size):
    """Perturbing one latent pixel moves exactly the token that the grid says."""
    pipeline = PIPELINES[name]()
    spec = find_spec(pipeline.transformer)
    config = pipeline.transformer.config
    frames, height, width = size
    shape = dict(zip("BCFHW", (1, 4, frames, height, width), strict=True))
    latents = torch.zeros([shape[axis] for axis in spec.latents])
    grid = spec.video_tokens(config, {"hidden_states": latents}).grid
    plain = first_block_input(pipeline, latents)
    assert plain.shape[1:] == (grid.num_tokens, spec.feature_width(config))
    per_frame = frames // grid.frames
    for f, h, w in [(0, 0, 0), (frames - 1, 1, width - 1), (1, height - 1, 0)]:
        at = {"B": 0, "C": slice(None), "F": f, "H": h, "W": w}
        moved = latents.clone()
        moved[tuple(at[axis] for axis in spec.latents)] = 1.0
        changed = (first_block_input(pipeline, moved) != plain).any(dim=2)[0].nonzero().flatten()
        token = (f // per_frame * grid.height + h // 2) * grid.width + w // 2
        assert changed.tolist() == [token]


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.transformer)
def test_rows_name_real_classes(spec):
    assert hasattr(diffusers, spec.transformer)
    for pipeline in spec.pipelines:
        assert hasattr(diffusers, pipeline)


def test_a_subclass_uses_its_base_class_row():
    class MyWan(diffusers.WanTransformer3DModel):
        pass

    assert find_spec(MyWan.__new__(MyWan)) is MODELS["WanTransformer3DModel"]


def test_registering_twice_is_refused():
    spec = ModelSpec(transformer="WanTransformer3DModel", pipelines=(), stacks=("blocks",))
    with pytest.raises(ValueError, match="registered already"):
        register_model(spec)
