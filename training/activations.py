"""What recorded statistics say of a model's strongest dimensions, block by block."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from stas.activations.stats import ActivationStats
from stas.method.config import REGIONS

SHOWN = 5  # dimensions a block


def activation_report(
    stats: ActivationStats, steps: Collection[int] | None = None
) -> list[dict[str, Any]]:
    """For each block: its strongest dimensions, their ratios, and the first by token region.

    Args:
        stats: What `stas.record` recorded.
        steps: Only these denoising steps.

    Returns:
        A row a block. A ratio is mean |h| over the mean of that over dimensions, also where it is
        of one region: there the divisor is of all tokens.
    """
    everywhere = stats.pooled(steps=steps).mean_abs  # (blocks, D)
    scale = everywhere.mean(1, keepdim=True)
    ratios = everywhere / scale
    by_region = {
        region: stats.pooled(steps=steps, regions=[region]).mean_abs / scale for region in REGIONS
    }
    rows = []
    for row, block in enumerate(stats.blocks):
        dims = ratios[row].argsort(descending=True)[:SHOWN].tolist()
        rows.append(
            {
                "block": block,
                "dims": dims,
                "ratios": [round(ratios[row, dim].item(), 2) for dim in dims],
                "strongest by region": {
                    region: round(table[row, dims[0]].item(), 2)
                    for region, table in by_region.items()
                },
            }
        )
    return rows
