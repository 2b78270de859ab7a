"""Allegro, whose VAE makes 4 n pixel frames of n latent ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    EulerAncestralDiscreteScheduler,
)

from tests.tiny import TEXT_WIDTH, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.cogvideox import PROMPT, change_patch, t5_encoder

TEXT_TOKENS = 16
LATENT_CHANNELS = 4


def allegro_transformer() -> AllegroTransformer3DModel:
    """Width 48: a rotary embedding takes a third of a head for each axis."""
    torch.manual_seed(3)
    return AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=3,
        cross_attention_dim=48,
        sample_height=8,
        sample_width=8,
        sample_frames=2,
        caption_channels=TEXT_WIDTH,
    ).eval()


def allegro_vae() -> AutoencoderKLAllegro:
    torch.manual_seed(4)
    return AutoencoderKLAllegro(
        block_out_channels=(4, 4, 4, 4),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()


def allegro_pipeline() -> AllegroPipeline:
    return AllegroPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=t5_encoder(),
        vae=allegro_vae(),
        transformer=allegro_transformer(),
        scheduler=EulerAncestralDiscreteScheduler(),
    )


def inputs(grid: Grid, batch: int) -> dict[str, Any]:
    frames, rows, columns = grid
    return {
        "hidden_states": noise(batch, LATENT_CHANNELS, frames, 2 * rows, 2 * columns, seed=1),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=2),
        "timestep": torch.full((batch,), 500),
    }


TINIES: list[Tiny] = [
    Tiny(
        name="allegro",
        transformer=allegro_transformer,
        inputs=inputs,
        perturb=partial(change_patch, layout="BCFHW", patch=(1, 2, 2)),
        grids=((1, 2, 4), (2, 3, 4), (3, 4, 2), (4, 3, 5)),
        pipelines=(
            TinyPipeline(
                name="allegro",
                build=allegro_pipeline,
                call={
                    "prompt": PROMPT,
                    "height": 48,
                    "width": 64,
                    "num_frames": 8,
                    "max_sequence_length": TEXT_TOKENS,
                    "clean_caption": False,
                    "output_type": "latent",
                },
                guided=({"guidance_scale": 7.5}, {"guidance_scale": 1.0}),
            ),
        ),
    ),
]
