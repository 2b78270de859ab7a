"""Steering and recording in fewer passes: Triton kernels for CUDA devices.

What they compute is defined by `stas.method.operators.steer_tokens_` and
`stas.activations.sums.partial_sums`, which call them where Triton is installed and which run
everywhere else. Steering is nine small operations, whose launches are all that it costs on a GPU:
here it is two. Recording passes over the hidden states ten times: here it is once.
`benchmarks/gpu.py` compares both with the plain operations and with float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from stas.method.config import REGIONS
from stas.method.shards import Split
from stas.method.tokens import VideoTokens

CHUNK = 1024  # tokens that one program steers


SEGMENT = 256  # tokens that one program adds up, at most


DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _find_magnitudes(
    hidden, dims, magnitudes, count, stride_b, stride_t, stride_d, CHUNK: tl.constexpr
):
    """The maximum |h| of one chunk of tokens, NaN when one of them is; (B, dims, chunks)."""
    chunk, which, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    column = hidden + sample.to(tl.int64) * stride_b + tl.load(dims + which) * stride_d
    values = tl.load(column + tokens.to(tl.int64) * stride_t, mask=tokens < count, other=0.0)
    values = tl.abs(values.to(tl.float32))
    found = tl.max(values, axis=0)
    bad = tl.sum((values != values).to(tl.int32), axis=0)
    found = tl.where(bad > 0, float("nan"), found)
    place = (sample * tl.num_programs(1) + which) * tl.num_programs(0) + chunk
    tl.store(magnitudes + place, found)


@triton.jit
def _write_magnitudes(
    hidden, dims, magnitudes, mask, count, stride_b, stride_t, stride_d, scale, largest,
    CHUNK: tl.constexpr, GLOBAL: tl.constexpr, FOUND: tl.constexpr,
):  # fmt: skip
    """h <- scale * m * sign(h) at the masked tokens of one chunk."""
    chunk, which, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    chunks, number = tl.num_programs(0), tl.num_programs(1)
    offsets = tl.arange(0, FOUND)
    if GLOBAL:
        first, length = sample * number * chunks, number * chunks
    else:
        first, length = (sample * number + which) * chunks, chunks
    found = tl.load(magnitudes + first + offsets, mask=offsets < length, other=0.0)
    bad = tl.sum((found != found).to(tl.int32), axis=0)
    magnitude = tl.where(bad > 0, float("nan"), tl.max(found, axis=0))
    if scale != 1.0:
        scaled = magnitude * scale
        scaled = tl.where(scaled > largest, largest, scaled)
        magnitude = tl.where(scaled < -largest, -largest, scaled)
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    steered = tl.load(mask + tokens, mask=tokens < count, other=0) != 0
    column = hidden + sample.to(tl.int64) * stride_b + tl.load(dims + which) * stride_d
    addresses = column + tokens.to(tl.int64) * stride_t
    values = tl.load(addresses, mask=steered, other=0.0).to(tl.float32)
    sign = (values > 0).to(tl.float32) - (values < 0).to(tl.float32)
    target = sign * magnitude
    tl.store(addresses, target.to(hidden.dtype.element_ty), mask=steered)


@lru_cache(maxsize=64)
def _on_device(dims: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(dims, dtype=torch.int64, device=device)


def can_steer(hidden_states: torch.Tensor, tokens: torch.Tensor) -> bool:
    """Whether `fused_steer_` does what the plain operations do for this tensor."""
    return (
        hidden_states.ndim == 3
        and hidden_states.dtype in DTYPES
        and not (torch.is_grad_enabled() and hidden_states.requires_grad)
        and tokens.is_contiguous()
    )


def fused_steer_(
    hidden_states: torch.Tensor,
    tokens: torch.Tensor,
    dims: Sequence[int],
    *,
    scale: float,
    across_dims: bool,
    split: Split | None = None,
) -> torch.Tensor:
    """`stas.method.operators.steer_tokens_` with op "max", in two kernels.

    Args:
        hidden_states: (B, N, D) on a CUDA device; see `can_steer`.
        tokens: (N,), bool.
        dims: Massive dimensions.
        scale: The paper's alpha.
        across_dims: Whether the reference magnitude is the maximum over all of `dims`.
        split: How the tokens are split over processes; the collective lies between the kernels.
    """
    batch, count, _ = hidden_states.shape
    # Of as many chunks on every process, and some may be empty.
    chunks = triton.cdiv(count if split is None else split.longest, CHUNK)
    grid = (chunks, len(dims), batch)
    columns = _on_device(tuple(dims), hidden_states.device)
    magnitudes = torch.empty(grid, dtype=torch.float32, device=hidden_states.device)
    compared = chunks * (len(dims) if across_dims else 1)
    with torch.cuda.device(hidden_states.device):
        _find_magnitudes[grid](
            hidden_states, columns, magnitudes, count, *hidden_states.stride(), CHUNK=CHUNK
        )
        if split is not None:
            split.group.maximum_(magnitudes)
        _write_magnitudes[grid](
            hidden_states, columns, magnitudes, tokens.view(torch.uint8), count,
            *hidden_states.stride(), scale, torch.finfo(hidden_states.dtype).max,
            CHUNK=CHUNK, GLOBAL=across_dims, FOUND=triton.next_power_of_2(compared),
        )  # fmt: skip
    return hidden_states


@triton.jit
def _sum_segments(
    tokens, table, out, segments, width, token_stride, dim_stride,
    SEGMENT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum and maximum of |h|, sums of h - p and its square of one segment; (segments, 4, D)."""
    segment = tl.program_id(0)
    dims = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = dims < width
    start = tl.load(table + segment)
    length = tl.load(table + segments + segment)
    pivot_token = tl.load(table + 2 * segments + segment)
    columns = tokens + dims.to(tl.int64) * dim_stride
    pivot = tl.load(columns + pivot_token * token_stride, mask=inside, other=0.0).to(tl.float32)
    sum_abs = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    max_abs = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(0, SEGMENT, ROWS):
        rows = first + tl.arange(0, ROWS)
        here = (rows < length)[:, None] & inside[None, :]
        addresses = columns[None, :] + (start + rows)[:, None] * token_stride
        values = tl.load(addresses, mask=here, other=0.0).to(tl.float32)
        shifted = tl.where(here, values - pivot[None, :], 0.0)
        magnitudes = tl.abs(values)
        sum_abs += magnitudes
        max_abs = tl.maximum(max_abs, magnitudes)
        total += shifted
        squares += shifted * shifted
    base = out + segment.to(tl.int64) * 4 * width + dims
    tl.store(base, tl.sum(sum_abs, axis=0), mask=inside)
    tl.store(base + width, tl.max(max_abs, axis=0), mask=inside)
    tl.store(base + 2 * width, tl.sum(total, axis=0), mask=inside)
    tl.store(base + 3 * width, tl.sum(squares, axis=0), mask=inside)


