"""Steering one transformer: what happens at its blocks, forward by forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from stas.activations.profiles import find_profile
from stas.hooks.handle import Handle
from stas.hooks.loop import LoopListener
from stas.hooks.registry import is_hooked
from stas.hooks.targets import (
    _block_numbers,
    _check_dims,
    _find_transformers,
    _follow,
    _loaded_from,
    _refuse_a_second,
)
from stas.hooks.transformer import TransformerHooks, config_of, outside_graphs
from stas.method.config import STASConfig
from stas.method.detection import MassiveActivations, massive_from_magnitudes
from stas.method.operators import steer_tokens_
from stas.method.tokens import Axes, VideoTokens
from stas.method.window import StepClock
from stas.models.spec import ModelSpec


class SteeringHandle(Handle):
    """What undoes a `steer`; also a context manager that does so at its end.

    Made by `steer` and not by hand.
    """

    def __init__(
        self,
        config: STASConfig,
        steerings: Mapping[str, TransformerSteering],
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        super().__init__(steerings, clock, listener)
        self.config = config
        self._steerings = dict(steerings)
        for steering in steerings.values():
            steering.handle = self

    @property
    def dims(self) -> dict[str, tuple[int, ...] | None]:
        """The steered dimensions of each transformer; None until they are detected."""
        return {name: steering.dims for name, steering in self._steerings.items()}

    @property
    def origins(self) -> dict[str, DimsOrigin]:
        """Whether the dimensions of each transformer were given, of a profile, or detected."""
        return {name: steering.origin for name, steering in self._steerings.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Where the dimensions of each transformer come from, in words."""
        return {name: steering.source for name, steering in self._steerings.items()}

    @property
    def steered_forwards(self) -> dict[str, int]:
        """How many forwards of each transformer were steered so far."""
        return {name: steering.steered_forwards for name, steering in self._steerings.items()}

    def summary(self) -> str:
        """What is steered, where, when, and where the dimensions come from, in a few lines."""
        config = self.config
        strength = f"scale {config.scale:g}"
        if config.op == "max":
            strength += f", reference {config.reference}"
        lines = [
            f"op {config.op} ({strength}) at {' + '.join(config.regions)} tokens "
            f"(boundary {config.boundary:g}), {self._steps_text()}, "
            f"branches {' + '.join(config.branches)}"
        ]
        for name, steering in self._steerings.items():
            lines.append(
                f"{name} ({steering.spec.transformer}): {_blocks_text(steering)}, "
                f"dims {_dims_text(steering.dims)}: {steering.source}"
            )
        if not self._attached:
            lines.append("removed: nothing is steered any more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        parts = [f"op {self.config.op}, scale {self.config.scale:g}, {self._steps_text()}"]
        for name, steering in self._steerings.items():
            parts.append(f"{name}: {_blocks_text(steering)}, dims {_dims_text(steering.dims)}")
        return f"SteeringHandle({'; '.join(parts)}{'' if self._attached else '; removed'})"

    def _steps_text(self) -> str:
        window = f"steps {self.config.start:g} <= i/N < {self.config.stop:g}"
        if self._listener is None and self._clock.num_steps is None:
            return f"every forward until set_step says where the loop is, then {window}"
        return window


def _blocks_text(steering: TransformerSteering) -> str:
    of = len(steering.spec.blocks(steering.transformer))
    return f"{len(steering.blocks)} of {of} blocks"


def _dims_text(dims: tuple[int, ...] | None) -> str:
    if dims is None:
        return "not known yet"
    return ", ".join(map(str, dims)) if dims else "none"


def steer(target: Any, config: STASConfig | None = None, **overrides: Any) -> SteeringHandle:
    """Steer the massive activations of a video pipeline or transformer (STAS, arXiv 2603.17825).

    Each supported transformer of a pipeline is steered, both experts of Wan2.2 A14B in one
    schedule. No weight changes and no extra forward pass is made; the step and the branch of
    classifier-free guidance are followed without a device sync. Everything that can fail is
    checked before the first hook goes on.

    Without `dims` and a profile, the first forward in the window is read and its step is not
    steered; the dimensions that it shows are kept for the life of the handle. None is ever
    guessed: when no dimension is massive, a warning says so and nothing is steered.

    Args:
        target: A diffusers pipeline, or a bare transformer for people with their own loop: that
            has no schedule, so every forward is steered until `SteeringHandle.set_step` says
            where the loop is.
        config: How to steer; the defaults of STASConfig when left out.
        **overrides: Fields of STASConfig that replace those of `config`.

    Returns:
        A handle. Use it as a context manager or call `remove`: after that the output is
        bit-identical to that of a pipeline that was never steered.

    Raises:
        UnsupportedModelError: No transformer of the target is known to stas.
        RuntimeError: The transformer is steered already.
        ValueError: A config field is out of range, for the field or for this model.
        TypeError: `target` or a field has the wrong type.

    Example:
        >>> from diffusers import WanTransformer3DModel
        >>> transformer = WanTransformer3DModel(
        ...     num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        ...     text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2
        ... )
        >>> with steer(transformer, dims=(3,), blocks="all") as handle:
        ...     handle.dims
        {'transformer': (3,)}
    """
    config = _resolve_config(config, overrides)
    transformers = _find_transformers(target, "steer")
    clock, listener = _follow(target, transformers, config.window)
    steerings = {
        name: _plan(target, name, transformer, spec, config, clock, listener)
        for name, (transformer, spec) in transformers.items()
    }
    handle = SteeringHandle(config, steerings, clock, listener)
    handle._attach()
    return handle


def find_handle(target: Any) -> SteeringHandle | None:
    """The handle that steers a pipeline or transformer, for when yours is lost.

    Args:
        target: What `steer` takes. It need not be what was given to `steer`: a transformer leads
            to the handle of its pipeline, and a pipeline to that of one of its transformers.

    Returns:
        The handle, the first one when the transformers of a pipeline have one each; None when
        nothing is steered.

    Raises:
        UnsupportedModelError: No transformer of the target is known to stas.
        TypeError: `target` is a class.

    Example:
        >>> from diffusers import WanTransformer3DModel
        >>> transformer = WanTransformer3DModel(
        ...     num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        ...     text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2
        ... )
        >>> _ = steer(transformer, dims=(3,))
        >>> find_handle(transformer).remove()
        >>> find_handle(transformer) is None
        True
    """
    for transformer, spec in _find_transformers(target, "steer").values():
        for block in spec.blocks(transformer):
            if is_hooked(block, TransformerSteering.hook_name):
                registry: Any = block._diffusers_hook
                handle: SteeringHandle = registry.hooks[TransformerSteering.hook_name].owner.handle
                return handle
    return None


def _resolve_config(config: STASConfig | None, overrides: Mapping[str, Any]) -> STASConfig:
    if config is not None and not isinstance(config, STASConfig):
        raise TypeError(f"config must be a stas.STASConfig, but got {type(config).__name__}.")
    base = config or STASConfig()
    if unknown := sorted(set(overrides) - set(base.to_dict())):
        raise TypeError(
            f"steer has no option {', '.join(map(repr, unknown))}. Options: "
            f"{', '.join(base.to_dict())}."
        )
    return replace(base, **overrides)


def _plan(
    target: Any,
    name: str,
    transformer: nn.Module,
    spec: ModelSpec,
    config: STASConfig,
    clock: StepClock,
    listener: LoopListener | None,
) -> TransformerSteering:
    """Check everything about one transformer and prepare its steering, attaching nothing."""
    blocks = spec.blocks(transformer)
    _refuse_a_second(name, spec, blocks, TransformerSteering)
    model_config = config_of(transformer)
    block_numbers = _block_numbers(config, len(blocks), name)
    dims, source = config.dims, "given"
    origin: DimsOrigin = "given"
    if dims is None:
        profile = find_profile(_loaded_from(target, transformer), spec.transformer, model_config)
        if profile is not None:
            dims, origin, source = profile.dims, "profile", profile.describe()
        else:
            origin, source = "detected", "to be detected on the first forward"
    _check_dims(dims or (), spec.feature_width(model_config), name, spec)
    return TransformerSteering(
        name=name,
        transformer=transformer,
        spec=spec,
        config=config,
        block_numbers=block_numbers,
        dims=dims,
        origin=origin,
        source=source,
        clock=clock,
        listener=listener,
    )


NO_ROWS = slice(0, 0)


DimsOrigin = Literal["given", "profile", "detected"]


class TransformerSteering(TransformerHooks):
    """Steers one transformer while attached: what a handle holds per component."""

    hook_name: ClassVar[str] = "stas"
    verb = "steer"

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        spec: ModelSpec,
        config: STASConfig,
        block_numbers: Sequence[int],
        dims: tuple[int, ...] | None,
        origin: DimsOrigin,
        source: str,
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        super().__init__(name, transformer, spec, block_numbers, clock, listener)
        self.config = config
        self.dims = dims
        self.origin = origin
        self.source = source  # the origin in words
        self.rows: slice | None = None  # of the batch; None for all of them
        self.tokens: dict[Axes, torch.Tensor] = {}  # masks, true where steered
        self.magnitudes: list[torch.Tensor] = []  # (D,) a block: mean |h| over samples and tokens
        self.steered_forwards = 0
        self.handle: Any = None  # the SteeringHandle, for stas.find_handle
        self._masked: tuple[VideoTokens, torch.device] | None = None

    def begin(self, device: torch.device) -> bool:
        """Decide whether this forward is steered, where, and in which rows of the batch."""
        rows = self._steered_rows()
        if self.clock.never:
            self.warn(f"No step is steered: {self.clock.never}")
        if not self.clock.active or rows == NO_ROWS or self.dims == ():
            return False
        self.rows = rows
        self._find_tokens(device)
        grid = self.video.grid
        if grid.count(self.config.regions, self.config.boundary) == 0:
            self.warn(
                f"No token is steered: {' + '.join(self.config.regions)} (boundary "
                f"{self.config.boundary:g}) has no token in {grid}."
            )
            return False
        if self.dims is None:
            self.magnitudes = []
        else:
            self.steered_forwards += 1
        return True

    def _find_tokens(self, device: torch.device) -> None:
        # dynamo can't compare grids; a graph makes its own masks.
        if not torch.compiler.is_compiling() and self._masked == (self.video, device):
            return
        with torch.inference_mode(False):  # it is kept, and autograd may want it later
            mask = self.video.grid.mask(self.config.regions, self.config.boundary, device)
            self.tokens = {
                axes: self.video.arrange(mask, axes) for axes in {hook.axes for hook in self._hooks}
            }
        self._masked = (self.video, device)

    def _steered_rows(self) -> slice | None:
        """The rows of the batch that are steered, NO_ROWS, or None for all."""
        if len(self.config.branches) == 2:
            return None
        wanted, present = self.config.branches[0], self.branch_rows()
        if present:
            return next((rows for branch, rows in present if branch == wanted), NO_ROWS)
        who = "a bare transformer" if self.listener is None else "this pipeline"
        name = "cond_uncond" if self.spec.guidance == "batched" else "cond"
        raise RuntimeError(
            f"Only the {wanted} branch is to be steered, but {who} does not say which branch a "
            "forward belongs to. Steer both branches, or steer the bare transformer and tell the "
            f'branch by handle.set_step(i, n, branch="{name}") before each forward.'
        )

    def act(self, index: int, tokens: torch.Tensor, axes: Axes) -> None:
        """Steer the tokens in place as the config says, or read their magnitudes."""
        config, dims = self.config, self.dims
        if dims is None:
            over = tuple(range(tokens.ndim - 1))
            total = torch.linalg.vector_norm(tokens.detach(), ord=1, dim=over, dtype=torch.float32)
            self.magnitudes.append(total / tokens[..., 0].numel())
            return
        if tokens.shape[0] < self.video.batch:  # FasterCache leaves the uncond rows out
            if "cond" not in config.branches:
                return
        elif self.rows is not None:
            tokens = tokens[self.rows]
        mask = self.tokens[axes]
        if mask.device != tokens.device:  # blocks of one model on several devices
            mask = mask.to(tokens.device)
        steer_tokens_(
            tokens, mask, dims, op=config.op, scale=config.scale, reference=config.reference
        )

    def end(self) -> None:
        """After the forward that was read, decide."""
        if self.dims is None:
            self._decide()

    @outside_graphs
    def _decide(self) -> None:
        """Keep the dimensions that the forward showed; the rest of its step is not steered.

        So both branches of guidance are alike in every step.
        """
        read, blocks = len(self.magnitudes), len(self.blocks)
        if read == 0 or (read < blocks and getattr(self.transformer, "is_cache_enabled", False)):
            self.warn(
                f"{self.name}: nothing is steered yet: {blocks - read} of the {blocks} blocks to "
                "read were skipped, as caches do. The next forward is looked at."
            )
            return
        found = massive_from_magnitudes(self.magnitudes)
        if not found.strongest:
            self.warn(
                f"{self.name}: nothing is steered yet: the hidden states of the first forward were "
                "not finite, so no massive dimension could be detected. The next one is looked at."
            )
            return
        self.dims = found.dims
        self.source = _detection_text(found)
        self.clock.rest()
        if not found.dims:
            self.warn(f"{self.name}: {self.source}")


def _detection_text(found: MassiveActivations) -> str:
    if found.dims:
        return f"detected on the first forward: {found.describe()}"
    return (
        f"nothing is steered: no dimension reaches {found.threshold:g} times the mean magnitude "
        f"on the first forward. Strongest: {found.describe()}. Name dimensions with dims= to steer "
        "them all the same."
    )
