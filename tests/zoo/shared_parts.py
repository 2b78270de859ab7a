"""Small parts that several families of tests/zoo share: text encoders, images, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from PIL import Image
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5EncoderModel,
)

from tests.tiny import T5_SIZES, TEXT_WIDTH, WORDS

VISION = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def fill_zeros(model: nn.Module, *, seed: int = 0, std: float = 0.2) -> nn.Module:
    """Give every parameter that diffusers starts at zero random weights; returns the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def change_patch(
    inputs: Mapping[str, Any], patch: tuple[int, int, int], frame: int, row: int, column: int
) -> dict[str, Any]:
    """The inputs with one patch of `hidden_states` (B, C, F, H, W) changed."""
    latents = inputs["hidden_states"].clone()
    frames, rows, columns = (
        slice(index * size, (index + 1) * size)
        for index, size in zip((frame, row, column), patch, strict=True)
    )
    latents[:, :, frames, rows, columns] += 1.5
    return {**inputs, "hidden_states": latents}


def tiny_image(height: int, width: int) -> Image.Image:
    """A fixed image with structure in it."""
    return Image.linear_gradient("L").convert("RGB").resize((width, height))


def tiny_t5() -> T5EncoderModel:
    torch.manual_seed(5)
    return T5EncoderModel(T5Config(**T5_SIZES)).eval()


def tiny_llama(**config: Any) -> LlamaModel:
    torch.manual_seed(6)
    return LlamaModel(llama_config(**config)).eval()


def llama_config(**config: Any) -> LlamaConfig:
    sizes = {
        "vocab_size": len(WORDS) + 2,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    return LlamaConfig(**sizes | config)


def qwen_text_config() -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    return llama_config().to_diff_dict() | {
        "model_type": "qwen2_5_vl_text",
        "num_key_value_heads": 2,
        "rope_parameters": rope,
    }


def tiny_clip_text() -> CLIPTextModel:
    torch.manual_seed(7)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS) + 2,
            hidden_size=TEXT_WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            projection_dim=TEXT_WIDTH,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    ).eval()


def clip_vision_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(**VISION)


def change_token(inputs: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The inputs with one token of packed `hidden_states` (B, N, C) changed."""
    latents = inputs["hidden_states"].clone()
    latents[:, index] += 1.5
    return {**inputs, "hidden_states": latents}


def tiny_hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    """8 x 8 pixels and 4 frames a latent; latents with 4 channels."""
    torch.manual_seed(1)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    ).eval()
