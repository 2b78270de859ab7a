"""HunyuanVideo, SkyReels' image to video on it, FramePack and HunyuanVideo 1.5."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from tests.tiny import T5_SIZES, TEXT_WIDTH, tiny_tokenizer
from tests.zoo import Grid, Tiny, TinyPipeline, noise
from tests.zoo.shared_parts import (
    VISION,
    change_patch,
    clip_vision_config,
    fill_zeros,
    llama_config,
    qwen_text_config,
    tiny_clip_text,
    tiny_hunyuan_vae,
    tiny_image,
    tiny_llama,
)

LATENTS = 4  # channels of the VAE's latents
PROMPT = "a red circle moving right"
SIZES: dict[str, Any] = {
    "out_channels": LATENTS,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT_WIDTH,
    "rope_axes_dim": (4, 4, 4),
}
PATCH = (1, 2, 2)
IMAGE_TOKENS = (VISION["image_size"] // VISION["patch_size"]) ** 2


def _transformer(*, in_channels: int = LATENTS, condition: str | None = None):
    """Width 24, patch (1, 2, 2), two blocks of each kind."""
    torch.manual_seed(0)
    return fill_zeros(
        HunyuanVideoTransformer3DModel(
            in_channels=in_channels,
            num_single_layers=2,
            pooled_projection_dim=TEXT_WIDTH,
            image_condition_type=condition,
            guidance_embeds=condition is None,
            **SIZES,
        )
    )


def _framepack_transformer() -> HunyuanVideoFramepackTransformer3DModel:
    torch.manual_seed(0)
    return fill_zeros(
        HunyuanVideoFramepackTransformer3DModel(
            in_channels=LATENTS,
            num_single_layers=2,
            pooled_projection_dim=TEXT_WIDTH,
            has_image_proj=True,
            image_proj_dim=TEXT_WIDTH,
            has_clean_x_embedder=True,
            **SIZES,
        )
    )


def _transformer_15(task_type: str = "t2v") -> HunyuanVideo15Transformer3DModel:
    """Width 24, patch 1."""
    torch.manual_seed(0)
    return fill_zeros(
        HunyuanVideo15Transformer3DModel(
            in_channels=2 * LATENTS + 1,
            text_embed_2_dim=TEXT_WIDTH,
            image_embed_dim=TEXT_WIDTH,
            target_size=48,
            task_type=task_type,
            **SIZES,
        )
    )


def _inputs(grid: Grid, batch: int, *, channels: int = LATENTS, guidance: bool = True):
    frames, rows, columns = grid
    inputs = {
        "hidden_states": noise(batch, channels, frames, 2 * rows, 2 * columns),
        "timestep": torch.full((batch,), 700.0),
        "encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=1),
        "encoder_attention_mask": torch.ones(batch, 6),
        "pooled_projections": noise(batch, TEXT_WIDTH, seed=2),
    }
    return inputs | ({"guidance": torch.full((batch,), 6000.0)} if guidance else {})


def _framepack_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """With a history of 1 + 1, 2 and 16 latent frames, which the blocks see before the video."""
    frames, rows, columns = grid
    prefix, ones, twos, fours, video = torch.arange(20 + frames).split([1, 1, 2, 16, frames])
    size = (2 * rows, 2 * columns)
    return _inputs(grid, batch) | {
        "image_embeds": noise(batch, IMAGE_TOKENS, TEXT_WIDTH, seed=3),
        "indices_latents": video,
        "latents_clean": noise(batch, LATENTS, 2, *size, seed=4),
        "indices_latents_clean": torch.cat([prefix, ones]),
        "latents_history_2x": noise(batch, LATENTS, 2, *size, seed=5),
        "indices_latents_history_2x": twos,
        "latents_history_4x": noise(batch, LATENTS, 16, *size, seed=6),
        "indices_latents_history_4x": fours,
    }


def _concat_inputs(grid: Grid, batch: int) -> dict[str, Any]:
    """With the frame of the image, which is dropped from the video, before the video's."""
    whole = (grid[0] + 1, *grid[1:])
    return _inputs(whole, batch, channels=2 * LATENTS + 1, guidance=False)


def _inputs_15(grid: Grid, batch: int, *, image: bool = False) -> dict[str, Any]:
    image_embeds = noise(batch, IMAGE_TOKENS, TEXT_WIDTH, seed=4)
    return {
        "hidden_states": noise(batch, 2 * LATENTS + 1, *grid),
        "timestep": torch.full((batch,), 700.0),
        "encoder_hidden_states": noise(batch, 6, TEXT_WIDTH, seed=1),
        "encoder_attention_mask": torch.ones(batch, 6),
        "encoder_hidden_states_2": noise(batch, 3, TEXT_WIDTH, seed=2),
        "encoder_attention_mask_2": torch.ones(batch, 3),
        "image_embeds": image_embeds if image else torch.zeros_like(image_embeds),
    }


