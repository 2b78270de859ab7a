"""What is steered or recorded."""

from __future__ import annotations

import pytest
import torch
from diffusers import PixArtTransformer2DModel, WanPipeline

import stas
from tests.tiny import (
    generate,
    tiny_wan,
)


def test_a_class_is_no_pipeline():
    for attach in (stas.steer, stas.record, stas.find_handle):
        with pytest.raises(TypeError, match="the class WanPipeline itself: pass an instance"):
            attach(WanPipeline)


def test_a_pipeline_without_a_schedule_is_refused():
    pipeline = tiny_wan()
    pipeline.scheduler = None
    with pytest.raises(ValueError, match=r"no scheduler.*handle\.set_step\(i, n\)"):
        stas.steer(pipeline, dims=(3,))


def test_unknown_models_say_what_is_supported_and_how_to_add_one():
    pixart = PixArtTransformer2DModel(num_layers=1, attention_head_dim=16, num_attention_heads=2)
    message = r"PixArtTransformer2DModel.*WanTransformer3DModel.*stas\.register_model.*single frame"
    with pytest.raises(stas.UnsupportedModelError, match=message):
        stas.steer(pixart)
    with pytest.raises(stas.UnsupportedModelError, match="Supported video transformers"):
        stas.steer("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    with pytest.raises(stas.UnsupportedModelError, match="Supported video transformers"):
        stas.steer(tiny_wan().vae)


def test_one_transformer_in_both_expert_slots_is_steered_once():
    pipeline = tiny_wan(two_experts=True)
    pipeline.transformer_2 = pipeline.transformer
    plain = generate(pipeline)
    with stas.steer(pipeline, dims=(3,), scale=2.0) as handle:
        assert handle.dims == {"transformer": (3,)}
        assert not torch.equal(generate(pipeline), plain)
    assert torch.equal(generate(pipeline), plain)


@pytest.mark.parametrize("config", [None, 3])
def test_a_known_class_without_a_config_is_told(config):
    transformer = tiny_wan().transformer
    type_of_it = type("WanTransformer3DModel", (torch.nn.Module,), {"config": config})
    module = type_of_it()
    module.blocks = transformer.blocks
    with pytest.raises(TypeError, match=rf"config must be a mapping, .* got {config}. Set self"):
        stas.steer(module)
