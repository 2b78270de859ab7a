"""Tiny random-weight pipelines of the real diffusers classes, shared by the tests.

Each function builds a new pipeline with fixed weights in well under a second on a CPU. The text
encoder is a two-layer UMT5 and the tokenizer a WordLevel one, so that nothing is downloaded.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config
from transformers import UMT5EncoderModel as UMT5

TEXT_WIDTH = 16
WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "moving", "right")
T5_SIZES = {
    "vocab_size": len(WORDS),
    "d_model": TEXT_WIDTH,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def tiny_wan_transformer(*, num_layers: int = 3, seed: int = 0) -> WanTransformer3DModel:
    """Width 24, patch (1, 2, 2), latents with 4 channels."""
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=num_layers,
        rope_max_seq_len=32,
    ).eval()


def tiny_wan_vae() -> AutoencoderKLWan:
    torch.manual_seed(1)
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def tiny_wan(
    *, num_layers: int = 3, two_experts: bool = False, expand_timesteps: bool = False
) -> WanPipeline:
    """A WanPipeline for 32 x 32 pixels and up; call it with `num_frames=5` (2 latent frames).

    `two_experts` gives the form of Wan2.2 A14B, `expand_timesteps` that of Wan2.2 5B, whose
    timesteps are per token.
    """
    torch.manual_seed(2)
    text_encoder = UMT5(UMT5Config(**T5_SIZES)).eval()
    return WanPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=text_encoder,
        vae=tiny_wan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=tiny_wan_transformer(num_layers=num_layers),
        transformer_2=tiny_wan_transformer(num_layers=num_layers, seed=7) if two_experts else None,
        boundary_ratio=0.875 if two_experts else None,
        expand_timesteps=expand_timesteps,
    )


def tiny_cogvideox(*, num_layers: int = 3, version: str = "1.0") -> CogVideoXPipeline:
    """A CogVideoXPipeline for 32 x 32 pixels; call it with `num_frames=5` (2 latent frames)."""
    torch.manual_seed(3)
    temporal_patch = {"patch_size_t": 2, "patch_bias": False} if version == "1.5" else {}
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH,
        num_layers=num_layers,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        patch_size=2,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
        **temporal_patch,
    ).eval()
    torch.manual_seed(4)
    vae = AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    ).eval()
    torch.manual_seed(5)
    text_encoder = T5EncoderModel(T5Config(**T5_SIZES)).eval()
    return CogVideoXPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(),
    )


def plant_massive_dimension(transformer: torch.nn.Module, dim: int, value: float = 100.0) -> None:
    """Make one hidden dimension huge at every block, through the bias of the patch embedding."""
    embedding = transformer.patch_embed.proj if hasattr(transformer, "patch_embed") else None
    with torch.no_grad():
        (embedding or transformer.patch_embedding).bias[dim] += value


def generate(pipeline, *, steps: int = 5, **arguments):
    """Latents of one small video, with fixed noise."""
    arguments = {
        "prompt": "a red circle moving right",
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "num_inference_steps": steps,
        "output_type": "latent",
        "max_sequence_length": 16,
        "generator": torch.Generator().manual_seed(0),
    } | arguments
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments).frames
