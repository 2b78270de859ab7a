"""SkyReels-V2: text and image to video, and diffusion forcing, whose frames differ in noise."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)

from tests.zoo import Grid, Tiny, TinyPipeline
from tests.zoo.wan import (
    GRIDS,
    GUIDED,
    IMAGE_SIZES,
    SIZES,
    TEXT,
    VIDEO,
    i2v_inputs,
    image_parts,
    perturb,
    picture,
    pictures,
    text_parts,
    unipc,
    wan_inputs,
)


def transformer(in_channels: int = 4, **sizes: Any) -> SkyReelsV2Transformer3DModel:
    torch.manual_seed(0)
    return SkyReelsV2Transformer3DModel(**SIZES | {"in_channels": in_channels} | sizes).eval()


def forcing_transformer(block: int = 1) -> SkyReelsV2Transformer3DModel:
    """For diffusion forcing; attention is causal between blocks of more than one frame.

    Without `inject_sample_info`, with which diffusers' forward fails on a batch of two.
    """
    return transformer(num_frame_per_block=block)


def forcing_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """A timestep for every latent frame, the first ones less noisy."""
    timestep = torch.arange(1, grid[0] + 1).expand(batch, -1) * 200
    forcing = {"enable_diffusion_forcing": True, "timestep": timestep}
    return wan_inputs(grid, batch) | forcing


def text_to_video() -> SkyReelsV2Pipeline:
    return SkyReelsV2Pipeline(**text_parts(), scheduler=unipc(), transformer=transformer())


def image_to_video() -> SkyReelsV2ImageToVideoPipeline:
    return SkyReelsV2ImageToVideoPipeline(
        **text_parts(),
        **image_parts(),
        scheduler=unipc(),
        transformer=transformer(12, **IMAGE_SIZES),
    )


def diffusion_forcing(block: int = 1) -> SkyReelsV2DiffusionForcingPipeline:
    return SkyReelsV2DiffusionForcingPipeline(
        **text_parts(), scheduler=unipc(), transformer=forcing_transformer(block)
    )


def forcing_image_to_video() -> SkyReelsV2DiffusionForcingImageToVideoPipeline:
    return SkyReelsV2DiffusionForcingImageToVideoPipeline(
        **text_parts(), scheduler=unipc(), transformer=forcing_transformer()
    )


def forcing_video_to_video() -> SkyReelsV2DiffusionForcingVideoToVideoPipeline:
    return SkyReelsV2DiffusionForcingVideoToVideoPipeline(
        **text_parts(), scheduler=unipc(), transformer=forcing_transformer()
    )


# 5 latent frames in windows of 3, of which 2 are those of the window before.
LONG = TEXT | {"num_frames": 17, "base_num_frames": 9, "overlap_history": 5}

TINIES: list[Tiny] = [
    Tiny(
        name="skyreels",
        transformer=transformer,
        inputs=wan_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="skyreels text to video", build=text_to_video, call=VIDEO, guided=GUIDED
            ),
        ),
    ),
    Tiny(
        name="skyreels i2v",
        transformer=lambda: transformer(12, **IMAGE_SIZES),
        inputs=i2v_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="skyreels image to video",
                build=image_to_video,
                call=VIDEO | {"image": picture()},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="skyreels diffusion forcing",
        transformer=forcing_transformer,
        inputs=forcing_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="skyreels diffusion forcing",
                build=diffusion_forcing,
                call=VIDEO,
                guided=GUIDED,
            ),
            TinyPipeline(
                name="skyreels diffusion forcing, asynchronous",
                build=diffusion_forcing,
                call=VIDEO | {"ar_step": 2},
                guided=GUIDED,
                steps=lambda n: n + 4,
            ),
            TinyPipeline(
                name="skyreels diffusion forcing, long",
                build=diffusion_forcing,
                call=LONG,
                guided=GUIDED,
                loops=3,
            ),
            TinyPipeline(
                name="skyreels diffusion forcing image to video",
                build=forcing_image_to_video,
                call=VIDEO | {"image": picture()},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="skyreels diffusion forcing, first and last image",
                build=forcing_image_to_video,
                call=VIDEO | {"image": picture(), "last_image": picture(1)},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="skyreels diffusion forcing video to video",
                build=forcing_video_to_video,
                call=VIDEO | {"video": pictures(9), "base_num_frames": 9, "overlap_history": 5},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="skyreels causal diffusion forcing",
        transformer=lambda: forcing_transformer(2),
        inputs=forcing_inputs,
        perturb=perturb,
        grids=((2, 3, 4), (4, 2, 5)),
        pipelines=(
            TinyPipeline(
                name="skyreels causal diffusion forcing, asynchronous",
                build=lambda: diffusion_forcing(2),
                call=VIDEO | {"num_frames": 13, "ar_step": 2},
                guided=GUIDED,
                steps=lambda n: n + 2,
            ),
        ),
    ),
]
