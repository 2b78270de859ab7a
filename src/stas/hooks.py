"""Attaching to models and schedulers: the only file that touches diffusers' hook system.

Blocks are steered from diffusers' HookRegistry, as the innermost hook: under the caches
(FirstBlockCache and others), which skip a block's own forward, a skipped block is then not
steered a second time. Everything else is read from outside the blocks, where torch.compile does
not look: the grid of tokens by a forward pre-hook on the transformer, the denoising step by
listening to the scheduler, the branch of classifier-free guidance by diffusers' cache context.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from stas.config import STASConfig
from stas.massive import MassiveActivations, massive_from_magnitudes
from stas.models import ModelSpec
from stas.schedule import StepClock
from stas.steering import steer_
from stas.tokens import TokenGrid

HOOK_NAME = "stas"
DimsOrigin = Literal["given", "profile", "detected"]


class TransformerSteering:
    """Steers one transformer while attached: what a handle holds per component."""

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        spec: ModelSpec,
        config: STASConfig,
        blocks: list[nn.Module],
        dims: tuple[int, ...] | None,
        origin: DimsOrigin,
        source: str,
        clock: StepClock,
        listener: ScheduleListener | None,
    ) -> None:
        self.name = name
        self.transformer = transformer
        self.spec = spec
        self.config = config
        self.blocks = blocks
        self.dims = dims
        self.origin = origin
        self.source = source  # the origin in words
        self.clock = clock
        self.listener = listener  # None for a bare transformer
        self.branch: str | None = None  # as the cache context or set_step says
        self.grid: TokenGrid | None = None
        self.rows: slice | None = None  # the rows of the batch that this forward steers
        self._magnitudes: list[torch.Tensor] = []
        self._parameters = list(inspect.signature(type(transformer).forward).parameters)[1:]
        self._pre_hook: torch.utils.hooks.RemovableHandle | None = None

    def attach(self) -> None:
        """Put the hooks on; nothing is left attached when that fails."""
        try:
            for block in self.blocks:
                _attach_innermost(block, _BlockHook(self))
            self._pre_hook = self.transformer.register_forward_pre_hook(
                self._enter, prepend=True, with_kwargs=True
            )
        except BaseException:
            self.detach()
            raise
        _forget_known_registries(self.transformer)

    def detach(self) -> None:
        """Take the hooks off again; the model is as it was."""
        if self._pre_hook is not None:
            self._pre_hook.remove()
            self._pre_hook = None
        for block in self.blocks:
            _detach(block)
        _forget_known_registries(self.transformer)

    def __reduce__(self) -> NoReturn:
        # diffusers' hooks bind the module they were put on: a copy would run on its weights.
        raise RuntimeError(
            "A steered model can't be copied or pickled: the copy would run on the weights of the "
            "original. Call handle.remove() first, then steer the copy."
        )

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.listener is not None:
            self.listener.follow()
        inputs = dict(zip(self._parameters, args, strict=False)) | kwargs
        latents = inputs["hidden_states"]
        config: Mapping[str, Any] = self.transformer.config  # type: ignore[assignment]
        self.grid = self.spec.token_grid(config, latents.shape)
        self.rows = self._steered_rows(latents.shape[0])
        self.clock.calls += 1
        self._magnitudes.clear()

    def _steered_rows(self, batch: int) -> slice | None:
        if len(self.config.branches) == 2:
            return slice(None)
        wanted = self.config.branches[0]
        guided = None if self.listener is None else self.listener.guided
        if guided is False:
            return slice(None) if wanted == "cond" else None
        branch = self.branch
        if self.spec.guidance == "batched" and guided and branch in (None, "cond_uncond"):
            half = batch // 2
            return slice(half, batch) if wanted == "cond" else slice(0, half)
        if branch is None and guided:
            branch = "uncond" if self.clock.calls else "cond"
        if branch not in ("cond", "uncond"):
            raise RuntimeError(
                f"Only the {wanted} branch is to be steered, but a bare transformer does not say "
                "which branch a forward belongs to: tell it by handle.set_step(i, n, "
                'branch="cond") before each forward, or steer both branches.'
            )
        return slice(None) if branch == wanted else None

    def steer_block(self, block: nn.Module, output: Any) -> None:
        """Steer a block's output in place, if this forward is to be steered."""
        if not self.clock.active or self.rows is None or self.grid is None:
            return
        position = self.spec.video_output
        tokens = output if position is None else output[position]
        if self.dims is None:
            self._detect(block, tokens)
        if self.dims:
            config = self.config
            steer_(
                tokens[self.rows],
                self.grid,
                self.dims,
                op=config.op,
                regions=config.regions,
                boundary=config.boundary,
                scale=config.scale,
                reference=config.reference,
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _detect(self, block: nn.Module, tokens: torch.Tensor) -> None:
        """Collect a block's magnitudes; at the last steered block, decide and keep the result."""
        total = torch.linalg.vector_norm(tokens.detach(), ord=1, dim=(0, 1), dtype=torch.float32)
        self._magnitudes.append(total / (tokens.shape[0] * tokens.shape[1]))
        if block is not self.blocks[-1]:
            return
        found = massive_from_magnitudes(self._magnitudes)
        self._magnitudes.clear()
        self.dims = found.dims
        self.source = _detection_text(found)
        if not found.dims:
            warnings.warn(f"{self.name}: {self.source}", stacklevel=1)


def _detection_text(found: MassiveActivations) -> str:
    if not found.strongest:
        return (
            "nothing is steered: the hidden states of the first steered forward were not finite, "
            "so no massive dimension could be detected."
        )
    if found.dims:
        return f"detected on the first steered forward: {found.describe()}"
    return (
        f"nothing is steered: no dimension reaches {found.threshold:g} times the mean magnitude "
        f"on the first steered forward. Strongest: {found.describe()}. Name dimensions with dims= "
        "to steer them all the same."
    )


class _BranchReader(StateManager):  # type: ignore[misc]
    """Receives diffusers' cache context, which names the branch of a denoising call."""

    def __init__(self, steering: TransformerSteering) -> None:
        self._steering = steering

    def set_context(self, context: Any) -> None:
        self._steering.branch = None if context is None else context.name


class _BlockHook(ModelHook):  # type: ignore[misc]
    """Steers what a block returns."""

    _is_stateful = True

    def __init__(self, steering: TransformerSteering) -> None:
        super().__init__()
        self.steering = steering
        self.branch_reader = _BranchReader(steering)
        self.wrapper: Callable[..., Any] | None = None

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self.steering.steer_block(module, output)
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


def is_steered(block: nn.Module) -> bool:
    """Whether a steering hook sits on the block."""
    registry = getattr(block, "_diffusers_hook", None)
    return registry is not None and HOOK_NAME in registry.hooks


def _inner_slot(reference: Any) -> str:
    """Where a hook keeps the forward that it wraps."""
    return "forward" if reference.original_forward is None else "original_forward"


def _attach_innermost(block: nn.Module, hook: _BlockHook) -> None:
    """Register the hook beneath every hook that the block's registry holds already."""
    registry = HookRegistry.check_if_exists_or_initialize(block)
    if not registry._fn_refs:
        registry.register_hook(hook, HOOK_NAME)
        hook.wrapper = block.forward
        return
    next_reference, outermost = registry._fn_refs[0], block.forward
    slot = _inner_slot(next_reference)
    block.forward = getattr(next_reference, slot)
    registry.register_hook(hook, HOOK_NAME)
    hook.wrapper = block.forward
    setattr(next_reference, slot, hook.wrapper)
    block.forward = outermost
    registry._hook_order.insert(0, registry._hook_order.pop())
    registry._fn_refs.insert(0, registry._fn_refs.pop())


def _detach(block: nn.Module) -> None:
    """Remove the hook and leave every other hook as it is.

    HookRegistry.remove_hook overwrites the `forward` of the next hook, which for a cache hook is
    its own new forward and not the one that it wraps; so the chain is mended here.
    """
    if not is_steered(block):
        return
    registry: Any = block._diffusers_hook
    index = registry._hook_order.index(HOOK_NAME)
    inner = registry._fn_refs[index].forward
    wrapper = registry.hooks[HOOK_NAME].wrapper
    if index + 1 < len(registry._fn_refs):
        next_reference = registry._fn_refs[index + 1]
        setattr(next_reference, _inner_slot(next_reference), inner)
    elif block.__dict__.get("_old_forward") is wrapper:
        block._old_forward = inner  # accelerate's offload hooks wrapped ours later
    else:
        block.forward = inner
    del registry.hooks[HOOK_NAME], registry._hook_order[index], registry._fn_refs[index]
    if not registry._fn_refs:
        del block._diffusers_hook
    if getattr(block.__dict__.get("forward"), "__func__", None) is type(block).forward:
        del block.forward


def _forget_known_registries(transformer: nn.Module) -> None:
    """Make the next cache context look for hooks again; diffusers keeps the list it found first."""
    registry: Any = getattr(transformer, "_diffusers_hook", None)
    if registry is not None:
        registry.invalidate_child_registries_cache()


class ScheduleListener:
    """Moves a StepClock along with a scheduler, without asking any device.

    `set_timesteps` begins a loop and each `step` ends a step; a scheduler of order 2 calls `step`
    twice per denoising step. That is the same on every scheduler, while `step_index` is missing
    on some (CogVideoX's DDIM and DPM).
    """

    def __init__(self, pipeline: Any, clock: StepClock) -> None:
        self.pipeline = pipeline
        self.clock = clock
        self.scheduler: Any = None
        self.guided = False
        self._calls = 0

    def attach(self) -> None:
        self.scheduler = self.pipeline.scheduler
        _ObservedMethod.on(self.scheduler, "set_timesteps").listeners.append(self._restart)
        _ObservedMethod.on(self.scheduler, "step").listeners.append(self._advance)

    def detach(self) -> None:
        if self.scheduler is not None:
            _ObservedMethod.off(self.scheduler, "set_timesteps", self._restart)
            _ObservedMethod.off(self.scheduler, "step", self._advance)
            self.scheduler = None

    def follow(self) -> None:
        """Listen to the pipeline's present scheduler: users swap it between calls."""
        if self.pipeline.scheduler is not self.scheduler:
            self.detach()
            self.attach()
            self._restart()

    def _order(self) -> int:
        return int(getattr(self.scheduler, "order", 1))

    def _restart(self) -> None:
        self._calls = 0
        self.guided = _guidance_is_on(self.pipeline)
        num_steps = max(1, -(-len(self.scheduler.timesteps) // self._order()))
        self.clock.set(0, num_steps)
        if not self.clock.window.steps(num_steps):
            window = self.clock.window
            warnings.warn(
                f"No step is steered: none of {num_steps} denoising steps lies in the window "
                f"{window.start:g} <= i / {num_steps} < {window.stop:g}.",
                stacklevel=1,
            )

    def _advance(self) -> None:
        self._calls += 1
        order = self._order()
        # Pipelines that start in the middle (video to video) cut the scheduler's timesteps.
        length = getattr(self.pipeline, "_num_timesteps", None) or len(self.scheduler.timesteps)
        self.clock.set(self._calls // order, max(1, -(-length // order)))


def _guidance_is_on(pipeline: Any) -> bool:
    """Whether classifier-free guidance is on; to be asked at the start of a call.

    Later, CogVideoX's dynamic guidance overwrites the scale.
    """
    stated = getattr(pipeline, "do_classifier_free_guidance", None)
    if stated is not None:
        return bool(stated)
    return float(getattr(pipeline, "guidance_scale", None) or 1.0) > 1.0


class _ObservedMethod:
    """A scheduler's method that tells its listeners after each call.

    It lies in the instance's dictionary, keeps the method's signature (pipelines inspect it), and
    a deep copy of the scheduler gets its own plain method back.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.listeners: list[Callable[[], None]] = []
        self.method = getattr(owner, name)
        functools.update_wrapper(self, self.method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.method(*args, **kwargs)
        for listener in tuple(self.listeners):
            listener()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return getattr(type(self.owner), self.name).__get__(memo[id(self.owner)])

    @classmethod
    def on(cls, owner: Any, name: str) -> _ObservedMethod:
        present = owner.__dict__.get(name)
        if not isinstance(present, cls):
            present = cls(owner, name)
            setattr(owner, name, present)
        return present

    @classmethod
    def off(cls, owner: Any, name: str, listener: Callable[[], None]) -> None:
        present = owner.__dict__.get(name)
        if isinstance(present, cls) and listener in present.listeners:
            present.listeners.remove(listener)
            if not present.listeners:
                delattr(owner, name)
