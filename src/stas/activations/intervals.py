"""Intervals of means, without scipy: Student's, and one that holds at all looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, nan, sqrt
from statistics import NormalDist, fmean, stdev

FEWEST = 6  # prompts from which an interval decides, as for paired differences


@dataclass(frozen=True)
class MeanInterval:
    """A mean and its interval.

    Args:
        mean: Of the numbers; NaN for none.
        low: Lower end; minus infinity where there are too few numbers.
        high: Upper end.
        deviation: Standard deviation of the numbers; 0 for one alone.
        n: How many.
    """

    mean: float
    low: float
    high: float
    deviation: float
    n: int

    @property
    def side(self) -> int:
        """On which side of zero the interval lies: -1, 1, or 0 where it holds zero."""
        return (self.low > 0) - (self.high < 0)


def mean_interval(values: Sequence[float], error: float = 0.05) -> MeanInterval:
    """The mean of independent numbers with Student's interval.

    Args:
        values: Finite numbers, (n,), at least one.
        error: The chance that it leaves out the true mean.

    Example:
        >>> found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        >>> found.mean, round(found.low, 1), found.side
        (3.5, 1.5, 1)
    """
    mean, n = fmean(values), len(values)
    deviation = stdev(values) if n > 1 else 0.0
    half = student_t(n - 1, 1 - error / 2) * deviation / sqrt(n) if n > 1 else inf
    return MeanInterval(mean, mean - half, mean + half, deviation, n)


def student_t(freedom: int, share: float) -> float:
    """A quantile of Student's t, by its expansion about the normal.

    Abramowitz and Stegun, 26.7.5.

    Args:
        freedom: Degrees of freedom, from 1; below 3 the expansion is rough.
        share: Of the distribution below it.

    Example:
        >>> round(student_t(10, 0.975), 2)
        2.23
    """
    z = NormalDist().inv_cdf(share)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def always_valid(
    values: Sequence[float], error: float, planned: int, *, unlike: float = 0.0
) -> MeanInterval:
    """The mean of numbers with an interval that may be looked at after each of them.

    The t-test's e-process: a normal mixture over the effect's size in standard deviations, with
    the right Haar prior on the deviation (Lai, 1976; Wang and Ramdas, 2025). For normal numbers
    the chance that the interval ever leaves out the true mean is at most `error`, at any n; for
    others that is asymptotic. Numbers that are all alike, as of votes that all say the same, count
    as if one more were `unlike` [our choice]: without a deviation the test says nothing.

    Args:
        values: Independent finite numbers, (n,).
        error: That chance, between 0 and 1.
        planned: At how many numbers the interval is to be narrowest.
        unlike: What one more is taken to be where all are alike.

    Example:
        >>> found = always_valid([1.0, 1.2, 0.9, 1.1, 0.8, 1.0, 1.3, 0.7], 0.05, 8)
        >>> round(found.mean, 2), found.low > 0
        (1.0, True)
    """
    n = len(values)
    mean = fmean(values) if n else nan
    deviation = stdev(values) if n > 1 else 0.0
    if deviation == 0 and mean != unlike and n > 1:
        alike = always_valid([*values, unlike], error, planned)
        return MeanInterval(mean, alike.low, alike.high, deviation, n)
    half = always_valid_t(n, error, planned) * deviation / sqrt(n) if deviation > 0 else inf
    return MeanInterval(mean, mean - half, mean + half, deviation, n)


def always_valid_t(n: int, error: float, planned: int) -> float:
    """The t statistic at which the e-process of n numbers reaches 1 / error; see `always_valid`."""
    if n < 2:
        return inf
    # What makes a normal mixture's interval narrowest at `planned` (Waudby-Smith et al., 2024).
    spread = (-2 * log(error) + log(-2 * log(error) + 1)) / planned
    shrink = 1 / (1 + n * spread)
    ratio = (1 / (sqrt(shrink) * error)) ** (2 / n)
    if ratio * shrink >= 1:
        return inf
    return sqrt((n - 1) * (ratio - 1) / (1 - ratio * shrink))
