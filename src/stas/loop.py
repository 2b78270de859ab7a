"""Following a pipeline's denoising loop: which step it is at, and whether guidance is on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from stas.schedule import StepClock


class LoopListener:
    """Moves a StepClock along with a pipeline's scheduler, without asking any device.

    `set_timesteps` begins a loop and each `step` ends a step; a scheduler of order 2 calls `step`
    twice per denoising step. That is the same on every scheduler, while `step_index` is missing
    on some (CogVideoX's DDIM and DPM).
    """

    def __init__(
        self, pipeline: Any, clock: StepClock, transformers: Mapping[str, nn.Module]
    ) -> None:
        self.pipeline = pipeline
        self.clock = clock
        self.transformers = transformers  # the steered ones, by component name
        self.scheduler: Any = None
        self._guided: bool | None = None
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
        if self._is_stale():
            self.pipeline._num_timesteps = int(self.pipeline._num_timesteps)

    def follow(self) -> None:
        """To be called before each forward: users swap the scheduler between calls.

        Raises:
            RuntimeError: The steered pipeline is not in a denoising loop.
        """
        if self.pipeline.scheduler is not self.scheduler:
            self.detach()
            self.attach()
            self._restart()
        if self.clock.outside:
            raise RuntimeError(
                "The transformer is called outside the denoising loop of the steered "
                f"{type(self.pipeline).__name__}, so the step is not known. If another pipeline "
                "runs it, call handle.remove() and steer that pipeline; in a loop of your own, "
                "steer the bare transformer and tell the step by handle.set_step(i, n)."
            )

    @property
    def guided(self) -> bool | None:
        """Whether classifier-free guidance is on; None when the pipeline does not say."""
        # A pipeline that counts its steps has counted them by the first forward of its call.
        # When it has not, the loop is another's, and what it said of guidance is of an old call.
        counts = hasattr(type(self.pipeline), "num_timesteps")
        return None if counts and self._num_timesteps() is None else self._guided

    def _is_stale(self) -> bool:
        return isinstance(getattr(self.pipeline, "_num_timesteps", None), _Stale)

    def _num_timesteps(self) -> int | None:
        """How many timesteps the pipeline says that its present call has."""
        if self._is_stale():
            return None
        return getattr(self.pipeline, "_num_timesteps", None)

    def _order(self) -> int:
        return int(getattr(self.scheduler, "order", 1))

    def _restart(self) -> None:
        for name, transformer in self.transformers.items():
            present = getattr(self.pipeline, name, None)
            if getattr(present, "_orig_mod", present) is not transformer:
                raise RuntimeError(
                    f"{name} of the {type(self.pipeline).__name__} is another one than stas.steer "
                    "attached to, so it would not be steered. Call handle.remove() and steer again."
                )
        self._calls = 0
        self._guided = _guidance_is_on(self.pipeline)
        if (old := self._num_timesteps()) is not None:
            self.pipeline._num_timesteps = _Stale(old)
        self.clock.begin(max(1, -(-len(self.scheduler.timesteps) // self._order())))

    def _advance(self) -> None:
        self._calls += 1
        length = self._num_timesteps()
        if length is None:
            # Loops that start in the middle (video to video) show in the scheduler's own count.
            index = getattr(self.scheduler, "_step_index", None)
            start = index - self._calls if isinstance(index, int) else 0
            length = len(self.scheduler.timesteps) - max(0, start)
        order = self._order()
        self.clock.set(self._calls // order, max(1, -(-length // order)))


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
    """A scheduler's method that tells its listeners after each call.

    It lies in the instance's dictionary, keeps the method's signature (pipelines inspect it), and
    a deep copy of the scheduler gets its own plain method back.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.listeners: list[Callable[[], None]] = []
        self.method = getattr(owner, name)
        self.replaced = name in owner.__dict__  # a method that somebody else had put there
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
                if present.replaced:
                    setattr(owner, name, present.method)
