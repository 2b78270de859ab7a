"""Paired differences against intervals that are known, and how often they err."""

from __future__ import annotations

import pytest
import torch

from stas.studies.differences import NO_DIFFERENCE, TOO_FEW, paired_difference


def test_the_interval_is_that_of_a_mean():
    generator = torch.Generator().manual_seed(1)
    off = torch.randn(400, generator=generator)
    on = off + 0.5 + torch.randn(400, generator=generator)
    found = paired_difference(off, on)
    difference = (on - off).double()
    half = 1.96 * difference.std() / 400**0.5
    assert found.difference == pytest.approx(difference.mean().item())
    assert found.low == pytest.approx((difference.mean() - half).item(), abs=0.01)
    assert found.high == pytest.approx((difference.mean() + half).item(), abs=0.01)
    assert (found.pairs, found.words) == (400, "higher")
    assert paired_difference(off, on) == found  # the draws are the same each time
    assert paired_difference(on, off, words=("worse", "better")).words == "worse"


def test_pairs_that_differ_by_chance_show_no_difference():
    generator = torch.Generator().manual_seed(0)
    wrong = sum(
        paired_difference(torch.zeros(30), torch.randn(30, generator=generator)).words
        != NO_DIFFERENCE
        for _ in range(100)
    )
    assert wrong <= 12  # 5 are expected; more than 12 come up once in 600


def test_few_pairs_err_no_more_often():
    generator = torch.Generator().manual_seed(0)
    found = [
        paired_difference(torch.zeros(8), torch.randn(8, generator=generator)) for _ in range(300)
    ]
    wrong = sum(not each.low <= 0 <= each.high for each in found)
    assert wrong <= 25  # 15 are expected, and 33 of plain percentiles


def test_few_pairs_tell_nothing():
    assert paired_difference([0.0], [1.0]).words == TOO_FEW
    assert paired_difference([0.0] * 5, [1.0, 1.1, 1.2, 1.3, 1.4]).words == TOO_FEW
    assert paired_difference([0.0] * 6, [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]).words == "higher"
    assert paired_difference([1.0], [1.0]).words == NO_DIFFERENCE


@pytest.mark.parametrize(
    ("off", "on", "message"),
    [
        ([], [], "one at least"),
        ([1.0], [1.0, 2.0], "shapes"),
        ([1.0, float("nan")], [1.0, 2.0], "NaN"),
        ([1.0, float("inf")], [1.0, 2.0], "infinity"),
    ],
)
def test_what_is_no_pair_is_refused(off, on, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(off, on)
