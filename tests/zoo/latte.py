"""Latte, whose blocks are spatial and temporal in turn."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

from tests.tiny import TEXT_WIDTH, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.cogvideox import PROMPT, change_patch, t5_encoder

TEXT_TOKENS = 16
LATENT_CHANNELS = 4
FRAMES = 4  # the model makes videos of this many frames, or single images


def latte_transformer() -> LatteTransformer3DModel:
    torch.manual_seed(3)
    return LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,  # and the variance
        num_layers=3,
        cross_attention_dim=32,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=TEXT_WIDTH,
        video_length=FRAMES,
    ).eval()


def latte_pipeline() -> LattePipeline:
    torch.manual_seed(4)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        mid_block_add_attention=False,
    ).eval()
    return LattePipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=t5_encoder(),
        vae=vae,
        transformer=latte_transformer(),
        scheduler=DDIMScheduler(),
    )


def inputs(grid: Grid, batch: int, *, temporal: bool = True) -> dict[str, Any]:
    frames, rows, columns = grid
    return {
        "hidden_states": noise(batch, LATENT_CHANNELS, frames, 2 * rows, 2 * columns, seed=1),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=2),
        "timestep": torch.full((batch,), 500),
        "enable_temporal_attentions": temporal,
    }


CALL: dict[str, Any] = {
    "prompt": PROMPT,
    "height": 48,
    "width": 64,
    "video_length": FRAMES,
    "clean_caption": False,
    "output_type": "latent",
}
GUIDED = ({"guidance_scale": 7.5}, {"guidance_scale": 1.0})
perturb = partial(change_patch, layout="BCFHW", patch=(1, 2, 2))

TINIES: list[Tiny] = [
    Tiny(
        name="latte",
        transformer=latte_transformer,
        inputs=inputs,
        perturb=perturb,
        grids=((1, 2, 4), (FRAMES, 3, 4), (FRAMES, 4, 2), (FRAMES, 3, 5)),
        pipelines=(TinyPipeline(name="latte", build=latte_pipeline, call=CALL, guided=GUIDED),),
    ),
    Tiny(
        name="latte without temporal blocks",
        transformer=latte_transformer,
        inputs=partial(inputs, temporal=False),
        perturb=perturb,
        grids=((1, 2, 4), (2, 3, 4), (3, 4, 2), (4, 3, 5)),
        pipelines=(
            TinyPipeline(
                name="latte without temporal attention",
                build=latte_pipeline,
                call={**CALL, "enable_temporal_attentions": False},
                guided=GUIDED,
            ),
        ),
    ),
]
