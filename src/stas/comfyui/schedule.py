"""Which denoising step one evaluation of ComfyUI's samplers is at, and which are steered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stas.method.window import Window

# percent_to_sigma and the schedulers' tables round differently.
_SAME = 1 + 1e-5


@dataclass(frozen=True)
class PartWindow(Window):
    """The window on a part of a schedule, whose own steps are not those that i / N counts.

    Args:
        part: The steered steps of the part.
    """

    part: range = range(0)

    def steps(self, num_steps: int) -> range:
        """The steered steps."""
        return self.part


def window_on(window: Window, sampling: Any, sigmas: Sequence[float]) -> Window:
    """The window on the schedule of one sampling.

    A list of sigmas that runs from the model's largest to 0 is a whole schedule: its steps count
    as i / N. A part of one (one of two experts, denoise below 1) has lost where it begins, so each
    of its steps is placed by ComfyUI's percent, as start_percent and end_percent of its own nodes
    are.

    Args:
        window: What is asked for, in fractions of a whole schedule.
        sampling: The model's `model_sampling`.
        sigmas: The noise levels of the sampling, one more than steps.

    Example:
        >>> class Flow:
        ...     sigma_max = 1.0
        ...     def percent_to_sigma(self, percent):
        ...         return 1.0 - percent
        >>> window_on(Window(), Flow(), [1.0, 0.75, 0.5, 0.25, 0.0]).steps(4)
        range(0, 2)
        >>> window_on(Window(), Flow(), [0.75, 0.7, 0.5, 0.25, 0.0]).steps(4)
        range(0, 2)
    """
    if sigmas[-1] == 0.0 and sigmas[0] >= float(sampling.sigma_max) * (1 - 1e-3):
        return window
    first = float(sampling.percent_to_sigma(window.start)) if window.start > 0 else float("inf")
    last = float(sampling.percent_to_sigma(window.stop)) if window.stop < 1 else -1.0
    steered = [
        step
        for step, (sigma, later) in enumerate(pairwise(sigmas))
        # Where sigmas rise noise is added, as in inversion: that is no denoising step.
        if sigma > later and last * _SAME < sigma <= first * _SAME
    ]
    part = range(steered[0], steered[-1] + 1) if steered else range(0)
    return PartWindow(window.start, window.stop, part)


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """The step that an evaluation at `sigma` belongs to; samplers also evaluate between steps.

    Example:
        >>> [step_of(sigma, [1.0, 0.5, 0.0]) for sigma in (1.0, 0.7, 0.5, 0.2)]
        [0, 0, 1, 1]
    """
    return min(sum(sigma <= later * _SAME for later in sigmas[1:]), len(sigmas) - 2)
