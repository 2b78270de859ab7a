"""diffusers' HookRegistry: putting hooks beneath all others, and taking them off again."""

from __future__ import annotations

from types import CodeType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from stas.method.tokens import Axes

if TYPE_CHECKING:
    from stas.hooks.transformer import TransformerHooks

# From the innermost hook outwards: what is recorded is what steering left.
HOOK_NAMES = ("stas", "stas_record")


class _BranchReader(StateManager):  # type: ignore[misc]
    """Receives diffusers' cache context, which names the branch of a denoising call."""

    def __init__(self, owner: TransformerHooks) -> None:
        self._owner = owner

    def set_context(self, context: Any) -> None:
        self._owner.branch = None if context is None else context.name


class _BlockHook(ModelHook):  # type: ignore[misc]
    """Passes on what a block returns."""

    _is_stateful = True

    def __init__(self, owner: TransformerHooks, index: int, axes: Axes) -> None:
        super().__init__()
        self.owner = owner
        self.index = index
        self.axes = axes
        self.branch_reader = _BranchReader(owner)
        self.wrapper: Any = None

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        owner = self.owner
        if owner.acting:
            position = owner.spec.video_output
            hidden_states = output if position is None else output[position]
            owner.act(self.index, owner.video.of(hidden_states, self.axes), self.axes)
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


def is_hooked(block: nn.Module, hook_name: str) -> bool:
    """Whether a hook of that name sits on the block."""
    registry = getattr(block, "_diffusers_hook", None)
    return registry is not None and hook_name in registry.hooks


def _inner_slot(reference: Any) -> str:
    """Where a hook keeps the forward that it wraps."""
    return "forward" if reference.original_forward is None else "original_forward"


def _register(block: nn.Module, registry: Any, hook: _BlockHook, hook_name: str) -> None:
    registry.register_hook(hook, hook_name)
    hook.wrapper = block.forward
    # torch.compile keeps at most 8 graphs per code object, and all hooks of diffusers share one:
    # two compiled models would meet that limit. So each class of blocks has a copy of its own.
    function, cls = hook.wrapper.func, type(block)
    if cls not in _CODES:
        _CODES[cls] = function.__code__.replace(co_name=f"steered_{cls.__name__}")
    function.__code__ = _CODES[cls]


_CODES: WeakKeyDictionary[type, CodeType] = WeakKeyDictionary()


def _attach_beneath(block: nn.Module, hook: _BlockHook, hook_name: str) -> None:
    """Register the hook beneath every hook that is not of stas, in the order of HOOK_NAMES."""
    registry: Any = HookRegistry.check_if_exists_or_initialize(block)
    inner = HOOK_NAMES[: HOOK_NAMES.index(hook_name)]
    place = sum(name in registry.hooks for name in inner)
    if place == len(registry._fn_refs):
        _register(block, registry, hook, hook_name)
        return
    next_reference, outermost = registry._fn_refs[place], block.forward
    slot = _inner_slot(next_reference)
    block.forward = getattr(next_reference, slot)
    _register(block, registry, hook, hook_name)
    setattr(next_reference, slot, hook.wrapper)
    block.forward = outermost
    registry._hook_order.insert(place, registry._hook_order.pop())
    registry._fn_refs.insert(place, registry._fn_refs.pop())


def _detach(block: nn.Module, hook_name: str) -> None:
    """Remove the hook and leave every other hook as it is.

    HookRegistry.remove_hook overwrites the `forward` of the next hook, which for a cache hook is
    its own new forward and not the one that it wraps; so the chain is mended here. A wrapper that
    lies out of reach does nothing any more, as its owner is at rest.
    """
    if not is_hooked(block, hook_name):
        return
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


def _is_dropped(block: nn.Module, hook: _BlockHook, hook_name: str) -> bool:
    """Whether the block's forward is again that of before the hook."""
    registry: Any = block._diffusers_hook
    if registry._hook_order[-1] != hook_name or block.forward is hook.wrapper:
        return False
    plain = getattr(block.forward, "__func__", None) is type(block).forward
    return plain or block.forward is registry._fn_refs[-1].forward


def _forget_known_registries(transformer: nn.Module) -> None:
    """Make the next cache context look for hooks again; diffusers keeps the list it found first."""
    registry: Any = getattr(transformer, "_diffusers_hook", None)
    if registry is not None:
        registry.invalidate_child_registries_cache()
