"""The window of steered steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stas.method.window import StepClock, Window


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 300))
def test_steps_are_those_of_the_definition(start, length, num_steps):
    start, stop = start / 1000, min(1000, start + length) / 1000
    if start == stop:
        return
    # Thousandths, compared in integers: no rounding in the reference.
    expected = [
        i
        for i in range(num_steps)
        if round(start * 1000) * num_steps <= i * 1000 < round(stop * 1000) * num_steps
    ]
    window = Window(start, stop)
    assert list(window.steps(num_steps)) == expected
    assert [i for i in range(num_steps) if window.contains(i, num_steps)] == expected


def test_adjacent_windows_share_no_step():
    assert set(Window(0.0, 0.07).steps(100)).isdisjoint(Window(0.07, 1.0).steps(100))


def test_the_papers_window():
    assert Window().steps(50) == range(0, 20)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0.4, 0.4), (0.5, 0.4), (-0.1, 0.4), (0.0, 1.1), (float("nan"), 0.4), (0.0, float("inf"))],
)
def test_empty_or_impossible_windows_are_refused(start, stop):
    with pytest.raises(ValueError, match="start"):
        Window(start, stop)


def test_a_clock_steers_until_it_is_told_the_step():
    clock = StepClock(Window(0.0, 0.5))
    assert clock.active
    assert [clock.set(i, 4) or clock.active for i in range(4)] == [True, True, False, False]
