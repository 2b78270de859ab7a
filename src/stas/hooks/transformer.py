"""Attaching to transformers: the only file that touches diffusers' hook system.

Blocks are reached from diffusers' HookRegistry, by hooks beneath all others: under the caches
(FirstBlockCache and others), which skip a block's own forward, a skipped block is then not
steered a second time. Everything else is decided outside the blocks, where torch.compile does not
look: before a forward by a hook on the transformer (where the video's tokens are, the branch of
classifier-free guidance, what blocks are to do), after it what was seen.
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, get_args

import torch
from torch import nn

from stas.checks import StasWarning
from stas.hooks.loop import LoopListener
from stas.hooks.registry import (
    _attach_beneath,
    _BlockHook,
    _detach,
    _forget_known_registries,
    _is_dropped,
)
from stas.method.tokens import Axes, TokenGrid, VideoTokens
from stas.method.window import StepClock
from stas.models.spec import ModelSpec

Branch = Literal["cond", "uncond", "cond_uncond"]


RowsBranch = Literal["cond", "uncond", "other"]


# What names a forward of one branch; "pred_cond" and "pred_uncond" are diffusers' guiders' names.
_WHOLE_FORWARD: dict[str | None, RowsBranch] = {
    **{name: name for name in get_args(RowsBranch)},
    "pred_cond": "cond",
    "pred_uncond": "uncond",
}


Method = TypeVar("Method", bound=Callable[..., Any])


def outside_graphs(method: Method) -> Method:
    """Leave a method to Python: torch.compile breaks its graph there instead of tracing it."""
    disabled: Method = torch.compiler.disable(method)  # type: ignore[no-untyped-call]  # torch's
    return disabled


class TransformerHooks(ABC):
    """Reaches the visual tokens of one transformer's blocks while attached.

    Args:
        name: The transformer's name in its pipeline.
        transformer: The transformer.
        spec: Its row.
        block_numbers: Which blocks, from 0 over all stacks in forward order.
        clock: Which step it is.
        listener: What moves the clock; None for a bare transformer.
    """

    hook_name: ClassVar[str]
    verb: ClassVar[Literal["steer", "record"]]  # the function of stas that attaches it

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        spec: ModelSpec,
        block_numbers: Sequence[int],
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        self.name = name
        self.transformer = transformer
        self.spec = spec
        self.block_numbers = tuple(block_numbers)
        self.clock = clock
        self.listener = listener
        self.branch: str | None = None  # as the cache context or set_step says
        self.acting = False  # whether blocks call `act` in the forward that is running
        self.video = VideoTokens(TokenGrid(1, 1, 1))
        all_blocks, all_axes = spec.blocks(transformer), spec.block_axes(transformer)
        self.blocks = [all_blocks[number] for number in self.block_numbers]
        self._hooks = [
            _BlockHook(self, index, all_axes[number])
            for index, number in enumerate(self.block_numbers)
        ]
        self._parameters = list(inspect.signature(type(transformer).forward).parameters)[1:]
        self._outer_hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._warned: set[str] = set()

    @abstractmethod
    def begin(self, device: torch.device) -> bool:
        """A forward begins, with the latents on `device`; whether blocks are to call `act`."""

    @abstractmethod
    def act(self, index: int, tokens: torch.Tensor, axes: Axes) -> None:
        """Block `block_numbers[index]` returned these visual tokens, a view of its output."""

    @abstractmethod
    def end(self) -> None:
        """The forward is over; called when its blocks called `act`."""

    def attach(self) -> None:
        """Put the hooks on; nothing is left attached when that fails."""
        try:
            for block, hook in zip(self.blocks, self._hooks, strict=True):
                _attach_beneath(block, hook, self.hook_name)
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
        self.acting = False
        for outer in self._outer_hooks:
            outer.remove()
        self._outer_hooks.clear()
        for block in self.blocks:
            _detach(block, self.hook_name)
        _forget_known_registries(self.transformer)

    def __reduce__(self) -> NoReturn:
        # diffusers' hooks bind the module they were put on: a copy would run on its weights.
        raise RuntimeError(
            "A model that is steered or recorded can't be copied or pickled: the copy would run on "
            "the weights of the original. Call handle.remove() first, then copy the model."
        )

    def branch_rows(self) -> tuple[tuple[RowsBranch, slice | None], ...]:
        """The branches in the present forward, each with its rows of the batch, None for all.

        Empty when nobody says which branch it is.
        """
        guided = None if self.listener is None else self.listener.guided
        stated = self.spec.contexts.get(self.branch or "", self.branch)
        if stated in _WHOLE_FORWARD:
            return ((_WHOLE_FORWARD[stated], None),)
        if self.listener is not None and self.listener.prediction:
            return ((_WHOLE_FORWARD.get(self.listener.prediction, "other"), None),)
        if self.spec.guidance == "batched":
            if guided is False:
                return (("cond", None),)
            if guided or stated == "cond_uncond":
                half = self.video.batch // 2
                return (("uncond", slice(0, half)), ("cond", slice(half, 2 * half)))
        elif self.listener is not None and self.listener.is_own and self.clock.calls < 2:
            # Every pipeline calls cond first; what it says of guidance is not always true
            # (HunyuanVideo's and Flux's scales are distilled ones).
            return (("uncond" if self.clock.calls else "cond", None),)
        return ()

    def warn(self, text: str) -> None:
        """Warn, once."""
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, StasWarning, stacklevel=2)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.acting = False
        inputs = dict(zip(self._parameters, args, strict=False)) | kwargs
        config = config_of(self.transformer)
        seen = {} if self.listener is None else self.listener.seen
        video = self.spec.video_tokens(config, inputs, seen)
        if video is None:
            return
        if self.listener is not None:
            self.listener.follow(self.branch)
        if not torch.compiler.is_compiling():
            self._check_attached()
        self.video = video
        self.acting = self.begin(_device_of(inputs))
        self.clock.calls += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.acting:
            self.end()

    def _check_attached(self) -> None:
        for block, hook in zip(self.blocks, self._hooks, strict=True):
            if _is_dropped(block, hook, self.hook_name):
                raise RuntimeError(
                    f"The hooks of stas on {self.name} are gone: another library put back the "
                    "forward of before (as accelerate does when offloading is switched or "
                    "pipe.remove_all_hooks() is called). Call handle.remove() and "
                    f"{self.verb} again."
                )


def config_of(transformer: nn.Module) -> Mapping[str, Any]:
    """A transformer's config, as diffusers' models have it."""
    config: Mapping[str, Any] = transformer.config  # type: ignore[assignment]  # Module says Tensor
    return config


def _device_of(value: Any) -> torch.device:
    """The device of the first tensor among a forward's inputs."""
    if isinstance(value, torch.Tensor):
        return value.device
    for part in value.values() if isinstance(value, Mapping) else value:
        if isinstance(part, torch.Tensor) or (isinstance(part, list | tuple) and part):
            return _device_of(part)
    return torch.device("cpu")
