"""Helios: chunks of a few latent frames, with the frames before them as tokens in front."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    HeliosDMDScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
)

from tests.tiny import TEXT_WIDTH
from tests.zoo import Grid, Tiny, TinyPipeline
from tests.zoo.wan import (
    GRIDS,
    GUIDED,
    TEXT,
    latents,
    perturb,
    picture,
    pictures,
    text_parts,
    wan_inputs,
)

HISTORY = {"long": 4, "mid": 2, "short": 2}  # latent frames, the first frame among the short ones


def transformer() -> HeliosTransformer3DModel:
    torch.manual_seed(0)
    return HeliosTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_dim=(4, 4, 4),
    ).eval()


def history_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """As a pipeline gives them: frame 0 and the newest frame are "short", the oldest "long"."""
    frames, rows, columns = grid
    first, long, mid, newest, now = torch.arange(8 + frames).split([1, 4, 2, 1, frames])
    indices = {"long": long, "mid": mid, "short": torch.cat([first, newest])}
    inputs = wan_inputs(grid, batch) | {"indices_hidden_states": now[None]}
    for seed, (name, length) in enumerate(HISTORY.items()):
        history = latents((length, rows, columns), batch, seed=10 + seed)
        inputs[f"latents_history_{name}"] = history
        inputs[f"indices_latents_history_{name}"] = indices[name][None]
    return inputs


def helios() -> HeliosPipeline:
    scheduler = HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
    return HeliosPipeline(**text_parts(), scheduler=scheduler, transformer=transformer())


def helios_pyramid(*, zero_star: bool = False) -> HeliosPyramidPipeline:
    """Two stages, the first at half the height and width."""
    return HeliosPyramidPipeline(
        **text_parts(),
        scheduler=HeliosScheduler(**STAGES),
        transformer=transformer(),
        is_cfg_zero_star=zero_star,
    )


def helios_distilled() -> HeliosPyramidPipeline:
    return HeliosPyramidPipeline(
        **text_parts(),
        scheduler=HeliosDMDScheduler(**STAGES),
        transformer=transformer(),
        is_distilled=True,
    )


# Two chunks of 2 latent frames (5 pixel frames) each.
# Not with `keep_first_frame=False`, with which the pipeline of diffusers 0.42.1 fails.
CHUNKS = TEXT | {"num_frames": 10, "num_latent_frames_per_chunk": 2, "history_sizes": [4, 2, 1]}
# With the default gamma of 1/3 a matrix of the pyramid is singular in float32 on a CPU.
STAGES = {"stages": 2, "stage_range": [0, 0.5, 1], "gamma": 0.3}
# The pyramid takes no `num_inference_steps`, and halves the latents once for two stages.
PYRAMID = CHUNKS | {"height": 64, "width": 96, "pyramid_num_inference_steps_list": [3, 3]}

TINIES: list[Tiny] = [
    Tiny(
        name="helios",
        transformer=transformer,
        inputs=wan_inputs,
        perturb=perturb,
        grids=GRIDS,
    ),
    Tiny(
        name="helios with history",
        transformer=transformer,
        inputs=history_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(name="helios", build=helios, call=CHUNKS, guided=GUIDED, loops=2),
            TinyPipeline(
                name="helios image to video",
                build=helios,
                call=CHUNKS | {"image": picture()},
                guided=GUIDED,
                loops=2,
            ),
            TinyPipeline(
                name="helios video to video",
                build=helios,
                call=CHUNKS | {"video": pictures(10)},
                guided=GUIDED,
                loops=2,
            ),
            TinyPipeline(
                name="helios pyramid",
                build=helios_pyramid,
                call=PYRAMID,
                guided=GUIDED,
                loops=4,
                steps=lambda n: 3,
            ),
            TinyPipeline(
                name="helios pyramid, cfg zero star",
                build=lambda: helios_pyramid(zero_star=True),
                call=PYRAMID,
                guided=GUIDED,
                loops=4,
                steps=lambda n: 3,
            ),
            TinyPipeline(
                name="helios distilled pyramid",
                build=helios_distilled,
                call=PYRAMID,
                guided=(None, {"guidance_scale": 1.0}),
                loops=4,
                steps=lambda n: 3,
            ),
        ),
    ),
]
