"""What a row says of a transformer class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from stas.method.tokens import Axes, Place, TokenGrid, VideoTokens

Verified = Literal["class", "pipeline", "caches", "compiled"]


Latents = Literal["BCFHW", "BFCHW", "BFHWC", "list CFHW", "packed"]


Guidance = Literal["separate", "batched"]


ContextMeaning = Literal["cond", "uncond", "other"]


class UnsupportedModelError(ValueError):
    """The model is not one that stas can steer; the message says what is and how to add one."""


@dataclass(frozen=True)
class Forward:
    """One forward of a transformer, as the functions of a row see it.

    Args:
        config: The transformer's config.
        inputs: The forward's arguments by name.
        seen: For each pipeline method that the row watches and that was called, its arguments by
            name, and what it returned as "return". Empty for a bare transformer.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    seen: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How one transformer class lays out its blocks and its visual tokens.

    Args:
        transformer: Name of the transformer class.
        pipelines: Names of the pipeline classes that run it, with those that are refused.
        stacks: Attributes that hold the blocks, in forward order.
        interleaved: Whether the stacks take turns, block by block.
        video_output: Position of the visual tokens in a block's output tuple; None when the
            output is the tensor itself.
        axes: For stacks whose blocks return other axes than (B, N, D), their layout.
        latents: How the forward's inputs say the grid: the layout of `hidden_states` (batch,
            channels, frames, height, width; "list CFHW" is a list of samples), or "packed"
            latents (B, N, C) beside `num_frames`, `height` and `width` in latent units.
        grid: For other inputs, a function of the forward: the batch and the grid of tokens.
        place: Where the video's tokens are among those of a block.
        lead_frames: Latent frames of the grid before the video's first that are not of it
            (reference images, an earlier video), or a function of the forward.
        trail_frames: The same after the video's last.
        tile: A function of the forward: rows of the square tiles that order the tokens of a
            latent frame, or None for raster order.
        idle: A function of the forward: whether it is no denoising step and is left alone (it
            fills a cache, say).
        watches: Methods of the pipeline whose arguments those functions read.
        loop_starters: For pipelines that never call their scheduler's `step`, the method that
            begins a loop and returns its timesteps first; each cond forward is then a step.
        counts_early: Pipelines that set their number of timesteps before `set_timesteps`.
        guidance: How classifier-free guidance calls the transformer: "separate" calls, cond
            first, or one "batched" call with the uncond rows first.
        contexts: What cache contexts mean, beside "cond", "uncond", "cond_uncond" and the guiders'
            "pred_cond" and "pred_uncond"; "other" is a forward of another kind of guidance.
        patch_field: Field of the transformer's config that says how many latents make a token.
        width: Fields of the transformer's config whose product is D, the feature width.
        fps: Frames per second that the checkpoints of this class were made for.
        frame_step: The VAE makes videos of 1 + frame_step * n pixel frames; None when that is its
            temporal compression.
        causal: Whether the VAE encodes the first pixel frame alone; else it makes frame_step * n.
        float32: Pipeline components that diffusers says to keep in float32.
        tiled_vae: Whether the VAE decodes only with `enable_tiling`.
        chunked: Pipelines that decode the video part by part, so that no one FrameMap holds for
            all of it.
        needs: What a pipeline needs beside a prompt, by its name, where its signature does not
            say so.
        refusals: What can't be done and why, by "steer", "record" or the name of a pipeline.
        verified: What the tests run: the real class with random weights, a real pipeline, with
            diffusers' caches, compiled.
        note: What a user should know, in a few words.

    Example:
        >>> MODELS["WanTransformer3DModel"].stacks
        ('blocks',)
    """

    transformer: str
    pipelines: tuple[str, ...]
    stacks: tuple[str, ...]
    interleaved: bool = False
    video_output: int | None = None
    axes: Mapping[str, Axes] = field(default_factory=dict)
    latents: Latents = "BCFHW"
    grid: Callable[[Forward], tuple[int, TokenGrid]] | None = None
    place: Place = "all"
    lead_frames: int | Callable[[Forward], int] = 0
    trail_frames: int | Callable[[Forward], int] = 0
    tile: Callable[[Forward], int | None] | None = None
    idle: Callable[[Forward], bool] | None = None
    watches: tuple[str, ...] = ()
    loop_starters: Mapping[str, str] = field(default_factory=dict)
    counts_early: tuple[str, ...] = ()
    guidance: Guidance = "separate"
    contexts: Mapping[str, ContextMeaning] = field(default_factory=dict)
    patch_field: str = "patch_size"
    width: tuple[str, ...] = ("num_attention_heads", "attention_head_dim")
    fps: float = 16
    frame_step: int | None = None
    causal: bool = True
    float32: tuple[str, ...] = ()
    tiled_vae: bool = False
    chunked: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    verified: tuple[Verified, ...] = ()
    note: str = ""

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """The blocks of all stacks, in forward order."""
        return [block for _, block in self._ordered(transformer)]

    def block_axes(self, transformer: nn.Module) -> list[Axes]:
        """The axes of what each block returns, in the order of `blocks`."""
        return [self.axes.get(stack, "BND") for stack, _ in self._ordered(transformer)]

    def _ordered(self, transformer: nn.Module) -> list[tuple[str, nn.Module]]:
        for stack in self.stacks:
            if not hasattr(transformer, stack):
                raise UnsupportedModelError(
                    f"{type(transformer).__name__} has no {stack!r}, where the row of "
                    f"{self.transformer} says that its blocks are."
                )
        stacks = [
            [(stack, block) for block in getattr(transformer, stack)] for stack in self.stacks
        ]
        if self.interleaved:
            return [pair for turn in zip(*stacks, strict=True) for pair in turn]
        return [pair for stack in stacks for pair in stack]

    def feature_width(self, config: Mapping[str, Any]) -> int:
        """D, the width of the hidden states at a block's output."""
        return math.prod(int(self._read(config, name, "width")) for name in self.width)

    def patch(self, config: Mapping[str, Any]) -> tuple[int, int, int]:
        """How many latent frames, rows and columns make one token."""
        size = self._read(config, self.patch_field, "grid")
        if isinstance(size, int):
            return config.get("patch_size_t") or 1, size, size
        frames, rows, columns = size
        return frames, rows, columns

    def _read(self, config: Mapping[str, Any], name: str, argument: str) -> Any:
        if name not in config:
            raise UnsupportedModelError(
                f"The config of {self.transformer} has no {name!r}: say in the {argument} of its "
                "row (stas.ModelSpec) how to do without."
            )
        return config[name]

    def facts(self) -> dict[str, Any]:
        """What the row says, as plain data for tables and JSON.

        Example:
            >>> MODELS["MochiTransformer3DModel"].facts()["tokens"]
            'all of output 0'
        """
        limits = [self.note] if self.note else []
        limits += [f"{name}: {reason}" for name, reason in self.refusals.items()]
        return {
            "transformer": self.transformer,
            "pipelines": list(self.pipelines),
            "verified": list(self.verified),
            "guidance": self.guidance,
            "tokens": self._tokens_text(),
            "fps": self.fps,
            "needs": dict(self.needs),
            "limits": limits,
        }

    def _tokens_text(self) -> str:
        if "record" in self.refusals:
            return "not known"
        text = {"all": "all", "head": "the first", "tail": "the last"}[self.place]
        if self.video_output is not None:
            text += f" of output {self.video_output}"
        if callable(self.lead_frames):
            text += ", without latent frames before the video"
        elif self.lead_frames:
            text += f", without {self.lead_frames} latent frame before the video"
        if callable(self.trail_frames) or self.trail_frames:
            text += ", without latent frames after the video"
        if self.tile is not None:
            text += ", in tiles"
        if folded := [axes for axes in self.axes.values() if axes != "BND"]:
            text += f", as {' and '.join(folded)}"
        return text

    def video_tokens(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        seen: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> VideoTokens | None:
        """Where the video's tokens are in a forward, None when it is no denoising step.

        Args:
            config: The transformer's config.
            inputs: The forward's arguments by name.
            seen: What the watched methods of the pipeline were given; see `Forward`.
        """
        forward = Forward(config, inputs, seen or {})
        if self.idle is not None and self.idle(forward):
            return None
        batch, grid = self._whole_grid(forward)
        lead, trail = (
            frames if isinstance(frames, int) else frames(forward)
            for frames in (self.lead_frames, self.trail_frames)
        )
        return VideoTokens(
            TokenGrid(grid.frames - lead - trail, grid.height, grid.width),
            batch=batch,
            place="head" if trail and self.place == "all" else self.place,
            lead=lead,
            tile=None if self.tile is None else self.tile(forward),
        )

    def _whole_grid(self, forward: Forward) -> tuple[int, TokenGrid]:
        """The batch, and the grid with the frames that are not of the video."""
        if self.grid is not None:
            return self.grid(forward)
        latents = forward.inputs["hidden_states"]
        if self.latents == "packed":
            return latents.shape[0], _stated_grid(forward.inputs)
        if self.latents == "list CFHW":
            batch, shape, layout = len(latents), latents[0].shape, "CFHW"
        else:
            batch, shape, layout = latents.shape[0], latents.shape, self.latents
        patch = self.patch(forward.config)
        frames, height, width = (shape[layout.index(axis)] for axis in "FHW")
        return batch, TokenGrid(-(-frames // patch[0]), height // patch[1], width // patch[2])


def _stated_grid(inputs: Mapping[str, Any]) -> TokenGrid:
    return TokenGrid(*(int(inputs[key]) for key in ("num_frames", "height", "width")))
