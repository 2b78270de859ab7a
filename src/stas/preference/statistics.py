"""Statistics of preferences, as closed forms: what they take and give is numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from math import comb, nan, sqrt
from statistics import NormalDist

import torch

Z = NormalDist().inv_cdf(0.975)
MOST_ITERATIONS = 5_000
CLOSE = 1e-9  # the change of log strengths at which the fit ends


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 %.

    Args:
        successes: How many, 0 to `trials`.
        trials: Of how many; NaN comes back of none.

    Raises:
        ValueError: Other numbers.

    Example:
        >>> low, high = wilson(8, 10)
        >>> round(low, 3), round(high, 3)
        (0.49, 0.943)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"Expected 0 to {trials} successes, but got {successes}.")
    if not trials:
        return nan, nan
    share, square = successes / trials, Z * Z / trials
    centre = (share + square / 2) / (1 + square)
    half = Z * sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    # At the ends rounding would leave 1 - 1e-16.
    return (centre - half if successes else 0.0), (centre + half if successes < trials else 1.0)


def sign_test(plus: int, minus: int) -> float:
    """The exact sign test's two-sided p: how often a fair coin is as one-sided as this or more.

    Args:
        plus: How many point one way.
        minus: How many point the other way. Ties are left out before.

    Raises:
        ValueError: A number below 0.

    Example:
        >>> sign_test(6, 0)
        0.03125
    """
    if min(plus, minus) < 0:
        raise ValueError(f"Expected numbers of 0 and more, but got {plus} and {minus}.")
    trials, few = plus + minus, min(plus, minus)
    as_few: int = sum(comb(trials, count) for count in range(few + 1))
    return min(1.0, 2 * as_few / (1 << trials))


def bradley_terry(wins: torch.Tensor) -> torch.Tensor:
    """Strengths of which each is preferred as the logistic function of their difference says.

    The maximum of the likelihood, by Hunter's MM algorithm (2004). It exists where no group of
    settings has won against all the others without ever losing (Ford, 1957).

    Args:
        wins: (..., K, K), how often the row was preferred to the column, a tie as half a win each.

    Returns:
        (..., K), log strengths, whose mean is 0; NaN where there is no maximum.

    Raises:
        ValueError: Not square, below 0 or not finite.

    Example:
        >>> odds = bradley_terry(torch.tensor([[0.0, 3.0], [1.0, 0.0]])).diff().exp()
        >>> round(odds.item(), 3)
        0.333
    """
    wins = wins.to(torch.float64)
    if wins.ndim < 2 or wins.shape[-1] != wins.shape[-2]:
        raise ValueError(f"Wins are (..., K, K), but got shape {tuple(wins.shape)}.")
    if not (wins.isfinite() & (wins >= 0)).all():
        raise ValueError("Wins are finite numbers of 0 and more.")
    count = wins.shape[-1]
    wins = wins * (1 - torch.eye(count, dtype=wins.dtype))
    games, won = wins + wins.mT, wins.sum(-1)
    reach = (wins > 0) | torch.eye(count, dtype=torch.bool)
    for _ in range(count.bit_length()):
        reach = reach.double() @ reach.double() > 0
    able = reach.all(-1).all(-1)
    strength = torch.ones_like(won)
    for _ in range(MOST_ITERATIONS):
        both = strength[..., :, None] + strength[..., None, :]
        new = won / (games / both).sum(-1)
        new = new / new.log().mean(-1, keepdim=True).exp()
        change = (new.log() - strength.log()).abs().amax(-1)
        strength = new
        if not (able & (change > CLOSE)).any():
            break
    return strength.log().masked_fill(~able[..., None], nan)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha for names: agreement between raters beyond chance.

    Args:
        units: For each thing that was rated, what each of its raters said; things with one rater
            count for nothing.

    Returns:
        1 for full agreement, 0 for that of chance; NaN where nothing was said twice, or all was the
        same.

    Example:
        >>> krippendorff_alpha([["on", "on"], ["off", "off"]])
        1.0
    """
    same, total, values = 0.0, 0, Counter[Hashable]()
    for unit in units:
        if len(unit) > 1:
            counts = Counter(unit)
            same += sum(n * (n - 1) for n in counts.values()) / (len(unit) - 1)
            total += len(unit)
            values += counts
    chance = total * (total - 1) - sum(n * (n - 1) for n in values.values())
    return 1 - (total - same) * (total - 1) / chance if chance else nan
