"""LTX-Video."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXEulerAncestralRFScheduler,
    LTXI2VLongMultiPromptPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx.pipeline_ltx_i2v_long_multi_prompt import (
    build_video_coords_for_window,
)

from tests.tiny import TEXT_WIDTH, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.shared_parts import change_token, fill_zeros, tiny_image, tiny_t5

LATENTS = 4
FRAME_RATE = 25
SCALE = (8, 32, 32)  # pixels of a latent: frames, rows, columns


def _transformer() -> LTXVideoTransformer3DModel:
    """Width 32, one token a latent, three blocks."""
    torch.manual_seed(0)
    return fill_zeros(
        LTXVideoTransformer3DModel(
            in_channels=LATENTS,
            out_channels=LATENTS,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=3,
            caption_channels=TEXT_WIDTH,
        )
    )


def _inputs(grid: Grid, batch: int) -> dict[str, Any]:
    frames, rows, columns = grid
    return {
        "hidden_states": noise(batch, frames * rows * columns, LATENTS),
        "encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=1),
        "timestep": torch.full((batch,), 700.0),
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
        "num_frames": frames,
        "height": rows,
        "width": columns,
        "rope_interpolation_scale": (SCALE[0] / FRAME_RATE, SCALE[1], SCALE[2]),
    }


def _coordinates(grid: Grid, frame_index: int) -> torch.Tensor:
    """(1, 3, N): the pixel coordinates of tokens, as LTXConditionPipeline numbers them."""
    indices = LTXConditionPipeline._prepare_video_ids(1, *grid)
    return LTXConditionPipeline._scale_video_ids(
        indices, scale_factor=SCALE[1], scale_factor_t=SCALE[0], frame_index=frame_index
    ).float()


def _condition_inputs(grid: Grid, batch: int, *, conditions: int) -> dict[str, Any]:
    """As LTXConditionPipeline calls it, with the tokens of condition images before the video's."""
    rows, columns = grid[1:]
    extra = [_coordinates((1, rows, columns), 8 * (i + 1)) for i in range(conditions)]
    coordinates = torch.cat([*extra, _coordinates(grid, 0)], dim=2)
    coordinates[:, 0] /= FRAME_RATE
    tokens = coordinates.shape[2]
    timestep = torch.full((batch, tokens), 700.0)
    timestep[:, : conditions * rows * columns] = 0.0
    return {
        "hidden_states": noise(batch, tokens, LATENTS),
        "encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=1),
        "timestep": timestep,
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
        "video_coords": coordinates.repeat(batch, 1, 1),
    }


def _perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    index = (frame * inputs["height"] + row) * inputs["width"] + column
    return change_token(inputs, index)


