"""How sure massive dimensions are: their ratios with intervals over prompts."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import torch

from stas.activations.intervals import FEWEST, always_valid, mean_interval
from stas.activations.stats import ActivationStats
from stas.method.detection import MASSIVE_RATIO


@dataclass(frozen=True)
class RatioInterval:
    """A dimension's ratio over prompts: the geometric mean, and its 95 % interval."""

    dim: int
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Certainty:
    """Which dimensions are massive for sure, and which may be.

    Args:
        prompts: How many prompts say so.
        sure: Those whose interval lies above the threshold, strongest first.
        unsure: Those whose interval holds the threshold, strongest first.
        enough: After how many prompts, in their order, it was the same and stayed so; None where
            a dimension is unsure still, or there are fewer than 6 prompts.
    """

    prompts: int
    sure: tuple[RatioInterval, ...]
    unsure: tuple[RatioInterval, ...]
    enough: int | None

    def describe(self) -> str:
        """That in a sentence."""
        if self.prompts < FEWEST:
            return f"{self.prompts} prompts don't say how sure that is: record {FEWEST} or more."
        said = ", ".join(f"{i.dim} ({i.low:.3g} to {i.high:.3g})" for i in self.sure) or "none"
        if self.unsure:
            maybe = ", ".join(f"{i.dim} ({i.low:.3g} to {i.high:.3g})" for i in self.unsure)
            return f"Massive for sure: {said}. Not sure yet: {maybe}; record more prompts."
        return f"Massive for sure: {said}. {self.enough} prompts would have been enough."


def certainty(stats: ActivationStats, *, threshold: float = MASSIVE_RATIO) -> Certainty:
    """How sure the massive dimensions of recorded statistics are.

    Intervals are Student's over the prompts' log ratios, each of 95 % by itself.

    Args:
        stats: What `stas record` or `stas profile` wrote, with the ratios of each video.
        threshold: The ratio from which a dimension is massive.

    Raises:
        ValueError: The statistics hold no ratios by video.

    Example:
        >>> import torch
        >>> stats = ActivationStats(blocks=(0,), width=3, boundary=0.08)
        >>> stats.video_ratios = torch.tensor([[30.0 + n, 0.5, 1.0] for n in range(8)])
        >>> certainty(stats).describe()
        'Massive for sure: 0 (31.4 to 35.5). 6 prompts would have been enough.'
    """
    if stats.video_ratios is None:
        raise ValueError(
            "These statistics hold no ratios by video. Record with `stas record` of this version."
        )
    ratios = stats.video_ratios.double()
    ratios = ratios[ratios.isfinite().all(1)]
    last = _judged(ratios, threshold)
    enough = None
    if len(ratios) >= FEWEST and not last[1]:
        sides = {each.dim for each in last[0]}
        enough = len(ratios)
        while enough > FEWEST:
            sure, unsure = _judged(ratios[: enough - 1], threshold)
            if unsure or {each.dim for each in sure} != sides:
                break
            enough -= 1
    return Certainty(len(ratios), *last, enough)


def is_sure(stats: ActivationStats, *, threshold: float = MASSIVE_RATIO) -> bool:
    """Whether enough videos were recorded to know which dimensions are massive.

    It may be asked after each video, and recording ended when it is: the intervals are those of
    `always_valid`, each of 95 % by itself, so wider than those of `certainty`.

    Args:
        stats: What is recorded so far.
        threshold: The ratio from which a dimension is massive.

    Example:
        >>> stats = ActivationStats(blocks=(0,), width=3, boundary=0.08)
        >>> stats.video_ratios = torch.tensor([[30.0 + n, 0.5, 1.0] for n in range(8)])
        >>> is_sure(stats)
        True
    """
    if stats.video_ratios is None:
        return False
    ratios = stats.video_ratios.double()
    ratios = ratios[ratios.isfinite().all(1)]
    return len(ratios) >= FEWEST and not _judged(ratios, threshold, all_looks=True)[1]


def _judged(
    ratios: torch.Tensor, threshold: float, *, all_looks: bool = False
) -> tuple[tuple[RatioInterval, ...], tuple[RatioInterval, ...]]:
    """Those above the threshold, and those that may be."""
    if len(ratios) < FEWEST:
        return (), ()
    logs = ratios.clamp(min=torch.finfo(ratios.dtype).tiny).log()
    sure, unsure = [], []
    # The interval of a dimension that no prompt brings near the threshold is below it.
    for dim in (ratios.amax(0) >= threshold / 2).nonzero().flatten().tolist():
        values = logs[:, dim].tolist()
        if all_looks:
            found = always_valid(values, 0.05, 2 * FEWEST, unlike=log(threshold))
        else:
            found = mean_interval(values)
        interval = RatioInterval(dim, *map(exp, (found.mean, found.low, found.high)))
        if interval.low > threshold:
            sure.append(interval)
        elif interval.high >= threshold:
            unsure.append(interval)
    by_ratio = [sorted(each, key=lambda i: -i.ratio) for each in (sure, unsure)]
    return tuple(by_ratio[0]), tuple(by_ratio[1])
