"""The Wan family: Wan 2.1 and 2.2, Lucy Edit, VACE, Animate, Animate 2, ChronoEdit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LucyEditPipeline,
    UniPCMultistepScheduler,
    WanAnimate2Transformer3DModel,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, UMT5Config
from transformers import UMT5EncoderModel as UMT5

from tests.tiny import T5_SIZES, TEXT_WIDTH, tiny_tokenizer, tiny_wan, tiny_wan_vae
from tests.zoo import Grid, Tiny, TinyPipeline, noise

HEIGHT, WIDTH = 48, 64  # pixels: 3 x 4 tokens a frame
GRIDS: tuple[Grid, ...] = ((1, 3, 4), (2, 4, 2), (3, 2, 5), (4, 3, 4))
IMAGE_WIDTH, IMAGE_TOKENS = 16, 5
FACE_SIZE = 16
SIZES: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "out_channels": 4,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}
IMAGE_SIZES = {"image_dim": IMAGE_WIDTH, "added_kv_proj_dim": 24}

TEXT: dict[str, Any] = {
    "prompt": "a red circle moving right",
    "max_sequence_length": 16,
    "height": HEIGHT,
    "width": WIDTH,
    "output_type": "latent",
}
GUIDED = {"guidance_scale": 5.0}, {"guidance_scale": 1.0}


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pictures(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[Image.Image]:
    return [picture(seed, height, width) for seed in range(count)]


def tiny_text_encoder() -> UMT5:
    torch.manual_seed(2)
    return UMT5(UMT5Config(**T5_SIZES)).eval()


def tiny_image_encoder() -> CLIPVisionModel:
    torch.manual_seed(6)
    config = CLIPVisionConfig(
        hidden_size=IMAGE_WIDTH,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    return CLIPVisionModel(config).eval()


def text_parts() -> dict[str, Any]:
    return {
        "tokenizer": tiny_tokenizer(),
        "text_encoder": tiny_text_encoder(),
        "vae": tiny_wan_vae(),
    }


def image_parts() -> dict[str, Any]:
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessorPil(size=size, do_center_crop=False)
    return {"image_encoder": tiny_image_encoder(), "image_processor": processor}


def euler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


def wan_transformer(in_channels: int = 4, seed: int = 0, **sizes: Any) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(**SIZES | {"in_channels": in_channels} | sizes).eval()


def latents(grid: Grid, batch: int, channels: int = 4, seed: int = 0) -> torch.Tensor:
    frames, rows, columns = grid
    return noise(batch, channels, frames, 2 * rows, 2 * columns, seed=seed)


def wan_inputs(grid: Grid, batch: int, channels: int = 4) -> dict[str, Any]:
    return {
        "hidden_states": latents(grid, batch, channels),
        "timestep": torch.full((batch,), 700),
        "encoder_hidden_states": noise(batch, 7, TEXT_WIDTH, seed=1),
    }


def ti2v_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """Wan2.2 5B: a timestep for every token, and a clean first frame."""
    frames, rows, columns = grid
    timestep = torch.full((batch, frames * rows * columns), 700.0)
    timestep[:, : rows * columns] = 0
    return wan_inputs(grid, batch) | {"timestep": timestep}


def i2v_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    image = noise(batch, IMAGE_TOKENS, IMAGE_WIDTH, seed=2)
    return wan_inputs(grid, batch, 12) | {"encoder_hidden_states_image": image}


def perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    """For latents (B, C, F, H, W) in patches of (1, 2, 2)."""
    changed = inputs["hidden_states"].clone()
    changed[:, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 3
    return inputs | {"hidden_states": changed}


def wan_image_to_video() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        **text_parts(),
        **image_parts(),
        scheduler=euler(),
        transformer=wan_transformer(12, **IMAGE_SIZES),
    )


def wan_two_images_to_video() -> WanImageToVideoPipeline:
    """Wan2.1 FLF2V: a first and a last image."""
    transformer = wan_transformer(12, **IMAGE_SIZES, pos_embed_seq_len=2 * IMAGE_TOKENS)
    return WanImageToVideoPipeline(
        **text_parts(), **image_parts(), scheduler=unipc(), transformer=transformer
    )


def wan_image_to_video_experts() -> WanImageToVideoPipeline:
    """Wan2.2 A14B: two experts, no image encoder."""
    return WanImageToVideoPipeline(
        **text_parts(),
        scheduler=euler(),
        transformer=wan_transformer(12),
        transformer_2=wan_transformer(12, seed=7),
        boundary_ratio=0.875,
    )


def wan_image_to_video_5b() -> WanImageToVideoPipeline:
    return WanImageToVideoPipeline(
        **text_parts(), scheduler=euler(), transformer=wan_transformer(), expand_timesteps=True
    )


def wan_video_to_video() -> WanVideoToVideoPipeline:
    return WanVideoToVideoPipeline(**text_parts(), scheduler=unipc(), transformer=wan_transformer())


def lucy_edit() -> LucyEditPipeline:
    return LucyEditPipeline(
        **text_parts(), scheduler=euler(), transformer=wan_transformer(8), expand_timesteps=True
    )


def vace_transformer(seed: int = 0) -> WanVACETransformer3DModel:
    torch.manual_seed(seed)
    sizes = {"in_channels": 4, "vace_layers": [0, 2], "vace_in_channels": 72}
    return WanVACETransformer3DModel(**SIZES | sizes).eval()


def vace_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    return wan_inputs(grid, batch) | {
        "control_hidden_states": latents(grid, batch, 72, seed=3),
        "control_hidden_states_scale": torch.tensor([1.0, 0.5]),
    }


def wan_vace(*, two_experts: bool = False) -> WanVACEPipeline:
    return WanVACEPipeline(
        **text_parts(),
        scheduler=euler(),
        transformer=vace_transformer(),
        transformer_2=vace_transformer(seed=7) if two_experts else None,
        boundary_ratio=0.875 if two_experts else None,
    )


def animate_transformer() -> WanAnimateTransformer3DModel:
    torch.manual_seed(0)
    sizes = {
        "in_channels": 12,
        "latent_channels": 4,
        "motion_encoder_channel_sizes": {"4": 4, "8": 4, "16": 4},
        "motion_encoder_size": FACE_SIZE,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 8,
        "face_encoder_hidden_dim": 8,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 3,
    }
    transformer = WanAnimateTransformer3DModel(**SIZES | IMAGE_SIZES | sizes).eval()
    torch.nn.init.normal_(transformer.face_encoder.padding_tokens)
    return transformer


def animate_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """Latent frame 0 is the reference image, so there is one frame more than in the video."""
    frames, rows, columns = grid
    pixel_frames = 1 + 4 * (frames - 1)
    return i2v_inputs((frames + 1, rows, columns), batch) | {
        "pose_hidden_states": latents(grid, batch, seed=3),
        "face_pixel_values": noise(batch, 3, pixel_frames, FACE_SIZE, FACE_SIZE, seed=4),
    }


def animate_perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    return perturb(inputs, frame + 1, row, column)


def wan_animate() -> WanAnimatePipeline:
    return WanAnimatePipeline(
        **text_parts(), **image_parts(), scheduler=unipc(), transformer=animate_transformer()
    )


def animate_2_transformer() -> WanAnimate2Transformer3DModel:
    """With the attention masks of GRIDS, which the forward would compile for a minute."""
    torch.manual_seed(0)
    transformer = WanAnimate2Transformer3DModel(
        text_len=8,
        in_dim=12,
        dim=24,
        ffn_dim=32,
        freq_dim=16,
        text_dim=TEXT_WIDTH,
        out_dim=4,
        num_heads=2,
        num_layers=3,
        use_img_emb=False,
    ).eval()
    with torch.compiler.set_stance("force_eager"):
        for frames, rows, columns in GRIDS:
            mask = transformer.create_mask(frames, rows * columns, "cpu")
            transformer.block_masks[frames, rows * columns] = mask
    return transformer


def animate_2_inputs(grid: Grid, batch: int, *, extract: bool = False) -> dict[str, Any]:
    """A denoising step, or the pass that stores keys and values of the driving video.

    In a denoising step latent frame 0 is the reference image, so there is one frame more.
    """
    frames, rows, columns = grid
    cache = WanAnimate2KVCache(3)
    if not extract:
        for block, layer in enumerate(cache.layer_caches):
            stored = noise(batch, 2, frames * rows * columns, 2, 12, seed=20 + block)
            layer.store(*stored.unbind(1))
    size = torch.tensor([grid] * batch)
    shape = (frames + (not extract), rows, columns)
    return {
        "hidden_states": list(latents(shape, batch)),
        "timestep": torch.full((batch,), 700.0),
        "encoder_hidden_states": list(noise(batch, 7, TEXT_WIDTH, seed=1)),
        "condition_latents": list(latents(shape, batch, 8, seed=3)),
        "kv_cache": cache,
        "kv_cache_mode": "extract" if extract else "cached",
        "seq_len": shape[0] * rows * columns,
        "offset_grid_sizes" if extract else "reference_grid_sizes": size,
        "origin_len": 1 + 4 * (frames - 1),
        "origin_area": [16 * rows, 16 * columns],
    }


def animate_2_perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    stacked = {"hidden_states": torch.stack(inputs["hidden_states"])}
    changed = animate_perturb(stacked, frame, row, column)["hidden_states"]
    return inputs | {"hidden_states": list(changed)}


def chrono_edit_transformer() -> ChronoEditTransformer3DModel:
    torch.manual_seed(0)
    sizes = {"in_channels": 12, "rope_temporal_skip_len": 4}
    return ChronoEditTransformer3DModel(**SIZES | IMAGE_SIZES | sizes).eval()


def chrono_edit() -> ChronoEditPipeline:
    return ChronoEditPipeline(
        **text_parts(), **image_parts(), scheduler=unipc(), transformer=chrono_edit_transformer()
    )


VIDEO = TEXT | {"num_frames": 9}
ANIMATE = TEXT | {
    "image": picture(),
    "pose_video": pictures(9),
    "face_video": pictures(9, FACE_SIZE, FACE_SIZE),
    "segment_frame_length": 9,
}

TINIES: list[Tiny] = [
    Tiny(
        name="wan",
        transformer=wan_transformer,
        inputs=wan_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(name="wan text to video", build=tiny_wan, call=VIDEO, guided=GUIDED),
            TinyPipeline(
                name="wan text to video, two experts",
                build=lambda: tiny_wan(two_experts=True),
                call=VIDEO,
                guided=GUIDED,
            ),
            TinyPipeline(
                name="wan video to video",
                build=wan_video_to_video,
                call=TEXT | {"video": pictures(9), "strength": 0.8},
                guided=GUIDED,
                steps=lambda n: int(n * 0.8),
            ),
        ),
    ),
    Tiny(
        name="wan ti2v",
        transformer=wan_transformer,
        inputs=ti2v_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="wan 5b text to video",
                build=lambda: tiny_wan(expand_timesteps=True),
                call=VIDEO,
                guided=GUIDED,
            ),
            TinyPipeline(
                name="wan 5b image to video",
                build=wan_image_to_video_5b,
                call=VIDEO | {"image": picture()},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="wan i2v",
        transformer=lambda: wan_transformer(12, **IMAGE_SIZES),
        inputs=i2v_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="wan image to video",
                build=wan_image_to_video,
                call=VIDEO | {"image": picture()},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="wan first and last image to video",
                build=wan_two_images_to_video,
                call=VIDEO | {"image": picture(), "last_image": picture(1)},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="wan image to video, two experts",
                build=wan_image_to_video_experts,
                call=VIDEO | {"image": picture()},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="lucy edit",
        transformer=lambda: wan_transformer(8),
        inputs=lambda grid, batch: wan_inputs(grid, batch, 8),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="lucy edit",
                build=lucy_edit,
                call=VIDEO | {"video": pictures(9)},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="wan vace",
        transformer=vace_transformer,
        inputs=vace_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(name="wan vace", build=wan_vace, call=VIDEO, guided=GUIDED),
            TinyPipeline(
                name="wan vace, one reference",
                build=wan_vace,
                call=VIDEO | {"reference_images": [picture()]},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="wan vace, two references and a video",
                build=wan_vace,
                call=VIDEO
                | {
                    "video": pictures(9),
                    "mask": [Image.new("L", (WIDTH, HEIGHT), 255)] * 9,
                    "reference_images": pictures(2),
                },
                guided=GUIDED,
            ),
            TinyPipeline(
                name="wan vace, two experts",
                build=lambda: wan_vace(two_experts=True),
                call=VIDEO | {"reference_images": [picture()]},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="wan animate",
        transformer=animate_transformer,
        inputs=animate_inputs,
        perturb=animate_perturb,
        grids=GRIDS,
        lead=1,
        pipelines=(
            TinyPipeline(name="wan animate", build=wan_animate, call=ANIMATE, guided=GUIDED),
            TinyPipeline(
                name="wan animate, two segments",
                build=wan_animate,
                call=ANIMATE | {"segment_frame_length": 5},
                guided=GUIDED,
                loops=2,
            ),
            TinyPipeline(
                name="wan animate, replace",
                build=wan_animate,
                call=ANIMATE
                | {
                    "mode": "replace",
                    "background_video": pictures(9),
                    "mask_video": [Image.new("L", (WIDTH, HEIGHT), 255)] * 9,
                },
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="wan animate 2",
        transformer=animate_2_transformer,
        inputs=animate_2_inputs,
        perturb=animate_2_perturb,
        grids=GRIDS,
        lead=1,
    ),
    Tiny(
        name="chrono edit",
        transformer=chrono_edit_transformer,
        inputs=i2v_inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="chrono edit",
                build=chrono_edit,
                call=TEXT | {"image": picture()},
                guided=GUIDED,
            ),
            TinyPipeline(
                name="chrono edit with reasoning",
                build=chrono_edit,
                call=VIDEO
                | {
                    "image": picture(),
                    "enable_temporal_reasoning": True,
                    "num_temporal_reasoning_steps": 2,
                },
                guided=GUIDED,
            ),
        ),
    ),
]
