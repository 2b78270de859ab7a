"""Reaching the video's tokens in the blocks of one diffusers transformer, forward by forward.

Blocks are reached from diffusers' HookRegistry, by hooks beneath all others: under the caches
(FirstBlockCache and others), which skip a block's own forward, a skipped block is then not
steered a second time. Everything else is decided outside the blocks, where torch.compile does not
look: before a forward by a hook on the transformer (where the video's tokens are, the branch of
classifier-free guidance, what blocks are to do), after it what was seen.
"""

from __future__ import annotations

import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Generic, Literal, NoReturn, Protocol, TypeVar

import torch
from torch import nn

from stas.hooks.loop import Loop
from stas.hooks.parallel import Processes
from stas.hooks.registry import (
    BlockHook,
    attach_beneath,
    detach,
    forget_known_registries,
    keep_attached,
    owners_beside,
)
from stas.method.shards import Split, TokenGroup
from stas.method.steerer import Branches
from stas.method.tokens import VideoTokens
from stas.models.spec import ModelSpec

Method = TypeVar("Method", bound=Callable[..., Any])
ForwardT = TypeVar("ForwardT", bound="Forward")
_CHECKPOINTING = "_gradient_checkpointing_func"


def outside_graphs(method: Method) -> Method:
    """Leave a method to Python: torch.compile breaks its graph there instead of tracing it."""
    disabled: Method = torch.compiler.disable(method)  # type: ignore[no-untyped-call]  # torch's
    return disabled


class Forward(Protocol):
    """What is decided of one forward."""

    video: VideoTokens
    split: Split | None


