"""What one sample adds to the statistics of a block, computed on its device."""

from __future__ import annotations

from functools import lru_cache

import torch

from stas.method.config import REGIONS
from stas.method.kernels import has_triton
from stas.method.tokens import TokenGrid, VideoTokens

SURFACE_BINS = 256  # at most so many groups of neighbouring tokens


# The rows of a partial sum.
SUM_ABS, MAX_ABS, PIVOT, SUM, SUM_SQUARES = range(5)


def partial_sums(tokens: torch.Tensor, grid: TokenGrid, boundary: float) -> torch.Tensor:
    """What one sample adds to the statistics of one block, computed on its device.

    Second moments are taken about one token of each region, so that a dimension at 1500 with a
    spread of 2 keeps its variance in float32.

    Args:
        tokens: (N, D) visual tokens in raster order; floating point, any strides.
        grid: Their latent frames, height and width.
        boundary: r, the head and tail share of each latent frame, 0 to 0.5.

    Returns:
        (3, 5, D), float32: for first_frame, boundary and interior the sum and the maximum of
        |h|, a pivot p, and the sums of h - p and of (h - p)^2; zeros for an empty region.

    Example:
        >>> h = torch.tensor([[1.0], [-3.0], [2.0], [2.0]])
        >>> partial_sums(h, TokenGrid(2, 1, 2), 0.5)[0, :, 0]
        tensor([ 4.,  3.,  1., -4., 16.])
    """
    if tokens.is_cuda and has_triton(tokens.device):
        from stas.method._triton import fused_sums

        return fused_sums(tokens, VideoTokens(grid), boundary)
    result = tokens.new_zeros((len(REGIONS), 5, tokens.shape[1]), dtype=torch.float32)
    for row, region in zip(result, REGIONS, strict=True):
        for place, view in enumerate(grid.views(tokens[None], (region,), boundary)):
            values = view.float()
            over = tuple(range(values.ndim - 1))
            if place == 0:
                row[PIVOT] = values[(0,) * len(over)]
            shifted = values - row[PIVOT]
            row[SUM] += shifted.sum(over)
            row[SUM_SQUARES] += shifted.square_().sum(over)
            magnitudes = torch.abs(values, out=shifted)
            row[SUM_ABS] += magnitudes.sum(over)
            row[MAX_ABS] = torch.maximum(row[MAX_ABS], magnitudes.amax(over))
    return result


def partial_sums_of_part(
    tokens: torch.Tensor, video: VideoTokens, boundary: float, part: range
) -> torch.Tensor:
    """`partial_sums` of those tokens of a video that one process holds.

    Args:
        tokens: (n, D), in the order of the sequence.
        video: Where the tokens of the whole video are.
        boundary: r.
        part: Which of the video's tokens they are, in the order of the sequence.
    """
    if tokens.is_cuda and has_triton(tokens.device):
        from stas.method._triton import fused_sums

        return fused_sums(tokens, video, boundary, part)
    result = tokens.new_zeros((len(REGIONS), 5, tokens.shape[1]), dtype=torch.float32)
    for row, members in zip(result, _members(video, boundary, part, tokens.device), strict=True):
        if len(members):
            values = tokens[members].float()
            row[PIVOT] = values[0]
            row[SUM] = (values - values[0]).sum(0)
            row[SUM_SQUARES] = (values - values[0]).square().sum(0)
            row[SUM_ABS] = values.abs().sum(0)
            row[MAX_ABS] = values.abs().amax(0)
    return result


@lru_cache(maxsize=64)
def _members(
    video: VideoTokens, boundary: float, part: range, device: torch.device
) -> list[torch.Tensor]:
    """For each region, which of a part's tokens are of it; kept, as finding them waits."""
    masks = (video.arrange(video.grid.mask((region,), boundary)) for region in REGIONS)
    return [mask[part.start : part.stop].nonzero().flatten().to(device) for mask in masks]


def region_sizes(video: VideoTokens, boundary: float, part: range) -> list[int]:
    """How many tokens of each region a part of a video's tokens has."""
    return [len(members) for members in _members(video, boundary, part, torch.device("cpu"))]


def surface_sums(tokens: torch.Tensor) -> torch.Tensor:
    """Mean |h| over neighbouring tokens: (N, D) to (bins, D), float32, bins = min(N, 256)."""
    count = tokens.shape[0]
    bins = min(count, SURFACE_BINS)
    index = torch.arange(count, device=tokens.device) * bins // count
    weights = torch.zeros(bins, count, device=tokens.device)
    weights.scatter_(0, index[None], 1.0)
    return (weights / weights.sum(1, keepdim=True)) @ tokens.abs().float()
