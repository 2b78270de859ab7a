"""What undoes a `steer` or a `record`."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar

from stas.hooks.loop import Branch, OwnLoop
from stas.hooks.transformer import TransformerHooks

HandleT = TypeVar("HandleT", bound="Handle")


class Handle:
    """What undoes a `steer` or a `record`; also a context manager that does so at its end."""

    def __init__(self, parts: Mapping[str, TransformerHooks[Any]]) -> None:
        self._parts = dict(parts)
        first = next(iter(parts.values()))
        self._verb, self._loop = first.verb, first.loop
        self._attached = False

    def _attach(self) -> None:
        try:
            for part in self._parts.values():
                part.attach()
            self._loop.attach()
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
        if not isinstance(self._loop, OwnLoop):
            raise RuntimeError(
                "set_step is for a bare transformer. This handle follows a pipeline, whose "
                "scheduler says which step it is."
            )
        if not self._attached:
            raise RuntimeError(f"This handle has been removed; call stas.{self._verb} again.")
        self._loop.set_step(step, num_steps, branch)

    def remove(self) -> None:
        """Undo everything; the model computes what it computed before. Twice is harmless."""
        if not self._attached:
            return
        self._loop.detach()
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
