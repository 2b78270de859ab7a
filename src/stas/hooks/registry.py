"""diffusers' HookRegistry: putting hooks beneath all others, and taking them off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from types import CodeType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from stas.method.tokens import Axes

# From the innermost hook outwards: a weak model is the steered one, disrupted; what is recorded is
# what these left.
HOOK_NAMES = ("stas", "stas_guidance", "stas_record")


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


def owners_beside(blocks: Iterable[nn.Module], hook_name: str) -> list[Any]:
    """Whose other hooks of stas sit on these blocks."""
    owners = {}
    for block in blocks:
        registry = getattr(block, "_diffusers_hook", None)
        for name in HOOK_NAMES:
            if registry is not None and name != hook_name and name in registry.hooks:
                owners[name] = registry.hooks[name].owner
    return list(owners.values())


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
    if block.forward is hook.known:
        return
    way = [(holder, slot, getattr(holder, slot)) for holder, slot in _way_to(block, hook_name)]
    guards = [present for _, _, present in way if isinstance(present, _Guard)]
    holder, slot, last = way[-1]
    if last is not hook.wrapper and not any(hook_name in guard.hooks for guard in guards):
        if not guards:
            guards.append(_Guard(block, last))
            setattr(holder, slot, guards[0])
        guards[-1].hooks[hook_name] = hook
    hook.known = block.forward


def detach(block: nn.Module, hook_name: str) -> None:
    """Remove the hook and leave every other hook as it is.

    HookRegistry.remove_hook overwrites the `forward` of the next hook, which for a cache hook is
    its own new forward and not the one that it wraps; so the chain is mended here. A wrapper that
    lies out of reach does nothing any more, as its owner is at rest.
    """
    if not is_hooked(block, hook_name):
        return
    registry: Any = block._diffusers_hook
    index = registry._hook_order.index(hook_name)
    inner, wrapper = registry._fn_refs[index].forward, registry.hooks[hook_name].wrapper
    for holder, slot in _way_to(block, hook_name):
        present = getattr(holder, slot)
        if present is wrapper:
            setattr(holder, slot, inner)
        elif isinstance(present, _Guard):
            present.hooks.pop(hook_name, None)
            if not present.hooks:
                setattr(holder, slot, present.forward)
                _forget_wrapped(block, present, present.forward)
    _forget_wrapped(block, wrapper, inner)
    del registry.hooks[hook_name], registry._hook_order[index], registry._fn_refs[index]
    if not registry._fn_refs:
        del block._diffusers_hook
    if getattr(block.__dict__.get("forward"), "__func__", None) is type(block).forward:
        del block.forward


def _way_to(block: nn.Module, hook_name: str) -> list[tuple[Any, str]]:
    """From what the block runs inwards, where each function lies that is called before the hook.

    The last is where the hook's wrapper lies, or what was put in the way of it.
    """
    registry: Any = block._diffusers_hook
    way: list[tuple[Any, str]] = [(block, "forward")]
    outer = registry._fn_refs[registry._hook_order.index(hook_name) + 1 :]
    while True:
        present = getattr(*way[-1])
        if isinstance(present, _Guard):
            way.append((present, "forward"))
        elif _made_in(present, "add_hook_to_module") and (block, "_old_forward") not in way:
            way.append((block, "_old_forward"))  # accelerate's offloading
        elif outer and _made_in(present, "HookRegistry"):
            reference = outer.pop()
            way.append((reference, _inner_slot(reference)))
        else:
            return way


def _forget_wrapped(block: nn.Module, out: Any, inner: Any) -> None:
    """Have no function around what the block runs say that it wraps what was taken out."""
    around = block.__dict__.get("forward")
    while around is not None:
        names = getattr(around, "__dict__", {})
        if names.get("__wrapped__") is out:
            names["__wrapped__"] = inner
        around = names.get("__wrapped__")


def forget_known_registries(transformer: nn.Module) -> None:
    """Make the next cache context look for hooks again; diffusers keeps the list it found first."""
    registry: Any = getattr(transformer, "_diffusers_hook", None)
    if registry is not None:
        registry.invalidate_child_registries_cache()


def _inner_slot(reference: Any) -> str:
    """Where a hook keeps the forward that it wraps."""
    return "forward" if reference.original_forward is None else "original_forward"


def _made_in(forward: Any, name: str) -> bool:
    """Whether a forward is one that this function, or a method of this class, puts on modules."""
    return isinstance(forward, partial) and forward.func.__qualname__.startswith(f"{name}.")


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
