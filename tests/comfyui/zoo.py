"""ComfyUI's own model classes in miniature, random, loaded as its loader loads a checkpoint."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

FOLDER = os.environ.get("COMFYUI_DIR")


def start() -> None:
    """Make ComfyUI importable, on the CPU."""
    if FOLDER not in sys.path:
        sys.path.append(FOLDER)
    from comfy.cli_args import args

    args.cpu = True


def fill(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights: large enough that blocks differ, small enough to stay finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator) * 0.1
        if parameter.ndim == 1 and name.endswith("weight"):
            values += 1
        parameter.data.copy_(values)
    return module


def wan(operations: Any, cls: str = "WanModel", **options: Any) -> torch.nn.Module:
    """A Wan of any kind: four blocks of width 256, head dim 128, as the loader knows them."""
    import comfy.ldm.wan.model as module

    options = {
        "model_type": "t2v", "dim": 256, "ffn_dim": 64, "num_heads": 2, "num_layers": 4,
        "device": "cpu", "dtype": torch.float32, "operations": operations,
    } | options  # fmt: skip
    return fill(getattr(module, cls)(**options))


def load(transformer: torch.nn.Module) -> Any:
    """The ModelPatcher that ComfyUI makes of a checkpoint with these weights."""
    import comfy.sd

    state = {name: value.clone() for name, value in transformer.state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(state)
    assert model is not None, "ComfyUI does not recognise the checkpoint"
    return model


def build(config: str, **unet: Any) -> Any:
    """The ModelPatcher of one of ComfyUI's supported models, as small as its `unet` says."""
    import comfy.model_patcher
    import comfy.supported_models

    made = getattr(comfy.supported_models, config)(dict(unet))
    made.set_inference_dtype(torch.float32, None)
    device = torch.device("cpu")
    model = made.get_model({}, device=device)
    fill(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, device, device)
