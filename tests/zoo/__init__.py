"""Tiny random-weight models of every supported transformer class, one module per family.

Each family module has a list `TINIES`; the tests run over all of them (`tests.zoo.all_tinies`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

Grid = tuple[int, int, int]  # latent frames, rows and columns of visual tokens of the video


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """One way to run one transformer class.

    Args:
        name: Unique, for the test's name: "wan vace", "ltx with condition tokens".
        transformer: Builds the model in eval mode with fixed weights, in well under a second.
        inputs: Called with (grid, batch): keyword arguments of one forward, from fixed seeds; the
            same samples whatever the batch (sample i is alike in a batch of 1 and of 2).
        perturb: Called with (inputs, frame, row, column): the same inputs with the latents behind
            that one visual token of the video changed, and nothing else.
        grids: Several grids of the video's tokens, one with a single frame if the class can.
        pipelines: Ways to run it in a real pipeline.
        lead: Latent frames that the inputs have before the video's first.
        batches: Whether it takes more than one sample.
    """

    name: str
    transformer: Callable[[], nn.Module]
    inputs: Callable[[Grid, int], dict[str, Any]]
    perturb: Callable[[dict[str, Any], int, int, int], dict[str, Any]]
    grids: tuple[Grid, ...]
    pipelines: tuple[TinyPipeline, ...] = ()
    lead: int = 0
    batches: bool = True


@dataclass(frozen=True, kw_only=True)
class TinyPipeline:
    """One real pipeline class with tiny parts, and how to call it.

    Args:
        name: Unique, for the test's name.
        build: Makes the pipeline in about a second at most.
        call: Arguments for the smallest sensible video (no generator, no number of steps), with
            `output_type="latent"` where the pipeline knows it.
        guided: Arguments that switch classifier-free guidance on, and those that switch it off;
            None for a pipeline without one of these.
        loops: Denoising loops in one call (chunks, segments).
        steps: Denoising steps of a loop for `num_inference_steps=n`.
    """

    name: str
    build: Callable[[], Any]
    call: Mapping[str, Any]
    guided: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]
    loops: int = 1
    steps: Callable[[int], int] = field(default=lambda n: n)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal, the first rows alike whatever the batch: each sample has its own seed."""
    rows = [
        torch.randn(shape[1:], generator=torch.Generator().manual_seed(1000 * seed + row))
        for row in range(shape[0])
    ]
    return torch.stack(rows)


FAMILIES = (
    "allegro",
    "anyflow",
    "cogvideox",
    "cosmos",
    "cosmos3",
    "easyanimate",
    "helios",
    "hunyuan",
    "images",
    "kandinsky",
    "latte",
    "ltx",
    "ltx2",
    "minimax",
    "mochi",
    "motif",
    "sana",
    "skyreels",
    "wan",
)


def all_tinies() -> dict[str, Tiny]:
    """All tiny models by name."""
    modules = [importlib.import_module(f"tests.zoo.{family}") for family in FAMILIES]
    return {tiny.name: tiny for module in modules for tiny in module.TINIES}
