"""Which denoising steps are steered: one half-open window, written once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class Window:
    """The denoising steps `i` of `n` with `start <= i / n < stop`.

    The paper steers the first K of N steps (K = 20 of 50): `Window(0.0, 0.4)`. The fractions are
    read as written in decimal, so that 0.07 of 100 steps is 7 and not 8.

    Args:
        start: First steered fraction of the steps, in [0, 1).
        stop: Fraction at which steering ends, in (0, 1], larger than `start`.

    Raises:
        ValueError: The window is empty or leaves [0, 1].

    Example:
        >>> Window(0.0, 0.4).steps(50)
        range(0, 20)
        >>> Window(0.0, 0.4).contains(20, 50)
        False
    """

    start: float = 0.0
    stop: float = 0.4
    # As whole numbers, for torch.compile traces `steps` and knows no Fraction.
    _ratios: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.stop)):
            raise ValueError(
                f"start and stop must be finite numbers in [0, 1], but got start={self.start}, "
                f"stop={self.stop}."
            )
        if not 0.0 <= self.start < self.stop <= 1.0:
            raise ValueError(
                "The window of steered steps is empty or leaves the schedule: expected "
                f"0 <= start < stop <= 1, but got start={self.start}, stop={self.stop}. They are "
                "shares of the steps, as 0.4; to steer none, leave steering off."
            )
        ratios = (Fraction(repr(float(end))).as_integer_ratio() for end in (self.start, self.stop))
        object.__setattr__(self, "_ratios", tuple(ratios))

    def steps(self, num_steps: int) -> range:
        """The steered steps, as a range over step indices counted from 0."""
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, but got {num_steps}.")
        first, end = (-(-part * num_steps // whole) for part, whole in self._ratios)
        return range(first, end)

    def contains(self, step: int, num_steps: int) -> bool:
        """Whether step `step` (from 0) of `num_steps` is steered."""
        return step in self.steps(num_steps)


class StepClock:
    """Where a denoising loop is, kept in plain Python values so that no device is asked.

    Whoever knows the loop calls `set`; whoever steers reads `active`. Until the first `set` every
    forward counts as steered, unless the clock is one that a loop is expected to move.

    Args:
        window: The steered steps.
        waits: Whether forwards before the first `set` belong to no loop.
    """

    def __init__(self, window: Window, *, waits: bool = False) -> None:
        self.window = window
        self.step = 0
        self.num_steps: int | None = None
        self.active = True  # whether the present step is steered
        self.outside = waits  # before or after the loop
        self.never = ""  # why no step of this loop is steered
        self.calls = 0  # forwards of the present step: the first is cond, the next uncond
        self._resting = False

    def begin(self, num_steps: int) -> None:
        """A loop of `num_steps` steps begins."""
        self._resting = False
        self.set(0, num_steps)

    def set(self, step: int, num_steps: int) -> None:
        """The next forward belongs to step `step` (from 0) of `num_steps`."""
        self._resting = self._resting and step == self.step
        self.step, self.num_steps, self.calls = step, num_steps, 0
        self.active = self.window.contains(step, num_steps) and not self._resting
        self.outside = step >= num_steps
        self.never = (
            ""
            if self.window.steps(num_steps)
            else f"none of {num_steps} denoising steps lies in the window {self.window.start:g} <= "
            f"i / {num_steps} < {self.window.stop:g}."
        )

    def rest(self) -> None:
        """Nothing more is steered in the present step; without steps, only this forward is over."""
        if self.num_steps is not None:
            self._resting, self.active = True, False
