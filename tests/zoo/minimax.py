"""MiniMax-H3, whose sequence is [text, key frames, audio, video]. Only modular pipelines run it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import MiniMaxH3Transformer3DModel

from tests.tiny import TEXT_WIDTH
from tests.zoo import Grid, Tiny, noise
from tests.zoo.cogvideox import GRIDS

TEXT_TOKENS, AUDIO_TOKENS = 5, 6
VIDEO_CHANNELS, AUDIO_WIDTH = 4, 3
VIDEO, TEXT, AUDIO = 0, 1, 2  # how the model numbers the modalities


def minimax_transformer() -> MiniMaxH3Transformer3DModel:
    torch.manual_seed(3)
    return MiniMaxH3Transformer3DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        hidden_size=32,
        num_layers=3,
        num_refiner_layers=1,
        ffn_dim=48,
        in_channels=VIDEO_CHANNELS,
        audio_in_channels=AUDIO_WIDTH,
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        time_embed_hidden_dim=16,
        time_embed_dim=16,
        rope_freq_dim=2,
    ).eval()


def inputs(grid: Grid, batch: int, *, key_frames: int = 0) -> dict[str, Any]:
    """Key frames are clean latent frames; they share a position with the video's first frame."""
    frames, rows, columns = grid
    key_rows, video_rows = key_frames * rows * columns, frames * rows * columns
    ends = torch.tensor([TEXT_TOKENS, key_rows, AUDIO_TOKENS, video_rows]).cumsum(0).tolist()
    text, keys, audio, video = (
        torch.arange(start, stop) for start, stop in zip([0, *ends], ends, strict=False)
    )
    video_indices = torch.cat([keys, video])
    axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    places = torch.stack([axis.flatten() for axis in axes], dim=1).double()
    position_ids = torch.zeros(ends[-1], 3, dtype=torch.float64)
    position_ids[text, 0] = text.double()
    position_ids[audio, 0] = TEXT_TOKENS + torch.arange(AUDIO_TOKENS).double()
    position_ids[video] = places
    position_ids[keys] = places[: rows * columns].repeat(key_frames, 1)
    position_ids[video_indices, 0] += TEXT_TOKENS
    tags = torch.full((ends[-1],), VIDEO)
    tags[text], tags[audio] = TEXT, AUDIO
    noisy = torch.zeros(ends[-1], dtype=torch.long)
    noisy[keys] = 1  # the second of the two timesteps
    return {
        "hidden_states": noise(batch, key_rows + video_rows, 4 * VIDEO_CHANNELS, seed=1),
        "audio_hidden_states": noise(batch, AUDIO_TOKENS, AUDIO_WIDTH, seed=2),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=3),
        "timestep": torch.tensor([0.7, 0.1]),
        "timestep_indices": noisy,
        "token_tags": tags,
        "position_ids": position_ids,
        "video_indices": video_indices,
        "audio_indices": audio,
        "text_indices": text,
    }


def perturb(inputs: Mapping[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    """The video's tokens are the last ones, and there as many as the positions tell."""
    video = inputs["position_ids"][inputs["audio_indices"][-1] + 1 :]
    place = torch.tensor([frame + TEXT_TOKENS, row, column], dtype=torch.float64)
    token = int((video == place).all(1).nonzero()) - len(video)
    latents = inputs["hidden_states"].clone()
    latents[:, token] += 1.0
    return {**inputs, "hidden_states": latents}


TINIES: list[Tiny] = [
    Tiny(
        name="minimax h3",
        transformer=minimax_transformer,
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
    ),
    Tiny(
        name="minimax h3 with a key frame",
        transformer=minimax_transformer,
        inputs=partial(inputs, key_frames=1),
        perturb=perturb,
        grids=GRIDS,
    ),
]
