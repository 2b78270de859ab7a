"""The statistics against scipy, published values and what they must obey."""

from __future__ import annotations

from itertools import permutations
from math import isnan, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest

from stas.preference.statistics import bradley_terry, krippendorff_alpha, sign_test, wilson

COUNTS = st.tuples(st.integers(0, 300), st.integers(0, 300)).filter(any)
WINS = st.integers(2, 5).flatmap(
    lambda k: st.lists(
        st.lists(st.integers(0, 12).map(lambda n: n / 2), min_size=k, max_size=k),
        min_size=k,
        max_size=k,
    )
)


@given(COUNTS)
def test_wilson_is_scipys(counts):
    found = binomtest(counts[0], sum(counts)).proportion_ci(method="wilson")
    assert wilson(counts[0], sum(counts)) == pytest.approx((found.low, found.high), abs=1e-12)


@given(COUNTS)
def test_the_sign_test_is_scipys_exact_one(counts):
    assert sign_test(*counts) == pytest.approx(binomtest(counts[0], sum(counts)).pvalue, rel=1e-9)


def test_the_ends():
    assert sign_test(0, 0) == 1 and all(map(isnan, wilson(0, 0)))
    assert wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == 1
    assert sign_test(3000, 0) == 0 < sign_test(1000, 0)
    for wrong in (lambda: wilson(6, 5), lambda: wilson(-1, 5), lambda: sign_test(-1, 2)):
        with pytest.raises(ValueError, match="but got"):
            wrong()


@given(WINS)
@settings(max_examples=50)
def test_bradley_terry_is_the_maximum_of_the_likelihood(wins):
    wins = np.array(wins)
    np.fill_diagonal(wins, 0)
    found = bradley_terry(torch.tensor(wins)).numpy()
    parts, _ = connected_components(wins > 0, directed=True, connection="strong")
    if parts > 1:
        assert np.isnan(found).all()
        return

    def loss(strengths):
        return (wins * np.logaddexp(0, strengths[None, :] - strengths[:, None])).sum()

    assert abs(found.mean()) < 1e-9
    fitted = minimize(loss, np.zeros(len(wins)), method="BFGS", options={"gtol": 1e-9})
    assert loss(found) <= fitted.fun + 1e-7
    # At the maximum each has won as often as the model says.
    chances = 1 / (1 + np.exp(found[None, :] - found[:, None]))
    games = wins + wins.T
    assert (games * chances).sum(1) - np.diag(games) / 2 == pytest.approx(wins.sum(1), abs=1e-4)


def test_bradley_terry_of_two_is_the_log_odds_and_follows_names():
    assert bradley_terry(torch.tensor([[0.0, 8], [2, 0]])).diff().item() == pytest.approx(-log(4))
    wins = torch.tensor([[0.0, 3, 1], [2, 0, 5.5], [4, 0.5, 0]])
    found = bradley_terry(wins)
    for order in permutations(range(3)):
        index = list(order)
        assert torch.allclose(bradley_terry(wins[index][:, index]), found[index], atol=1e-7)
    many = torch.stack([wins, torch.triu(wins), wins.mT])
    batch = bradley_terry(many)
    assert torch.allclose(batch[0], found, atol=1e-7) and batch[1].isnan().all()
    assert torch.allclose(batch[2], bradley_terry(wins.mT), atol=1e-7)


@pytest.mark.parametrize(
    "wins", [torch.zeros(2, 3), -torch.ones(2, 2), torch.full((2, 2), torch.nan)]
)
def test_bradley_terry_refuses_what_are_no_wins(wins):
    with pytest.raises(ValueError, match="Wins are"):
        bradley_terry(wins)


def test_alpha_is_krippendorffs():
    # The reliability data of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), C.
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [
        [value for value in column if value is not None] for column in zip(*table, strict=True)
    ]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=0, max_size=4), max_size=8))
def test_alpha_is_one_minus_observed_over_expected_disagreement(units):
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    observed = sum(
        sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units
    )
    expected = sum(a != b for a, b in permutations(values, 2))
    found = krippendorff_alpha([*units, ["a"]])
    if not expected:
        assert isnan(found)
    else:
        # Per value, and per pair of values.
        wanted = 1 - (observed / len(values)) / (expected / (len(values) * (len(values) - 1)))
        assert found == pytest.approx(wanted)
