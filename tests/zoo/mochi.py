"""Mochi."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)

from tests.tiny import TEXT_WIDTH, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.shared_parts import change_patch, fill_zeros, tiny_t5

LATENTS = 12  # the pipeline counts on Mochi's own number of latent channels


def _transformer() -> MochiTransformer3DModel:
    """Width 32, patch (1, 2, 2), three blocks of which the last returns the text unchanged."""
    torch.manual_seed(0)
    return fill_zeros(
        MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=3,
            pooled_projection_dim=16,
            in_channels=LATENTS,
            text_embed_dim=TEXT_WIDTH,
            time_embed_dim=8,
            max_sequence_length=16,
        )
    )


def _inputs(grid: Grid, batch: int) -> dict[str, Any]:
    frames, rows, columns = grid
    return {
        "hidden_states": noise(batch, LATENTS, frames, 2 * rows, 2 * columns),
        "encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=1),
        "timestep": torch.full((batch,), 300.0),
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
    }


def _perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    return change_patch(inputs, (1, 2, 2), frame, row, column)


def _pipeline() -> MochiPipeline:
    torch.manual_seed(1)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    ).eval()
    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        text_encoder=tiny_t5(),
        tokenizer=tiny_tokenizer(),
        transformer=_transformer(),
    )


TINIES = [
    Tiny(
        name="mochi",
        transformer=_transformer,
        inputs=_inputs,
        perturb=_perturb,
        grids=((1, 3, 4), (2, 4, 3), (3, 3, 5), (4, 2, 4)),
        pipelines=(
            TinyPipeline(
                name="mochi t2v",
                build=_pipeline,
                call={
                    "prompt": "a red circle moving right",
                    "height": 32,
                    "width": 48,
                    "num_frames": 13,
                    "max_sequence_length": 16,
                    "output_type": "latent",
                },
                guided=({"guidance_scale": 4.5}, {"guidance_scale": 1.0}),
            ),
        ),
    )
]
