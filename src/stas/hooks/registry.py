"""diffusers' HookRegistry: putting hooks beneath all others, and taking them off again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from types import CodeType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from stas.method.tokens import Axes

# From the innermost hook outwards: what is recorded is what steering left.
HOOK_NAMES = ("stas", "stas_record")


class HookOwner(Protocol):
    """What the hooks of a transformer's blocks belong to."""

    context: str | None

    def block_returned(self, hook: BlockHook, output: Any) -> torch.Tensor | None:
        """A block returned this output."""


class BlockHook(ModelHook):  # type: ignore[misc]
    """Hands on what a block returns, and the name of the cache context that is open.

    In a compiled block it only stores: whatever it read there would be guarded.

    Args:
        owner: What is told.
        index: Of the block among those of the owner.
        axes: The layout of what the block returns.
    """

    _is_stateful = True

    def __init__(self, owner: HookOwner, index: int, axes: Axes) -> None:
        super().__init__()
        self.owner = owner
        self.index = index
        self.axes = axes
        self.context_reader = _ContextReader(owner)
        self.found: torch.Tensor | None = None  # what the owner made of the block's last output
        self.wrapper: Any = None  # the forward that was made of the block's
        self.known: Any = None  # the block's forward when it was last known to lead here
        self.ran = False  # whether the block's forward came by since this was set to False

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        self.ran = True
        self.found = self.owner.block_returned(self, output)
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


class _ContextReader(StateManager):  # type: ignore[misc]
    """Receives diffusers' cache context, which names the branch of a denoising call."""

    def __init__(self, owner: HookOwner) -> None:
        self._owner = owner

    def set_context(self, context: Any) -> None:
        self._owner.context = None if context is None else context.name


class _Guard:
    """A block's forward that somebody set after the hooks went on, and the hooks after it.

    It hands on what that forward returns to those hooks that it did not come by itself.
    """

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        update_wrapper(self, forward)
        self.block, self.forward = block, forward
        self.hooks: dict[str, BlockHook] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hooks = [self.hooks[name] for name in HOOK_NAMES if name in self.hooks]
        for hook in hooks:
            hook.ran = False
        output = self.forward(*args, **kwargs)
        for hook in hooks:
            if not hook.ran:
                hook.post_forward(self.block, output)
        return output


def is_hooked(block: nn.Module, hook_name: str) -> bool:
    """Whether a hook of that name sits on the block."""
    registry = getattr(block, "_diffusers_hook", None)
    return registry is not None and hook_name in registry.hooks


def attach_beneath(block: nn.Module, hook: BlockHook, hook_name: str) -> None:
    """Register the hook beneath every hook that is not of stas, in the order of HOOK_NAMES."""
    registry: Any = HookRegistry.check_if_exists_or_initialize(block)
    inner = HOOK_NAMES[: HOOK_NAMES.index(hook_name)]
    place = sum(name in registry.hooks for name in inner)
    if place == len(registry._fn_refs):
        _register(block, registry, hook, hook_name)
    else:
        next_reference, outermost = registry._fn_refs[place], block.forward
        slot = _inner_slot(next_reference)
        block.forward = getattr(next_reference, slot)
        _register(block, registry, hook, hook_name)
        setattr(next_reference, slot, hook.wrapper)
        block.forward = outermost
        registry._hook_order.insert(place, registry._hook_order.pop())
        registry._fn_refs.insert(place, registry._fn_refs.pop())
    hook.known = block.forward


def keep_attached(block: nn.Module, hook: BlockHook, hook_name: str) -> None:
    """See that what the block runs now comes by the hook, whatever was put on it since.

    A forward of the block's class that was exchanged is taken over. A forward that was set on the
    block itself is left there, with the hook after it.
    """
    registry: Any = block._diffusers_hook
    innermost = registry._fn_refs[0]
    slot = _inner_slot(innermost)
    own = getattr(innermost, slot)
    if getattr(own, "__self__", None) is block and own.__func__ is not type(block).forward:
        setattr(innermost, slot, type(block).forward.__get__(block))
    present = block.forward
    if present is hook.known or (_is_registrys(present) and registry._hook_order[-1] != hook_name):
        hook.known = present
        return
    if present is hook.wrapper or block.__dict__.get("_old_forward") is hook.wrapper:
        hook.known = present  # alone, or within accelerate's
        return
    if not isinstance(present, _Guard):
        present = block.forward = _Guard(block, present)
    present.hooks[hook_name] = hook
    hook.known = present


def detach(block: nn.Module, hook_name: str) -> None:
    """Remove the hook and leave every other hook as it is.

    HookRegistry.remove_hook overwrites the `forward` of the next hook, which for a cache hook is
    its own new forward and not the one that it wraps; so the chain is mended here. A wrapper that
    lies out of reach does nothing any more, as its owner is at rest.
    """
    if not is_hooked(block, hook_name):
        return
    guard = block.__dict__.get("forward")
    if isinstance(guard, _Guard):
        guard.hooks.pop(hook_name, None)
        if not guard.hooks:
            block.forward = guard.forward
    registry: Any = block._diffusers_hook
    index = registry._hook_order.index(hook_name)
    inner = registry._fn_refs[index].forward
    wrapper = registry.hooks[hook_name].wrapper
    if index + 1 < len(registry._fn_refs):
        next_reference = registry._fn_refs[index + 1]
        setattr(next_reference, _inner_slot(next_reference), inner)
    elif block.__dict__.get("_old_forward") is wrapper:
        block._old_forward = inner  # accelerate's offload hooks wrapped ours later
    elif block.forward is wrapper:
        block.forward = inner
    del registry.hooks[hook_name], registry._hook_order[index], registry._fn_refs[index]
    if not registry._fn_refs:
        del block._diffusers_hook
    if getattr(block.__dict__.get("forward"), "__func__", None) is type(block).forward:
        del block.forward


def forget_known_registries(transformer: nn.Module) -> None:
    """Make the next cache context look for hooks again; diffusers keeps the list it found first."""
    registry: Any = getattr(transformer, "_diffusers_hook", None)
    if registry is not None:
        registry.invalidate_child_registries_cache()


def _inner_slot(reference: Any) -> str:
    """Where a hook keeps the forward that it wraps."""
    return "forward" if reference.original_forward is None else "original_forward"


def _is_registrys(forward: Any) -> bool:
    """Whether a registry made this forward."""
    return isinstance(forward, partial) and forward.func.__qualname__.startswith("HookRegistry.")


def _register(block: nn.Module, registry: Any, hook: BlockHook, hook_name: str) -> None:
    registry.register_hook(hook, hook_name)
    hook.wrapper = block.forward
    # torch.compile keeps at most 8 graphs per code object, and all hooks of diffusers share one:
    # two compiled models would meet that limit. So each class of blocks has a copy of its own.
    function, cls = hook.wrapper.func, type(block)
    if cls not in _CODES:
        _CODES[cls] = function.__code__.replace(co_name=f"steered_{cls.__name__}")
    function.__code__ = _CODES[cls]


_CODES: WeakKeyDictionary[type, CodeType] = WeakKeyDictionary()
