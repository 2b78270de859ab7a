"""LTX-2, which makes video and audio together."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2DFRPipeline,
    LTX2DFRTemporalRefinePipeline,
    LTX2HDRPipeline,
    LTX2ImageToVideoPipeline,
    LTX2InContextPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXEulerAncestralRFScheduler,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from diffusers.pipelines.ltx2.dfr_layout import epilogue_tiles
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2ReferenceCondition
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from tests.tiny import TEXT_WIDTH, WORDS, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.shared_parts import VISION, change_token, fill_zeros, tiny_image

LATENTS = 4
AUDIO = {"latent_channels": 2, "mel_bins": 16}
AUDIO_LATENTS = AUDIO["latent_channels"] * AUDIO["mel_bins"] // 4
AUDIO_TOKENS = 5
TEXT_LAYERS = 2
FPS = 24.0


def _transformer(*, version: str = "2.0") -> LTX2VideoTransformer3DModel:
    """Width 32 (audio 16), one token a latent, three blocks; "2.5" knows keyframe slots."""
    torch.manual_seed(0)
    modulated = version == "2.5"
    return fill_zeros(
        LTX2VideoTransformer3DModel(
            in_channels=LATENTS,
            out_channels=LATENTS,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            audio_in_channels=AUDIO_LATENTS,
            audio_out_channels=AUDIO_LATENTS,
            audio_num_attention_heads=2,
            audio_attention_head_dim=8,
            audio_cross_attention_dim=16,
            num_layers=3,
            caption_channels=TEXT_WIDTH,
            perturbed_attn=True,
            gated_attn=modulated,
            audio_gated_attn=modulated,
            cross_attn_mod=modulated,
            audio_cross_attn_mod=modulated,
            use_keyframes_abs_pos_embedding=modulated,
        )
    )


def _inputs(grid: Grid, batch: int, *, conditions: int = 0) -> dict[str, Any]:
    """As the pipelines call it; the tokens of condition frames come after the video's."""
    frames, rows, columns = grid
    rope = _transformer().rope
    coordinates = [rope.prepare_video_coords(batch, *grid, torch.device("cpu"), fps=FPS)]
    for index in range(conditions):
        keyframe = rope.prepare_video_coords(batch, 1, rows, columns, torch.device("cpu"), fps=FPS)
        keyframe[:, 0] += (8 * index + 1) / FPS
        coordinates.append(keyframe)
    tokens = (frames + conditions) * rows * columns
    timestep = torch.full((batch, tokens), 700.0)
    timestep[:, frames * rows * columns :] = 0.0
    return {
        "hidden_states": noise(batch, tokens, LATENTS),
        "audio_hidden_states": noise(batch, AUDIO_TOKENS, AUDIO_LATENTS, seed=1),
        "encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=2),
        "audio_encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=3),
        "timestep": timestep,
        "audio_timestep": torch.full((batch,), 700.0),
        "sigma": torch.full((batch,), 700.0),
        "encoder_attention_mask": torch.ones(batch, 6),
        "audio_encoder_attention_mask": torch.ones(batch, 6),
        "num_frames": frames,
        "height": rows,
        "width": columns,
        "fps": FPS,
        "audio_num_frames": AUDIO_TOKENS,
        "video_coords": torch.cat(coordinates, dim=2),
    }


def _perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    index = (frame * inputs["height"] + row) * inputs["width"] + column
    return change_token(inputs, index)


def _text_encoder() -> Gemma3ForConditionalGeneration:
    torch.manual_seed(3)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                "vocab_size": len(WORDS),
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 32,
                "num_hidden_layers": TEXT_LAYERS,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
            },
            vision_config={"model_type": "siglip_vision_model", **VISION},
            mm_tokens_per_image=4,
            boi_token_index=3,
            eoi_token_index=4,
            image_token_index=5,
        )
    ).eval()


