"""Student's intervals of means, without scipy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist, fmean, stdev

FEWEST = 6  # prompts from which an interval decides, as for paired differences


@dataclass(frozen=True)
class MeanInterval:
    """A mean, its interval and over how many numbers, n; infinite for one alone."""

    mean: float
    low: float
    high: float
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
    half = student_t(n - 1, 1 - error / 2) * stdev(values) / sqrt(n) if n > 1 else inf
    return MeanInterval(mean, mean - half, mean + half, n)


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
