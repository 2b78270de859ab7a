"""CogVideoX 1.0, 1.5 and Fun, and ConsisID."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    ConsisIDTransformer3DModel,
)

# diffusers exports the class only where OpenCV is installed, which only key points need.
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline
from PIL import Image
from transformers import T5Config, T5EncoderModel

from tests.tiny import T5_SIZES, TEXT_WIDTH, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise

TEXT_TOKENS = 16
LATENT_CHANNELS = 4
GRIDS: tuple[Grid, ...] = ((1, 2, 4), (2, 3, 4), (3, 4, 2), (4, 3, 5))
PROMPT = "a red circle moving right"
FACE_WIDTH = 16  # of the face features that ConsisID takes
FRAMES = [Image.new("RGB", (64, 48), (20 * i, 100, 200)) for i in range(9)]


def change_patch(
    inputs: Mapping[str, Any],
    frame: int,
    row: int,
    column: int,
    *,
    layout: str,
    patch: tuple[int, int, int],
    name: str = "hidden_states",
) -> dict[str, Any]:
    """The inputs with the latents behind one token changed, in every sample and channel."""
    cells = {
        axis: slice(index * size, (index + 1) * size)
        for axis, index, size in zip("FHW", (frame, row, column), patch, strict=True)
    }
    latents = inputs[name].clone()
    latents[tuple(cells.get(axis, slice(None)) for axis in layout)] += 1.0
    return {**inputs, name: latents}


def t5_encoder() -> T5EncoderModel:
    torch.manual_seed(5)
    return T5EncoderModel(T5Config(**T5_SIZES)).eval()


def cogvideox_vae(*, invert_scale_latents: bool = False) -> AutoencoderKLCogVideoX:
    torch.manual_seed(4)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        invert_scale_latents=invert_scale_latents,
    ).eval()


def sizes(channels: int) -> dict[str, Any]:
    """What the transformers of this family have in common."""
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": channels,
        "out_channels": LATENT_CHANNELS,
        "time_embed_dim": 8,
        "text_embed_dim": TEXT_WIDTH,
        "num_layers": 3,
        "sample_width": 8,
        "sample_height": 6,
        "sample_frames": 9,
        "max_text_seq_length": TEXT_TOKENS,
    }


def cogvideox_transformer(
    *, version: str = "1.0", rotary: bool = True, channels: int = LATENT_CHANNELS, ofs: bool = False
) -> CogVideoXTransformer3DModel:
    """`rotary` is off in the 2B model of 1.0, `ofs` is on in 1.5 from images."""
    torch.manual_seed(3)
    return CogVideoXTransformer3DModel(
        **sizes(channels),
        use_rotary_positional_embeddings=rotary,
        patch_size_t=2 if version == "1.5" else None,
        patch_bias=version == "1.0",
        ofs_embed_dim=8 if ofs else None,
    ).eval()


def consisid_transformer() -> ConsisIDTransformer3DModel:
    torch.manual_seed(6)
    return ConsisIDTransformer3DModel(
        **{**sizes(2 * LATENT_CHANNELS), "num_attention_heads": 3, "num_layers": 2},
        use_rotary_positional_embeddings=True,
        is_train_face=True,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=FACE_WIDTH,
        LFE_vit_dim=FACE_WIDTH,
        LFE_depth=5,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=3,
        LFE_output_dim=32,  # two thirds of the width
        LFE_ff_mult=2,
    ).eval()


def inputs(
    grid: Grid,
    batch: int,
    *,
    channels: int = LATENT_CHANNELS,
    patch: tuple[int, int, int] = (1, 2, 2),
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    frames, height, width = (count * size for count, size in zip(grid, patch, strict=True))
    return {
        "hidden_states": noise(batch, frames, channels, height, width, seed=1),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=2),
        "timestep": torch.full((batch,), 500),
        **(more or {}),
    }


def face() -> dict[str, Any]:
    """One face, as ConsisID takes it: an embedding and five layers of image features."""
    return {
        "id_cond": noise(1, FACE_WIDTH, seed=3),
        "id_vit_hidden": [noise(1, 4, FACE_WIDTH, seed=4 + i) for i in range(5)],
    }


def cogvideox_pipeline(
    pipeline: type = CogVideoXPipeline,
    scheduler: type = CogVideoXDDIMScheduler,
    **transformer: Any,
) -> Any:
    return pipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=t5_encoder(),
        vae=cogvideox_vae(invert_scale_latents=transformer.get("version") == "1.5"),
        transformer=cogvideox_transformer(**transformer),
        scheduler=scheduler(),
    )


def consisid_pipeline() -> ConsisIDPipeline:
    return ConsisIDPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=t5_encoder(),
        vae=cogvideox_vae(),
        transformer=consisid_transformer(),
        scheduler=CogVideoXDPMScheduler(),
    )


CALL: dict[str, Any] = {
    "prompt": PROMPT,
    "height": 48,
    "width": 64,
    "num_frames": 9,
    "max_sequence_length": TEXT_TOKENS,
    "output_type": "latent",
}
VIDEO_CALL = {key: value for key, value in CALL.items() if key != "num_frames"}
GUIDED = ({"guidance_scale": 6.0}, {"guidance_scale": 1.0})
FLAT, DEEP = (1, 2, 2), (2, 2, 2)
perturb = partial(change_patch, layout="BFCHW", patch=FLAT)
perturb_deep = partial(change_patch, layout="BFCHW", patch=DEEP)
ofs = {"ofs": torch.full((1,), 2.0)}

TINIES: list[Tiny] = [
    Tiny(
        name="cogvideox 1.0",
        transformer=cogvideox_transformer,
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(name="cogvideox", build=cogvideox_pipeline, call=CALL, guided=GUIDED),
            TinyPipeline(
                name="cogvideox dpm with dynamic guidance",
                build=partial(cogvideox_pipeline, scheduler=CogVideoXDPMScheduler),
                call={**CALL, "use_dynamic_cfg": True},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="cogvideox video to video",
                build=partial(cogvideox_pipeline, CogVideoXVideoToVideoPipeline),
                call={**VIDEO_CALL, "video": FRAMES, "strength": 0.6},
                guided=GUIDED,
                steps=lambda n: int(0.6 * n),
            ),
        ),
    ),
    Tiny(
        name="cogvideox 1.0 without rotary embeddings",
        transformer=partial(cogvideox_transformer, rotary=False),
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cogvideox 2b",
                build=partial(cogvideox_pipeline, rotary=False),
                call=CALL,
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cogvideox 1.0 with image or control latents",
        transformer=partial(cogvideox_transformer, channels=2 * LATENT_CHANNELS),
        inputs=partial(inputs, channels=2 * LATENT_CHANNELS),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cogvideox image to video",
                build=partial(
                    cogvideox_pipeline, CogVideoXImageToVideoPipeline, channels=2 * LATENT_CHANNELS
                ),
                call={**CALL, "image": FRAMES[0]},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="cogvideox fun control",
                build=partial(
                    cogvideox_pipeline, CogVideoXFunControlPipeline, channels=2 * LATENT_CHANNELS
                ),
                call={**VIDEO_CALL, "control_video": FRAMES},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cogvideox 1.5",
        transformer=partial(cogvideox_transformer, version="1.5"),
        inputs=partial(inputs, patch=DEEP),
        perturb=perturb_deep,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(  # 3 latent frames and 1 of padding
                name="cogvideox 1.5",
                build=partial(cogvideox_pipeline, version="1.5"),
                call=CALL,
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cogvideox 1.5 with image latents",
        transformer=partial(
            cogvideox_transformer, version="1.5", channels=2 * LATENT_CHANNELS, ofs=True
        ),
        inputs=partial(inputs, channels=2 * LATENT_CHANNELS, patch=DEEP, more=ofs),
        perturb=perturb_deep,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cogvideox 1.5 image to video",
                build=partial(
                    cogvideox_pipeline,
                    CogVideoXImageToVideoPipeline,
                    version="1.5",
                    channels=2 * LATENT_CHANNELS,
                    ofs=True,
                ),
                call={**CALL, "image": FRAMES[0]},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="consisid",
        transformer=consisid_transformer,
        inputs=partial(inputs, channels=2 * LATENT_CHANNELS, more=face()),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="consisid",
                build=consisid_pipeline,
                call={**CALL, **face(), "image": FRAMES[0]},
                guided=GUIDED,
            ),
        ),
    ),
]
