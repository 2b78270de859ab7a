"""Cosmos Predict1, Predict2, Predict2.5 and Transfer2.5.

The transformers here don't take the padding mask, as that path of diffusers needs torchvision. So
does Predict2.5 with an image and CosmosControlNetModel, which a stand-in replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLCosmos,
    ConfigMixin,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2_5_TransferPipeline,
    Cosmos2TextToImagePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    CosmosVideoToWorldPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import register_to_config
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tests.tiny import TEXT_WIDTH, WORDS, tiny_tokenizer, tiny_wan_vae
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.cogvideox import FRAMES, GRIDS, PROMPT, change_patch, t5_encoder

TEXT_TOKENS = 16
TEXT_LAYERS = 2  # of Qwen, whose states Predict2.5 joins
LATENT_CHANNELS = 4
MASKED_CHANNELS = LATENT_CHANNELS + 1  # and the mask of the condition frames
IMAGE_TOKENS, IMAGE_WIDTH = 3, 8
WIDTH = 32


class TinySafetyChecker:
    """What the pipelines call on the guardrail, which lets everything pass."""

    def to(self, device: Any) -> TinySafetyChecker:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: np.ndarray) -> np.ndarray:
        return frames


class TinyControlNet(ModelMixin, ConfigMixin):
    """Residuals of the right shape and number for the transformer, from the control's latents."""

    @register_to_config
    def __init__(self, blocks: int = 2, width: int = WIDTH) -> None:
        super().__init__()
        self.projections = torch.nn.ModuleList(
            torch.nn.Conv3d(LATENT_CHANNELS, width, (1, 2, 2), (1, 2, 2)) for _ in range(blocks)
        )

    def forward(self, controls_latents: torch.Tensor, **arguments: Any) -> tuple[list[Any]]:
        return ([p(controls_latents).flatten(2).transpose(1, 2) for p in self.projections],)


def cosmos_transformer(
    *,
    channels: int = LATENT_CHANNELS,
    learned_positions: bool = False,
    project_text: bool = False,
    control: bool = False,
) -> CosmosTransformer3DModel:
    """Positions are learned in Predict1, the text is projected in 2.5, Transfer2.5 has control."""
    torch.manual_seed(3)
    model = CosmosTransformer3DModel(
        in_channels=channels,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        mlp_ratio=2.0,
        text_embed_dim=TEXT_WIDTH,
        adaln_lora_dim=8,
        max_size=(24, 32, 32),
        concat_padding_mask=False,
        extra_pos_embed_type="learnable" if learned_positions else None,
        use_crossattn_projection=project_text,
        crossattn_proj_in_channels=TEXT_LAYERS * TEXT_WIDTH,
        encoder_hidden_states_channels=TEXT_WIDTH,
        controlnet_block_every_n=2 if control else None,
        img_context_dim_in=IMAGE_WIDTH if control else None,
        img_context_num_tokens=IMAGE_TOKENS,
        img_context_dim_out=WIDTH,
    ).eval()
    if learned_positions:  # zero at first, and divided by their norm
        for parameter in model.learnable_pos_embed.parameters():
            torch.nn.init.normal_(parameter)
    return model


def cosmos_vae() -> AutoencoderKLCosmos:
    torch.manual_seed(4)
    return AutoencoderKLCosmos(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(4, 4, 4, 4),
        decode_block_out_channels=(4, 4, 4, 4),
        attention_resolutions=(),
        resolution=64,
        num_layers=1,
        latents_mean=None,
        latents_std=None,
    ).eval()


def qwen() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(5)
    text = {
        "vocab_size": len(WORDS),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": TEXT_WIDTH,
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    ).eval()


def chat_tokenizer() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'][0]['text'] }} {% endfor %}"
    )
    return tokenizer


def cosmos1_pipeline(pipeline: type, **transformer: Any) -> Any:
    return pipeline(
        text_encoder=t5_encoder(),
        tokenizer=tiny_tokenizer(),
        transformer=cosmos_transformer(learned_positions=True, **transformer),
        vae=cosmos_vae(),
        scheduler=EDMEulerScheduler(
            sigma_max=80.0, sigma_min=0.002, sigma_data=0.5, final_sigmas_type="sigma_min"
        ),
        safety_checker=TinySafetyChecker(),
    )


def cosmos2_pipeline(pipeline: type, **transformer: Any) -> Any:
    return pipeline(
        text_encoder=t5_encoder(),
        tokenizer=tiny_tokenizer(),
        transformer=cosmos_transformer(**transformer),
        vae=tiny_wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=TinySafetyChecker(),
    )


def cosmos25_pipeline(pipeline: type = Cosmos2_5_PredictBasePipeline, **more: Any) -> Any:
    return pipeline(
        text_encoder=qwen(),
        tokenizer=chat_tokenizer(),
        transformer=cosmos_transformer(
            channels=MASKED_CHANNELS, project_text=True, control=bool(more)
        ),
        vae=tiny_wan_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=1.0,
            sigma_max=200.0,
            sigma_min=0.01,
        ),
        safety_checker=TinySafetyChecker(),
        **more,
    )


