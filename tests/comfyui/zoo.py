"""ComfyUI's own model classes in miniature, random, loaded as its loader loads a checkpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

FOLDER = os.environ.get("COMFYUI_DIR")


def start() -> None:
    """Make ComfyUI importable, on the CPU."""
    if FOLDER not in sys.path:
        sys.path.append(FOLDER)
    from comfy.cli_args import args

    args.cpu = True


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A model of one class and how it is sampled.

    Args:
        row: The class.
        make: Makes the transformer from ComfyUI's operations.
        latent: Of the video, (B, C, F, H, W).
        patch: Of the transformer.
        width: Of the text's embeddings.
        conds: More of a prompt's conditions.
        before: Tokens at block 0 before the video's, after those of text.
        after: Tokens after them.
        frames: Of the latent that are the video's: how many at the head are not, and at the tail.
        blocks: Numbers of blocks to steer one by one; the next block must run right after.
    """

    row: str
    make: Callable[[Any], torch.nn.Module]
    latent: tuple[int, ...]
    patch: tuple[int, int, int] = (1, 2, 2)
    width: int = 4096
    conds: Mapping[str, Any] = field(default_factory=dict)
    before: int = 0
    after: int = 0
    frames: tuple[int, int] = (0, 0)
    blocks: tuple[int, ...] = (0,)
    text_first: tuple[int, ...] = ()  # blocks whose output begins with text


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