def _connectors() -> LTX2TextConnectors:
    torch.manual_seed(4)
    heads = {"num_attention_heads": 2, "attention_head_dim": TEXT_WIDTH // 2, "num_layers": 1}
    return LTX2TextConnectors(
        caption_channels=TEXT_WIDTH,
        text_proj_in_factor=TEXT_LAYERS + 1,
        **{f"{kind}_connector_{k}": v for kind in ("video", "audio") for k, v in heads.items()},
        video_connector_num_learnable_registers=8,
        audio_connector_num_learnable_registers=8,
        connector_rope_base_seq_len=32,
    ).eval()


def _vae() -> AutoencoderKLLTX2Video:
    torch.manual_seed(1)
    return AutoencoderKLLTX2Video(
        latent_channels=LATENTS,
        block_out_channels=(4, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()


def _pipeline(cls: type, *, version: str = "2.0", **parts: Any) -> Any:
    torch.manual_seed(5)
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=AUDIO_LATENTS, ch_mult=(1,), num_res_blocks=1, **AUDIO
    ).eval()
    vocoder = LTX2Vocoder(
        in_channels=2 * AUDIO["mel_bins"],
        hidden_channels=8,
        upsample_kernel_sizes=[4],
        upsample_factors=[2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1]],
    ).eval()
    return cls(
        **{
            "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            "vae": _vae(),
            "audio_vae": audio_vae,
            "text_encoder": _text_encoder(),
            "tokenizer": tiny_tokenizer(),
            "connectors": _connectors(),
            "transformer": _transformer(version=version),
            "vocoder": vocoder,
        }
        | parts
    )


def _keyframe_slots() -> LTX2DFRPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler()
    return _pipeline(LTX2DFRPipeline, version="2.5", scheduler=scheduler)


def _temporal_refine() -> LTX2DFRTemporalRefinePipeline:
    torch.manual_seed(6)
    upsampler = LTX2LatentUpsamplerModel(
        in_channels=LATENTS,
        mid_channels=32,
        num_blocks_per_stage=1,
        spatial_upsample=False,
        temporal_upsample=True,
    ).eval()
    return _pipeline(
        LTX2DFRTemporalRefinePipeline,
        version="2.5",
        scheduler=LTXEulerAncestralRFScheduler(eta=0.2),
        temporal_latent_upsampler=upsampler,
    )


IMAGE = tiny_image(64, 128)
CALL: dict[str, Any] = {
    "prompt": "a red circle moving right",
    "height": 64,
    "width": 128,
    "num_frames": 17,
    "max_sequence_length": 16,
    "output_type": "latent",
}
ALONE = {"stg_scale": 0.0, "modality_scale": 1.0}
ALL_ALONE = ALONE | {"audio_stg_scale": 0.0, "audio_modality_scale": 1.0}
GUIDED = ALL_ALONE | {"guidance_scale": 3.0, "audio_guidance_scale": 7.0}
UNGUIDED = ALL_ALONE | {"guidance_scale": 1.0, "audio_guidance_scale": 1.0}
# Two more forwards a step, each with the prompt and without a doubled batch.
FOUR_BRANCHES = {"stg_scale": 1.0, "modality_scale": 3.0, "spatio_temporal_guidance_blocks": [1]}
CONDITIONS = [
    LTX2VideoCondition(frames=IMAGE, crf=0),
    LTX2VideoCondition(frames=IMAGE, index=1, strength=0.8, crf=0),
]
GRIDS = ((1, 3, 4), (2, 4, 3), (3, 3, 5), (4, 2, 4))


def _runs(name: str, cls: type, **call: Any) -> tuple[TinyPipeline, TinyPipeline]:
    """One pipeline with classifier-free guidance alone, and with all four branches."""
    build = partial(_pipeline, cls)
    return (
        TinyPipeline(name=name, build=build, call=CALL | call, guided=(GUIDED, UNGUIDED)),
        TinyPipeline(
            name=f"{name} with four branches",
            build=build,
            call=CALL | call | FOUR_BRANCHES,
            guided=(
                {"guidance_scale": 3.0},
                {"guidance_scale": 1.0, "audio_guidance_scale": 1.0},
            ),
        ),
    )


TINIES = [
    Tiny(
        name="ltx2",
        transformer=_transformer,
        inputs=_inputs,
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(
            *_runs("ltx2 t2v", LTX2Pipeline),
            *_runs("ltx2 i2v", LTX2ImageToVideoPipeline, image=IMAGE),
            *_runs("ltx2 condition without conditions", LTX2ConditionPipeline),
        ),
    ),
    Tiny(
        name="ltx2 with condition tokens",
        transformer=_transformer,
        inputs=partial(_inputs, conditions=2),
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(
            *_runs(
                "ltx2 condition with condition tokens",
                LTX2ConditionPipeline,
                conditions=CONDITIONS,
            ),
            *_runs(
                "ltx2 in context",
                LTX2InContextPipeline,
                conditions=CONDITIONS,
                reference_conditions=LTX2ReferenceCondition(frames=[IMAGE] * 17),
            ),
            TinyPipeline(
                name="ltx2 hdr",
                build=partial(_pipeline, LTX2HDRPipeline),
                call=CALL
                | {"reference_conditions": LTX2HDRReferenceCondition(frames=[IMAGE] * 17)},
                guided=(ALONE | {"guidance_scale": 3.0}, ALONE | {"guidance_scale": 1.0}),
            ),
        ),
    ),
    Tiny(
        name="ltx2.5",
        transformer=partial(_transformer, version="2.5"),
        inputs=_inputs,
        perturb=_perturb,
        grids=GRIDS[1:2],
    ),
]


def sigmas(steps: int) -> dict[str, list[float]]:
    """What SIGMA_PIPELINES take where others take `num_inference_steps`."""
    return {"sigmas": [1.0 - i / steps for i in range(steps)]}


SIGMA_PIPELINES = (
    TinyPipeline(
        name="ltx2 dfr",
        build=_keyframe_slots,
        call=CALL | {"num_frames": 25, "conditions": CONDITIONS},
        guided=(None, {}),
    ),
    TinyPipeline(
        name="ltx2 dfr in tiles",
        build=_keyframe_slots,
        call=CALL | {"num_frames": 25, "video_tiles": epilogue_tiles((4, 2, 4), 1, [])},
        guided=(None, {}),
    ),
    TinyPipeline(
        name="ltx2 dfr temporal refine",
        build=_temporal_refine,
        call=CALL
        | {
            "num_frames": 49,
            "latents": noise(1, LATENTS, 7, 2, 4),
            "keyframes_latents": noise(1, LATENTS, 2, 2, 4, seed=1),
            "keyframe_positions": [24, 48],
            "audio_latents": noise(1, AUDIO["latent_channels"], 51, AUDIO["mel_bins"] // 4),
        },
        guided=(None, {}),
        loops=2,
    ),
)
