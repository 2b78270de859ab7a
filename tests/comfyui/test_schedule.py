"""The window on ComfyUI's schedules, whole and split."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stas.comfyui.schedule import step_of, window_on
from stas.method.window import Window


class Flow:
    """A model's sampling with flow matching and a shift, as Wan has it."""

    def __init__(self, shift=8.0):
        self.shift, self.sigma_max = shift, 1.0

    def percent_to_sigma(self, percent):
        time = 1.0 - percent
        return self.shift * time / (1 + (self.shift - 1) * time)


def simple(steps, sampling):
    return [*(sampling.percent_to_sigma(step / steps) for step in range(steps)), 0.0]


def karras(steps, low=0.002, high=1.0, rho=7.0):
    ends = high ** (1 / rho), low ** (1 / rho)
    ramp = [ends[0] + step / (steps - 1) * (ends[1] - ends[0]) for step in range(steps)]
    return [*(each**rho for each in ramp), 0.0]


@pytest.mark.parametrize("steps", [1, 4, 7, 20, 50])
@pytest.mark.parametrize(
    "schedule", [lambda n: simple(n, Flow()), karras], ids=["simple", "karras"]
)
def test_a_whole_schedule_counts_its_steps(steps, schedule):
    if steps == 1 and schedule is karras:
        pytest.skip("karras needs two steps")
    window = Window(0.1, 0.4)
    assert window_on(window, Flow(), schedule(steps)).steps(steps) == window.steps(steps)


@pytest.mark.parametrize("cut", range(1, 20))
@pytest.mark.parametrize("window", [Window(0, 0.4), Window(0.25, 0.6), Window(0.5, 1.0)])
def test_two_experts_steer_together_what_one_model_would(cut, window):
    """On the schedule that percent is made for, the parts' steps are those of the whole."""
    sigmas = simple(20, Flow())
    first = window_on(window, Flow(), sigmas[: cut + 1]).steps(cut)
    second = window_on(window, Flow(), sigmas[cut:]).steps(20 - cut)
    assert [*first, *(cut + step for step in second)] == list(window.steps(20))


def test_denoise_below_one_begins_late():
    sigmas = simple(20, Flow())[10:]
    assert window_on(Window(0, 0.4), Flow(), sigmas).steps(10) == range(0)
    assert window_on(Window(0, 0.6), Flow(), sigmas).steps(10) == range(2)


def test_inversion_is_no_denoising():
    sigmas = simple(20, Flow())[::-1]
    assert window_on(Window(0, 1.0), Flow(), sigmas).steps(20) == range(0)


def test_substeps_belong_to_the_step_that_they_are_in():
    sigmas = karras(10)
    for step, (sigma, later) in enumerate(pairwise(sigmas)):
        assert step_of(sigma, sigmas) == step
        assert step_of(sigma * (1 - 1e-7), sigmas) == step  # float32 of the same sigma
        assert step_of((sigma + later) / 2, sigmas) == step
    assert step_of(sigmas[-1], sigmas) == 9  # a corrector at the very end