def transfer_pipeline() -> Cosmos2_5_TransferPipeline:
    torch.manual_seed(6)
    return cosmos25_pipeline(Cosmos2_5_TransferPipeline, controlnet=TinyControlNet())


def inputs(
    grid: Grid,
    batch: int,
    *,
    masked: bool = False,
    times_per_frame: bool = False,
    text_width: int = TEXT_WIDTH,
    control: bool = False,
) -> dict[str, Any]:
    """The condition frames that `masked` tells of are the first latent frame."""
    frames, rows, columns = grid
    shape = (frames, 2 * rows, 2 * columns)
    arguments: dict[str, Any] = {
        "hidden_states": noise(batch, LATENT_CHANNELS, *shape, seed=1),
        "encoder_hidden_states": noise(batch, TEXT_TOKENS, text_width, seed=2),
        "timestep": torch.full((batch,), 0.7),
        "fps": 16,
    }
    if masked:
        arguments["condition_mask"] = torch.zeros(batch, 1, *shape)
        arguments["condition_mask"][:, :, 0] = 1.0
    if times_per_frame:
        arguments["timestep"] = torch.full((batch, 1, frames, 1, 1), 0.7)
        arguments["timestep"][:, :, 0] = 0.1
    if control:
        image = noise(batch, IMAGE_TOKENS, IMAGE_WIDTH, seed=3)
        arguments["encoder_hidden_states"] = (arguments["encoder_hidden_states"], image)
        arguments["block_controlnet_hidden_states"] = [
            noise(batch, frames * rows * columns, WIDTH, seed=4 + i) for i in range(2)
        ]
    return arguments


def call(frames: int, **more: Any) -> Mapping[str, Any]:
    return {
        "prompt": PROMPT,
        "negative_prompt": "blue",
        "height": 48,
        "width": 64,
        "num_frames": frames,
        "max_sequence_length": TEXT_TOKENS,
        "output_type": "latent",
        **more,
    }


IMAGE_CALL = {name: value for name, value in call(1).items() if name != "num_frames"}
GUIDED = ({"guidance_scale": 7.0}, {"guidance_scale": 1.0})
perturb = partial(change_patch, layout="BCFHW", patch=(1, 2, 2))

TINIES: list[Tiny] = [
    Tiny(
        name="cosmos 1 text to world",
        transformer=partial(cosmos_transformer, learned_positions=True),
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cosmos text to world",
                build=partial(cosmos1_pipeline, CosmosTextToWorldPipeline),
                call=call(17),
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cosmos 1 video to world",
        transformer=partial(cosmos_transformer, learned_positions=True, channels=MASKED_CHANNELS),
        inputs=partial(inputs, masked=True),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cosmos image to world",
                build=partial(
                    cosmos1_pipeline, CosmosVideoToWorldPipeline, channels=MASKED_CHANNELS
                ),
                call=call(17, image=FRAMES[0]),
                guided=GUIDED,
            ),
            TinyPipeline(
                name="cosmos video to world",
                build=partial(
                    cosmos1_pipeline, CosmosVideoToWorldPipeline, channels=MASKED_CHANNELS
                ),
                call=call(17, video=FRAMES),
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cosmos 2 text to image",
        transformer=cosmos_transformer,
        inputs=inputs,
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cosmos 2 text to image",
                build=partial(cosmos2_pipeline, Cosmos2TextToImagePipeline),
                call=IMAGE_CALL,
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cosmos 2 video to world",
        transformer=partial(cosmos_transformer, channels=MASKED_CHANNELS),
        inputs=partial(inputs, masked=True, times_per_frame=True),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cosmos 2 video to world",
                build=partial(
                    cosmos2_pipeline, Cosmos2VideoToWorldPipeline, channels=MASKED_CHANNELS
                ),
                call=call(9, image=FRAMES[0]),
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cosmos 2.5",
        transformer=partial(cosmos_transformer, channels=MASKED_CHANNELS, project_text=True),
        inputs=partial(
            inputs, masked=True, times_per_frame=True, text_width=TEXT_LAYERS * TEXT_WIDTH
        ),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="cosmos 2.5 predict from text",
                build=cosmos25_pipeline,
                call=call(9),
                guided=GUIDED,
            ),
            TinyPipeline(
                name="cosmos 2.5 predict from video",
                build=cosmos25_pipeline,
                call=call(9, video=FRAMES),
                guided=GUIDED,
            ),
        ),
    ),
    Tiny(
        name="cosmos 2.5 transfer",
        transformer=partial(
            cosmos_transformer, channels=MASKED_CHANNELS, project_text=True, control=True
        ),
        inputs=partial(
            inputs,
            masked=True,
            times_per_frame=True,
            text_width=TEXT_LAYERS * TEXT_WIDTH,
            control=True,
        ),
        perturb=perturb,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(  # the chunks are pixel frames 0 to 4 and 4 to 8
                name="cosmos 2.5 transfer",
                build=transfer_pipeline,
                call=call(9, controls=FRAMES, num_frames_per_chunk=5),
                guided=GUIDED,
                loops=2,
            ),
        ),
    ),
]
