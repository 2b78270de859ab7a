"""Position in the sequence or border of the picture?

Head and tail of a latent frame in raster order are parts of the picture's top and bottom rows, so
what is large there may follow from the place in the sequence, from the picture's border, or from
what is shown. Over many prompts, pictures are alike left and right. So what is position shows as
left against right within the top and bottom rows, where what is border or content does not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stas.activations.intervals import FEWEST, MeanInterval, mean_interval
from stas.activations.stats import ActivationStats
from stas.checks import expect
from stas.files import Rows, whole_file, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POSITION = ("head", "tail", "jump")
LABELS = {
    "head": "head: top rows, left - right",
    "tail": "tail: bottom rows, right - left",
    "jump": "jump: next frame's start - this frame's end",
    "border": "border: outer - inner tokens",
}


@dataclass(frozen=True)
class RasterEvidence:
    """What the maps of many prompts say of one dimension at one block.

    All are shares of the dimension's mean |h| in that video, one number a prompt.

    Args:
        block: The block.
        dim: The dimension.
        head: In the rows of the head, left half minus right half, minus the same of inner rows.
        tail: In the rows of the tail, right half minus left half, minus the same of inner rows.
        jump: From the end of a latent frame to the start of the next, minus the same from the
            other two corners: (top left - top right) + (bottom left - bottom right). Unlike head
            and tail it sees a drift along the sequence, and pictures that are not alike left and
            right.
        border: The outermost rows and columns minus those within, left and right alike.
        profile: (rows, 2), mean of the left and of the right half of each row.
    """

    block: int
    dim: int
    head: MeanInterval
    tail: MeanInterval
    jump: MeanInterval
    border: MeanInterval
    profile: torch.Tensor

    @property
    def words(self) -> str:
        """What that says. Border and content that keeps to the middle can't be told apart."""
        if self.head.n < FEWEST:
            return f"too few prompts to tell: expected {FEWEST} or more"
        position = [name for name in POSITION if getattr(self, name).side]
        if position == ["jump"]:
            return "left and right differ in all rows: a drift along the sequence, or the pictures"
        if position:
            return f"position in the sequence ({', '.join(position)})"
        if self.border.side:
            higher = "higher" if self.border.side > 0 else "lower"
            return f"{higher} at the picture's border than in its middle, no position shown"
        return "neither position nor border shown"


