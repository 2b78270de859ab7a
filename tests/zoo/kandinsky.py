"""Kandinsky 5 and 6, and the super-resolution of 6."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    Kandinsky6SRPipeline,
    Kandinsky6SRTransformer3DModel,
    Kandinsky6SRVAE,
    Kandinsky6TI2VAPipeline,
    Kandinsky6Transformer3DModel,
    MMAudioVAE,
    MMAudioVocoder,
    PiflowScheduler,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.tiny import TEXT_WIDTH, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.shared_parts import (
    fill_zeros,
    qwen_text_config,
    tiny_clip_text,
    tiny_hunyuan_vae,
    tiny_image,
)

LATENTS = 4
AUDIO_LATENTS = 4
TEXT_TOKENS = 6
POLICY_GRID = 10  # PiflowScheduler's predictions of each latent
SIZES = {
    "in_visual_dim": LATENTS,
    "time_dim": 16,
    "model_dim": 32,
    "ff_dim": 48,
    "num_visual_blocks": 3,
    "axes_dims": (8, 4, 4),
}
TEXT_SIZES = {"in_text_dim": TEXT_WIDTH, "in_text_dim2": TEXT_WIDTH, "num_text_blocks": 1}
NABLA = {"P": 0.9, "wT": 3, "wH": 3, "wW": 3, "add_sta": True, "method": "topcdf"}


def _transformer_5(*, sparse: bool = False) -> Kandinsky5Transformer3DModel:
    """Width 32, patch (1, 2, 2); `sparse` gives NABLA attention, which tiles the tokens."""
    torch.manual_seed(0)
    attention = {f"attention_{name}": value for name, value in NABLA.items()} if sparse else {}
    transformer = Kandinsky5Transformer3DModel(
        out_visual_dim=LATENTS,
        visual_cond=True,
        attention_type="nabla" if sparse else "regular",
        **SIZES,
        **TEXT_SIZES,
        **attention,
    )
    if sparse:  # not set_attention_backend, which sets it for every other model too
        for block in transformer.visual_transformer_blocks:
            block.self_attention.processor._attention_backend = "flex"
    return fill_zeros(transformer)


def _transformer_6() -> Kandinsky6Transformer3DModel:
    """Width 32 (audio 24), patch (1, 2, 2)."""
    torch.manual_seed(0)
    return fill_zeros(
        Kandinsky6Transformer3DModel(
            out_visual_dim=LATENTS,
            in_audio_dim=AUDIO_LATENTS,
            out_audio_dim=AUDIO_LATENTS,
            model_dim_a=24,
            axes_dims_a=(4, 4, 4),
            cross_gates=True,
            visual_token_type_num_embeddings=2,
            **SIZES,
            **TEXT_SIZES,
        )
    )


def _transformer_sr() -> Kandinsky6SRTransformer3DModel:
    """Width 32, one token a latent, always in tiles of 8 x 8 tokens."""
    torch.manual_seed(0)
    return fill_zeros(
        Kandinsky6SRTransformer3DModel(
            out_visual_dim=POLICY_GRID * LATENTS,
            nabla_window=(3, 3, 3),
            tile_sizes=((128, 128), (128, 256)),
            **SIZES,
        )
    )


def _inputs_5(grid: Grid, batch: int, *, sparse: bool = False) -> dict[str, Any]:
    frames, rows, columns = grid
    latents = noise(batch, frames, 2 * rows, 2 * columns, 2 * LATENTS + 1)
    inputs = {
        "hidden_states": latents,
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=1),
        "timestep": torch.full((batch,), 700.0),
        "pooled_projections": noise(batch, TEXT_WIDTH, seed=2),
        "visual_rope_pos": [torch.arange(size) for size in grid],
        "text_rope_pos": torch.arange(TEXT_TOKENS),
        "scale_factor": (1, 2, 2),
    }
    if sparse:
        mask = Kandinsky5T2VPipeline.fast_sta_nabla(
            frames, rows // 8, columns // 8, NABLA["wT"], NABLA["wH"], NABLA["wW"], device="cpu"
        )
        inputs["sparse_params"] = {
            "sta_mask": mask[None, None],
            "attention_type": "nabla",
            "to_fractal": True,
            "visual_shape": grid,
            **NABLA,
        }
    return inputs


def _inputs_6(grid: Grid, batch: int, *, image: bool = False, audio: bool = True):
    """With an image, its latent frame comes after the video's."""
    frames, rows, columns = grid
    latents = noise(batch, frames + image, 2 * rows, 2 * columns, 2 * LATENTS + 1)
    inputs = {
        "hidden_states": latents,
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=1),
        "pooled_projections": noise(batch, TEXT_WIDTH, seed=2),
        "timestep": torch.full((batch,), 700.0),
    }
    if audio:
        inputs["audio_hidden_states"] = noise(batch, 5, AUDIO_LATENTS, seed=3)
    if image:
        times = torch.cat([torch.arange(frames), torch.zeros(1, dtype=torch.long)])
        inputs["visual_rope_pos"] = (times, torch.arange(rows), torch.arange(columns))
        kinds = torch.zeros((batch, frames + 1), dtype=torch.long)
        kinds[:, -1] = 1
        inputs["visual_token_type_ids"] = kinds
    return inputs


def _inputs_sr(grid: Grid, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(batch, *grid, 2 * LATENTS + 1),
        "timestep": torch.full((batch,), 700.0),
    }


def _perturb(
    inputs: dict[str, Any], frame: int, row: int, column: int, *, patch: int = 2
) -> dict[str, Any]:
    latents = inputs["hidden_states"].clone()
    rows, columns = (slice(i * patch, (i + 1) * patch) for i in (row, column))
    latents[:, frame, rows, columns] += 1.5
    return {**inputs, "hidden_states": latents}


