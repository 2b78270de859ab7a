"""Whose loop a forward belongs to: which step it is at, and which branches of guidance it holds."""

from __future__ import annotations

import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import nn

from stas.hooks.observed import Listener, listen, unlisten
from stas.method.config import ROW_BRANCHES, RowBranch
from stas.method.steerer import Branches
from stas.method.window import StepClock
from stas.models.spec import ModelSpec

Branch = Literal["cond", "uncond", "cond_uncond"]  # what `set_step` can be told of a forward
# What names a forward of one branch; "pred_cond" and "pred_uncond" are diffusers' guiders' names.
_WHOLE_FORWARD: dict[str | None, RowBranch] = {
    **{name: name for name in ROW_BRANCHES},
    "pred_cond": "cond",
    "pred_uncond": "uncond",
}
# With what video to video leaves out the first of the scheduler's timesteps.
_CUT = "get_timesteps"
_BOTH = "cond_uncond"  # what names a forward of both, the uncond rows first; some say it always
# With what guiders of modular pipelines make the inputs of a step's forwards.
_PREPARE = "prepare_inputs_from_block_state"
_LATENTS = "prepare_latents"  # makes one for each sample
_MANY_CALLS = 3  # of one step: from here on it is seen whether the timestep has moved on


class Loop(ABC):
    """A denoising loop, which alone moves its clock.

    Args:
        clock: Which step it is.
        branch: That of all forwards of this process, where each has one.
    """

    def __init__(self, clock: StepClock, branch: RowBranch | None = None) -> None:
        self.clock = clock
        self.branch = branch
        # What is kept of the pipeline's watched methods, see `stas.models.spec.Forward`.
        self.seen: dict[str, Any] = {}

    @abstractmethod
    def attach(self) -> None:
        """Begin to follow the loop."""

    @abstractmethod
    def detach(self) -> None:
        """Follow it no more, and leave nothing behind."""

    @abstractmethod
    def owns_forward(self) -> bool:
        """Whether the forward that begins is of this loop, and not of another pipeline's."""

    @abstractmethod
    def enter(self, context: str | None, timestep: Any) -> None:
        """A forward of this loop begins.

        Args:
            context: The branch that a cache context names.
            timestep: What the forward was given as its timestep, None when that is not known.

        Raises:
            RuntimeError: The loop is not one that can be followed.
        """

    @abstractmethod
    def branches(self, spec: ModelSpec, context: str | None, batch: int) -> Branches:
        """The branches in the present forward with their rows; empty when nobody says.

        Args:
            spec: The row of the transformer.
            context: The branch that a cache context names.
            batch: Samples in the forward.
        """


def _named(spec: ModelSpec, name: str | None) -> Branches:
    """The branch of a forward that is named as one of a single branch."""
    stated = spec.loop.contexts.get(name or "", name)
    return ((_WHOLE_FORWARD[stated], None),) if stated in _WHOLE_FORWARD else ()


def _halves(batch: int) -> Branches:
    half = batch // 2
    return (("uncond", slice(0, half)), ("cond", slice(half, 2 * half)))


class OwnLoop(Loop):
    """A loop that its author tells about: that of a bare transformer."""

    def __init__(self, clock: StepClock, branch: RowBranch | None = None) -> None:
        super().__init__(clock, branch)
        self._told: Branch | None = None

    def attach(self) -> None:
        pass

    def detach(self) -> None:
        pass

    def owns_forward(self) -> bool:
        return True

    def set_step(self, step: int, num_steps: int, branch: Branch | None) -> None:
        """See `stas.hooks.handle.Handle.set_step`."""
        for number in (step, num_steps):
            if isinstance(number, bool) or not isinstance(number, Integral):
                raise TypeError(
                    f"step and num_steps must be integers, but got {number!r}. A tensor would make "
                    "the host wait for its device."
                )
        if branch not in (None, *get_args(Branch)):
            raise ValueError(
                f"branch must be one of {', '.join(get_args(Branch))}, or None, but got {branch!r}."
            )
        if not 0 <= step < num_steps:
            raise ValueError(
                f"step must be between 0 and num_steps - 1, but got step={step}, "
                f"num_steps={num_steps}."
            )
        self.clock.set(int(step), int(num_steps))
        self._told = branch

    def enter(self, context: str | None, timestep: Any) -> None:
        self.clock.calls += 1

    def branches(self, spec: ModelSpec, context: str | None, batch: int) -> Branches:
        if self.branch is not None:
            return ((self.branch, None),)
        name = context or self._told
        both = name == _BOTH and spec.loop.guidance == "batched"
        return _named(spec, name) or (_halves(batch) if both else ())