def raster(
    stats: ActivationStats, *, dims: Sequence[int] | None = None, block: int | None = None
) -> list[RasterEvidence]:
    """Whether recorded dimensions follow the place in the sequence or the picture's border.

    Intervals are Student's over prompts. The three of position hold together with 95 %
    (Bonferroni), that of the border by itself. What is alike in the whole of a row can't be told
    from the picture, and is not seen as position.

    Args:
        stats: What `stas record` wrote, with maps: see `map_blocks` and `map_dims` there.
        dims: Of the dimensions with maps, those to look at; all by default.
        block: Of the blocks with maps; the middle one of these by default.

    Raises:
        ValueError: No maps by prompt, not of this block or these dimensions, or a grid of fewer
            than 3 rows or columns.

    Example:
        >>> stats = ActivationStats(
        ...     blocks=(0,), width=8, boundary=0.08, map_blocks=(0,), map_dims=(3,)
        ... )
        >>> stats.video_maps = 1 + torch.rand(12, 1, 1, 4, 6, generator=torch.manual_seed(0))
        >>> stats.video_maps[..., 0, :3] += 5  # the first half of the top row
        >>> raster(stats)[0].words
        'position in the sequence (head, jump)'
    """
    if stats.video_maps is None:
        raise ValueError(
            "These statistics hold no maps by prompt. Record with map_blocks and map_dims, by "
            "`stas record` of this version: one map is kept for each video."
        )
    height, width = stats.video_maps.shape[-2:]
    expect(
        height >= 3 and width >= 3,
        f"left, right and inner rows need 3 rows and columns of tokens, but got {height} x {width}",
    )
    mapped = stats.map_blocks
    block = mapped[len(mapped) // 2] if block is None else block
    expect(block in mapped, f"block {block} has no maps; blocks with maps are {mapped}")
    dims = stats.map_dims if dims is None else tuple(dims)
    if missing := [dim for dim in dims if dim not in stats.map_dims]:
        raise ValueError(f"Dimensions {missing} have no maps; those with maps: {stats.map_dims}.")
    at = mapped.index(block)
    return [
        _evidence(stats.video_maps[:, at, stats.map_dims.index(dim)], stats.boundary, block, dim)
        for dim in dims
    ]


def _evidence(maps: torch.Tensor, boundary: float, block: int, dim: int) -> RasterEvidence:
    maps = maps.double()
    maps = maps[torch.isfinite(maps).flatten(1).all(1)]
    expect(len(maps) > 0, f"no map of dimension {dim} at block {block} is finite")
    maps = maps / maps.mean((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    height, width = maps.shape[1:]
    half = width // 2
    # Rows that hold the head; at least one of the rows is inner.
    rows = min(max(1, ceil(boundary * height)), (height - 1) // 2)
    left, right = maps[:, :, :half].mean(2), maps[:, :, width - half :].mean(2)
    tilt = left - right  # (prompts, rows)
    top, inner, bottom = (
        tilt[:, rows_of].mean(1)
        for rows_of in (slice(rows), slice(rows, height - rows), slice(height - rows, None))
    )
    within = maps[:, 1:-1, 1:-1].sum((1, 2))
    count = (height - 2) * (width - 2)
    outer = (maps.sum((1, 2)) - within) / (height * width - count)
    error = 0.05 / len(POSITION)
    return RasterEvidence(
        block,
        dim,
        head=mean_interval((top - inner).tolist(), error),
        tail=mean_interval((inner - bottom).tolist(), error),
        jump=mean_interval((top + bottom).tolist(), error),
        border=mean_interval((outer - within / count).tolist()),
        profile=torch.stack([left.mean(0), right.mean(0)], 1),
    )


def draw_raster(evidence: RasterEvidence) -> Figure:
    """The rows' left and right halves, and the four numbers with their intervals.

    Returns:
        The figure, 1600 pixels wide.
    """
    from stas.media.figure import Picture

    figure = Picture(3.6)
    rows, numbers = figure.subplots(1, 2)
    for column, (label, colour) in enumerate((("left half", "#0072B2"), ("right half", "#D55E00"))):
        values = evidence.profile[:, column].tolist()
        rows.plot(values, range(len(values)), "o-", color=colour, label=label, markersize=3)
    rows.invert_yaxis()
    rows.set_xlabel("mean |h| as a share of the video's", fontsize=8)
    rows.set_ylabel("row of tokens", fontsize=8)
    rows.legend(fontsize=8)
    numbers.axvline(0, color="0.6", linewidth=0.8)
    for place, name in enumerate(LABELS):
        found: MeanInterval = getattr(evidence, name)
        if found.n > 1:
            numbers.plot([found.low, found.high], [place, place], color="#0072B2")
        numbers.plot(found.mean, place, "o", color="#0072B2", markersize=5)
    numbers.set_yticks(range(len(LABELS)), LABELS.values(), fontsize=7)
    numbers.invert_yaxis()
    figure.suptitle(
        f"dimension {evidence.dim}, block {evidence.block}, n = {evidence.head.n} prompts: "
        f"{evidence.words}",
        fontsize=9,
    )
    return figure


def write_raster(
    evidence: Sequence[RasterEvidence], folder: str | os.PathLike[str], prefix: str = ""
) -> list[Path]:
    """Write a picture for each dimension and `raster.csv` into a folder, which is made.

    Args:
        evidence: What `raster` found.
        folder: Where.
        prefix: What the files' names begin with.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for each in evidence:
        path = folder / f"{prefix}raster-{each.dim}.png"
        with whole_file(path) as temporary:
            draw_raster(each).savefig(temporary)
        written.append(path)
    path = folder / f"{prefix}raster.csv"
    write_table(path, _rows(evidence), alone=False)
    return [*written, path]


def _rows(evidence: Sequence[RasterEvidence]) -> Rows:
    yield ["block", "dimension", "number", "mean", "low", "high", "n", "in words"]
    for each in evidence:
        for name in LABELS:
            found: MeanInterval = getattr(each, name)
            numbers = (found.mean, found.low, found.high, found.n)
            yield [each.block, each.dim, name, *numbers, each.words]