def _perturb_condition(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    seconds, rows, columns = inputs["video_coords"][0]
    second = max(0, SCALE[0] * (frame - 1) + 1) / FRAME_RATE
    here = (seconds - second).abs() < 1e-4
    here &= (rows == SCALE[1] * row) & (columns == SCALE[2] * column)
    return change_token(inputs, int(here.nonzero().max()))


def _window_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """As LTXI2VLongMultiPromptPipeline calls it in a later window.

    The window's tokens come first, then a frame of the window before and the condition image. The
    three counts say 1, whatever the grid.
    """
    frames, rows, columns = grid
    scale = {"rope_interpolation_scale": SCALE}
    coordinates = build_video_coords_for_window(
        latents=torch.empty(1, LATENTS, frames + 2, rows, columns),
        overlap_len=1,
        guiding_len=0,
        negative_len=1,
        frame_rate=FRAME_RATE,
        **scale,
    )
    tokens = coordinates.shape[2]
    timestep = torch.full((batch, tokens, 1), 700.0)
    timestep[:, frames * rows * columns :] = 0.0
    return (
        _inputs((1, 1, 1), batch)
        | scale
        | {
            "hidden_states": noise(batch, tokens, LATENTS),
            "timestep": timestep,
            "video_coords": coordinates.repeat(batch, 1, 1),
        }
    )


def _perturb_window(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    rows, columns = (axis.unique() for axis in inputs["video_coords"][0, 1:])
    return change_token(inputs, (frame * len(rows) + row) * len(columns) + column)


def _vae() -> AutoencoderKLLTXVideo:
    torch.manual_seed(1)
    return AutoencoderKLLTXVideo(
        latent_channels=LATENTS,
        block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    ).eval()


def _pipeline(cls: type, *, ancestral: bool = False) -> Any:
    scheduler = LTXEulerAncestralRFScheduler() if ancestral else FlowMatchEulerDiscreteScheduler()
    return cls(
        scheduler=scheduler,
        vae=_vae(),
        text_encoder=tiny_t5(),
        tokenizer=tiny_tokenizer(),
        transformer=_transformer(),
    )


CALL: dict[str, Any] = {
    "prompt": "a red circle moving right",
    "height": 64,
    "width": 128,
    "num_frames": 17,
    "max_sequence_length": 16,
    "output_type": "latent",
}
GUIDED = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
IMAGE = tiny_image(64, 128)
GRIDS = ((1, 3, 4), (2, 4, 3), (3, 3, 5), (4, 2, 4))


TINIES = [
    Tiny(
        name="ltx",
        transformer=_transformer,
        inputs=_inputs,
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="ltx t2v", build=partial(_pipeline, LTXPipeline), call=CALL, guided=GUIDED
            ),
            TinyPipeline(
                name="ltx i2v",
                build=partial(_pipeline, LTXImageToVideoPipeline),
                call=CALL | {"image": IMAGE},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="ltx by coordinates",
        transformer=_transformer,
        inputs=partial(_condition_inputs, conditions=0),
        perturb=_perturb_condition,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="ltx condition without conditions",
                build=partial(_pipeline, LTXConditionPipeline),
                call=CALL,
                guided=GUIDED,
            ),
            TinyPipeline(
                name="ltx condition at the first frame",
                build=partial(_pipeline, LTXConditionPipeline),
                call=CALL | {"conditions": LTXVideoCondition(image=IMAGE)},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="ltx with condition tokens",
        transformer=_transformer,
        inputs=partial(_condition_inputs, conditions=2),
        perturb=_perturb_condition,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="ltx condition with condition tokens",
                build=partial(_pipeline, LTXConditionPipeline),
                call=CALL
                | {
                    "conditions": [
                        LTXVideoCondition(image=IMAGE),
                        LTXVideoCondition(image=IMAGE, frame_index=8, strength=0.8),
                        LTXVideoCondition(video=[IMAGE] * 9, frame_index=8),
                    ]
                },
                guided=GUIDED,
            ),
            TinyPipeline(
                name="ltx condition from a noised video",
                build=partial(_pipeline, LTXConditionPipeline),
                call=CALL
                | {
                    "conditions": LTXVideoCondition(image=IMAGE, frame_index=8),
                    "latents": noise(1, LATENTS, 3, 2, 4),
                    "denoise_strength": 0.5,
                },
                guided=GUIDED,
                steps=lambda n: n // 2,
            ),
        ),
    ),
    Tiny(
        name="ltx with tokens after the window",
        transformer=_transformer,
        inputs=_window_inputs,
        perturb=_perturb_window,
        grids=GRIDS[1:],
        pipelines=(
            TinyPipeline(
                name="ltx i2v long multi prompt",
                build=partial(_pipeline, LTXI2VLongMultiPromptPipeline, ancestral=True),
                call=CALL
                | {
                    "num_frames": 33,
                    "cond_image": IMAGE,
                    "temporal_tile_size": 24,
                    "temporal_overlap": 8,
                    "decode_horizontal_tiles": 1,
                    "decode_vertical_tiles": 1,
                },
                guided=GUIDED,
                loops=2,
                steps=lambda n: n - 1,
            ),
        ),
    ),
]
