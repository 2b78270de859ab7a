"""Cosmos3, which packs text, video, sound and actions of one sample into one sequence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    Cosmos3AVAEAudioTokenizer,
    Cosmos3OmniPipeline,
    Cosmos3OmniTransformer,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.cosmos.pipeline_cosmos3_omni import CosmosActionCondition

from tests.tiny import WORDS, tiny_tokenizer, tiny_wan_vae
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.cogvideox import FRAMES, GRIDS, PROMPT

TEXT_TOKENS = 5
LATENT_CHANNELS = 4
PATCH = 2
SOUND_TOKENS, SOUND_WIDTH = 6, 3
ACTION_TOKENS, ACTION_WIDTH = 4, 10
DOMAIN = 7  # of the robot "bridge_orig_lerobot"


def cosmos3_transformer(*, omni: bool = False) -> Cosmos3OmniTransformer:
    """`omni` adds sound and actions."""
    torch.manual_seed(3)
    model = Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=32,
        intermediate_size=48,
        latent_channel=LATENT_CHANNELS,
        latent_patch_size=PATCH,
        num_attention_heads=2,
        num_hidden_layers=3,
        num_key_value_heads=1,
        patch_latent_dim=PATCH * PATCH * LATENT_CHANNELS,
        rope_axes_dim=(4, 2, 2),
        action_dim=ACTION_WIDTH if omni else None,
        action_gen=omni,
        sound_dim=SOUND_WIDTH if omni else None,
        sound_gen=omni,
        vocab_size=len(WORDS),
    ).eval()
    if omni:  # zero at first
        torch.nn.init.normal_(model.action_modality_embed)
        torch.nn.init.normal_(model.audio_modality_embed)
    return model


def cosmos3_pipeline(*, omni: bool = False) -> Cosmos3OmniPipeline:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(4)
    sound = Cosmos3AVAEAudioTokenizer(
        sampling_rate=200,
        vocoder_input_dim=SOUND_WIDTH,
        dec_dim=4,
        dec_c_mults=(1, 1),
        dec_strides=(2, 4),
        encoder_enabled=False,
    ).eval()
    vae: AutoencoderKLWan = tiny_wan_vae()
    return Cosmos3OmniPipeline(
        transformer=cosmos3_transformer(omni=omni),
        text_tokenizer=tokenizer,
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        sound_tokenizer=sound if omni else None,
        enable_safety_checker=False,
    )


def positions(frames: int, rows: int = 1, columns: int = 1) -> torch.Tensor:
    """Those of tokens after the text, (3, N)."""
    axes = torch.meshgrid(
        torch.arange(frames) + TEXT_TOKENS, torch.arange(rows), torch.arange(columns), indexing="ij"
    )
    return torch.stack([axis.flatten() for axis in axes])


def segment(name: str, start: int, grid: Grid) -> dict[str, Any]:
    """The arguments that tell where the tokens of one modality are; none of them is clean."""
    frames, rows, columns = grid
    count = frames * rows * columns
    indexes = torch.arange(start, start + count)
    return {
        f"{name}_token_shapes": [grid],
        f"{name}_sequence_indexes": indexes,
        f"{name}_mse_loss_indexes": indexes,
        f"{name}_timesteps": torch.full((count,), 500.0),
        f"{name}_noisy_frame_indexes": [torch.arange(frames)],
    }


def inputs(grid: Grid, batch: int, *, omni: bool = False) -> dict[str, Any]:
    """The model has no batch axis: guidance calls it once per branch, and more samples don't fit.

    Raises:
        ValueError: `batch` is not 1.
    """
    if batch != 1:
        raise ValueError(f"Cosmos3 takes one sample, but got {batch}.")
    frames, rows, columns = grid
    sound_start = TEXT_TOKENS + frames * rows * columns
    action_start = sound_start + SOUND_TOKENS
    text = torch.arange(TEXT_TOKENS)
    ids = [text.expand(3, -1), positions(*grid)]
    latents = noise(1, LATENT_CHANNELS, frames, PATCH * rows, PATCH * columns, seed=1)
    arguments: dict[str, Any] = {
        "input_ids": text + 3,
        "text_indexes": text,
        "und_len": TEXT_TOKENS,
        "vision_tokens": [latents],
        **segment("vision", TEXT_TOKENS, grid),
    }
    if omni:
        ids += [positions(SOUND_TOKENS), positions(ACTION_TOKENS)]
        arguments |= {
            "sound_tokens": [noise(1, SOUND_WIDTH, SOUND_TOKENS, seed=2)[0]],
            **segment("sound", sound_start, (SOUND_TOKENS, 1, 1)),
            "action_tokens": [noise(1, ACTION_TOKENS, ACTION_WIDTH, seed=3)[0]],
            **segment("action", action_start, (ACTION_TOKENS, 1, 1)),
            "action_domain_ids": [torch.tensor([DOMAIN])],
        }
    position_ids = torch.cat(ids, dim=1).float()
    return {
        **arguments,
        "position_ids": position_ids,
        "sequence_length": position_ids.shape[1],
    }


def perturb(inputs: Mapping[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    latents = inputs["vision_tokens"][0].clone()
    rows, columns = (slice(PATCH * i, PATCH * (i + 1)) for i in (row, column))
    latents[:, :, frame, rows, columns] += 1.0
    return {**inputs, "vision_tokens": [latents]}


CALL: dict[str, Any] = {
    "prompt": PROMPT,
    "height": 48,
    "width": 64,
    "num_frames": 9,
    "output_type": "latent",
}
GUIDED = ({"guidance_scale": 6.0}, {"guidance_scale": 1.0})

TINIES: list[Tiny] = [
    Tiny(
        name="cosmos 3",
        transformer=cosmos3_transformer,
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
        batches=False,
        pipelines=(
            TinyPipeline(name="cosmos 3", build=cosmos3_pipeline, call=CALL, guided=GUIDED),
            TinyPipeline(
                name="cosmos 3 from an image",
                build=cosmos3_pipeline,
                call={**CALL, "image": FRAMES[0]},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="cosmos 3 from a video",
                build=cosmos3_pipeline,
                call={**CALL, "video": FRAMES[:5]},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cosmos 3 with sound and actions",
        transformer=partial(cosmos3_transformer, omni=True),
        inputs=partial(inputs, omni=True),
        perturb=perturb,
        grids=GRIDS,
        batches=False,
        pipelines=(
            TinyPipeline(
                name="cosmos 3 with sound",
                build=partial(cosmos3_pipeline, omni=True),
                call={**CALL, "enable_sound": True},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="cosmos 3 with actions",
                build=partial(cosmos3_pipeline, omni=True),
                call={
                    "prompt": PROMPT,
                    "output_type": "latent",
                    "action": CosmosActionCondition(
                        mode="policy",
                        chunk_size=4,
                        domain_name="bridge_orig_lerobot",
                        resolution_tier=256,
                        image=FRAMES[0],
                    ),
                },
                guided=GUIDED,
            ),
        ),
    ),
]
