"""What undoes a `steer` or a `record`."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from types import TracebackType
from typing import TypeVar, get_args

from stas.hooks.loop import LoopListener
from stas.hooks.transformer import Branch, TransformerHooks
from stas.method.window import StepClock

HandleT = TypeVar("HandleT", bound="Handle")


class Handle:
    """What undoes a `steer` or a `record`; also a context manager that does so at its end."""

    def __init__(
        self,
        parts: Mapping[str, TransformerHooks],
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        self._parts = dict(parts)
        self._verb = next(part.verb for part in parts.values())
        self._clock = clock
        self._listener = listener
        self._attached = False

    def _attach(self) -> None:
        try:
            for part in self._parts.values():
                part.attach()
            if self._listener is not None:
                self._listener.attach()
        except BaseException:
            self._attached = True
            self.remove()
            raise
        self._attached = True

    def set_step(self, step: int, num_steps: int, *, branch: Branch | None = None) -> None:
        """Say where your own denoising loop is, before the forward of that step.

        Only for a bare transformer: a pipeline's schedule tells by itself.

        Args:
            step: The denoising step, from 0 to `num_steps` - 1.
            num_steps: How many steps the loop has, at least 1.
            branch: Which branch of classifier-free guidance the next forward is, "cond_uncond"
                for one batch of both with the uncond rows first; needed only when a single branch
                is steered and you make no use of `transformer.cache_context`.

        Raises:
            RuntimeError: The handle follows a pipeline, or has been removed.
            TypeError: `step` or `num_steps` is not an integer.
            ValueError: `step` is not one of the `num_steps` steps, or there is no such branch.
        """
        if self._listener is not None:
            raise RuntimeError(
                "set_step is for a bare transformer. This handle follows a pipeline, whose "
                "scheduler says which step it is."
            )
        if not self._attached:
            raise RuntimeError(f"This handle has been removed; call stas.{self._verb} again.")
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
        self._clock.set(int(step), int(num_steps))
        for part in self._parts.values():
            part.branch = branch

    def remove(self) -> None:
        """Undo everything; the model computes what it computed before. Twice is harmless."""
        if not self._attached:
            return
        if self._listener is not None:
            self._listener.detach()
        for part in self._parts.values():
            part.detach()
        self._attached = False

    def __enter__(self: HandleT) -> HandleT:
        if not self._attached:
            raise RuntimeError(f"This handle has been removed; call stas.{self._verb} again.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()
