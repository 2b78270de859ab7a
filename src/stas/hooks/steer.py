"""Steering: one call that attaches to a pipeline or a transformer, and what its hooks do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from stas.activations.profiles import find_profile
from stas.hooks.handle import Handle
from stas.hooks.loop import Loop, OwnLoop, PipelineLoop
from stas.hooks.registry import BlockHook, is_hooked
from stas.hooks.targets import (
    block_numbers,
    check_dims,
    find_transformers,
    follow,
    pipeline_of,
    refuse_a_second,
    source_of,
    token_group,
)
from stas.hooks.transformer import TransformerHooks, config_of, is_cached, outside_graphs
from stas.method.config import Branch, STASConfig
from stas.method.shards import TokenGroup
from stas.method.steerer import Branches, DimsOrigin, SteeredDims, SteeredForward, Steerer
from stas.method.tokens import VideoTokens
from stas.models.spec import ModelSpec

SteeringT = TypeVar("SteeringT", bound="TransformerSteering")


class TransformerSteering(TransformerHooks[SteeredForward]):
    """Steers one transformer while attached: what a handle holds per component."""

    hook_name: ClassVar[str] = "stas"
    verb = "steer"

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        spec: ModelSpec,
        block_numbers: Sequence[int],
        loop: Loop,
        config: STASConfig,
        dims: SteeredDims,
        group: TokenGroup | None = None,
    ) -> None:
        super().__init__(name, transformer, spec, block_numbers, loop, group)
        self.steerer = Steerer(config, dims, loop.clock, name, self.axes)
        self.handle: Any = None  # the SteeringHandle, for stas.find_handle

    def prepare(self, video: VideoTokens, branches: Branches, run: Callable[[], Any]) -> None:
        """Look for the dimensions in a forward of its own where the window has no step to spare."""
        steerer = self.steerer
        if not steerer.wants_a_look(video, branches):
            return
        if is_cached(self.transformer):
            steerer.warn(
                f"{self.name}: the window has {steerer.steps_text}, and the first forward in it is "
                "read for massive dimensions and not steered. Name dimensions with dims=."
            )
            return
        forward = steerer.look(video, self.split)
        with self.reading(forward, video.batch), torch.no_grad():
            run()
        how = "on an extra forward, as the window has few steps"
        steerer.detect(self.found(), how=how, split=self.split)

    def begin(
        self, video: VideoTokens, branches: Branches, device: torch.device
    ) -> SteeredForward | None:
        """Decide whether this forward is steered, where, and in which rows of the batch."""
        return self.steerer.begin(video, branches, device, self.split)

    def act(
        self,
        forward: SteeredForward,
        hook: BlockHook,
        tokens: torch.Tensor,
        present: slice | None,
        part: range | None,
    ) -> torch.Tensor | None:
        """Steer the tokens in place, or read their magnitudes."""
        if forward.rows is not None and present == slice(0, 0):
            raise RuntimeError(
                f"Only the {self.steerer.config.branches[0]} branch is to be steered, but the "
                f"batch of {self.name} is split inside its forward, and which rows run is not "
                "known. Steer both branches."
            )
        return self.steerer.act(forward, tokens, hook.axes, present, part)

    def end(self, forward: SteeredForward, found: list[torch.Tensor | None]) -> bool:
        """Count the forward, and decide what it showed."""
        if not forward.reads:
            self.steerer.steered_forwards += 1
            return True
        return self._decide(forward, found)

    @outside_graphs
    def _decide(self, forward: SteeredForward, found: list[torch.Tensor | None]) -> bool:
        cached = is_cached(self.transformer)
        if self.steerer.end(forward, found, whole=cached):
            return True
        # Made again once, with what is massive here: unless a cache has kept what it gave.
        if cached or torch.compiler.is_compiling():
            self.steerer.detect(found, whole=cached, split=forward.split)
            return True
        return False

    def skipped(self, forward: SteeredForward) -> None:
        """Nothing was steered; say so where dimensions were to be read."""
        if forward.dims is None:
            self.steerer.detect(self.found(), split=forward.split)

    def leave_alone(self) -> None:
        """Say once that another pipeline's forwards are not steered."""
        if isinstance(self.loop, PipelineLoop):
            for stranger in self.loop.strangers:
                self.steerer.warn(
                    f"A {stranger} runs the {self.name} that is steered for a "
                    f"{type(self.loop.pipeline).__name__}: what it makes is not steered. To steer "
                    "it, call handle.remove() and stas.steer with that pipeline."
                )


