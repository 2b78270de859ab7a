"""Attaching to transformers: the only file that touches diffusers' hook system.

Blocks are steered from diffusers' HookRegistry, as the innermost hook: under the caches
(FirstBlockCache and others), which skip a block's own forward, a skipped block is then not
steered a second time. Everything else is decided outside the blocks, where torch.compile does not
look: before a forward by a hook on the transformer (the grid of tokens, the branch of
classifier-free guidance, whether this forward is steered), after it what was detected.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from stas.config import STASConfig
from stas.loop import LoopListener
from stas.massive import MassiveActivations, massive_from_magnitudes
from stas.models import ModelSpec
from stas.schedule import StepClock
from stas.steering import steer_tokens_
from stas.tokens import TokenGrid

HOOK_NAME = "stas"
NO_ROWS = slice(0, 0)
DimsOrigin = Literal["given", "profile", "detected"]
Branch = Literal["cond", "uncond", "cond_uncond"]


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
        listener: LoopListener | None,
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
        # What blocks do in the forward that is running, and with which tokens.
        self.action: Literal["nothing", "detect", "steer"] = "nothing"
        self.grid = TokenGrid(1, 1, 1)
        self.tokens = torch.empty(0, dtype=torch.bool)  # (N,), true where steered
        self.rows: slice | None = None  # of the batch; None for all of them
        self.steered_forwards = 0
        self._warned: set[str] = set()
        self._hooks = [_BlockHook(self) for _ in blocks]
        self._parameters = list(inspect.signature(type(transformer).forward).parameters)[1:]
        self._outer_hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self) -> None:
        """Put the hooks on; nothing is left attached when that fails."""
        try:
            for block, hook in zip(self.blocks, self._hooks, strict=True):
                _attach_innermost(block, hook)
            self._outer_hooks = [
                self.transformer.register_forward_pre_hook(
                    self._enter, prepend=True, with_kwargs=True
                ),
                self.transformer.register_forward_hook(self._leave),
            ]
        except BaseException:
            self.detach()
            raise
        _forget_known_registries(self.transformer)

    def detach(self) -> None:
        """Take the hooks off again; the model is as it was."""
        self.action = "nothing"
        for outer in self._outer_hooks:
            outer.remove()
        self._outer_hooks.clear()
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
        self.action = "nothing"
        if self.listener is not None:
            self.listener.follow()
        if not torch.compiler.is_compiling():
            self._check_attached()
        inputs = dict(zip(self._parameters, args, strict=False)) | kwargs
        latents = inputs["hidden_states"]
        config: Mapping[str, Any] = self.transformer.config  # type: ignore[assignment]
        grid = self.spec.token_grid(config, latents.shape)
        rows = self._steered_rows(latents.shape[0])
        self.clock.calls += 1
        if self.clock.never:
            self._warn(f"No step is steered: {self.clock.never}")
        if not self.clock.active or rows == NO_ROWS or self.dims == ():
            return
        self.rows = rows
        self._find_tokens(grid, latents.device)
        if grid.count(self.config.regions, self.config.boundary) == 0:
            self._warn(
                f"No token is steered: {' + '.join(self.config.regions)} (boundary "
                f"{self.config.boundary:g}) has no token in {grid}."
            )
        elif self.dims is None:
            for hook in self._hooks:
                hook.magnitudes = None
            self.action = "detect"
        else:
            self.action = "steer"
            self.steered_forwards += 1

    def _find_tokens(self, grid: TokenGrid, device: torch.device) -> None:
        known = (
            not torch.compiler.is_compiling()  # dynamo can't compare grids; a graph makes its own
            and grid == self.grid
            and device == self.tokens.device
        )
        if not known:
            self.grid = grid
            with torch.inference_mode(False):  # it is kept, and autograd may want it later
                self.tokens = grid.mask(self.config.regions, self.config.boundary, device)

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, stacklevel=1)

    def _check_attached(self) -> None:
        for block, hook in zip(self.blocks, self._hooks, strict=True):
            if _is_dropped(block, hook):
                raise RuntimeError(
                    f"The steering hooks of {self.name} are gone: another library put back the "
                    "forward of before stas.steer (as accelerate does when offloading is switched "
                    "or pipe.remove_all_hooks() is called). Call handle.remove() and steer again."
                )

    def _steered_rows(self, batch: int) -> slice | None:
        """The rows of the batch that are steered, NO_ROWS, or None for all."""
        if len(self.config.branches) == 2:
            return None
        wanted, branch = self.config.branches[0], self.branch
        guided = None if self.listener is None else self.listener.guided
        if branch in ("cond", "uncond"):
            return None if branch == wanted else NO_ROWS
        if guided is False:
            return None if wanted == "cond" else NO_ROWS
        if self.spec.guidance == "batched" and (guided or branch == "cond_uncond"):
            half = batch // 2
            return slice(half, batch) if wanted == "cond" else slice(0, half)
        if self.spec.guidance == "separate" and guided:
            present = "uncond" if self.clock.calls else "cond"
            return None if present == wanted else NO_ROWS
        who = "a bare transformer" if self.listener is None else "this pipeline"
        name = "cond_uncond" if self.spec.guidance == "batched" else "cond"
        raise RuntimeError(
            f"Only the {wanted} branch is to be steered, but {who} does not say which branch a "
            "forward belongs to. Steer both branches, or steer the bare transformer and tell the "
            f'branch by handle.set_step(i, n, branch="{name}") before each forward.'
        )

    def steer(self, hidden_states: torch.Tensor, dims: tuple[int, ...]) -> None:
        """Steer the visual tokens at a block's output in place, as the config says."""
        config, tokens = self.config, self.tokens
        if self.rows is not None:
            hidden_states = hidden_states[self.rows]
        if tokens.device != hidden_states.device:  # blocks of one model on several devices
            tokens = tokens.to(hidden_states.device)
        steer_tokens_(
            hidden_states,
            tokens,
            dims,
            op=config.op,
            scale=config.scale,
            reference=config.reference,
        )

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.action == "detect":
            self._decide()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _decide(self) -> None:
        """Keep the dimensions that the forward showed; the rest of its step is not steered.

        So both branches of guidance are alike in every step.
        """
        seen = [hook.magnitudes for hook in self._hooks if hook.magnitudes is not None]
        found = massive_from_magnitudes(seen)
        if not found.strongest:
            self._warn(
                f"{self.name}: nothing is steered yet: the hidden states of the first forward were "
                "not finite, so no massive dimension could be detected. The next one is looked at."
            )
            return
        self.dims = found.dims
        self.source = _detection_text(found)
        self.clock.rest()
        if not found.dims:
            self._warn(f"{self.name}: {self.source}")


