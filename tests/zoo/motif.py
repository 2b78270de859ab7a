"""Motif Video."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)
from transformers import SiglipImageProcessorPil, T5Gemma2Encoder, T5Gemma2EncoderConfig

from tests.tiny import TEXT_WIDTH, WORDS, tiny_tokenizer, tiny_wan_vae
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.shared_parts import VISION, change_patch, fill_zeros, tiny_image

LATENTS = 4


def _transformer(*, decoder: int = 2) -> MotifVideoTransformer3DModel:
    """Width 24, patch (1, 2, 2), two double blocks and three single ones.

    The last `decoder` single blocks work on a fresh embedding of the video, and see what the
    blocks before them made of it where those saw the text.
    """
    torch.manual_seed(0)
    return fill_zeros(
        MotifVideoTransformer3DModel(
            in_channels=2 * LATENTS + 1,
            out_channels=LATENTS,
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            num_single_layers=3,
            num_decoder_layers=decoder,
            mlp_ratio=2.0,
            text_embed_dim=TEXT_WIDTH,
            image_embed_dim=TEXT_WIDTH,
            rope_axes_dim=(4, 4, 4),
            enable_text_cross_attention_dual=True,
            enable_text_cross_attention_single=True,
        )
    )


def _inputs(grid: Grid, batch: int) -> dict[str, Any]:
    frames, rows, columns = grid
    return {
        "hidden_states": noise(batch, 2 * LATENTS + 1, frames, 2 * rows, 2 * columns),
        "timestep": torch.full((batch,), 700.0),
        "encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=1),
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
        "image_embeds": noise(batch, 4, TEXT_WIDTH, seed=2),
    }


def _perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    return change_patch(inputs, (1, 2, 2), frame, row, column)


def _text_encoder() -> T5Gemma2Encoder:
    torch.manual_seed(3)
    return T5Gemma2Encoder(
        T5Gemma2EncoderConfig(
            text_config={
                "vocab_size": len(WORDS),
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "dropout_rate": 0.0,
            },
            vision_config={"model_type": "siglip_vision_model", **VISION},
            mm_tokens_per_image=4,
            boi_token_index=3,
            eoi_token_index=4,
            image_token_index=5,
        ),
        eoi_token_index=4,
    ).eval()


def _pipeline(*, image: bool = False, guided: bool = True):
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    side = {"height": VISION["image_size"], "width": VISION["image_size"]}
    cls = MotifVideoImage2VideoPipeline if image else MotifVideoPipeline
    return cls(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_wan_vae(),
        text_encoder=_text_encoder(),
        tokenizer=tokenizer,
        transformer=_transformer(),
        guider=ClassifierFreeGuidance(guidance_scale=8.0, enabled=guided),
        feature_extractor=SiglipImageProcessorPil(size=side),
    )


CALL = {
    "prompt": "a red circle moving right",
    "height": 32,
    "width": 48,
    "num_frames": 9,
    "max_sequence_length": 16,
    "output_type": "latent",
}
IMAGE_CALL = CALL | {"image": tiny_image(32, 48)}
GRIDS = ((1, 3, 4), (2, 4, 3), (3, 3, 5), (4, 2, 4))


TINIES = [
    Tiny(
        name="motif",
        transformer=_transformer,
        inputs=_inputs,
        perturb=_perturb,
        grids=GRIDS,
        pipelines=tuple(
            TinyPipeline(
                name=f"motif {name}{'' if guided else ' unguided'}",
                build=partial(_pipeline, image=name == "i2v", guided=guided),
                call=call,
                guided=({}, None) if guided else (None, {}),
            )
            for name, call in (("t2v", CALL), ("i2v", IMAGE_CALL))
            for guided in (True, False)
        ),
    ),
    Tiny(
        name="motif without decoder blocks",
        transformer=partial(_transformer, decoder=0),
        inputs=_inputs,
        perturb=_perturb,
        grids=GRIDS[1:2],
    ),
]
