"""Following a pipeline's denoising loop: which step it is at, and whether guidance is on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from stas.method.window import StepClock
from stas.models.spec import ModelSpec

# With what video to video leaves out the first of the scheduler's timesteps.
_CUT = "get_timesteps"


# With what guiders of modular pipelines make the inputs of a step's forwards.
_PREPARE = "prepare_inputs_from_block_state"


class LoopListener:
    """Moves a StepClock along with a pipeline's scheduler, without asking any device.

    `set_timesteps` begins a loop and each `step` ends a step; a scheduler of order 2 calls `step`
    twice per denoising step, and Cosmos 1 calls it twice with one timestep. That is the same on
    every scheduler, while `step_index` is missing on some (CogVideoX's DDIM and DPM). Where a
    pipeline steps copies of its scheduler, the row names the method that begins a loop.
    """

    def __init__(
        self,
        pipeline: Any,
        clock: StepClock,
        transformers: Mapping[str, tuple[nn.Module, ModelSpec]],
    ) -> None:
        self.pipeline = pipeline
        self.clock = clock
        self.transformers = transformers  # the steered ones and their rows, by component name
        self.scheduler: Any = None
        # What the pipeline's watched methods were given last, see `stas.models.spec.Forward`.
        self.seen: dict[str, dict[str, Any]] = {}
        names = {cls.__name__ for cls in type(pipeline).__mro__}
        specs = [spec for _, spec in transformers.values()]
        self._watched = sorted(
            {name for spec in specs for name in spec.watches if hasattr(pipeline, name)}
        )
        self._starter = next(
            (spec.loop_starters[n] for spec in specs for n in spec.loop_starters if n in names), ""
        )
        self._counts_early = any(name in names for spec in specs for name in spec.counts_early)
        self._guided: bool | None = None
        self._guiders: list[Any] = []
        self._predictions: list[str] = []  # what a guider asks of the present step, in order
        self._calls = 0
        self._timestep: Any = None
        self._used: int | None = None  # steps of the present call, where it leaves out the first

    def attach(self) -> None:
        self._listen_to_scheduler()
        for name in self._watched:
            _ObservedMethod.on(self.pipeline, name).listeners.append(self._see)
        if hasattr(self.pipeline, _CUT):
            _ObservedMethod.on(self.pipeline, _CUT).listeners.append(self._cut)
        self._listen_to_guiders()

    def detach(self) -> None:
        self._leave_scheduler()
        for name in self._watched:
            _ObservedMethod.off(self.pipeline, name, self._see)
        _ObservedMethod.off(self.pipeline, _CUT, self._cut)
        self._leave_guiders()
        self.seen = {}
        if self._is_stale():
            self.pipeline._num_timesteps = int(self.pipeline._num_timesteps)

    def follow(self, branch: str | None) -> None:
        """To be called before each forward, with its branch if a cache context names one.

        Raises:
            RuntimeError: The steered pipeline is not in a denoising loop.
        """
        if self.pipeline.scheduler is not self.scheduler:  # users swap it between calls
            self._leave_scheduler()
            self._listen_to_scheduler()
            self._begin()
        if self._starter and branch == "cond" and self.clock.num_steps is not None:
            self.clock.set(self._calls, self.clock.num_steps)
            self._calls += 1
        if self.clock.outside:
            raise RuntimeError(
                "The transformer is called outside the denoising loop of the steered "
                f"{type(self.pipeline).__name__}, so the step is not known. If another pipeline "
                "runs it, call handle.remove() and steer that pipeline; in a loop of your own, "
                "steer the bare transformer and tell the step by handle.set_step(i, n)."
            )

    @property
    def prediction(self) -> str:
        """What a guider (of modular pipelines) names the present forward; "" without a guider."""
        calls = self.clock.calls
        return self._predictions[calls] if calls < len(self._predictions) else ""

    @property
    def is_own(self) -> bool:
        """Whether the loop that runs is the pipeline's, and not one that a user wrote."""
        # A pipeline that counts its steps has counted them by the first forward of its call.
        counts = hasattr(type(self.pipeline), "num_timesteps") and not self._counts_early
        return not counts or self._num_timesteps() is not None

    @property
    def guided(self) -> bool | None:
        """Whether classifier-free guidance is on; None when the pipeline does not say."""
        return self._guided if self.is_own else None  # else it is of an old call

    def _is_stale(self) -> bool:
        return isinstance(getattr(self.pipeline, "_num_timesteps", None), _Stale)

    def _num_timesteps(self) -> int | None:
        """How many timesteps the pipeline says that its present call has."""
        if self._is_stale():
            return None
        return getattr(self.pipeline, "_num_timesteps", None)

    def _order(self) -> int:
        return int(getattr(self.scheduler, "order", 1))

    def _restart(self, *_: object) -> None:
        self._used = None
        self._begin()
        if (old := self._num_timesteps()) is not None:
            self.pipeline._num_timesteps = _Stale(old)

    def _begin(self) -> None:
        for name, (transformer, _spec) in self.transformers.items():
            present = getattr(self.pipeline, name, None)
            if getattr(present, "_orig_mod", present) is not transformer:
                raise RuntimeError(
                    f"{name} of the {type(self.pipeline).__name__} is another one than stas "
                    "attached to, so it would not be steered. Call handle.remove() and steer again."
                )
        self._leave_guiders()  # users swap them between calls
        self._listen_to_guiders()
        self._calls, self._timestep = 0, None
        self._guided = _guidance_is_on(self.pipeline)
        steps = -(-len(self.scheduler.timesteps) // self._order())
        self.clock.begin(max(1, steps if self._used is None else self._used))

    def _cut(self, method: _ObservedMethod, arguments: dict[str, Any]) -> None:
        *_, self._used = arguments["return"]
        self.clock.set(0, max(1, self._used or 0))

    def _advance(self, method: _ObservedMethod, arguments: dict[str, Any]) -> None:
        timestep = arguments.get("timestep")
        if timestep is not None and timestep is self._timestep:
            return
        self._timestep = timestep
        self._calls += 1
        length = self._num_timesteps()
        if length is None:
            # Loops that start in the middle (video to video) show in the scheduler's own count.
            index = getattr(self.scheduler, "_step_index", None)
            start = index - self._calls if isinstance(index, int) else 0
            length = len(self.scheduler.timesteps) - max(0, start)
        order = self._order()
        self.clock.set(self._calls // order, max(1, -(-length // order)))

    def _listen_to_scheduler(self) -> None:
        self.scheduler = self.pipeline.scheduler
        _ObservedMethod.on(self.scheduler, "set_timesteps").listeners.append(self._restart)
        _ObservedMethod.on(self.scheduler, "step").listeners.append(self._advance)

    def _leave_scheduler(self) -> None:
        if self.scheduler is not None:
            _ObservedMethod.off(self.scheduler, "set_timesteps", self._restart)
            _ObservedMethod.off(self.scheduler, "step", self._advance)
            self.scheduler = None

    def _listen_to_guiders(self) -> None:
        present = (getattr(self.pipeline, name, None) for name in ("guider", "guider_2"))
        self._guiders = [guider for guider in present if hasattr(guider, _PREPARE)]
        for guider in self._guiders:
            _ObservedMethod.on(guider, _PREPARE).listeners.append(self._prepare)

    def _leave_guiders(self) -> None:
        for guider in self._guiders:
            _ObservedMethod.off(guider, _PREPARE, self._prepare)
        self._guiders, self._predictions = [], []

    def _prepare(self, method: _ObservedMethod, arguments: dict[str, Any]) -> None:
        batches, key = arguments["return"], method.owner._identifier_key
        self._predictions = [getattr(batch, key) for batch in batches]

    def _see(self, method: _ObservedMethod, arguments: dict[str, Any]) -> None:
        self.seen[method.name] = arguments
        if method.name == self._starter:
            self._calls = 0
            self.clock.begin(len(arguments["return"][0]))


class _Stale(int):
    """The number of timesteps of a call that is over: equal to what it was, and known to be old."""


def _guidance_is_on(pipeline: Any) -> bool | None:
    """Whether classifier-free guidance is on; to be asked at the start of a call.

    Later, CogVideoX's dynamic guidance overwrites the scale.
    """
    stated = getattr(pipeline, "do_classifier_free_guidance", None)
    if stated is not None:
        return bool(stated)
    scale = getattr(pipeline, "guidance_scale", None)
    return None if scale is None else float(scale) > 1.0


class _ObservedMethod:
    """A method of a scheduler or pipeline that tells its listeners after each call.

    They are given the method and its arguments by name, what it returned as "return". It lies in
    the instance's dictionary, keeps the method's signature (pipelines inspect it), and a deep
    copy of the owner gets its own plain method back.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.listeners: list[Callable[[_ObservedMethod, dict[str, Any]], None]] = []
        self.method = getattr(owner, name)
        self.signature = inspect.signature(self.method)
        self.replaced = name in owner.__dict__  # a method that somebody else had put there
        functools.update_wrapper(self, self.method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.method(*args, **kwargs)
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments) | {"return": result}
        for listener in tuple(self.listeners):
            listener(self, arguments)
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
    def off(
        cls, owner: Any, name: str, listener: Callable[[_ObservedMethod, dict[str, Any]], None]
    ) -> None:
        present = owner.__dict__.get(name)
        if isinstance(present, cls) and listener in present.listeners:
            present.listeners.remove(listener)
            if not present.listeners:
                delattr(owner, name)
                if present.replaced:
                    setattr(owner, name, present.method)