class SteeringHandle(Handle):
    """What undoes a `steer`; also a context manager that does so at its end.

    Made by `steer` and not by hand.
    """

    def __init__(self, config: STASConfig, steerings: Mapping[str, TransformerSteering]) -> None:
        super().__init__(steerings)
        self.config = config
        self._steerings = dict(steerings)
        self.known = self.dims  # before the first forward: given, of a profile, or None
        for steering in steerings.values():
            steering.handle = self

    @property
    def dims(self) -> dict[str, tuple[int, ...] | None]:
        """The steered dimensions of each transformer; None until they are detected."""
        return {name: each.steerer.dims.numbers for name, each in self._steerings.items()}

    @property
    def origins(self) -> dict[str, DimsOrigin]:
        """Whether the dimensions of each transformer were given, of a profile, or detected."""
        return {name: each.steerer.dims.origin for name, each in self._steerings.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Where the dimensions of each transformer come from, in words."""
        return {name: each.steerer.dims.source for name, each in self._steerings.items()}

    @property
    def steered_forwards(self) -> dict[str, int]:
        """How many forwards of each transformer were steered so far: in which blocks were."""
        return {name: each.steerer.steered_forwards for name, each in self._steerings.items()}

    @property
    def where(self) -> dict[str, str]:
        """Of each transformer, its class and how many of its blocks are steered, in words."""
        return {
            name: f"{name} ({each.spec.transformer}): {_blocks_text(each)}"
            for name, each in self._steerings.items()
        }

    def state(self, step: int, steps: int) -> str:
        """What happens at a step, from 0: "detecting", "steered", "plain", at last "decoding"."""
        if step >= steps:
            return "decoding"
        if not self.config.window.contains(step, steps):
            return "plain"
        if None in self.dims.values():
            return "detecting"
        return "steered" if any(self.dims.values()) else "plain"

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
            dims = steering.steerer.dims
            lines.append(f"{self.where[name]}, dims {_dims_text(dims.numbers)}: {dims.source}")
        if not self._attached:
            lines.append("removed: nothing is steered any more")
        return "\n".join(lines)

    def __repr__(self) -> str:
        parts = [f"op {self.config.op}, scale {self.config.scale:g}, {self._steps_text()}"]
        for name, steering in self._steerings.items():
            dims = _dims_text(steering.steerer.dims.numbers)
            parts.append(f"{name}: {_blocks_text(steering)}, dims {dims}")
        return f"SteeringHandle({'; '.join(parts)}{'' if self._attached else '; removed'})"

    def _steps_text(self) -> str:
        window = f"steps {self.config.start:g} <= i/N < {self.config.stop:g}"
        if isinstance(self._loop, OwnLoop) and self._loop.clock.num_steps is None:
            return f"every forward until set_step says where the loop is, then {window}"
        return window


def _blocks_text(steering: TransformerSteering) -> str:
    return f"{len(steering.blocks)} of {steering.num_blocks} blocks"


def _dims_text(dims: tuple[int, ...] | None) -> str:
    if dims is None:
        return "not known yet"
    return ", ".join(map(str, dims)) if dims else "none"


def steer(
    target: Any,
    config: STASConfig | None = None,
    *,
    group: Any = None,
    branch: Branch | None = None,
    **overrides: Any,
) -> SteeringHandle:
    """Steer the massive activations of a video pipeline or transformer (STAS, arXiv 2603.17825).

    Each supported transformer of a pipeline is steered, both experts of Wan2.2 A14B in one
    schedule. No weight changes and no extra forward pass is made; the step and the branch of
    classifier-free guidance are followed without a device sync. Everything that can fail is
    checked before the first hook goes on.

    Without `dims` and a profile, the first forward in the window is read and its step is not
    steered; the dimensions that it shows are kept for the life of the handle. None is ever
    guessed: when no dimension is massive, a warning says so and nothing is steered.

    Args:
        target: A diffusers pipeline, what `stas.load_pipeline` returned, or a bare transformer for
            people with their own loop: that has no schedule, so every forward is steered until
            `SteeringHandle.set_step` says where the loop is.
        config: How to steer; when left out what the checkpoint's profile says, where a tune was
            kept in it, else the defaults of STASConfig.
        group: The processes that share each video's tokens, a `torch.distributed.ProcessGroup`,
            where another package than diffusers splits them (xDiT, ParaAttention). diffusers' own
            context parallelism is found by itself.
        branch: The branch of guidance of all forwards of this process, where the branches are
            given to one process each (CFG parallelism).
        **overrides: Fields of STASConfig that replace those of `config`.

    Returns:
        A handle. Use it as a context manager or call `remove`: after that the output is
        bit-identical to that of a pipeline that was never steered.

    Raises:
        UnsupportedModelError: No transformer of the target is known to stas.
        RuntimeError: The transformer is steered already.
        ValueError: A config field is out of range, for the field or for this model; or `branch` is
            given, and no dimensions are known: processes apart could detect others.
        TypeError: `target`, `group` or a field has the wrong type.

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
    _check_config(config, overrides)
    target = pipeline_of(target)
    transformers = find_transformers(target, "steer")
    config = replace(config or _tuned(transformers), **overrides)
    loop = follow(target, transformers, config.window, branch)
    shared = token_group(group)
    handle = SteeringHandle(
        config,
        {
            name: plan(TransformerSteering, name, transformer, spec, config, loop, shared)
            for name, (transformer, spec) in transformers.items()
        },
    )
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
    for transformer, spec in find_transformers(pipeline_of(target), "steer").values():
        for block in spec.blocks(transformer):
            if is_hooked(block, TransformerSteering.hook_name):
                registry: Any = block._diffusers_hook
                handle: SteeringHandle = registry.hooks[TransformerSteering.hook_name].owner.handle
                return handle
    return None


def _check_config(config: object, overrides: Mapping[str, Any]) -> None:
    if config is not None and not isinstance(config, STASConfig):
        raise TypeError(f"config must be a stas.STASConfig, but got {type(config).__name__}.")
    known = [each.name for each in fields(STASConfig)]
    if unknown := sorted(set(overrides) - set(known)):
        raise TypeError(
            f"steer has no option {', '.join(map(repr, unknown))}. Options: {', '.join(known)}."
        )


def _tuned(transformers: Mapping[str, tuple[nn.Module, ModelSpec]]) -> STASConfig:
    """How the checkpoint's profile says to steer it: of its transformers the first that has one."""
    for transformer, spec in transformers.values():
        profile = find_profile(source_of(transformer), spec.transformer, config_of(transformer))
        if profile is not None:
            return profile.tuned
    return STASConfig()


def plan(
    kind: type[SteeringT],
    name: str,
    transformer: nn.Module,
    spec: ModelSpec,
    config: STASConfig,
    loop: Loop,
    group: TokenGroup | None = None,
) -> SteeringT:
    """Check everything about one transformer and prepare its steering, attaching nothing."""
    blocks = spec.blocks(transformer)
    refuse_a_second(name, spec, blocks, kind)
    dims = _find_dims(transformer, spec, config)
    if dims.numbers is None and loop.branch is not None:
        raise ValueError(
            f"No dimensions of {name} are known, and processes that have one branch of guidance "
            "each could detect others. Name them with dims=: a stas.steer or stas profile on one "
            "process says which."
        )
    check_dims(dims.numbers or (), spec.feature_width(config_of(transformer)), name, spec)
    numbers = block_numbers(config, len(blocks), name)
    return kind(name, transformer, spec, numbers, loop, config, dims, group)


def _find_dims(transformer: nn.Module, spec: ModelSpec, config: STASConfig) -> SteeredDims:
    """The dimensions that are given, else those of the checkpoint's profile, else none yet."""
    if config.dims is not None:
        return SteeredDims(numbers=config.dims, origin="given", source="given")
    profile = find_profile(source_of(transformer), spec.transformer, config_of(transformer))
    if profile is None:
        source = "to be detected on the first forward"
        return SteeredDims(numbers=None, origin="detected", source=source)
    return SteeredDims(numbers=profile.dims, origin="profile", source=profile.describe())
