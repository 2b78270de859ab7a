"""FLUX, Stable Diffusion 3 and Qwen-Image: image models, whose only frame is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from tests.tiny import TEXT_WIDTH
from tests.zoo import Grid, Tiny, TinyPipeline, noise

TEXT_TOKENS = 16
POOLED_WIDTH = 8
LATENT_CHANNELS = 4
PACKED_CHANNELS = 4 * LATENT_CHANNELS  # of the 2 x 2 latents behind a token
GRIDS: tuple[Grid, ...] = ((1, 2, 4), (1, 4, 3), (1, 5, 8))


def flux_transformer() -> FluxTransformer2DModel:
    torch.manual_seed(3)
    return FluxTransformer2DModel(
        in_channels=PACKED_CHANNELS,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def sd3_transformer() -> SD3Transformer2DModel:
    """The first block attends twice, as in 3.5; the last one returns no text."""
    torch.manual_seed(3)
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=POOLED_WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    ).eval()


def qwen_transformer() -> QwenImageTransformer2DModel:
    torch.manual_seed(3)
    return QwenImageTransformer2DModel(
        in_channels=PACKED_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
    ).eval()


def image_vae() -> AutoencoderKL:
    torch.manual_seed(4)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        shift_factor=0.0,
        mid_block_add_attention=False,
    ).eval()


def flux_pipeline() -> FluxPipeline:
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=image_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=flux_transformer(),
    )


def sd3_pipeline() -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline(
        transformer=sd3_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=image_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def qwen_pipeline() -> QwenImagePipeline:
    torch.manual_seed(4)
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    ).eval()
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=qwen_transformer(),
    )


def packed_inputs(grid: Grid, batch: int, *, reference: Grid | None = None) -> dict[str, Any]:
    """What FLUX and Qwen-Image have in common; the tokens of a reference image come last."""
    count = sum(h * w for _, h, w in (grid, reference or (0, 0, 0)))
    return {
        "hidden_states": noise(batch, count, PACKED_CHANNELS, seed=1),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=2),
        "timestep": torch.full((batch,), 0.7),
    }


def image_ids(number: int, rows: int, columns: int) -> torch.Tensor:
    """The number of the image, the row and the column of each token, (N, 3)."""
    axes = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([axis.flatten() for axis in axes], dim=1)
    return torch.nn.functional.pad(places, (1, 0), value=number).float()


def flux_inputs(grid: Grid, batch: int, *, reference: Grid | None = None) -> dict[str, Any]:
    ids = [image_ids(i, *g[1:]) for i, g in enumerate((grid, reference)) if g is not None]
    return {
        **packed_inputs(grid, batch, reference=reference),
        "pooled_projections": noise(batch, POOLED_WIDTH, seed=3),
        "guidance": torch.full((batch,), 3.5),
        "img_ids": torch.cat(ids),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
    }


def qwen_inputs(grid: Grid, batch: int, *, reference: Grid | None = None) -> dict[str, Any]:
    return {
        **packed_inputs(grid, batch, reference=reference),
        "encoder_hidden_states_mask": torch.ones(batch, TEXT_TOKENS, dtype=torch.long),
        "img_shapes": [[grid] if reference is None else [grid, reference]] * batch,
    }


def sd3_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    _, rows, columns = grid
    return {
        "hidden_states": noise(batch, LATENT_CHANNELS, 2 * rows, 2 * columns, seed=1),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=2),
        "pooled_projections": noise(batch, POOLED_WIDTH, seed=3),
        "timestep": torch.full((batch,), 700.0),
    }


def change_token(inputs: Mapping[str, Any], token: int) -> dict[str, Any]:
    latents = inputs["hidden_states"].clone()
    latents[:, token] += 1.0
    return {**inputs, "hidden_states": latents}


def perturb_flux(inputs: Mapping[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    place = torch.tensor([frame, row, column])
    return change_token(inputs, int((inputs["img_ids"] == place).all(1).nonzero()))


def perturb_qwen(inputs: Mapping[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    _, _, columns = inputs["img_shapes"][0][0]
    return change_token(inputs, row * columns + column)


def perturb_sd3(inputs: Mapping[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    latents = inputs["hidden_states"].clone()
    latents[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1.0
    return {**inputs, "hidden_states": latents}


def embeddings(*names: str, pooled: bool = False, mask: bool = False) -> dict[str, torch.Tensor]:
    """Text embeddings in place of prompts, as no text encoder is needed for these tests."""
    found = {}
    for seed, name in enumerate(names, start=5):
        found[f"{name}_embeds"] = noise(1, TEXT_TOKENS, TEXT_WIDTH, seed=seed)
        if pooled:
            kind = name.removesuffix("prompt")
            found[f"{kind}pooled_prompt_embeds"] = noise(1, POOLED_WIDTH, seed=seed)
        if mask:
            found[f"{name}_embeds_mask"] = torch.ones(1, TEXT_TOKENS, dtype=torch.long)
    return found


CALL: dict[str, Any] = {"height": 48, "width": 64, "output_type": "latent"}
REFERENCE: Grid = (1, 2, 3)

TINIES: list[Tiny] = [
    Tiny(
        name="flux",
        transformer=flux_transformer,
        inputs=flux_inputs,
        perturb=perturb_flux,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="flux",
                build=flux_pipeline,
                call={**CALL, **embeddings("prompt", "negative_prompt", pooled=True)},
                guided=({"true_cfg_scale": 4.0}, {"true_cfg_scale": 1.0}),
            ),
        ),
    ),
    Tiny(
        name="flux with a reference image",
        transformer=flux_transformer,
        inputs=partial(flux_inputs, reference=REFERENCE),
        perturb=perturb_flux,
        grids=GRIDS,
    ),
    Tiny(
        name="stable diffusion 3",
        transformer=sd3_transformer,
        inputs=sd3_inputs,
        perturb=perturb_sd3,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="stable diffusion 3",
                build=sd3_pipeline,
                call={**CALL, **embeddings("prompt", "negative_prompt", pooled=True)},
                guided=({"guidance_scale": 7.0}, {"guidance_scale": 1.0}),
            ),
            TinyPipeline(  # guided by a third call without the first block
                name="stable diffusion 3 with skipped layers",
                build=sd3_pipeline,
                call={
                    **CALL,
                    **embeddings("prompt", "negative_prompt", pooled=True),
                    "skip_guidance_layers": [0],
                    "skip_layer_guidance_start": 0.0,
                    "skip_layer_guidance_stop": 0.7,
                },
                guided=({"guidance_scale": 7.0}, None),
            ),
        ),
    ),
    Tiny(
        name="qwen image",
        transformer=qwen_transformer,
        inputs=qwen_inputs,
        perturb=perturb_qwen,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="qwen image",
                build=qwen_pipeline,
                call={**CALL, **embeddings("prompt", "negative_prompt", mask=True)},
                guided=({"true_cfg_scale": 4.0}, {"true_cfg_scale": 1.0}),
            ),
        ),
    ),
    Tiny(
        name="qwen image with a reference image",
        transformer=qwen_transformer,
        inputs=partial(qwen_inputs, reference=REFERENCE),
        perturb=perturb_qwen,
        grids=GRIDS,
    ),
]
