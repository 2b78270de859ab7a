"""Paired differences: the same prompt and seed, off and on, and what the interval says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from statistics import NormalDist, fmean

import torch

from stas.activations.intervals import student_t
from stas.pipelines.prompts import Sample

NO_DIFFERENCE = "no difference shown"


TOO_FEW = "too few pairs to tell"


NOT_STEERED = "nothing was steered"


# With n pairs that differ by chance alone, all point one way in 2 of 2**n cases, and the bootstrap
# then always leaves out zero: from 6 on that is below the 5 % that the interval stands for.
FEWEST_PAIRS = 6


DRAWS = 10_000


@dataclass(frozen=True)
class PairedDifference:
    """The mean of on - off over pairs.

    Args:
        difference: The mean.
        low: Lower end of its 95 % interval.
        high: Upper end.
        pairs: How many pairs, n.
        words: What that says: "no difference shown" when the interval holds zero, "too few pairs
            to tell" when it does not but comes from fewer than 6 pairs, else which way.
    """

    difference: float
    low: float
    high: float
    pairs: int
    words: str


def paired_difference(
    off: torch.Tensor | Sequence[float],
    on: torch.Tensor | Sequence[float],
    *,
    words: tuple[str, str] = ("lower", "higher"),
) -> PairedDifference:
    """Mean of on - off with its 95 % bootstrap interval, and what that says in words.

    The bootstrap over pairs with expanded percentiles (Hesterberg, 2015), 10,000 draws of a fixed
    seed: plain percentiles are too narrow for few pairs. Pairs count as independent, so those
    that share a prompt are to be averaged first.

    Args:
        off: One number a pair, (n,).
        on: The same pairs, (n,).
        words: For a difference below and above zero.

    Returns:
        Difference, interval, n and words.

    Raises:
        ValueError: Not as many of one as of the other, none at all, or NaN or infinite numbers.

    Example:
        >>> found = paired_difference([1, 2, 3, 4, 5, 6], [2, 3, 4, 6, 6, 7])
        >>> found.pairs, found.words
        (6, 'higher')
    """
    before = torch.as_tensor(off, dtype=torch.float64)
    after = torch.as_tensor(on, dtype=torch.float64)
    if before.ndim != 1 or before.shape != after.shape or not len(before):
        raise ValueError(
            "Pairs are two lists of as many numbers, one at least, but got shapes "
            f"{tuple(before.shape)} and {tuple(after.shape)}."
        )
    difference = after - before
    if not difference.isfinite().all():
        raise ValueError("A pair holds a NaN or an infinity: leave such pairs out, and say so.")
    draws = torch.randint(
        len(difference), (DRAWS, len(difference)), generator=torch.Generator().manual_seed(0)
    )
    share = tail(len(difference))
    ends = torch.tensor([share, 1 - share], dtype=torch.float64)
    low, high = difference[draws].mean(1).quantile(ends).tolist()
    if low <= 0 <= high:
        said = NO_DIFFERENCE
    elif len(difference) < FEWEST_PAIRS:
        said = TOO_FEW
    else:
        said = words[low > 0]
    return PairedDifference(difference.mean().item(), low, high, len(difference), said)


def tail(pairs: int) -> float:
    """The percentile that gives the mean of so few numbers an interval of 95 %.

    As wide as Student's t asks for, and for the bootstrap's own factor sqrt((n - 1) / n).
    """
    if pairs < 2:
        return 0.025
    freedom = pairs - 1
    t = student_t(freedom, 0.975)
    return NormalDist().cdf(-t * sqrt(pairs / freedom))


@dataclass(frozen=True)
class Difference:
    """One row of the table: what a measure says of a run against the first.

    `before` and `after` are means over the same pairs. `found` is None, and both are NaN, when no
    pair has a number for that measure. `steered` is false where the run asked for steering, and
    no forward of any of its videos was steered.
    """

    measure: str
    run: str
    before: float
    after: float
    found: PairedDifference | None
    steered: bool = True

    @property
    def words(self) -> str:
        if not self.steered:
            return NOT_STEERED
        return self.found.words if self.found else "no number"

    @property
    def told(self) -> bool:
        """Whether a difference is shown."""
        return self.found is not None and self.words not in (NO_DIFFERENCE, TOO_FEW, NOT_STEERED)

    @property
    def short(self) -> str:
        """Difference and interval in short, "-" for no number."""
        if not self.steered:
            return self.words
        return "-" if self.found is None else f"{self.found.difference:+.3g} ({self.interval})"

    @property
    def interval(self) -> str:
        """The interval in short; "-" where one pair or none gives no interval."""
        if self.found is None or self.found.pairs < 2:
            return "-"
        return f"{self.found.low:+.3g} to {self.found.high:+.3g}"


def all_names(numbers: Iterable[Mapping[str, float]]) -> list[str]:
    """Every measure that any of the videos has, in order."""
    return list(dict.fromkeys(name for each in numbers for name in each))


def unit_of_pairs(samples: Sequence[Sample]) -> str:
    """What the pairs of a table are: "prompts", or "seeds" when there is one prompt alone."""
    return "prompts" if len({sample.prompt for sample in samples}) > 1 else "seeds"


def difference(
    measure: str,
    run: str,
    samples: Sequence[Sample],
    pairs: Mapping[str, tuple[float, float]],
    *,
    steered: bool = True,
) -> Difference:
    """What a measure says of a run.

    Seeds of one prompt are alike, so they are averaged first and a prompt counts once; with one
    prompt alone its seeds are the pairs, and speak of that prompt. Left out is what is not finite.

    Args:
        measure: Its name.
        run: Name of the run.
        samples: The samples.
        pairs: By sample, the numbers of the first run and of this one; missing where unfinished.
        steered: False where the run asked for steering, and nothing was steered.
    """
    by_prompt = unit_of_pairs(samples) == "prompts"
    units: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        pair = pairs.get(sample.name, (nan, nan))
        if all(map(isfinite, pair)):
            units.setdefault(sample.prompt if by_prompt else sample.name, []).append(pair)
    if not units:
        return Difference(measure, run, nan, nan, None, steered)
    before, after = (
        [fmean(pair[side] for pair in unit) for unit in units.values()] for side in (0, 1)
    )
    found = paired_difference(before, after)
    return Difference(measure, run, fmean(before), fmean(after), found, steered)
