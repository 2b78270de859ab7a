"""AnyFlow: bidirectional, and FAR, which makes a video chunk by chunk with a cache of the past."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
)

from tests.tiny import TEXT_WIDTH
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.wan import GRIDS, GUIDED, HEIGHT, SIZES, TEXT, VIDEO, WIDTH, pictures, text_parts

ANYFLOW_SIZES = SIZES | {"in_channels": 4}
FAR_SIZES = ANYFLOW_SIZES | {
    "full_chunk_limit": 2,  # older chunks are compressed
    "chunk_partition": (1, 2, 2),
}


def transformer() -> AnyFlowTransformer3DModel:
    torch.manual_seed(0)
    return AnyFlowTransformer3DModel(**ANYFLOW_SIZES).eval()


def inputs(grid: Grid, batch: int) -> dict[str, Any]:
    frames, rows, columns = grid
    return {
        "hidden_states": noise(batch, frames, 4, 2 * rows, 2 * columns),
        "timestep": torch.full((batch, frames), 700.0),
        "r_timestep": torch.full((batch, frames), 500.0),
        "encoder_hidden_states": noise(batch, 7, TEXT_WIDTH, seed=1),
    }


def perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    """For latents (B, F, C, H, W) in patches of (1, 2, 2)."""
    changed = inputs["hidden_states"].clone()
    changed[:, frame, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 3
    return inputs | {"hidden_states": changed}


def anyflow() -> AnyFlowPipeline:
    return AnyFlowPipeline(
        **text_parts(), scheduler=FlowMapEulerDiscreteScheduler(), transformer=transformer()
    )


def far_transformer() -> AnyFlowFARTransformer3DModel:
    torch.manual_seed(0)
    return AnyFlowFARTransformer3DModel(**FAR_SIZES).eval()


def far_inputs(grid: Grid, batch: int, cached: tuple[int, ...] = ()) -> dict[str, Any]:
    """One denoising step of the chunk after those of `cached` latent frames each."""
    frames, rows, columns = grid
    partition = [*cached, frames]
    heads, width = FAR_SIZES["num_attention_heads"], FAR_SIZES["attention_head_dim"]
    tokens = {
        "full_cache": max(partition) * rows * columns,
        "compressed_cache": max(partition) * len(partition) * (rows // 2) * (columns // 2),
    }
    cache = {
        block: {
            name: noise(batch, 2, heads, count, width, seed=20 + block).transpose(0, 1)
            for name, count in tokens.items()
        }
        for block in range(FAR_SIZES["num_layers"])
    }
    return inputs(grid, batch) | {
        "chunk_partition": partition,
        "kv_cache": cache,
        "kv_cache_flag": {"num_cached_chunks": len(cached), "is_cache_step": False},
    }


def anyflow_far() -> AnyFlowFARPipeline:
    return AnyFlowFARPipeline(
        **text_parts(), scheduler=FlowMapEulerDiscreteScheduler(), transformer=far_transformer()
    )


CHUNKS = TEXT | {"num_frames": 17}  # 5 latent frames in 3 chunks

TINIES: list[Tiny] = [
    Tiny(
        name="anyflow",
        transformer=transformer,
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(name="anyflow", build=anyflow, call=VIDEO, guided=GUIDED),
            TinyPipeline(
                name="anyflow video to video",
                build=anyflow,
                call=VIDEO | {"video": pictures(5)},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="anyflow far",
        transformer=far_transformer,
        inputs=far_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="anyflow far", build=anyflow_far, call=CHUNKS, guided=GUIDED, loops=3
            ),
            TinyPipeline(
                name="anyflow far image to video",
                build=anyflow_far,
                call=CHUNKS | {"video": torch.rand(1, 1, 3, HEIGHT, WIDTH)},
                guided=GUIDED,
                loops=2,
            ),
        ),
    ),
    Tiny(
        name="anyflow far, later chunk",
        transformer=far_transformer,
        inputs=lambda grid, batch: far_inputs(grid, batch, cached=(1, 2)),
        perturb=perturb,
        grids=GRIDS,
    ),
]
