"""ComfyUI's video model classes in miniature: each entry at a steered block against a loop.

Needs COMFYUI_DIR and the Python of its environment, run with --noconftest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
import torch

if not os.environ.get("COMFYUI_DIR"):
    pytest.skip("COMFYUI_DIR is not set: no ComfyUI to run in", allow_module_level=True)

from stas.comfyui.table import MODELS
from tests.comfyui import zoo
from tests.comfyui.test_headless import BOUNDARY, Seen, expected, sample, steered, text

DIMS = (3, 40)
WAN = {
    "image_model": "wan2.1", "dim": 48, "ffn_dim": 32, "num_heads": 4, "num_layers": 4,
    "text_dim": 16, "freq_dim": 16, "in_dim": 16, "out_dim": 16,
}  # fmt: skip
HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16,
    "vec_in_dim": 8, "context_in_dim": 16, "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 4,
    "depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 4, 4], "theta": 256, "qkv_bias": True,
    "guidance_embed": True, "byt5": False, "meanflow": False,
}  # fmt: skip
LATER = {"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
LTX = {
    "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 48, "attention_head_dim": 12,
    "num_attention_heads": 4, "caption_channels": 16, "num_layers": 3,
}  # fmt: skip
KANDINSKY = {
    "image_model": "kandinsky5", "model_dim": 48, "ff_dim": 32, "in_text_dim": 16,
    "in_text_dim2": 8, "time_dim": 16, "num_text_blocks": 1, "num_visual_blocks": 3,
    "axes_dims": (4, 4, 4), "visual_embed_dim": 132,
}  # fmt: skip
LTXAV = LTX | {
    "image_model": "ltxav", "audio_cross_attention_dim": 32, "audio_attention_head_dim": 8,
    "audio_num_attention_heads": 4, "connector_attention_head_dim": 4,
    "connector_num_attention_heads": 4, "connector_num_layers": 1,
}  # fmt: skip
MOCHI = {
    "image_model": "mochi_preview", "depth": 3, "patch_size": 2, "num_heads": 4,
    "hidden_size_x": 48, "hidden_size_y": 24, "mlp_ratio_x": 12288 / 48, "mlp_ratio_y": 2.0,
    "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False, "out_bias": True,
    "patch_embed_bias": True, "timestep_mlp_bias": True, "timestep_scale": 1000.0, "use_t5": True,
    "t5_feat_dim": 16, "t5_token_length": 5,
}  # fmt: skip
MINIMAX = {
    "image_model": "minimax_h3", "hidden_size": 48, "num_layers": 3, "token_refiner_num_layers": 1,
    "num_attention_heads": 4, "attention_head_dim": 12, "ffn_hidden_size": 32, "text_dim": 16,
    "timestep_input_dim": 16, "time_embed_hidden_size": 16, "time_embed_dim": 16,
    "rope_inv_freq_len": 2,
}  # fmt: skip
COSMOS = {
    "image_model": "cosmos", "max_img_h": 16, "max_img_w": 16, "max_frames": 8, "in_channels": 16,
    "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 48,
    "block_config": "FA-CA-MLP", "concat_padding_mask": True, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False, "pos_emb_interpolation": "crop", "block_x_format": "THWBD",
    "affline_emb_norm": True, "use_adaln_lora": True, "adaln_lora_dim": 8, "num_blocks": 3,
    "num_heads": 4, "extra_per_block_abs_pos_emb": True, "crossattn_emb_channels": 16,
    "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
PREDICT2 = {
    "image_model": "cosmos_predict2", "max_img_h": 16, "max_img_w": 16, "max_frames": 8,
    "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
    "model_channels": 48, "concat_padding_mask": True, "crossattn_emb_channels": 16,
    "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 8, "num_blocks": 3,
    "num_heads": 4, "rope_enable_fps_modulation": False,
}  # fmt: skip
COGVIDEOX = {
    "image_model": "cogvideox", "num_attention_heads": 3, "attention_head_dim": 16,
    "time_embed_dim": 16, "num_layers": 3, "in_channels": 16, "text_embed_dim": 16,
    "patch_size": 2, "use_rotary_positional_embeddings": True,
}  # fmt: skip


def whole(hidden):
    """One sample, whose tokens have no batch."""
    return hidden[None]


def batch_last(hidden):
    return hidden.flatten(0, 2).transpose(0, 1)


def grid(hidden):
    return hidden.flatten(1, 3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, how it is sampled, and where the video's tokens lie at one block.

    Args:
        silent: Parts whose weights are zero: what is added to the hidden states between blocks.
    """

    config: str
    unet: dict[str, Any]
    row: str
    block: int = 1
    stack: str = "blocks"
    index: int = 1  # in its stack
    latent: tuple[int, ...] = (1, 16, 3, 8, 8)
    conds: dict[str, Any] = field(default_factory=dict)
    first: int = 0
    frames: int = 3
    sound: tuple[int, ...] | None = None
    tokens: Callable[[torch.Tensor], torch.Tensor] = lambda hidden: hidden
    method: str = "forward"
    silent: tuple[str, ...] = ()


