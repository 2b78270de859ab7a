"""ComfyUI's video model classes in miniature: each entry at a steered block against a loop.

Needs COMFYUI_DIR and the Python of its environment, run with --noconftest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
import torch

if not os.environ.get("COMFYUI_DIR"):
    pytest.skip("COMFYUI_DIR is not set: no ComfyUI to run in", allow_module_level=True)

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


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, how it is sampled, and where the video's tokens lie at one block."""

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


def wan(config, row, kind, **options):
    unet = WAN | {"model_type": kind} | options.pop("unet", {})
    return Case(config=config, row=row, unet=unet, **options)


REFERENCE = {"reference_latents": [torch.ones(1, 16, 1, 8, 8)]}
VACE = {"vace_layers": 2, "vace_in_dim": 96}
POSE = {"pose_video_latent": torch.ones(1, 16, 3, 4, 4)}
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
    assert type(model.model.diffusion_model).__name__ == case.row
    prompt = text(5, 16, **conds)
    options = {"positive": prompt, "negative": prompt, "steps": 2}
    plain = sample(model, case.latent, **options)
    node = steered(model, dims="3, 40", blocks=str(case.block), end_percent=0.5)
    with Seen(model, case.index, case.stack) as seen:
        assert sample(node, case.latent, **options).isfinite().all()
    assert seen.changed == [True, False]
    wanted = expected(seen.outputs[0], case.first, case.frames, 4, 4, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)
    assert torch.equal(sample(model, case.latent, **options), plain)
