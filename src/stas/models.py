"""What steering must know about each transformer: one row of data per class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from stas.tokens import Axes, Place, TokenGrid, VideoTokens


class UnsupportedModelError(ValueError):
    """The model is not one that stas can steer; the message says what is and how to add one."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How one transformer class lays out its blocks and its visual tokens.

    Args:
        transformer: Name of the transformer class.
        pipelines: Names of the pipeline classes that run it.
        stacks: Attributes that hold the blocks, in forward order.
        video_output: Position of the visual tokens in a block's output tuple; None when the
            output is the tensor itself.
        axes: For stacks whose blocks return other axes than (B, N, D), their layout.
        latents: How the forward's inputs say the grid: the layout of `hidden_states` (batch,
            channels, frames, height, width), or "packed" latents (B, N, C) beside `num_frames`,
            `height` and `width` in latent units.
        place: Where the video's tokens are among those of a block.
        lead_frames: Latent frames before the video's first that are not of it.
        guidance: How classifier-free guidance calls the transformer: "separate" calls, cond
            first, or one "batched" call with the uncond rows first.
        contexts: Names of cache contexts that mean a branch, beside "cond", "uncond" and
            "cond_uncond" themselves.
        width: Fields of the transformer's config whose product is D, the feature width.
        fps: Frames per second that the checkpoints of this class were made for.
        frame_step: The VAE makes videos of 1 + frame_step * n pixel frames; None when that is its
            temporal compression.
        float32: Pipeline components that diffusers says to keep in float32.
        note: What a user should know, in a few words.

    Example:
        >>> MODELS["WanTransformer3DModel"].stacks
        ('blocks',)
    """

    transformer: str
    pipelines: tuple[str, ...]
    stacks: tuple[str, ...]
    video_output: int | None = None
    axes: Mapping[str, Axes] = field(default_factory=dict)
    latents: Literal["BCFHW", "BFCHW", "BFHWC", "packed"] = "BCFHW"
    place: Place = "all"
    lead_frames: int = 0
    guidance: Literal["separate", "batched"] = "separate"
    contexts: Mapping[str, Literal["cond", "uncond"]] = field(default_factory=dict)
    width: tuple[str, ...] = ("num_attention_heads", "attention_head_dim")
    fps: int = 16
    frame_step: int | None = None
    float32: tuple[str, ...] = ()
    note: str = ""

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """The blocks of all stacks, in forward order."""
        return [block for stack in self.stacks for block in getattr(transformer, stack)]

    def block_axes(self, transformer: nn.Module) -> list[Axes]:
        """The axes of what each block returns, in the order of `blocks`."""
        return [
            self.axes.get(stack, "BND")
            for stack in self.stacks
            for _ in getattr(transformer, stack)
        ]

    def feature_width(self, config: Mapping[str, Any]) -> int:
        """D, the width of the hidden states at a block's output."""
        return math.prod(int(config[name]) for name in self.width)

    def patch(self, config: Mapping[str, Any]) -> tuple[int, int, int]:
        """How many latent frames, rows and columns make one token."""
        size = config["patch_size"]
        if isinstance(size, int):
            return config.get("patch_size_t") or 1, size, size
        frames, rows, columns = size
        return frames, rows, columns

    def video_tokens(self, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> VideoTokens:
        """Where the video's tokens are, given the transformer's config and a forward's inputs."""
        latents = inputs["hidden_states"]
        if self.latents == "packed":
            frames, height, width = (int(inputs[key]) for key in ("num_frames", "height", "width"))
            grid = (frames, height, width)
        else:
            patch = self.patch(config)
            frames, height, width = (latents.shape[self.latents.index(axis)] for axis in "FHW")
            grid = (-(-frames // patch[0]), height // patch[1], width // patch[2])
        return VideoTokens(
            TokenGrid(grid[0] - self.lead_frames, grid[1], grid[2]),
            batch=latents.shape[0],
            place=self.place,
            lead=self.lead_frames,
        )


MODELS: dict[str, ModelSpec] = {
    spec.transformer: spec
    for spec in (
        ModelSpec(
            transformer="WanTransformer3DModel",
            pipelines=("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline"),
            stacks=("blocks",),
            float32=("vae",),
            note="Wan2.1 and Wan2.2; both experts of Wan2.2 A14B share one schedule",
        ),
        ModelSpec(
            transformer="CogVideoXTransformer3DModel",
            pipelines=(
                "CogVideoXPipeline",
                "CogVideoXImageToVideoPipeline",
                "CogVideoXVideoToVideoPipeline",
            ),
            stacks=("transformer_blocks",),
            video_output=0,
            latents="BFCHW",
            guidance="batched",
            fps=8,
            frame_step=8,  # an even number of latent frames decodes to 4 * n pixel frames
            note="1.0 and 1.5",
        ),
    )
}


def register_model(spec: ModelSpec) -> None:
    """Add a transformer class, so that `steer` takes pipelines that use it.

    Args:
        spec: The row; its `transformer` is the class's name.

    Raises:
        ValueError: A row for that class exists.

    Example:
        >>> register_model(ModelSpec(
        ...     transformer="MyVideoTransformer", pipelines=("MyPipeline",), stacks=("blocks",)
        ... ))
        >>> del MODELS["MyVideoTransformer"]
    """
    if spec.transformer in MODELS:
        raise ValueError(
            f"{spec.transformer} is registered already. To replace its row, delete "
            f"stas.models.MODELS[{spec.transformer!r}] first."
        )
    MODELS[spec.transformer] = spec


def find_spec(transformer: object) -> ModelSpec | None:
    """The row for a transformer's class or the nearest of its base classes."""
    for cls in type(transformer).__mro__:
        if cls.__name__ in MODELS:
            return MODELS[cls.__name__]
    return None


def supported_text() -> str:
    """What is supported and how to add more, for error messages."""
    return (
        f"Supported video transformers: {', '.join(sorted(MODELS))}. For another class, describe "
        "it with stas.register_model(stas.ModelSpec(...)). Image models have a single frame and "
        "are not steered."
    )