class PipelineLoop(Loop):
    """A pipeline's loop, followed by listening to its scheduler, without asking any device.

    `set_timesteps` begins a loop and each `step` ends a step; a scheduler of order 2 calls `step`
    twice per denoising step, and Cosmos 1 calls it twice with one timestep. That is the same on
    every scheduler, while `step_index` is missing on some (CogVideoX's DDIM and DPM). Where a
    pipeline steps copies of its scheduler, the row names the method that begins a loop.

    Args:
        clock: What it moves.
        pipeline: The pipeline.
        transformers: Those that are attached to and their rows, by component name.
        branch: As of `Loop`.
    """

    def __init__(
        self,
        clock: StepClock,
        pipeline: Any,
        transformers: Mapping[str, tuple[nn.Module, ModelSpec]],
        branch: RowBranch | None = None,
    ) -> None:
        super().__init__(clock, branch)
        self.pipeline = pipeline
        self.transformers = transformers
        self.strangers: set[str] = set()  # other pipelines that ran a transformer
        names = {cls.__name__ for cls in type(pipeline).__mro__}
        specs = [spec for _, spec in transformers.values()]
        self._watched = {name: keep for spec in specs for name, keep in spec.loop.watches.items()}
        self._starter = next(
            (spec.loop.starters[n] for spec in specs for n in spec.loop.starters if n in names), ""
        )
        self._counts_early = any(n in names for spec in specs for n in spec.loop.counts_early)
        self._scheduler: Any = None
        self._heard_guiders: list[Any] = []
        self._heard: list[tuple[Any, str, Listener]] = []
        self._predictions: list[str] = []  # what a guider asks of the present step, in order
        self._guided: bool | None = None  # what the pipeline said when the loop began
        self._samples: int | None = None  # in the present call
        self._calls = 0
        self._timestep: weakref.ref[Any] | None = None  # of the last step that ended
        self._first: Any = None  # where the timestep of the present step's first forward lies
        self._used: int | None = None  # steps of the present call, where it leaves out the first

    def attach(self) -> None:
        self._scheduler = self.pipeline.scheduler
        self._listen(self._scheduler, "set_timesteps", self._restart)
        self._listen(self._scheduler, "step", self._advance)
        for name in sorted({*self._watched, _LATENTS}):
            if hasattr(self.pipeline, name):
                self._listen(self.pipeline, name, self._see)
        if hasattr(self.pipeline, _CUT):
            self._listen(self.pipeline, _CUT, self._cut)
        self._heard_guiders = self._guiders()
        for guider in self._heard_guiders:
            self._listen(guider, _PREPARE, self._prepare)

    def _guiders(self) -> list[Any]:
        present = (getattr(self.pipeline, name, None) for name in ("guider", "guider_2"))
        return [guider for guider in present if hasattr(guider, _PREPARE)]

    def detach(self) -> None:
        self._unlisten()
        self._scheduler, self._heard_guiders, self._predictions, self.seen = None, [], [], {}

    def _unlisten(self) -> None:
        for holder, name, listener in self._heard:
            unlisten(holder, name, listener)
        self._heard.clear()

    def _listen(self, owner: Any, name: str, listener: Listener) -> None:
        self._heard.append((listen(owner, name, listener), name, listener))

    def _is_running(self) -> bool:
        """Whether the loop that runs is the pipeline's own, and not one that a user wrote."""
        return _running_pipeline(self.pipeline) is self.pipeline

    def owns_forward(self) -> bool:
        running = _running_pipeline(self.pipeline)
        if running is None or running is self.pipeline:
            return True
        self.strangers.add(type(running).__name__)
        return False

    def enter(self, context: str | None, timestep: Any) -> None:
        if self.pipeline.scheduler is not self._scheduler:  # users swap it between calls
            self._begin()
        if self._starter and context == "cond" and self.clock.num_steps is not None:
            self.clock.set(self._calls, self.clock.num_steps)
            self._calls += 1
        if self.clock.outside:
            raise RuntimeError(
                "The transformer is called outside the denoising loop of the steered "
                f"{type(self.pipeline).__name__}, so the step is not known. If another pipeline "
                "runs it, call handle.remove() and steer that pipeline; in a loop of your own, "
                "steer the bare transformer and tell the step by handle.set_step(i, n)."
            )
        self.clock.calls += 1
        if not torch.compiler.is_compiling():
            self._check_that_it_moves(timestep)

    def _check_that_it_moves(self, timestep: Any) -> None:
        """Refuse a loop that goes on without its scheduler.

        Compared are the numbers, and only where they lie in different places: it may make the host
        wait.
        """
        if self.clock.calls == 1:
            self._first = timestep
        if self.clock.calls < _MANY_CALLS or self._starter or timestep is self._first:
            return
        first, now = (torch.as_tensor(each) for each in (self._first, timestep))
        if first.data_ptr() == now.data_ptr() or first.shape != now.shape:
            return
        if not torch.equal(first, now):
            raise RuntimeError(
                f"{self.clock.calls} forwards with different timesteps were made, but the "
                f"{type(self.pipeline).__name__}'s scheduler.step was not called between them, so "
                "the step is not known. Call it, or steer the bare transformer and tell the step "
                "by handle.set_step(i, n)."
            )

    def branches(self, spec: ModelSpec, context: str | None, batch: int) -> Branches:
        if self.branch is not None:
            return ((self.branch, None),)
        called = self.clock.calls - 1
        prediction = self._predictions[called] if called < len(self._predictions) else ""
        if named := _named(spec, context or prediction):
            return named
        if prediction:
            return (("other", None),)
        # What the pipeline says is of its own call, and not of a loop that a user wrote.
        own = torch.compiler.is_compiling() or self._is_running()
        if spec.loop.guidance == "separate":
            # Every pipeline calls cond first; what it says of guidance is not always true
            # (HunyuanVideo's and Flux's scales are distilled ones).
            return (("uncond" if called else "cond", None),) if own and called < 2 else ()
        said = {self._guided, _guidance_is_on(self.pipeline)} if own else set()
        # Both are asked: guidance may be switched in a callback, and CogVideoX's dynamic guidance
        # begins with a scale of 1. The rows that are there decide between them.
        samples = self._samples if own else None
        if False in said and (True not in said if samples is None else batch == samples):
            return (("cond", None),)
        both = True in said or context == _BOTH
        if both and (batch % 2 == 0 if samples is None else batch == 2 * samples):
            return _halves(batch)
        return ()

    def _restart(self, owner: Any, method: str, arguments: dict[str, Any]) -> None:
        if self.owns_forward():
            self._used = None
            self._begin()

    def _begin(self) -> None:
        for name, (transformer, _) in self.transformers.items():
            present = getattr(self.pipeline, name, None)
            if getattr(present, "_orig_mod", present) is not transformer:
                raise RuntimeError(
                    f"{name} of the {type(self.pipeline).__name__} is another one than stas "
                    "attached to, so it would not be steered. Call handle.remove() and steer again."
                )
        if [self.pipeline.scheduler, *self._guiders()] != [self._scheduler, *self._heard_guiders]:
            self._unlisten()
            self.attach()  # users swap them between calls
        self._predictions = []
        self._calls, self._timestep = 0, None
        self._guided = _guidance_is_on(self.pipeline)
        steps = -(-len(self._scheduler.timesteps) // self._order())
        self.clock.begin(max(1, steps if self._used is None else self._used))

    def _cut(self, owner: Any, method: str, arguments: dict[str, Any]) -> None:
        *_, self._used = arguments["return"]
        self.clock.set(0, max(1, self._used or 0))

    def _advance(self, owner: Any, method: str, arguments: dict[str, Any]) -> None:
        if not self.owns_forward():
            return
        timestep = arguments.get("timestep")
        if timestep is not None and self._timestep is not None and timestep is self._timestep():
            return
        self._timestep = weakref.ref(timestep) if isinstance(timestep, torch.Tensor) else None
        self._calls += 1
        length = self._own_length()
        if length is None:
            # Loops that start in the middle (video to video) show in the scheduler's own count.
            index = getattr(self._scheduler, "_step_index", None)
            start = index - self._calls if isinstance(index, int) else 0
            length = len(self._scheduler.timesteps) - max(0, start)
        order = self._order()
        self.clock.set(self._calls // order, max(1, -(-length // order)))
        self._first = None

    def _own_length(self) -> int | None:
        """How many timesteps the pipeline says that its present loop has."""
        if self._counts_early or not self._is_running():
            return None  # what it says is of all its loops, or of an old call
        return getattr(self.pipeline, "_num_timesteps", None)

    def _order(self) -> int:
        return int(getattr(self._scheduler, "order", 1))

    def _prepare(self, owner: Any, method: str, arguments: dict[str, Any]) -> None:
        if self.owns_forward():
            batches, key = arguments["return"], owner._identifier_key
            self._predictions = [getattr(batch, key) for batch in batches]

    def _see(self, owner: Any, method: str, arguments: dict[str, Any]) -> None:
        if method in self._watched:
            self.seen[method] = self._watched[method](arguments)
        if method == self._starter:
            self._calls = 0
            self.clock.begin(len(arguments["return"][0]))
        if method == _LATENTS:
            made = arguments["return"]
            first = made[0] if isinstance(made, tuple | list) else made
            self._samples = len(first) if isinstance(first, torch.Tensor) else None


def _guidance_is_on(pipeline: Any) -> bool | None:
    """Whether classifier-free guidance is on by what a pipeline says now; None if it doesn't."""
    stated = getattr(pipeline, "do_classifier_free_guidance", None)
    if stated is not None:
        return bool(stated)
    scale = getattr(pipeline, "guidance_scale", None)
    return None if scale is None else float(scale) > 1.0


def _running_pipeline(known: Any) -> Any:
    """The pipeline whose call is running in this thread, the innermost one; None for no pipeline's.

    Asked is the stack: nothing else tells apart two pipelines on the same weights, one in a
    callback of the other or in a thread of its own.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__call__" and code.co_argcount:
            caller = frame.f_locals.get(code.co_varnames[0])
            if caller is known or isinstance(getattr(type(caller), "components", None), property):
                return caller
        frame = frame.f_back  # type: ignore[assignment]  # the outermost has none
    return None
