"""The sums of `stas.stats.partial_sums` in one pass over the tokens: a Triton kernel.

Ten passes of plain torch operations cost some percent of a large model's forward on a GPU; one
pass reads each value once. Used on CUDA devices where Triton is installed (`benchmarks/gpu.py`
compares both with float64).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl

from stas.tokens import REGIONS, TokenGrid

SEGMENT = 256  # tokens that one program adds up, at most


@triton.jit  # type: ignore[untyped-decorator]
def _sum_segments(
    tokens, starts, lengths, pivots, out, width, token_stride, dim_stride,
    SEGMENT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # type: ignore[no-untyped-def]  # fmt: skip
    segment = tl.program_id(0)
    dims = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = dims < width
    start = tl.load(starts + segment).to(tl.int64)
    length = tl.load(lengths + segment)
    pivot_token = tl.load(pivots + segment).to(tl.int64)
    columns = tokens + dims.to(tl.int64) * dim_stride
    pivot = tl.load(columns + pivot_token * token_stride, mask=inside, other=0.0).to(tl.float32)
    sum_abs = tl.zeros([COLUMNS], dtype=tl.float32)
    max_abs = tl.zeros([COLUMNS], dtype=tl.float32)
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    squares = tl.zeros([COLUMNS], dtype=tl.float32)
    for first in range(0, SEGMENT, ROWS):
        rows = first + tl.arange(0, ROWS)
        here = (rows < length)[:, None] & inside[None, :]
        addresses = columns[None, :] + (start + rows.to(tl.int64))[:, None] * token_stride
        values = tl.load(addresses, mask=here, other=0.0).to(tl.float32)
        shifted = tl.where(here, values - pivot[None, :], 0.0)
        magnitudes = tl.abs(values)
        sum_abs += tl.sum(magnitudes, axis=0)
        max_abs = tl.maximum(max_abs, tl.max(magnitudes, axis=0))
        total += tl.sum(shifted, axis=0)
        squares += tl.sum(shifted * shifted, axis=0)
    base = out + segment.to(tl.int64) * 4 * width + dims
    tl.store(base, sum_abs, mask=inside)
    tl.store(base + width, max_abs, mask=inside)
    tl.store(base + 2 * width, total, mask=inside)
    tl.store(base + 3 * width, squares, mask=inside)


@lru_cache(maxsize=8)
def _segments(
    grid: TokenGrid, boundary: float, device: torch.device
) -> tuple[torch.Tensor, list[int], list[int]]:
    """Runs of neighbouring tokens of one region, ordered by region.

    Returns:
        (3, segments) starts, lengths and pivot tokens, int32; the number of segments of each
        region; and each region's pivot token, -1 for an empty region.
    """
    rows: list[tuple[int, int, int]] = []
    counts, pivots = [], []
    for region in REGIONS:
        mask = grid.mask((region,), boundary).int()
        edges = torch.diff(mask, prepend=mask.new_zeros(1), append=mask.new_zeros(1))
        runs = zip((edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten(), strict=True)
        found = [
            (first, min(SEGMENT, int(end) - first))
            for begin, end in runs
            for first in range(int(begin), int(end), SEGMENT)
        ]
        pivots.append(found[0][0] if found else -1)
        counts.append(len(found))
        rows += [(first, length, pivots[-1]) for first, length in found]
    return torch.tensor(rows, dtype=torch.int32).T.contiguous().to(device), counts, pivots


def fused_sums(tokens: torch.Tensor, grid: TokenGrid, boundary: float) -> torch.Tensor:
    """What `stas.stats.partial_sums` returns, for tokens on a CUDA device."""
    width = tokens.shape[1]
    (starts, lengths, pivot_tokens), counts, pivots = _segments(grid, boundary, tokens.device)
    sums = torch.empty(len(starts), 4, width, dtype=torch.float32, device=tokens.device)
    columns = 128
    with torch.cuda.device(tokens.device):
        _sum_segments[len(starts), triton.cdiv(width, columns)](
            tokens, starts, lengths, pivot_tokens, sums, width, tokens.stride(0), tokens.stride(1),
            SEGMENT=SEGMENT, ROWS=16, COLUMNS=columns,
        )  # fmt: skip
    result = tokens.new_zeros((len(REGIONS), 5, width), dtype=torch.float32)
    for row, pivot, part in zip(result, pivots, sums.split(counts), strict=True):
        if pivot >= 0:
            added = part.sum(0)
            row[0], row[1], row[2] = added[0], part[:, 1].amax(0), tokens[pivot]
            row[3:] = added[2:]
    return result