def _perturb(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    return change_patch(inputs, PATCH, frame, row, column)


def _perturb_15(inputs: dict[str, Any], frame: int, row: int, column: int) -> dict[str, Any]:
    return change_patch(inputs, (1, 1, 1), frame, row, column)


def _vae_15() -> AutoencoderKLHunyuanVideo15:
    torch.manual_seed(1)
    return AutoencoderKLHunyuanVideo15(
        latent_channels=LATENTS, block_out_channels=(16,) * 5, layers_per_block=1
    ).eval()


def _parts(transformer) -> dict[str, Any]:
    return {
        "tokenizer": tiny_tokenizer(),
        "text_encoder": tiny_llama(),
        "tokenizer_2": tiny_tokenizer(),
        "text_encoder_2": tiny_clip_text(),
        "transformer": transformer,
        "vae": tiny_hunyuan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def _text_to_video() -> HunyuanVideoPipeline:
    return HunyuanVideoPipeline(**_parts(_transformer()))


def _skyreels() -> HunyuanSkyreelsImageToVideoPipeline:
    return HunyuanSkyreelsImageToVideoPipeline(**_parts(_transformer(in_channels=2 * LATENTS)))


def _image_to_video(condition: str) -> HunyuanVideoImageToVideoPipeline:
    channels = LATENTS if condition == "token_replace" else 2 * LATENTS + 1
    parts = _parts(_transformer(in_channels=channels, condition=condition))
    parts["tokenizer"].add_tokens(["<image>", "<|end_header_id|>"])
    torch.manual_seed(8)
    parts["text_encoder"] = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=clip_vision_config(),
            text_config=llama_config(),
            image_token_index=parts["tokenizer"].convert_tokens_to_ids("<image>"),
            pad_token_id=0,
        )
    ).eval()
    side = {"height": VISION["image_size"], "width": VISION["image_size"]}
    processor = CLIPImageProcessorPil(size={"shortest_edge": side["height"]}, crop_size=side)
    return HunyuanVideoImageToVideoPipeline(image_processor=processor, **parts)


def _siglip() -> dict[str, Any]:
    torch.manual_seed(9)
    side = {"height": VISION["image_size"], "width": VISION["image_size"]}
    return {
        "image_encoder": SiglipVisionModel(SiglipVisionConfig(**VISION)).eval(),
        "feature_extractor": SiglipImageProcessorPil(size=side),
    }


def _framepack() -> HunyuanVideoFramepackPipeline:
    return HunyuanVideoFramepackPipeline(**_parts(_framepack_transformer()), **_siglip())


def _tokenizer_15() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return tokenizer


