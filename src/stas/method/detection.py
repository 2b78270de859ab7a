"""Which dimensions are massive, given mean magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

DimensionClass = Literal["massive", "weak", "ordinary"]


# [our choice] The paper's true massive dimension is about 59 times the mean, a weak one 6 times,
# an ordinary one once: 20 is near the geometric mean of the first two, 3 of the last two.
MASSIVE_RATIO = 20.0


WEAK_RATIO = 3.0


def classify(ratio: float) -> DimensionClass:
    """The class of a dimension whose mean magnitude is `ratio` times the mean over dimensions.

    Example:
        >>> classify(59.0), classify(6.0), classify(1.0)
        ('massive', 'weak', 'ordinary')
    """
    return _class_of(ratio, MASSIVE_RATIO, WEAK_RATIO)


def _class_of(ratio: float, threshold: float, weak_threshold: float) -> DimensionClass:
    if ratio >= threshold:
        return "massive"
    return "weak" if ratio >= weak_threshold else "ordinary"


def describe_ratios(dims: Sequence[int], ratios: Sequence[float]) -> str:
    """Dimensions and their ratios in words.

    Example:
        >>> describe_ratios([1188, 7], [59.1, 1.0])
        'dimension 1188 at 59.1x the mean (massive), dimension 7 at 1.0x the mean (ordinary)'
    """
    return ", ".join(
        f"dimension {dim} at {ratio:.1f}x the mean ({classify(ratio)})"
        for dim, ratio in zip(dims, ratios, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class MassiveActivations:
    """The strongest dimensions of a model, strongest first.

    Args:
        dims: Dimensions that reach the threshold.
        strongest: Dimensions looked at first, at most five, whether they reach it or not.
        ratios: For each of `strongest`, its mean magnitude over the mean over dimensions.
        threshold: The ratio from which a dimension counts.
    """

    dims: tuple[int, ...]
    strongest: tuple[int, ...]
    ratios: tuple[float, ...]
    threshold: float

    def describe(self) -> str:
        """The strongest dimensions and their ratios, in words."""
        return describe_ratios(self.strongest, self.ratios)


def massive_from_magnitudes(
    magnitudes: Sequence[torch.Tensor], *, threshold: float = MASSIVE_RATIO
) -> MassiveActivations:
    """Massive dimensions from the mean magnitudes at one or more blocks.

    A dimension's ratio at a block is its mean |h| over visual tokens, divided by the mean of that
    over dimensions. Massive activations keep to the same dimensions across blocks, so a dimension
    counts when the median of its ratios over the blocks reaches `threshold` [our choice]. Blocks
    with a NaN or an infinity are left out.

    Args:
        magnitudes: One vector (D,) of mean |h| per block.
        threshold: The ratio from which a dimension is massive.

    Returns:
        The massive dimensions, none when no block is finite or no ratio reaches the threshold.

    Example:
        >>> flat = torch.ones(64)
        >>> spiked = flat.clone()
        >>> spiked[7] = 99.0
        >>> massive_from_magnitudes([spiked]).dims
        (7,)
        >>> massive_from_magnitudes([flat]).dims
        ()
    """
    ratios = median_ratios(magnitudes)
    if ratios is None:
        return MassiveActivations(dims=(), strongest=(), ratios=(), threshold=threshold)
    order = ratios.argsort(descending=True, stable=True).tolist()
    values = ratios.tolist()
    strongest = order[:5]
    return MassiveActivations(
        dims=tuple(dim for dim in order if values[dim] >= threshold),
        strongest=tuple(strongest),
        ratios=tuple(values[dim] for dim in strongest),
        threshold=threshold,
    )


def median_ratios(magnitudes: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """For each dimension the median over blocks of its mean |h| over the mean over dimensions.

    Args:
        magnitudes: One vector (D,) of mean |h| per block; those with a NaN or an infinity are left
            out.

    Returns:
        (D,), float64, on the CPU; None when no block is left.
    """
    finite = [m.cpu().double() for m in magnitudes if bool(torch.isfinite(m).all()) and m.sum() > 0]
    if not finite:
        return None
    return torch.stack([m / m.mean() for m in finite]).quantile(0.5, dim=0)