@triton.jit
def _sum_regions(
    tokens, table, ends, sums, out, segments, width, token_stride, dim_stride,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """The segments of one region together; (regions, 5, D), zeros for an empty region."""
    region = tl.program_id(0)
    dims = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = dims < width
    first, last = tl.load(ends + region), tl.load(ends + region + 1)
    sum_abs = tl.zeros([COLUMNS], dtype=tl.float32)
    max_abs = tl.zeros([COLUMNS], dtype=tl.float32)
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    squares = tl.zeros([COLUMNS], dtype=tl.float32)
    pivot = tl.zeros([COLUMNS], dtype=tl.float32)
    if last > first:
        at = tl.load(table + 2 * segments + first) * token_stride
        pivot = tl.load(tokens + dims.to(tl.int64) * dim_stride + at, mask=inside, other=0.0)
        pivot = pivot.to(tl.float32)
    for segment in range(first, last):
        base = sums + segment * 4 * width + dims
        sum_abs += tl.load(base, mask=inside, other=0.0)
        max_abs = tl.maximum(max_abs, tl.load(base + width, mask=inside, other=0.0))
        total += tl.load(base + 2 * width, mask=inside, other=0.0)
        squares += tl.load(base + 3 * width, mask=inside, other=0.0)
    base = out + region * 5 * width + dims
    tl.store(base, sum_abs, mask=inside)
    tl.store(base + width, max_abs, mask=inside)
    tl.store(base + 2 * width, pivot, mask=inside)
    tl.store(base + 3 * width, total, mask=inside)
    tl.store(base + 4 * width, squares, mask=inside)


@lru_cache(maxsize=8)
def _segments(
    video: VideoTokens, boundary: float, part: range | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs of neighbouring tokens of one region, of all or a part of them, ordered by region.

    Returns:
        (3, segments) starts, lengths and pivot tokens; and (regions + 1,) where in that order
        each region begins and ends; int64.
    """
    rows: list[tuple[int, int, int]] = []
    ends = [0]
    for region in REGIONS:
        mask = video.grid.mask((region,), boundary).int()
        if part is not None:
            mask = video.arrange(mask)[part.start : part.stop]
        edges = torch.diff(mask, prepend=mask.new_zeros(1), append=mask.new_zeros(1))
        begins, stops = (edges == 1).nonzero(), (edges == -1).nonzero()
        found = [
            (first, min(SEGMENT, int(stop) - first))
            for begin, stop in zip(begins, stops, strict=True)
            for first in range(int(begin), int(stop), SEGMENT)
        ]
        rows += [(first, length, found[0][0]) for first, length in found]
        ends.append(len(rows))
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T.contiguous()
    return table.to(device), torch.tensor(ends, dtype=torch.int64).to(device)


def fused_sums(
    tokens: torch.Tensor, video: VideoTokens, boundary: float, part: range | None = None
) -> torch.Tensor:
    """What `stas.activations.sums.partial_sums` returns, for tokens (N, D) on a CUDA device.

    With a part, what `partial_sums_of_part` returns.
    """
    width = tokens.shape[1]
    table, ends = _segments(video, boundary, part, tokens.device)
    segments, columns = table.shape[1], 128
    column_blocks = triton.cdiv(width, columns)
    options: dict[str, Any] = {"dtype": torch.float32, "device": tokens.device}
    sums = torch.empty(segments, 4, width, **options)
    result = torch.empty(len(REGIONS), 5, width, **options)
    strides = tokens.stride()
    with torch.cuda.device(tokens.device):
        if segments:
            _sum_segments[segments, column_blocks](
                tokens, table, sums, segments, width, *strides,
                SEGMENT=SEGMENT, ROWS=16, COLUMNS=columns,
            )  # fmt: skip
        _sum_regions[len(REGIONS), column_blocks](
            tokens, table, ends, sums, result, segments, width, *strides, COLUMNS=columns
        )
    return result