def wan(config, row, kind, **options):
    unet = WAN | {"model_type": kind} | options.pop("unet", {})
    return Case(config=config, row=row, unet=unet, **options)


REFERENCE = {"reference_latents": [torch.ones(1, 16, 1, 8, 8)]}
VACE = {"vace_layers": 2, "vace_in_dim": 96}
POSE = {"pose_video_latent": torch.ones(1, 16, 3, 4, 4)}
IDENTITIES = {"ref_mask_28ch": torch.ones(1, 4, 28, 8, 8)}
ANIMATED = {"pose_video_latent": torch.ones(1, 16, 2, 8, 8)}
DANCE = {"audio_embed": torch.ones(1, 12, 35), "fps": 30}
PHANTOM = {"time_dim_concat": torch.ones(1, 16, 2, 8, 8)}
POOLED = {"pooled_output": torch.ones(1, 8)}
CASES = {
    "text to video": wan("WAN21_T2V", "WanModel", "t2v"),
    "references of Phantom": wan("WAN21_T2V", "WanModel", "t2v", conds=PHANTOM),
    "reference of Fun": wan(
        "WAN21_T2V", "WanModel", "t2v", unet={"in_dim_ref_conv": 16}, conds=REFERENCE, first=16
    ),
    "vace": wan("WAN21_Vace", "VaceWanModel", "vace", unet=VACE),
    "vace with a reference": wan(
        "WAN21_Vace", "VaceWanModel", "vace", unet=VACE, first=16, frames=2,
        conds={
            "vace_frames": [
                torch.cat([torch.ones(1, 32, 1, 8, 8), 2 * torch.ones(1, 32, 2, 8, 8)], dim=2)
            ],
            "vace_mask": [torch.zeros(1, 64, 3, 8, 8)],
        },
    ),
    "camera": wan("WAN21_Camera", "CameraWanModel", "camera"),
    "humo": wan("WAN21_HuMo", "HumoWanModel", "humo", conds=REFERENCE),
    "speech to video": wan(
        "WAN22_S2V", "WanModel_S2V", "s2v", unet={"audio_inject_layers": [0, 2]}, conds=REFERENCE
    ),
    "animate": wan(
        "WAN22_Animate", "AnimateWanModel", "animate", unet={"num_layers": 5}, first=16, frames=2
    ),
    "scail": wan(
        "WAN21_SCAIL", "SCAILWanModel", "scail", unet={"in_dim": 20}, conds=REFERENCE | POSE,
        first=16,
    ),
    "scail 2": wan(
        "WAN21_SCAIL2", "SCAIL2WanModel", "scail2", unet={"in_dim": 20},
        conds={"reference_latents": [torch.ones(1, 16, 1, 8, 8)]} | POSE | IDENTITIES, first=16,
    ),
    "animate 2": wan(
        "WAN_Animate2", "WanAnimate2Model", "animate2", unet={"in_dim": 36}, conds=ANIMATED,
        first=16, frames=2, method="forward_gen",
    ),
    "dancer": wan(
        "WAN22_WanDancer", "WanDancerModel", "wandancer",
        unet={"in_dim": 36, "audio_inject_layers": [0, 3]}, conds=DANCE,
    ),
    "hunyuan, double": Case(
        config="HunyuanVideo", row="HunyuanVideo", unet=HUNYUAN, conds=POOLED, block=0, index=0,
        stack="double_blocks",
    ),
    "hunyuan, single": Case(
        config="HunyuanVideo", row="HunyuanVideo", unet=HUNYUAN, conds=POOLED, block=2, index=0,
        stack="single_blocks", first=5,
    ),
    "ltx": Case(
        config="LTXV", row="LTXVModel", unet=LTX, stack="transformer_blocks",
        latent=(1, 128, 3, 4, 4), conds={"attention_mask": torch.ones(1, 5)},
    ),
    "ltx with sound": Case(
        config="LTXAV", row="LTXAVModel", unet=LTXAV, stack="transformer_blocks",
        latent=(1, 128, 3, 4, 4), sound=(1, 8, 6, 16),
    ),
    "mochi": Case(
        config="GenmoMochi", row="AsymmDiTJoint", unet=MOCHI, latent=(1, 12, 3, 8, 8), index=0,
        block=0, conds={"attention_mask": torch.ones(1, 5, dtype=torch.long)},
    ),
    "minimax": Case(
        config="MiniMaxH3", row="MiniMaxH3Model", unet=MINIMAX, latent=(1, 24, 3, 8, 8),
        sound=(1, 32, 2, 6), first=5 + 2 * 6, tokens=whole,
    ),
    "cosmos": Case(
        config="CosmosT2V", row="GeneralDIT", unet=COSMOS, tokens=batch_last,
        silent=("extra_pos_embedder",),
    ),
    "cosmos predict 2": Case(
        config="CosmosT2IPredict2", row="MiniTrainDIT", unet=PREDICT2, tokens=grid
    ),
    "cogvideox": Case(
        config="CogVideoX_T2V", row="CogVideoXTransformer3DModel", unet=COGVIDEOX
    ),
    "cogvideox 1.5": Case(
        config="CogVideoX_T2V", row="CogVideoXTransformer3DModel",
        unet=COGVIDEOX | {"patch_size_t": 2}, latent=(1, 16, 5, 8, 8),
    ),
    "kandinsky": Case(
        config="Kandinsky5", row="Kandinsky5", unet=KANDINSKY, conds=POOLED,
        stack="visual_transformer_blocks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_entry_is_that_of_the_equation(name):
    case = CASES[name]
    conds, unet = dict(case.conds), dict(case.unet)
    if case.config == "HunyuanVideo":
        from comfy.ldm.hunyuan_video.model import HunyuanVideoParams

        known = {each.name for each in fields(HunyuanVideoParams)}
        unet |= {name: value for name, value in LATER.items() if name in known}
    if name == "vace with a reference":  # as WanVaceToVideo makes it: nothing reactive
        import comfy.latent_formats

        frames = conds["vace_frames"][0].clone()
        zero = comfy.latent_formats.Wan21().process_out(torch.zeros(1, 16, 1, 8, 8))
        frames[:, 16:, :1] = zero
        conds["vace_frames"] = [frames]
    import comfy.supported_models

    if not hasattr(comfy.supported_models, case.config):
        pytest.skip(f"this version of ComfyUI has no {case.config}")
    model = zoo.build(case.config, **unet)
    transformer = model.model.diffusion_model
    assert type(transformer).__name__ == case.row
    for part in case.silent:
        for parameter in getattr(transformer, part).parameters():
            parameter.data.zero_()
    prompt = text(5, 16, **conds)
    options = {"positive": prompt, "negative": prompt, "steps": 2, "sound": case.sound}
    plain = sample(model, case.latent, **options)
    node = steered(model, dims="3, 40", blocks=str(case.block), end_percent=0.5)
    with Seen(model, case.index, case.stack, case.tokens, case.method) as seen:
        assert streams(sample(node, case.latent, **options))[0].isfinite().all()
    assert seen.changed == [True, False]
    wanted = expected(seen.outputs[0], case.first, case.frames, 4, 4, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)
    again = sample(model, case.latent, **options)
    for before, after in zip(streams(plain), streams(again), strict=True):
        assert torch.equal(before, after)


def test_every_row_is_run():
    assert {case.row for case in CASES.values()} | {"CausalWanModel"} == set(MODELS)


def streams(samples):
    """The video, and sound where there is some."""
    return samples.unbind() if samples.is_nested else [samples]


@pytest.fixture
def causal():
    import comfy.supported_models

    if not hasattr(comfy.supported_models, "WAN21_CausalAR_T2V"):
        pytest.skip("this version of ComfyUI has no causal Wan")
    return zoo.build("WAN21_CausalAR_T2V", model_type="t2v", causal_ar=True, **WAN)


def sample_in_chunks(model, frames=2):
    """Four latent frames in chunks, two steps each, and a forward that fills the cache."""
    import comfy.sample
    import comfy.samplers

    latent = torch.zeros(1, 16, 4, 8, 8)
    return comfy.sample.sample_custom(
        model,
        torch.randn(latent.shape, generator=torch.Generator().manual_seed(1)),
        1.0,
        comfy.samplers.ksampler("ar_video", {"num_frame_per_block": frames}),
        torch.tensor([1.0, 0.5, 0.0]),
        text(5, 16),
        text(5, 16),
        latent,
        disable_pbar=True,
        seed=1,
    )


def test_each_chunk_of_a_causal_model_is_a_video(causal):
    plain = sample_in_chunks(causal)
    node = steered(causal, dims="3, 40", blocks="1", end_percent=0.5)
    with Seen(causal, 1) as seen:
        assert not torch.equal(sample_in_chunks(node), plain)
    assert seen.changed == [True, False, False] * 2
    for index in (0, 3):
        wanted = expected(seen.outputs[index], 0, 2, 4, 4, DIMS, 1.5, BOUNDARY)
        assert torch.allclose(seen.inputs[index], wanted, rtol=1e-6, atol=0)
    assert torch.equal(sample_in_chunks(causal), plain)


def test_no_forward_of_a_causal_model_is_made_twice(causal):
    """Each leaves keys and values in a cache, so detection takes the first one as it comes."""
    bias = torch.zeros(48)
    bias[9] = 5000.0
    massive = causal.clone()
    massive.add_patches({"diffusion_model.blocks.1.ffn.2.bias": (bias,)})
    with Seen(causal, 1) as seen:
        sample_in_chunks(steered(massive, dims="auto", blocks="1", end_percent=0.5))
    assert seen.changed == [False, False, False, True, False, False]
