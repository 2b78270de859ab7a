"""The steerer by itself, driven by a loop of one's own: no model, no hooks."""

from __future__ import annotations

import contextlib

import pytest
import torch

from stas.method.config import STASConfig
from stas.method.operators import steer_
from stas.method.steerer import SteeredDims, Steerer
from stas.method.tokens import TokenGrid, VideoTokens
from stas.method.window import StepClock

GRID = TokenGrid(3, 2, 4)
VIDEO = VideoTokens(GRID, batch=2)
GIVEN = SteeredDims(numbers=(1, 5), origin="given", source="given")
UNKNOWN = SteeredDims(numbers=None, origin="detected", source="to be detected")
HALVES = (("uncond", slice(0, 1)), ("cond", slice(1, 2)))
CPU = torch.device("cpu")


def hidden(massive=None):
    h = torch.randn(2, GRID.num_tokens, 32, generator=torch.Generator().manual_seed(0))
    if massive is not None:
        h[..., massive] += 500
    return h


def made(dims=GIVEN, **options):
    config = STASConfig(**options)
    return Steerer(config, dims, StepClock(config.window))


def test_it_is_the_equation_at_the_steps_of_the_window():
    steerer = made(scale=2.0, stop=0.5)
    for step in range(4):
        steerer.clock.set(step, 4)
        h = hidden()
        forward = steerer.begin(VIDEO, (), CPU)
        if step < 2:
            assert steerer.act(forward, h, "BND") is None
            assert torch.equal(h, steer_(hidden(), GRID, (1, 5), scale=2.0))
            assert steerer.end(forward, [None])
        else:
            assert forward is None
    assert steerer.steered_forwards == 2


@pytest.mark.parametrize("branch", ["cond", "uncond"])
def test_one_branch_is_steered_in_its_rows_alone(branch):
    steerer, h = made(branches=(branch,)), hidden()
    rows = dict(HALVES)[branch]
    steerer.act(steerer.begin(VIDEO, HALVES, CPU), h, "BND")
    expected = hidden()
    steer_(expected[rows], GRID, (1, 5))
    assert torch.equal(h, expected)
    # The same where the batch comes row by row.
    forward, parts = steerer.begin(VIDEO, HALVES, CPU), hidden()
    for row in range(2):
        steerer.act(forward, parts[row : row + 1], "BND", slice(row, row + 1))
    assert torch.equal(parts, expected)
    with pytest.raises(RuntimeError, match=f'nobody says.*branch="{branch}"'):
        steerer.begin(VIDEO, (), CPU)


def test_detection_reads_one_forward_and_its_step_is_not_steered():
    steerer, h = made(UNKNOWN), hidden(massive=7)
    steerer.clock.set(0, 10)
    forward = steerer.begin(VIDEO, (), CPU)
    found = steerer.act(forward, h, "BND")
    assert torch.equal(h, hidden(massive=7))
    torch.testing.assert_close(found, h.abs().mean((0, 1)))
    assert steerer.end(forward, [found])
    assert steerer.dims.numbers == (7,) and steerer.dims.origin == "detected"
    assert steerer.begin(VIDEO, (), CPU) is None
    steerer.clock.set(1, 10)
    assert steerer.begin(VIDEO, (), CPU).dims == (7,)
    assert steerer.steered_forwards == 0


@pytest.mark.parametrize(("steps", "wants"), [(1, True), (5, True), (6, False), (50, False)])
def test_a_window_of_few_steps_wants_a_forward_of_its_own(steps, wants):
    steerer = made(UNKNOWN)
    steerer.clock.set(0, steps)
    assert steerer.wants_a_look(VIDEO, ()) is wants
    if wants:
        forward = steerer.look(VIDEO)
        steerer.detect([steerer.act(forward, hidden(massive=3), "BND")], how="on a look")
        assert steerer.dims.source.startswith("detected on a look: dimension 3")
        assert steerer.begin(VIDEO, (), CPU).dims == (3,)  # nothing of the step is lost


@pytest.mark.parametrize(("claimed", "holds"), [((7,), True), ((8,), False)])
def test_a_profile_is_a_claim_that_the_first_forward_checks(claimed, holds):
    profile = SteeredDims(numbers=claimed, origin="profile", source="profile x (measured): strong")
    steerer, h = made(profile), hidden(massive=7)
    forward = steerer.begin(VIDEO, (), CPU)
    found = steerer.act(forward, h, "BND")
    torch.testing.assert_close(found, hidden(massive=7).abs().mean((0, 1)))  # before the write
    if holds:
        assert steerer.end(forward, [found]) and steerer.steered_forwards == 1
        assert not steerer.begin(VIDEO, (), CPU).reads
        return
    with pytest.warns(UserWarning, match="profile x .* not massive in these weights: dimension 8"):
        assert not steerer.end(forward, [found])
    assert steerer.dims.numbers is None and steerer.steered_forwards == 0


@pytest.mark.parametrize(
    ("strengths", "holds"),
    [
        ({1: 30}, True),
        ({1: 6}, True),  # weak where none is massive
        ({1: 6, 9: 30}, False),  # weak where another is massive
        ({1: 30, 9: 40}, True),  # massive beside another
        ({}, False),  # ordinary
    ],
)
def test_what_contradicts_a_profile(strengths, holds):
    profile = SteeredDims(numbers=(1,), origin="profile", source="profile x: y")
    steerer, h = made(profile), torch.ones(1, GRID.num_tokens, 2000)
    for dim, strength in strengths.items():
        h[..., dim] = strength
    forward = steerer.begin(VideoTokens(GRID), (), CPU)
    found = [steerer.act(forward, h, "BND")]
    with contextlib.nullcontext() if holds else pytest.warns(UserWarning, match="not massive"):
        assert steerer.end(forward, found) is holds
