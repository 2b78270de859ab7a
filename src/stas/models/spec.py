"""What a row says of a transformer class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from stas.method.config import ROW_BRANCHES, RowBranch
from stas.method.tokens import Axes, Place, TokenGrid, VideoTokens

Verified = Literal["class", "pipeline", "caches", "compiled"]
Latents = Literal["BCFHW", "BFCHW", "BFHWC", "list CFHW", "packed"]
Guidance = Literal["separate", "batched"]


class UnsupportedModelError(ValueError):
    """The model is not one that stas can steer; the message says what is and how to add one."""


@dataclass(frozen=True)
class Forward:
    """One forward of a transformer, as the functions of a row see it.

    Args:
        config: The transformer's config.
        inputs: The forward's arguments by name.
        seen: For each pipeline method that the row watches and that was called, what the row keeps
            of its arguments. Empty for a bare transformer.
        memory: What a function wants to find again in the next forward of this transformer.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    seen: Mapping[str, Any] = field(default_factory=dict)
    memory: MutableMapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TokenSpec:
    """Where the blocks of a transformer class are, and the video's tokens in what they return.

    Args:
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
        patch_field: Field of the transformer's config that says how many latents make a token.
        width: Fields of the transformer's config whose product is D, the feature width.

    Raises:
        TypeError, ValueError: A field is not of its kind, or says what no row can say.
    """

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
    patch_field: str = "patch_size"
    width: tuple[str, ...] = ("num_attention_heads", "attention_head_dim")

    def __post_init__(self) -> None:
        _expect_names(self, "stacks", "width")
        _expect_type(self, bool, "True or False", "interleaved")
        _expect_type(self, int | None, "an integer or None", "video_output")
        _expect_type(self, Mapping, "a mapping", "axes")
        _expect_type(self, str, "text", "patch_field")
        _expect_functions(self, "grid", "tile")
        for name in ("lead_frames", "trail_frames"):
            if not callable(getattr(self, name)):
                _expect_type(self, int, "an integer or a function", name)
                _expect_least(self, 0, name)
        for name in ("stacks", "width"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty.")
        _expect_least(self, 0, "video_output")
        _expect_known("latents", [self.latents], get_args(Latents))
        _expect_known("place", [self.place], get_args(Place))
        _expect_known("axes", self.axes.values(), get_args(Axes))
        _expect_known("the keys of axes", self.axes, self.stacks)


@dataclass(frozen=True, kw_only=True)
class LoopSpec:
    """How the pipelines of a transformer class call it.

    Args:
        idle: A function of the forward: whether it is no denoising step and is left alone (it
            fills a cache, say).
        watches: Methods of the pipeline that say what a forward does not, each with a function of
            its arguments by name and what it returned as "return": what is kept, in numbers.
        starters: For pipelines that never call their scheduler's `step`, the method that
            begins a loop and returns its timesteps first; each cond forward is then a step.
        counts_early: Pipelines that set their number of timesteps before `set_timesteps`, and maybe
            over all their loops: that of the scheduler holds.
        guidance: How classifier-free guidance calls the transformer: "separate" calls, cond
            first, or one "batched" call with the uncond rows first.
        contexts: What cache contexts mean, beside "cond", "uncond", "cond_uncond" and the guiders'
            "pred_cond" and "pred_uncond"; "other" is a forward of another kind of guidance.

    Raises:
        TypeError, ValueError: A field is not of its kind, or says what no row can say.
    """

    idle: Callable[[Forward], bool] | None = None
    watches: Mapping[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    starters: Mapping[str, str] = field(default_factory=dict)
    counts_early: tuple[str, ...] = ()
    guidance: Guidance = "separate"
    contexts: Mapping[str, RowBranch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect_names(self, "counts_early")
        _expect_functions(self, "idle")
        _expect_type(self, Mapping, "a mapping", "watches", "starters", "contexts")
        for name, function in self.watches.items():
            if not callable(function):
                raise TypeError(f"watches: {name} needs a function, but got {function!r}.")
        _expect_known("guidance", [self.guidance], get_args(Guidance))
        _expect_known("contexts", self.contexts.values(), ROW_BRANCHES)


@dataclass(frozen=True, kw_only=True)
class LoadingSpec:
    """How the pipelines of a transformer class are loaded, and what they make.

    Args:
        fps: Frames per second that the checkpoints of this class were made for.
        frame_step: The VAE makes videos of 1 + frame_step * n pixel frames; None when that is its
            temporal compression.
        causal: Whether the VAE encodes the first pixel frame alone; else it makes frame_step * n.
        float32: Pipeline components that diffusers says to keep in float32.
        tiled_vae: Whether the VAE decodes only with `enable_tiling`.
        chunked: Pipelines that decode the video part by part, so that no one FrameMap holds for
            all of it.
        batched: Pipelines that make several prompts in one call as they make each alone. Others
            refuse that, or make other videos of it.
        needs: What a pipeline needs beside a prompt, by its name, where its signature does not
            say so.

    Raises:
        TypeError, ValueError: A field is not of its kind, or says what no row can say.
    """

    fps: float = 16
    frame_step: int | None = None
    causal: bool = True
    float32: tuple[str, ...] = ()
    tiled_vae: bool = False
    chunked: tuple[str, ...] = ()
    batched: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect_type(self, int | float, "a number", "fps")
        _expect_type(self, int | None, "an integer or None", "frame_step")
        _expect_type(self, bool, "True or False", "causal", "tiled_vae")
        _expect_names(self, "float32", "chunked", "batched")
        _expect_type(self, Mapping, "a mapping", "needs")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be a finite number above 0, but got {self.fps}.")
        _expect_least(self, 1, "frame_step")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How one transformer class lays out its blocks and its visual tokens.

    Args:
        transformer: Name of the transformer class.
        pipelines: Names of the pipeline classes that run it, with those that are refused.
        tokens: Where the blocks and the video's tokens are.
        loop: How pipelines call the transformer.
        loading: How pipelines are loaded, and what they make.
        refusals: What can't be done and why, by "steer", "record" or the name of a pipeline.
        verified: What the tests run: the real class with random weights, a real pipeline, with
            diffusers' caches, compiled.
        note: What a user should know, in a few words.

    Raises:
        TypeError, ValueError: A field is not of its kind, or says what no row can say.

    Example:
        >>> row = ModelSpec(
        ...     transformer="MyVideoTransformer",
        ...     pipelines=("MyPipeline",),
        ...     tokens=TokenSpec(stacks=("blocks",)),
        ... )
        >>> row.facts()["tokens"]
        'all'
    """

    transformer: str
    pipelines: tuple[str, ...]
    tokens: TokenSpec
    loop: LoopSpec = field(default_factory=LoopSpec)
    loading: LoadingSpec = field(default_factory=LoadingSpec)
    refusals: Mapping[str, str] = field(default_factory=dict)
    verified: tuple[Verified, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        _expect_type(self, str, "the name of a class", "transformer")
        if not self.transformer:
            raise ValueError("transformer must not be empty.")
        _expect_names(self, "pipelines", "verified")
        _expect_type(self, TokenSpec, "a stas.TokenSpec", "tokens")
        _expect_type(self, LoopSpec, "a stas.LoopSpec", "loop")
        _expect_type(self, LoadingSpec, "a stas.LoadingSpec", "loading")
        _expect_type(self, Mapping, "a mapping", "refusals")
        _expect_type(self, str, "text", "note")
        _expect_known("verified", self.verified, get_args(Verified))
        _expect_known("the keys of refusals", self.refusals, ("steer", "record", *self.pipelines))
        _expect_known("the keys of needs", self.loading.needs, self.pipelines)
        _expect_known("the keys of starters", self.loop.starters, self.pipelines)
        _expect_known("counts_early", self.loop.counts_early, self.pipelines)
        _expect_known("chunked", self.loading.chunked, self.pipelines)

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """The blocks of all stacks, in forward order."""
        return [block for _, block in self._ordered(transformer)]

    def block_axes(self, transformer: nn.Module) -> list[Axes]:
        """The axes of what each block returns, in the order of `blocks`."""
        return [self.tokens.axes.get(stack, "BND") for stack, _ in self._ordered(transformer)]

    def _ordered(self, transformer: nn.Module) -> list[tuple[str, nn.Module]]:
        for stack in self.tokens.stacks:
            if not hasattr(transformer, stack):
                raise UnsupportedModelError(
                    f"{type(transformer).__name__} has no {stack!r}, where the row of "
                    f"{self.transformer} says that its blocks are."
                )
        stacks = [
            [(stack, block) for block in getattr(transformer, stack)]
            for stack in self.tokens.stacks
        ]
        if self.tokens.interleaved:
            return [pair for turn in zip(*stacks, strict=True) for pair in turn]
        return [pair for stack in stacks for pair in stack]

    def feature_width(self, config: Mapping[str, Any]) -> int:
        """D, the width of the hidden states at a block's output."""
        return math.prod(int(self._read(config, name, "width")) for name in self.tokens.width)

    def patch(self, config: Mapping[str, Any]) -> tuple[int, int, int]:
        """How many latent frames, rows and columns make one token."""
        size = self._read(config, self.tokens.patch_field, "grid")
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
        """What the row says, as plain data for tables and JSON."""
        limits = [self.note] if self.note else []
        limits += [f"{name}: {reason}" for name, reason in self.refusals.items()]
        return {
            "transformer": self.transformer,
            "pipelines": list(self.pipelines),
            "verified": list(self.verified),
            "guidance": self.loop.guidance,
            "tokens": self._tokens_text(),
            "fps": self.loading.fps,
            "needs": dict(self.loading.needs),
            "limits": limits,
        }

    def _tokens_text(self) -> str:
        if "record" in self.refusals:
            return "not known"
        text = {"all": "all", "head": "the first", "tail": "the last"}[self.tokens.place]
        if self.tokens.video_output is not None:
            text += f" of output {self.tokens.video_output}"
        if callable(self.tokens.lead_frames):
            text += ", without latent frames before the video"
        elif self.tokens.lead_frames:
            text += f", without {self.tokens.lead_frames} latent frame before the video"
        if callable(self.tokens.trail_frames) or self.tokens.trail_frames:
            text += ", without latent frames after the video"
        if self.tokens.tile is not None:
            text += ", in tiles"
        if folded := [axes for axes in self.tokens.axes.values() if axes != "BND"]:
            text += f", as {' and '.join(folded)}"
        return text

    def video_tokens(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, Any],
        seen: Mapping[str, Any] | None = None,
        memory: MutableMapping[str, Any] | None = None,
    ) -> VideoTokens | None:
        """Where the video's tokens are in a forward, None when it is no denoising step.

        Args:
            config: The transformer's config.
            inputs: The forward's arguments by name.
            seen: What is kept of the pipeline's watched methods; see `Forward`.
            memory: Of this transformer; see `Forward`.
        """
        forward = Forward(config, inputs, seen or {}, {} if memory is None else memory)
        if self.loop.idle is not None and self.loop.idle(forward):
            return None
        batch, grid = self._whole_grid(forward)
        lead, trail = (
            frames if isinstance(frames, int) else frames(forward)
            for frames in (self.tokens.lead_frames, self.tokens.trail_frames)
        )
        return VideoTokens(
            TokenGrid(grid.frames - lead - trail, grid.height, grid.width),
            batch=batch,
            place="head" if trail and self.tokens.place == "all" else self.tokens.place,
            lead=lead,
            tile=None if self.tokens.tile is None else self.tokens.tile(forward),
        )

    def _whole_grid(self, forward: Forward) -> tuple[int, TokenGrid]:
        """The batch, and the grid with the frames that are not of the video."""
        if self.tokens.grid is not None:
            return self.tokens.grid(forward)
        latents = forward.inputs["hidden_states"]
        if self.tokens.latents == "packed":
            return latents.shape[0], stated_grid(forward.inputs)
        if self.tokens.latents == "list CFHW":
            batch, shape, layout = len(latents), latents[0].shape, "CFHW"
        else:
            batch, shape, layout = latents.shape[0], latents.shape, self.tokens.latents
        patch = self.patch(forward.config)
        frames, height, width = (shape[layout.index(axis)] for axis in "FHW")
        return batch, TokenGrid(-(-frames // patch[0]), height // patch[1], width // patch[2])


def stated_grid(inputs: Mapping[str, Any]) -> TokenGrid:
    """The grid that a forward's arguments say in so many words."""
    return TokenGrid(*(int(inputs[key]) for key in ("num_frames", "height", "width")))


def _expect_type(row: object, wanted: Any, text: str, *names: str) -> None:
    for name in names:
        value = getattr(row, name)
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise TypeError(f"{name} must be {text}, but got {value!r}.")


def _expect_names(row: object, *names: str) -> None:
    _expect_type(row, tuple, "a tuple of names", *names)
    for name in names:
        for entry in getattr(row, name):
            if not isinstance(entry, str):
                raise TypeError(f"{name} must hold names, but got {entry!r}.")


def _expect_functions(row: object, *names: str) -> None:
    for name in names:
        value = getattr(row, name)
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function of the forward, but got {value!r}.")


def _expect_least(row: object, least: int, name: str) -> None:
    value = getattr(row, name)
    if value is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, but got {value}.")


def _expect_known(name: str, values: Iterable[object], known: Iterable[str]) -> None:
    for value in values:
        if value not in tuple(known):
            raise ValueError(f"{name}: expected one of {', '.join(known)}, but got {value!r}.")