def _text_parts() -> dict[str, Any]:
    torch.manual_seed(3)
    config = Qwen2_5_VLConfig(
        text_config=qwen_text_config(),
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": TEXT_WIDTH,
        },
        vision_start_token_id=3,
        vision_end_token_id=4,
        image_token_id=5,
        video_token_id=6,
    )
    return {
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config).eval(),
        "tokenizer": tiny_tokenizer(),  # the real one is a processor, which needs torchvision
        "text_encoder_2": tiny_clip_text(),
        "tokenizer_2": tiny_tokenizer(),
    }


def _pipeline_5(cls: type, *, sparse: bool = False) -> Any:
    pipeline = cls(
        transformer=_transformer_5(sparse=sparse),
        vae=tiny_hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        **_text_parts(),
    )
    pipeline.prompt_template = "{}"
    pipeline.prompt_template_encode_start_idx = 0
    return pipeline


def _pipeline_6() -> Kandinsky6TI2VAPipeline:
    torch.manual_seed(4)
    audio_vae = MMAudioVAE(
        mel_bins=8,
        latent_channels=AUDIO_LATENTS,
        hidden_channels=8,
        channel_multipliers=(1, 2),
        layers_per_block=1,
    ).eval()
    vocoder = MMAudioVocoder(
        num_mels=8,
        upsample_initial_channel=8,
        upsample_rates=(2,),
        upsample_kernel_sizes=(4,),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
    ).eval()
    return Kandinsky6TI2VAPipeline(
        transformer=_transformer_6(),
        vae=tiny_hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        audio_vae=audio_vae,
        vocoder=vocoder,
        **_text_parts(),
    )


def _pipeline_sr() -> Kandinsky6SRPipeline:
    torch.manual_seed(4)
    vae = Kandinsky6SRVAE(
        latent_channels=LATENTS,
        encoder_block_out_channels=(4, 4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4, 4),
        layers_per_block=1,
    ).eval()
    return Kandinsky6SRPipeline(
        transformer=_transformer_sr(),
        vae=vae,
        scheduler=PiflowScheduler(n_grid=POLICY_GRID, num_policy_substeps=4),
    )


CALL: dict[str, Any] = {
    "prompt": "a red circle moving right",
    "height": 32,
    "width": 48,
    "num_frames": 9,
    "max_sequence_length": 16,
    "output_type": "latent",
}
GUIDED = {"guidance_scale": 5.0}, {"guidance_scale": 1.0}
GRIDS = ((1, 3, 4), (2, 4, 3), (3, 3, 5), (4, 2, 4))
TILED_GRIDS = ((1, 8, 16), (2, 16, 24), (2, 16, 8))
NORMALIZED_FRAMES = 21  # image to video rescales four latent frames by those after them
IMAGE_CALL = CALL | {"num_frames": NORMALIZED_FRAMES}
SPARSE_CALL = CALL | {"height": 128, "width": 256}


def _run_5(name: str, cls: type, *, sparse: bool = False, **call: Any) -> TinyPipeline:
    build = partial(_pipeline_5, cls, sparse=sparse)
    return TinyPipeline(name=f"kandinsky 5 {name}", build=build, call=call, guided=GUIDED)


TINIES = [
    Tiny(
        name="kandinsky 5",
        transformer=_transformer_5,
        inputs=_inputs_5,
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(
            _run_5("t2v", Kandinsky5T2VPipeline, **CALL),
            _run_5("i2v", Kandinsky5I2VPipeline, **IMAGE_CALL, image=tiny_image(32, 48)),
        ),
    ),
    Tiny(
        name="kandinsky 5 in tiles",
        transformer=partial(_transformer_5, sparse=True),
        inputs=partial(_inputs_5, sparse=True),
        perturb=_perturb,
        grids=TILED_GRIDS,
        pipelines=(
            _run_5("t2v in tiles", Kandinsky5T2VPipeline, sparse=True, **SPARSE_CALL),
            _run_5(
                "i2v in tiles",
                Kandinsky5I2VPipeline,
                sparse=True,
                **IMAGE_CALL | {"height": 128, "width": 256},
                image=tiny_image(128, 256),
            ),
        ),
    ),
    Tiny(
        name="kandinsky 6",
        transformer=_transformer_6,
        inputs=_inputs_6,
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(name="kandinsky 6 t2va", build=_pipeline_6, call=CALL, guided=GUIDED),
            TinyPipeline(
                name="kandinsky 6 t2v",
                build=_pipeline_6,
                call=CALL | {"sample_audio": False},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="kandinsky 6 without audio",
        transformer=_transformer_6,
        inputs=partial(_inputs_6, audio=False),
        perturb=_perturb,
        grids=GRIDS[1:2],
    ),
    Tiny(
        name="kandinsky 6 with an image",
        transformer=_transformer_6,
        inputs=partial(_inputs_6, image=True),
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="kandinsky 6 ti2va",
                build=_pipeline_6,
                call=CALL | {"image": tiny_image(32, 48)},
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="kandinsky 6 super-resolution",
        transformer=_transformer_sr,
        inputs=_inputs_sr,
        perturb=partial(_perturb, patch=1),
        grids=TILED_GRIDS,
        pipelines=(
            TinyPipeline(
                name="kandinsky 6 super-resolution",
                build=_pipeline_sr,
                call={
                    "video": [tiny_image(64, 208)] * 5,
                    "resolution_scale": 2,
                    "output_type": "pt",
                },
                guided=(None, {}),
                loops=2,
            ),
        ),
    ),
]
