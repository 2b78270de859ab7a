"""Which dimensions are massive, given mean magnitudes or recorded statistics."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf, nan
from random import Random

import torch

from stas.activations.stats import ActivationStats
from stas.method.config import REGIONS
from stas.method.detection import (
    MASSIVE_RATIO,
    WEAK_RATIO,
    DimensionClass,
    MassiveActivations,
    _class_of,
)


@dataclass(frozen=True, kw_only=True)
class DimensionFindings:
    """What statistics say of one dimension.

    Args:
        dim: The dimension.
        ratio: Its mean magnitude over the mean over dimensions: the median over blocks and steps.
        dimension_class: "massive", "weak" or "ordinary".
        consistency: Share of blocks and steps at which it reaches the threshold of its class, 0
            to 1.
        sign: Mean h over mean |h|: 1 when it is always positive, -1 when always negative.
        blocks: Blocks at which its ratio over all steps reaches the threshold of its class.
        first_frame: Mean |h| at the tokens of the first latent frame; NaN, like the next two,
            when a block has no finite value there.
        boundary: Mean |h| at boundary tokens.
        interior: Mean |h| at the other tokens.
    """

    dim: int
    ratio: float
    dimension_class: DimensionClass
    consistency: float
    sign: float
    blocks: tuple[int, ...]
    first_frame: float
    boundary: float
    interior: float


@dataclass(frozen=True, kw_only=True)
class RecordedMassiveActivations(MassiveActivations):
    """Massive activations found in statistics.

    Args:
        findings: More about each of `strongest`.
        all_ratios: The ratio of every dimension.
        weak_threshold: The ratio from which a dimension is weak and no longer ordinary.
        nonfinite: Tokens and dimensions that were NaN or infinite while recording, and left out.
    """

    findings: tuple[DimensionFindings, ...]
    all_ratios: tuple[float, ...] = field(repr=False)
    weak_threshold: float
    nonfinite: int

    def of_class(self, wanted: DimensionClass, count: int, *, seed: int = 0) -> tuple[int, ...]:
        """Dimensions of a class, for the paper's comparison of massive, weak and ordinary ones.

        Args:
            wanted: The class. Massive and weak dimensions come strongest first; ordinary ones are
                drawn at random.
            count: How many.
            seed: Of the draw.

        Raises:
            ValueError: There are not so many.
        """
        low, high = {
            "massive": (self.threshold, inf),
            "weak": (self.weak_threshold, self.threshold),
            "ordinary": (0.0, self.weak_threshold),
        }[wanted]
        found = [dim for dim, ratio in enumerate(self.all_ratios) if low <= ratio < high]
        if len(found) < count:
            raise ValueError(
                f"{count} {wanted} dimensions were asked for, but there are {len(found)} with "
                f"ratios from {low:g} to {high:g}."
            )
        if wanted == "ordinary":
            return tuple(sorted(Random(seed).sample(found, count)))
        return tuple(sorted(found, key=lambda dim: -self.all_ratios[dim])[:count])


def find_massive_activations(
    stats: ActivationStats,
    *,
    threshold: float = MASSIVE_RATIO,
    weak_threshold: float = WEAK_RATIO,
    blocks: Collection[int] | None = None,
) -> RecordedMassiveActivations:
    """Massive activations in recorded statistics; no model is needed, and thresholds may change.

    A dimension's ratio at a block and step is its mean |h| over tokens, samples and branches,
    divided by the mean of that over dimensions. It is massive when the median over blocks and
    steps reaches `threshold`: at most of the blocks, most of the time [our choice].

    Args:
        stats: What `stas.record` recorded.
        threshold: The ratio from which a dimension is massive.
        weak_threshold: The ratio from which it is weak.
        blocks: Only these of the recorded blocks.

    Returns:
        The findings; none is massive when no ratio reaches the threshold.

    Raises:
        ValueError: Nothing was recorded, no such block, or thresholds out of order.

    Example:
        >>> from stas.activations.sums import partial_sums
        >>> from stas.method.tokens import TokenGrid
        >>> grid, h = TokenGrid(2, 2, 2), torch.ones(8, 64)
        >>> h[:, 7] = -99.0
        >>> stats = ActivationStats(blocks=(0,), width=64, boundary=0.08)
        >>> stats.add(0, 1, "cond", 0, partial_sums(h, grid, 0.08), grid)
        >>> found = find_massive_activations(stats)
        >>> found.dims, found.findings[0].sign
        ((7,), -1.0)
    """
    if not 0 < weak_threshold <= threshold:
        raise ValueError(
            f"Expected 0 < weak_threshold <= threshold, but got {weak_threshold} and {threshold}."
        )
    if not stats.cells:
        raise ValueError("These statistics hold no samples: record at least one video.")
    unknown = sorted(set(blocks or ()) - set(stats.blocks))
    if unknown:
        raise ValueError(f"Blocks {unknown} were not recorded; recorded are {stats.blocks}.")
    rows = [i for i, block in enumerate(stats.blocks) if blocks is None or block in blocks]
    steps = sorted({step for step, _ in stats.cells})
    # (steps, blocks, D)
    by_step = torch.stack([stats.pooled(steps=[step]).mean_abs[rows] for step in steps])
    scale = by_step.mean(dim=2, keepdim=True)
    seen = scale[..., 0] > 0
    if not bool(seen.any()):
        raise ValueError("Every recorded activation is zero or not finite.")
    ratios = (by_step / scale.clamp(min=torch.finfo(scale.dtype).tiny))[seen]
    middle = ratios.quantile(0.5, dim=0)
    order = middle.argsort(descending=True, stable=True).tolist()
    values = middle.tolist()
    pooled = stats.pooled()
    of_block = pooled.mean_abs[rows]
    of_block = of_block / of_block.mean(dim=1, keepdim=True)
    by_region = [stats.pooled(regions=(region,)) for region in REGIONS]
    findings = []
    for dim in order[:5]:
        kind = _class_of(values[dim], threshold, weak_threshold)
        bound = {"massive": threshold, "weak": weak_threshold, "ordinary": 0.0}[kind]
        magnitude = float(pooled.mean_abs[rows, dim].mean())
        groups = [
            float(region.mean_abs[rows, dim].mean())
            if bool((region.count[rows, dim] > 0).all())
            else nan
            for region in by_region
        ]
        findings.append(
            DimensionFindings(
                dim=dim,
                ratio=values[dim],
                dimension_class=kind,
                consistency=float((ratios[:, dim] >= bound).double().mean()),
                sign=float(pooled.mean[rows, dim].mean()) / magnitude if magnitude else 0.0,
                blocks=tuple(
                    stats.blocks[row]
                    for row, ratio in zip(rows, of_block[:, dim].tolist(), strict=True)
                    if ratio >= bound
                ),
                first_frame=groups[0],
                boundary=groups[1],
                interior=groups[2],
            )
        )
    return RecordedMassiveActivations(
        dims=tuple(dim for dim in order if values[dim] >= threshold),
        strongest=tuple(order[:5]),
        ratios=tuple(values[dim] for dim in order[:5]),
        threshold=threshold,
        findings=tuple(findings),
        all_ratios=tuple(values),
        weak_threshold=weak_threshold,
        nonfinite=int(pooled.nonfinite[rows].sum()),
    )
