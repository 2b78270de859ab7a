"""Massive dimensions from mean magnitudes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stas.method.detection import MASSIVE_RATIO, classify, massive_from_magnitudes


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(20.0, "massive"), (19.9, "weak"), (3.0, "weak"), (2.9, "ordinary"), (0.0, "ordinary")],
)
def test_the_classes_begin_at_their_thresholds(ratio, expected):
    assert classify(ratio) == expected


def spiked(width: int, spikes: dict[int, float]) -> torch.Tensor:
    """Magnitudes whose ratio to the mean over dimensions is exactly as asked."""
    rest = (width - sum(spikes.values())) / (width - len(spikes))
    values = torch.full((width,), rest, dtype=torch.float64)
    for dim, ratio in spikes.items():
        values[dim] = ratio
    return values * 0.37


@given(st.integers(0, 255), st.floats(2, 120), st.integers(1, 9))
def test_a_planted_ratio_is_found_from_the_threshold_on(dim, ratio, blocks):
    found = massive_from_magnitudes([spiked(256, {dim: ratio})] * blocks)
    assert found.strongest[0] == dim
    assert found.ratios[0] == pytest.approx(ratio)
    if abs(ratio - MASSIVE_RATIO) > 1e-6:
        assert found.dims == ((dim,) if ratio > MASSIVE_RATIO else ())


def test_strongest_comes_first_and_a_single_block_does_not_decide():
    blocks = [spiked(512, {3: 40, 9: 90}), spiked(512, {3: 40, 9: 90}), spiked(512, {5: 200})]
    assert massive_from_magnitudes(blocks).dims == (9, 3)


def test_broken_blocks_are_left_out():
    good, bad = spiked(64, {1: 30}), torch.full((64,), float("nan"))
    assert massive_from_magnitudes([bad, good, good * float("inf")]).dims == (1,)
    nothing = massive_from_magnitudes([bad, torch.zeros(64)])
    assert (nothing.dims, nothing.strongest) == ((), ())