def _detection_text(found: MassiveActivations) -> str:
    if found.dims:
        return f"detected on the first forward: {found.describe()}"
    return (
        f"nothing is steered: no dimension reaches {found.threshold:g} times the mean magnitude "
        f"on the first forward. Strongest: {found.describe()}. Name dimensions with dims= to steer "
        "them all the same."
    )


class _BranchReader(StateManager):  # type: ignore[misc]
    """Receives diffusers' cache context, which names the branch of a denoising call."""

    def __init__(self, steering: TransformerSteering) -> None:
        self._steering = steering

    def set_context(self, context: Any) -> None:
        self._steering.branch = None if context is None else context.name


class _BlockHook(ModelHook):  # type: ignore[misc]
    """Steers what a block returns, or reads its magnitudes."""

    _is_stateful = True

    def __init__(self, steering: TransformerSteering) -> None:
        super().__init__()
        self.steering = steering
        self.branch_reader = _BranchReader(steering)
        self.wrapper: Callable[..., Any] | None = None
        self.magnitudes: torch.Tensor | None = None  # (D,), mean |h| over samples and tokens

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        steering = self.steering
        if steering.action == "nothing":
            return output
        position = steering.spec.video_output
        tokens = output if position is None else output[position]
        if steering.action == "detect":
            total = torch.linalg.vector_norm(
                tokens.detach(), ord=1, dim=(0, 1), dtype=torch.float32
            )
            self.magnitudes = total / (tokens.shape[0] * tokens.shape[1])
        elif steering.dims:
            steering.steer(tokens, steering.dims)
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
    its own new forward and not the one that it wraps; so the chain is mended here. A wrapper that
    lies out of reach does nothing any more, as its steering is at rest.
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
    elif block.forward is wrapper:
        block.forward = inner
    del registry.hooks[HOOK_NAME], registry._hook_order[index], registry._fn_refs[index]
    if not registry._fn_refs:
        del block._diffusers_hook
    if getattr(block.__dict__.get("forward"), "__func__", None) is type(block).forward:
        del block.forward


def _is_dropped(block: nn.Module, hook: _BlockHook) -> bool:
    """Whether the block's forward is again that of before the hook."""
    registry: Any = block._diffusers_hook
    if registry._hook_order[-1] != HOOK_NAME or block.forward is hook.wrapper:
        return False
    plain = getattr(block.forward, "__func__", None) is type(block).forward
    return plain or block.forward is registry._fn_refs[-1].forward


def _forget_known_registries(transformer: nn.Module) -> None:
    """Make the next cache context look for hooks again; diffusers keeps the list it found first."""
    registry: Any = getattr(transformer, "_diffusers_hook", None)
    if registry is not None:
        registry.invalidate_child_registries_cache()
