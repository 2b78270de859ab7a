"""EasyAnimate, and its control and inpainting models.

diffusers 0.42.1 can't run its EasyAnimateControlPipeline: `__call__` hands `encode_prompt` an
argument that it doesn't take.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import BertConfig, BertModel

from tests.tiny import TEXT_WIDTH, WORDS, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.cogvideox import PROMPT, change_patch

TEXT_TOKENS = 16
LATENT_CHANNELS = 4
CONTROL_CHANNELS = 2 * LATENT_CHANNELS  # the control video and the reference image
INPAINT_CHANNELS = LATENT_CHANNELS + 1  # the masked video and the mask


def easyanimate_transformer(*, more_channels: int = 0) -> EasyAnimateTransformer3DModel:
    """The last block has one set of weights for text and video, as in older checkpoints."""
    torch.manual_seed(3)
    return EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=LATENT_CHANNELS + more_channels,
        out_channels=LATENT_CHANNELS,
        patch_size=2,
        sample_width=8,
        sample_height=6,
        num_layers=3,
        mmdit_layers=2,
        time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH,
        add_norm_text_encoder=True,
        add_noise_in_inpaint_model=False,
    ).eval()


def easyanimate_vae() -> AutoencoderKLMagvit:
    torch.manual_seed(4)
    return AutoencoderKLMagvit(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()


def easyanimate_pipeline(pipeline: type = EasyAnimatePipeline, *, more_channels: int = 0) -> Any:
    torch.manual_seed(5)
    text_encoder = BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
    ).eval()
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'][0]['text'] }}"
    return pipeline(
        vae=easyanimate_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=easyanimate_transformer(more_channels=more_channels),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def inputs(grid: Grid, batch: int, *, more: Mapping[str, int] | None = None) -> dict[str, Any]:
    """`more` names further latents, with the number of their channels."""
    frames, rows, columns = grid
    shape = (frames, 2 * rows, 2 * columns)
    return {
        "hidden_states": noise(batch, LATENT_CHANNELS, *shape, seed=1),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, TEXT_WIDTH, seed=2),
        "timestep": torch.full((batch,), 500.0),
        **{name: noise(batch, channels, *shape, seed=3) for name, channels in (more or {}).items()},
    }


CALL: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": "blue",
    "height": 48,
    "width": 64,
    "num_frames": 9,
    "output_type": "latent",
}
GUIDED = ({"guidance_scale": 5.0}, {"guidance_scale": 1.0})
GRIDS: tuple[Grid, ...] = ((1, 2, 4), (2, 3, 4), (3, 4, 2), (4, 3, 5))
perturb = partial(change_patch, layout="BCFHW", patch=(1, 2, 2))

TINIES: list[Tiny] = [
    Tiny(
        name="easyanimate",
        transformer=easyanimate_transformer,
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(name="easyanimate", build=easyanimate_pipeline, call=CALL, guided=GUIDED),
        ),
    ),
    Tiny(
        name="easyanimate control",
        transformer=partial(easyanimate_transformer, more_channels=CONTROL_CHANNELS),
        inputs=partial(inputs, more={"control_latents": CONTROL_CHANNELS}),
        perturb=perturb,
        grids=GRIDS,
    ),
    Tiny(
        name="easyanimate inpaint",
        transformer=partial(easyanimate_transformer, more_channels=INPAINT_CHANNELS),
        inputs=partial(inputs, more={"inpaint_latents": INPAINT_CHANNELS}),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="easyanimate inpaint",
                build=partial(
                    easyanimate_pipeline,
                    EasyAnimateInpaintPipeline,
                    more_channels=INPAINT_CHANNELS,
                ),
                call={**CALL, "strength": 0.6, "video": torch.rand(1, 3, 9, 48, 64)},
                guided=GUIDED,
                steps=lambda n: int(0.6 * n),
            ),
        ),
    ),
]