class TransformerHooks(ABC, Generic[ForwardT]):
    """Reaches the visual tokens of one transformer's blocks while attached.

    What is decided of a forward is one value, which its blocks are given: recomputation under
    gradient checkpointing gets the value of its own forward back, whatever was run since.

    Args:
        name: The transformer's name in its pipeline.
        transformer: The transformer.
        spec: Its row.
        block_numbers: Which blocks, from 0 over all stacks in forward order.
        loop: The loop that its forwards are of.
        group: The processes that share its tokens, where diffusers does not know of them.
    """

    hook_name: ClassVar[str]
    verb: ClassVar[Literal["steer", "record"]]  # the function of stas that attaches it

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        spec: ModelSpec,
        block_numbers: Sequence[int],
        loop: Loop,
        group: TokenGroup | None = None,
    ) -> None:
        self.name = name
        self.transformer = transformer
        self.spec = spec
        self.block_numbers = tuple(block_numbers)
        self.loop = loop
        self.forward: ForwardT | None = None  # of the forward that is running
        self.split: Split | None = None  # how its tokens are split over processes
        self._processes = Processes(transformer, spec, group)
        self._ended: ForwardT | None = None  # that of the transformer's call that is ending
        all_blocks, all_axes = spec.blocks(transformer), spec.block_axes(transformer)
        self.num_blocks = len(all_blocks)
        self.blocks = [all_blocks[number] for number in self.block_numbers]
        self.axes = [all_axes[number] for number in self.block_numbers]
        self._hooks = [BlockHook(self, index, axes) for index, axes in enumerate(self.axes)]
        self.context: str | None = None  # the cache context that is open
        self._batch = 1
        self._inputs: list[torch.Tensor] = []  # of the forward that is running, a row a sample
        self._parameters: tuple[Any, list[str]] = (
            None,
            [],
        )  # the class's forward and its arguments
        self._rows: tuple[int, slice] | None = (
            None  # the batch's part that runs: its size, its rows
        )
        self._bypassed = False  # whether inner modules of a block ran, with or without its hook
        self._replays = False
        self._memory: dict[str, Any] = {}  # of the row's functions
        self._recomputable = False  # whether a forward was run whose blocks may be recomputed
        self._outer_hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._checkpointing: list[tuple[nn.Module, Any]] = []
        # Other threads wait: blocks are to do what was decided of their own forward.
        self._lock = threading.RLock()

    @abstractmethod
    def begin(
        self, video: VideoTokens, branches: Branches, device: torch.device
    ) -> ForwardT | None:
        """A forward begins; what its blocks are to be given, None to leave it alone."""

    @abstractmethod
    def act(
        self,
        forward: ForwardT,
        hook: BlockHook,
        tokens: torch.Tensor,
        present: slice | None,
        part: range | None,
    ) -> torch.Tensor | None:
        """A block returned these visual tokens, a view of its output.

        Args:
            forward: What `begin` returned.
            hook: That of the block.
            tokens: (B, N, D) or (B, F, S, D), see `VideoTokens.of`.
            present: Which rows of the batch they are; None for all, an empty slice when a part of
                the batch runs alone and nobody says which.
            part: Which of the video's tokens they are, where processes share them; None for all.
        """

    @abstractmethod
    def end(self, forward: ForwardT, found: list[torch.Tensor | None]) -> bool:
        """The forward is over and blocks acted; False to have it made again.

        Args:
            forward: What `begin` returned.
            found: What `act` returned, by block; None also for blocks that did not run.
        """

    def attach(self) -> None:
        """Put the hooks on; nothing is left attached when that fails."""
        self._named((), {})  # before a graph is made
        try:
            for block, hook in zip(self.blocks, self._hooks, strict=True):
                attach_beneath(block, hook, self.hook_name)
                if inner := next(iter(block.children()), None):
                    self._outer_hooks.append(inner.register_forward_pre_hook(self._inner_ran))
            self._outer_hooks += [
                self.transformer.register_forward_pre_hook(
                    self._enter, prepend=True, with_kwargs=True
                ),
                self.transformer.register_forward_hook(
                    self._leave, with_kwargs=True, always_call=True
                ),
            ]
            if self.spec.loop.guidance == "batched":
                for child in self.transformer.children():
                    if not isinstance(child, nn.ModuleList):
                        self._outer_hooks.append(
                            child.register_forward_pre_hook(self._find_rows, with_kwargs=True)
                        )
        except BaseException:
            self.detach()
            raise
        forget_known_registries(self.transformer)

    def detach(self) -> None:
        """Take the hooks off again; the model is as it was."""
        self.forward = None
        for outer in self._outer_hooks:
            outer.remove()
        self._outer_hooks.clear()
        self._put_back()
        self._release()
        for block in self.blocks:
            detach(block, self.hook_name)
        forget_known_registries(self.transformer)

    def __reduce__(self) -> NoReturn:
        # diffusers' hooks bind the module they were put on: a copy would run on its weights.
        raise RuntimeError(
            "A model that is steered or recorded can't be copied or pickled: the copy would run on "
            "the weights of the original. Call handle.remove() first, then copy the model."
        )

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling():
            self._release()  # what a forward that was interrupted still holds
            self._lock.acquire()
            self._put_back()
        self.forward = self._ended = None
        if not torch.compiler.is_compiling():
            if torch._C._current_graph_task_id() != -1:
                raise RuntimeError(
                    f"{self.name} is recomputed as a whole in the backward pass, so the step and "
                    "branch of its forward are not known any more. Use the transformer's own "
                    "checkpointing: transformer.enable_gradient_checkpointing()."
                )
            if not self.loop.owns_forward():
                self.leave_alone()
                return
        inputs = self._named(args, kwargs)
        video = self._video_tokens(inputs)
        if video is None:
            return
        self.loop.enter(self.context, inputs.get("timestep"))
        device = _device_of(inputs)
        self.split = self._processes.split(video, inputs)
        branches = self.loop.branches(self.spec, self.context, video.batch)
        if torch.compiler.is_compiling():
            self._start(self.begin(video, branches, device), video.batch)
            return
        self._look_after_blocks()
        self._inputs = _tensors_of_rows(inputs, video.batch)
        self.prepare(video, branches, lambda: module.forward(*args, **kwargs))
        self._start(self.begin(video, branches, device), video.batch)
        if self.forward is not None and torch.is_grad_enabled():
            self._recomputable = True
            self._remember_under_checkpointing(self.forward)

    def prepare(self, video: VideoTokens, branches: Branches, run: Callable[[], Any]) -> None:
        """Before `begin`: what needs a forward of its own, which `run` makes."""

    def forget(self, forward: ForwardT) -> None:
        """What blocks gave of a forward is of one whose output is not used; it is made again."""

    def skipped(self, forward: ForwardT) -> None:
        """No block ran in the forward: a cache of whole forwards skipped them."""

    def leave_alone(self) -> None:
        """Another pipeline than the loop's runs the transformer: it is left alone."""

    def _start(self, forward: ForwardT | None, batch: int) -> None:
        self._ended = None
        self.forward, self._batch = forward, batch
        self._rows, self._bypassed = None, False
        for hook in self._hooks:
            hook.ran, hook.found = False, None

    def found(self) -> list[torch.Tensor | None]:
        """What `act` returned in the present forward, by block; None where it was not called."""
        return [hook.found for hook in self._hooks]

    def _leave(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        forward, self.forward = self.forward, None
        self._ended = forward
        if torch.compiler.is_compiling():
            if forward is not None:
                self.end(forward, self.found())
            return None
        try:
            if forward is None or output is None:
                return None
            if not any(hook.ran for hook in self._hooks):
                if self._bypassed:
                    self._refuse_bypass()
                self.skipped(forward)
                return None
            if self.end(forward, self.found()):
                return None
            return self._again(module, args, kwargs)
        finally:
            self._put_back()
            self._release()

    def _again(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a forward anew whose output is not to be used."""
        inputs = self._named(args, kwargs)
        video = self._video_tokens(inputs)
        assert video is not None
        run = partial(module.forward, *args, **kwargs)
        beside = owners_beside(self.spec.blocks(self.transformer), self.hook_name)
        reopened = [owner for owner in beside if owner.reopen()]
        branches = self.loop.branches(self.spec, self.context, video.batch)
        self.prepare(video, branches, run)
        self._start(self.begin(video, branches, _device_of(inputs)), video.batch)
        try:
            output = run()
        finally:
            forward, self.forward = self.forward, None
            for owner in reopened:
                owner.close()
        if forward is not None:
            self.end(forward, self.found())
        return output

    def reopen(self) -> bool:
        """Begin the present forward anew for its blocks; True if it had ended: close it then."""
        forward = self.forward or self._ended
        if forward is not None:
            self.forget(forward)
        if forward is self.forward:
            return False
        self.forward = forward
        return True

    def close(self) -> None:
        """End what was reopened."""
        forward, self.forward = self.forward, None
        if forward is not None:
            self.end(forward, self.found())

    def _put_back(self) -> None:
        """Undo what was exchanged for one forward alone."""
        for owner, function in self._checkpointing:
            setattr(owner, _CHECKPOINTING, function)
        self._checkpointing.clear()
        self._inputs = []

    def _release(self) -> None:
        """Let the forwards of other threads go on."""
        if self._lock._is_owned():  # type: ignore[attr-defined]  # untyped, but CPython's own
            self._lock.release()

    @contextmanager
    def reading(self, forward: ForwardT, batch: int) -> Iterator[None]:
        """Have the blocks given `forward` in what is run within, and others of stas at rest."""
        beside = owners_beside(self.spec.blocks(self.transformer), self.hook_name)
        running = [owner.forward for owner in beside]
        for owner in beside:
            owner.forward = None
        self._start(forward, batch)
        try:
            yield
        finally:
            self.forward = None
            for owner, theirs in zip(beside, running, strict=True):
                owner.forward = theirs

    def _refuse_bypass(self) -> NoReturn:
        raise RuntimeError(
            f"The blocks of {self.name} ran, but none of those to {self.verb} through its forward: "
            "something calls what is inside them. Call handle.remove(), and let the transformer "
            f"call its blocks, block(...), before you {self.verb} again."
        )

    def block_returned(self, hook: BlockHook, output: Any) -> torch.Tensor | None:
        """What `act` makes of a block's output; None when the forward is left alone."""
        if not torch.compiler.is_compiling() and not self._replays and self._recomputable:
            self._refuse_recomputation()
        forward = self.forward
        if forward is None:
            return None
        position = self.spec.tokens.video_output
        hidden_states = output if position is None else output[position]
        shard = (
            None if forward.split is None else self._processes.shard(forward.split, hidden_states)
        )
        tokens = forward.video.of(hidden_states, hook.axes, shard)
        present = None if tokens.shape[0] == self._batch else self._present(tokens.shape[0])
        part = None if shard is None else forward.video.part(shard)
        return self.act(forward, hook, tokens, present, part)

    def _refuse_recomputation(self) -> None:
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                f"A block of {self.name} is recomputed in the backward pass by a checkpointing "
                "that does not say of which forward. Use the transformer's own: "
                "transformer.enable_gradient_checkpointing()."
            )

    def _present(self, count: int) -> slice:
        """Which rows of the batch run in a block, when it is not all of them."""
        if _uses_faster_cache(self.transformer):  # it leaves the uncond rows out
            return slice(self._batch - count, self._batch)
        if self._rows is not None and self._rows[0] == count:
            return self._rows[1]
        return slice(0, 0)

    def _find_rows(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """See which part of the batch runs, where a forward splits it: by views of its inputs."""
        if torch.compiler.is_compiling() or self.forward is None:
            return
        for part in (*args, *kwargs.values()):
            if not isinstance(part, torch.Tensor) or not part.ndim:
                continue
            for whole in self._inputs:
                if part.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
                    continue
                offset = int(part.storage_offset() - whole.storage_offset())
                first, rest = divmod(offset, int(whole.stride(0)))
                if rest == 0 and part.shape[1:] == whole.shape[1:]:
                    self._rows = len(part), slice(first, first + len(part))
                    return

    def _inner_ran(self, module: nn.Module, args: Any) -> None:
        self._bypassed = True

    def _look_after_blocks(self) -> None:
        """See that the blocks that are about to run are those that the hooks are on."""
        present = self.spec.blocks(self.transformer)
        for number, block, hook in zip(self.block_numbers, self.blocks, self._hooks, strict=True):
            there = present[number] if len(present) == self.num_blocks else None
            if there is not block and (there is None or block not in there.modules()):
                raise RuntimeError(
                    f"The blocks of {self.name} are others than when stas.{self.verb} was called: "
                    f"block {number} was exchanged, or blocks were added or taken out. Call "
                    f"handle.remove() and {self.verb} again."
                )
            keep_attached(block, hook, self.hook_name)

    def _remember_under_checkpointing(self, forward: ForwardT) -> None:
        """Have what is recomputed in the backward pass given this forward's value again."""
        if not getattr(self.transformer, "gradient_checkpointing", False):
            return
        for module in self.transformer.modules():
            function = module.__dict__.get(_CHECKPOINTING)
            if function is not None:
                self._checkpointing.append((module, function))
                setattr(module, _CHECKPOINTING, partial(self._checkpoint, forward, function))

    def _checkpoint(
        self, forward: ForwardT, checkpoint: Any, function: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return checkpoint(partial(self._replay, forward, self._batch, function), *args, **kwargs)

    def _replay(
        self, forward: ForwardT, batch: int, function: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Run a checkpointed block, in its forward or in the backward pass, attached or not."""
        running, replays, size = self.forward, self._replays, self._batch
        self.forward, self._replays, self._batch = forward, True, batch
        index = next((i for i, block in enumerate(self.blocks) if block is function), None)
        hook = None if index is None else self._hooks[index]
        if hook is not None:
            hook.ran = False
        try:
            output = function(*args, **kwargs)
            if hook is not None and not hook.ran:  # the hook was taken off since
                hook.post_forward(function, output)
            return output
        finally:
            self.forward, self._replays, self._batch = running, replays, size

    def _video_tokens(self, inputs: Mapping[str, Any]) -> VideoTokens | None:
        config = config_of(self.transformer)
        return self.spec.video_tokens(config, inputs, self.loop.seen, self._memory)

    def _named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A forward's arguments by name."""
        function, names = type(self.transformer).forward, self._parameters[1]
        # A graph is of the forward that was there when it was made.
        if not torch.compiler.is_compiling() and function is not self._parameters[0]:
            parameters = list(inspect.signature(function).parameters.values())[1:]
            names = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]
            if len(names) < len(parameters):
                # Patched on the class, without saying its arguments: every transformer's first.
                names = ["hidden_states", *(name for name in names if name != "hidden_states")]
            self._parameters = function, names
        return dict(zip(names, args, strict=False)) | dict(kwargs)


def config_of(transformer: nn.Module) -> Mapping[str, Any]:
    """A transformer's config, as diffusers' models have it.

    Raises:
        TypeError: It has none.
    """
    config: Any = getattr(transformer, "config", None)
    if not isinstance(config, Mapping):
        raise TypeError(
            f"{type(transformer).__name__}.config must be a mapping, in which stas looks up the "
            f"width and the patches that the class's row names, but got {config!r:.80}. Set "
            "self.config, or derive the class from diffusers' ModelMixin and ConfigMixin."
        )
    return config


def is_cached(transformer: nn.Module) -> bool:
    """Whether a cache may skip blocks: one of diffusers' own, or of cache-dit."""
    return any(getattr(transformer, flag, False) for flag in ("is_cache_enabled", "_is_cached"))


def _uses_faster_cache(transformer: nn.Module) -> bool:
    config = getattr(transformer, "_cache_config", None)
    return type(config).__name__ == "FasterCacheConfig"


def _tensors_of_rows(inputs: Mapping[str, Any], batch: int) -> list[torch.Tensor]:
    """The inputs that have a row for each sample."""
    return [
        each
        for each in inputs.values()
        if isinstance(each, torch.Tensor) and each.ndim and len(each) == batch and each.stride(0)
    ]


def _device_of(value: Any) -> torch.device:
    """The device of the first tensor among a forward's inputs."""
    if isinstance(value, torch.Tensor):
        return value.device
    for part in value.values() if isinstance(value, Mapping) else value:
        if isinstance(part, torch.Tensor) or (isinstance(part, list | tuple) and part):
            return _device_of(part)
    return torch.device("cpu")
