"""SANA-Video, with linear attention, and SANA-WM."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLLTX2Video,
    DPMSolverMultistepScheduler,
    SanaImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    SanaWMPipeline,
    SanaWMTransformer3DModel,
)
from transformers import Gemma2Config, Gemma2Model

from tests.tiny import TEXT_WIDTH, WORDS, tiny_tokenizer, tiny_wan_vae
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.wan import GRIDS, GUIDED, TEXT, euler, perturb, picture, wan_inputs


def tiny_gemma() -> Gemma2Model:
    torch.manual_seed(2)
    config = Gemma2Config(
        vocab_size=len(WORDS),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma2Model(config).eval()


def video_transformer() -> SanaVideoTransformer3DModel:
    torch.manual_seed(0)
    return SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT_WIDTH,
        patch_size=(1, 2, 2),
        rope_max_seq_len=32,
    ).eval()


def image_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """Image to video: a timestep for every token, and a clean first frame."""
    timestep = torch.full((batch, 1, *grid), 700.0)
    timestep[:, :, 0] = 0
    return wan_inputs(grid, batch) | {"timestep": timestep}


def world_transformer() -> SanaWMTransformer3DModel:
    """Two blocks of linear attention, then one of softmax attention."""
    torch.manual_seed(0)
    transformer = SanaWMTransformer3DModel(
        in_channels=8,
        num_layers=3,
        hidden_size=32,
        num_attention_heads=2,
        linear_head_dim=16,
        softmax_every_n=3,
        caption_channels=TEXT_WIDTH,
    ).eval()
    for name, parameter in transformer.named_parameters():
        if "conv_k" in name or name == "plucker_embedder.proj.weight":  # zero at first
            torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def world_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """A clean first frame, and a camera that moves; a token is one latent pixel."""
    frames, rows, columns = grid
    timestep = torch.full((batch, 1, frames), 700.0)
    timestep[:, :, 0] = 0
    pose = torch.eye(4).repeat(batch, frames, 1, 1)
    pose[:, :, 0, 3] = torch.arange(frames)
    lens = torch.tensor([columns, rows, columns / 2, rows / 2]).expand(batch, frames, 4)
    return {
        "hidden_states": noise(batch, 8, frames, rows, columns),
        "timestep": timestep,
        "encoder_hidden_states": noise(batch, 1, 7, TEXT_WIDTH, seed=1),
        "mask": torch.ones(batch, 7),
        "camera_conditions": torch.cat([pose.flatten(2), lens], dim=2),
        "chunk_plucker": noise(batch, 48, frames, rows, columns, seed=3),
    }


def world_perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    changed = inputs["hidden_states"].clone()
    changed[:, :, frame, row, column] += 3
    return inputs | {"hidden_states": changed}


def tiny_ltx2_vae() -> AutoencoderKLLTX2Video:
    """1 + 8 n pixel frames, 32 pixels a latent pixel, as the real one."""
    torch.manual_seed(1)
    return AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()


def sana_wm() -> SanaWMPipeline:
    return SanaWMPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_gemma(),
        vae=tiny_ltx2_vae(),
        transformer=world_transformer(),
        scheduler=euler(),
    )


def sana_parts() -> dict[str, Any]:
    return {
        "tokenizer": tiny_tokenizer(),
        "text_encoder": tiny_gemma(),
        "vae": tiny_wan_vae(),
        "transformer": video_transformer(),
    }


def sana_video() -> SanaVideoPipeline:
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return SanaVideoPipeline(**sana_parts(), scheduler=scheduler)


def sana_image_to_video() -> SanaImageToVideoPipeline:
    return SanaImageToVideoPipeline(**sana_parts(), scheduler=euler())


VIDEO = TEXT | {
    "height": 64,
    "width": 96,
    "frames": 9,
    "use_resolution_binning": False,
    "complex_human_instruction": None,
}
POSES = np.tile(np.eye(4, dtype=np.float32), (17, 1, 1))
WORLD = TEXT | {
    "image": picture(height=96, width=128),
    "height": 96,
    "width": 128,
    "c2w": POSES,
    "intrinsics": [100.0, 100.0, 64.0, 48.0],
    "chi_prompt": ["a"],
}

TINIES: list[Tiny] = [
    Tiny(
        name="sana video",
        transformer=video_transformer,
        inputs=wan_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(TinyPipeline(name="sana video", build=sana_video, call=VIDEO, guided=GUIDED),),
    ),
    Tiny(
        name="sana image to video",
        transformer=video_transformer,
        inputs=image_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="sana image to video",
                build=sana_image_to_video,
                call=VIDEO | {"image": picture()},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="sana wm",
        transformer=world_transformer,
        inputs=world_inputs,
        perturb=world_perturb,
        grids=GRIDS,
        pipelines=(TinyPipeline(name="sana wm", build=sana_wm, call=WORLD, guided=GUIDED),),
    ),
]