def _pipeline_15(*, image: bool = False):
    torch.manual_seed(8)
    text_encoder = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**qwen_text_config())).eval()
    tokenizer_2 = ByT5Tokenizer()
    cls = HunyuanVideo15ImageToVideoPipeline if image else HunyuanVideo15Pipeline
    pipeline = cls(
        tokenizer=_tokenizer_15(),
        text_encoder=text_encoder,
        tokenizer_2=tokenizer_2,
        text_encoder_2=T5EncoderModel(T5Config(**T5_SIZES | {"vocab_size": len(tokenizer_2)})),
        transformer=_transformer_15("i2v" if image else "t2v"),
        vae=_vae_15(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
        **(_siglip() if image else {}),
    )
    # What the real checkpoints' 1000 tokens of text and 729 of an image cost isn't worth it here.
    pipeline.tokenizer_max_length = pipeline.tokenizer_2_max_length = 16
    pipeline.prompt_template_encode_start_idx = 4
    pipeline.vision_num_semantic_tokens = IMAGE_TOKENS
    return pipeline


def _unguided_15(**arguments: Any):
    pipeline = _pipeline_15(**arguments)
    pipeline.guider = ClassifierFreeGuidance(enabled=False)
    return pipeline


CALL: dict[str, Any] = {
    "prompt": PROMPT,
    "prompt_template": {"template": "{}", "crop_start": 0},
    "height": 32,
    "width": 48,
    "num_frames": 9,
    "max_sequence_length": 16,
    "output_type": "latent",
}
IMAGE_CALL = CALL | {"image": tiny_image(32, 48)}
IMAGE_TEMPLATE = {
    "template": "<|end_header_id|> <image> <|end_header_id|> {} a a a <|end_header_id|> a",
    "crop_start": 3,
    "image_emb_len": IMAGE_TOKENS,
    "image_emb_start": 1,
    "image_emb_end": 1 + IMAGE_TOKENS,
}
CALL_15 = {"prompt": 'a red "circle"', "num_frames": 9, "output_type": "latent"}
# True guidance needs a negative prompt; guidance_scale is embedded and says nothing about it.
GUIDED = {"negative_prompt": "a blue square", "true_cfg_scale": 3.0, "guidance_scale": 1.0}
UNGUIDED = {"true_cfg_scale": 1.0, "guidance_scale": 6.0}
GRIDS = ((1, 3, 4), (2, 4, 3), (3, 3, 5), (4, 2, 4))


def _pipeline(name: str, build: Callable[[], Any], call: dict[str, Any], **fields: Any):
    return TinyPipeline(name=name, build=build, call=call, guided=(GUIDED, UNGUIDED), **fields)


TINIES = [
    Tiny(
        name="hunyuan video",
        transformer=_transformer,
        inputs=_inputs,
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(_pipeline("hunyuan video t2v", _text_to_video, CALL),),
    ),
    Tiny(
        name="hunyuan video skyreels",
        transformer=partial(_transformer, in_channels=2 * LATENTS),
        inputs=partial(_inputs, channels=2 * LATENTS),
        perturb=_perturb,
        grids=GRIDS[1:2],
        pipelines=(_pipeline("hunyuan skyreels i2v", _skyreels, IMAGE_CALL),),
    ),
    Tiny(
        name="hunyuan video latent_concat",
        transformer=partial(_transformer, in_channels=2 * LATENTS + 1, condition="latent_concat"),
        inputs=_concat_inputs,
        perturb=lambda inputs, frame, row, column: _perturb(inputs, frame + 1, row, column),
        grids=GRIDS[1:2],
        lead=1,
        pipelines=(
            _pipeline(
                "hunyuan video i2v latent_concat",
                partial(_image_to_video, "latent_concat"),
                IMAGE_CALL | {"prompt_template": IMAGE_TEMPLATE},
            ),
        ),
    ),
    Tiny(
        name="hunyuan video token_replace",
        transformer=partial(_transformer, condition="token_replace"),
        inputs=partial(_inputs, guidance=False),
        perturb=_perturb,
        grids=GRIDS,
        pipelines=(
            _pipeline(
                "hunyuan video i2v token_replace",
                partial(_image_to_video, "token_replace"),
                IMAGE_CALL | {"prompt_template": IMAGE_TEMPLATE},
            ),
        ),
    ),
    Tiny(
        name="hunyuan video framepack",
        transformer=_framepack_transformer,
        inputs=_framepack_inputs,
        perturb=_perturb,
        grids=GRIDS,
        pipelines=tuple(
            _pipeline(
                f"hunyuan video framepack {sampling}",
                _framepack,
                IMAGE_CALL | {"num_frames": 17, "latent_window_size": 3, "sampling_type": sampling},
                loops=2,
            )
            for sampling in ("inverted_anti_drifting", "vanilla")
        ),
    ),
    Tiny(
        name="hunyuan video 1.5",
        transformer=_transformer_15,
        inputs=_inputs_15,
        perturb=_perturb_15,
        grids=GRIDS,
        pipelines=(
            TinyPipeline(
                name="hunyuan video 1.5 t2v",
                build=_pipeline_15,
                call=CALL_15 | {"height": 48, "width": 64},
                guided=({}, None),
            ),
            TinyPipeline(
                name="hunyuan video 1.5 t2v unguided",
                build=_unguided_15,
                call=CALL_15 | {"height": 48, "width": 64},
                guided=(None, {}),
            ),
        ),
    ),
    Tiny(
        name="hunyuan video 1.5 with an image",
        transformer=partial(_transformer_15, "i2v"),
        inputs=partial(_inputs_15, image=True),
        perturb=_perturb_15,
        grids=GRIDS[1:2],
        pipelines=(
            TinyPipeline(
                name="hunyuan video 1.5 i2v",
                build=partial(_pipeline_15, image=True),
                call=CALL_15 | {"image": tiny_image(32, 80)},
                guided=({}, None),
            ),
            TinyPipeline(
                name="hunyuan video 1.5 i2v unguided",
                build=partial(_unguided_15, image=True),
                call=CALL_15 | {"image": tiny_image(32, 80)},
                guided=(None, {}),
            ),
        ),
    ),
]
