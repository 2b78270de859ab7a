"""ActivationStats: streaming statistics of hidden states, exact on merge."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stas.activations.sums import MAX_ABS, PIVOT, SUM, SUM_ABS, SUM_SQUARES
from stas.checks import expect, integers, is_whole, number
from stas.files import whole_file
from stas.method.config import REGIONS, ROW_BRANCHES, Region, RowBranch
from stas.method.tokens import TokenGrid

FORMAT = "stas.stats/1"


class RunningMean:
    """Mean of arrays of one shape, each element over the finite values that it saw."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.mean = torch.zeros(*shape, dtype=torch.float64)
        self.count = torch.zeros(*shape, dtype=torch.int64)

    def add(
        self, values: torch.Tensor, count: torch.Tensor | int = 1, at: int | None = None
    ) -> None:
        """Take in a mean over `count` values, all of it or index `at` of the first axis.

        Non-finite elements are left out.
        """
        mean, total = (a if at is None else a[at] for a in (self.mean, self.count))
        values = values.double()
        share = torch.where(torch.isfinite(values), torch.as_tensor(count), 0)
        total += share
        mean += (torch.where(share > 0, values, mean) - mean) * (
            share.double() / total.clamp(min=1)
        )


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Statistics of hidden states per feature dimension, over some tokens; arrays (..., D).

    Args:
        count: Tokens averaged over, int64.
        nonfinite: Tokens left out, int64: those of samples with a NaN or an infinity in that
            region and dimension.
        mean_abs: Mean |h|, float64.
        mean: Mean h, float64.
        m2: Sum of (h - mean)^2, float64.
        max_abs: Maximum of |h|, float32.
    """

    count: torch.Tensor
    nonfinite: torch.Tensor
    mean_abs: torch.Tensor
    mean: torch.Tensor
    m2: torch.Tensor
    max_abs: torch.Tensor

    @property
    def variance(self) -> torch.Tensor:
        """Population variance of h; 0 where nothing was seen."""
        return self.m2 / self.count.clamp(min=1)

    @property
    def mean_square(self) -> torch.Tensor:
        """Mean h^2."""
        return self.variance + self.mean.square()

    @classmethod
    def empty(cls, *shape: int) -> Moments:
        """Moments over no token at all."""
        zeros = {
            "count": torch.int64,
            "nonfinite": torch.int64,
            "mean_abs": torch.float64,
            "mean": torch.float64,
            "m2": torch.float64,
            "max_abs": torch.float32,
        }
        return cls(**{name: torch.zeros(*shape, dtype=dtype) for name, dtype in zeros.items()})

    def arrays(self) -> dict[str, torch.Tensor]:
        """The arrays by name."""
        return dict(vars(self))

    def add_(self, other: Moments) -> None:
        """Take in the tokens of `other`, exactly (Chan, Golub and LeVeque 1979)."""
        both = self.count + other.count
        weight = other.count.double() / both.clamp(min=1)  # two integers would divide in float32
        delta = other.mean - self.mean
        self.m2.add_(other.m2 + delta.square() * self.count * weight)
        self.mean.add_(delta * weight)
        self.mean_abs.add_((other.mean_abs - self.mean_abs) * weight)
        torch.maximum(self.max_abs, other.max_abs, out=self.max_abs)
        self.count.copy_(both)
        self.nonfinite.add_(other.nonfinite)

    @classmethod
    def of_partial(cls, partial: torch.Tensor, sizes: Sequence[int]) -> Moments:
        """The moments behind `partial_sums` over so many tokens of each region: arrays (3, D)."""
        tokens = torch.tensor(sizes)[:, None].expand(-1, partial.shape[2])
        sums = partial.double()
        finite = torch.isfinite(partial).all(dim=1)
        sums = torch.where(finite[:, None], sums, 0.0)
        divisor = tokens.clamp(min=1)
        offset = sums[:, SUM] / divisor
        return cls(
            count=torch.where(finite, tokens, 0),
            nonfinite=torch.where(finite, 0, tokens),
            mean_abs=sums[:, SUM_ABS] / divisor,
            mean=sums[:, PIVOT] + offset,
            m2=(sums[:, SUM_SQUARES] - offset * sums[:, SUM]).clamp(min=0.0),
            max_abs=torch.where(finite, partial[:, MAX_ABS], 0.0),
        )


class ActivationStats:
    """Statistics of a transformer's hidden states while it samples.

    Per denoising step, branch of guidance, block, region (first_frame, boundary, interior) and
    feature dimension: see `Moments`. What runs and machines recorded can be merged, exactly and
    in any order. The memory depends on the model and the number of steps, not on how many videos
    or tokens were seen.

    Args:
        blocks: Numbers of the recorded blocks.
        width: D, the feature width.
        boundary: r, the head and tail share of each latent frame that counts as boundary.
        map_blocks: Blocks of which maps over the tokens are kept, each one of `blocks`.
        map_dims: Dimensions of which mean |h| is kept over the grid of tokens.
        metadata: What was recorded: model, prompts, settings, versions; text values.

    Example:
        >>> from stas.activations.sums import partial_sums
        >>> from stas.method.tokens import TokenGrid
        >>> stats = ActivationStats(blocks=(0,), width=2, boundary=0.08)
        >>> grid = TokenGrid(1, 1, 3)
        >>> h = torch.tensor([[1.0, 9.0], [-2.0, 9.0], [3.0, 9.0]])
        >>> stats.add(0, 1, "cond", 0, partial_sums(h, grid, 0.08), grid)
        >>> stats.pooled().mean_abs
        tensor([[2., 9.]], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        width: int,
        boundary: float,
        map_blocks: Sequence[int] = (),
        map_dims: Sequence[int] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.blocks = tuple(blocks)
        self.width = width
        self.boundary = boundary
        self.map_blocks = tuple(map_blocks)
        self.map_dims = tuple(map_dims)
        self.metadata = dict(metadata or {})
        self.num_steps: int | None = None  # denoising steps of a video; None before the first
        self.cells: dict[tuple[int, RowBranch], Moments] = {}
        self.samples: dict[tuple[int, RowBranch], int] = {}
        self.surface: RunningMean | None = None  # (map_blocks, bins, D)
        self.token_map: RunningMean | None = None  # (map_blocks, map_dims, F, H, W)
        self.video_maps: torch.Tensor | None = None  # (videos, map_blocks, map_dims, H, W)
        self.video_ratios: torch.Tensor | None = None  # (videos, D)

    def __repr__(self) -> str:
        return (
            f"ActivationStats({len(self.blocks)} blocks, width {self.width}, "
            f"{self.num_steps or 0} steps, {max(self.samples.values(), default=0)} samples)"
        )

    def check_steps(self, num_steps: int) -> None:
        """Raise ValueError when videos of another number of steps were recorded before."""
        if self.num_steps not in (None, num_steps):
            raise ValueError(
                f"These statistics hold videos of {self.num_steps} denoising steps, and one of "
                f"{num_steps} can't be added. Record it by itself."
            )

    def add(
        self,
        step: int,
        num_steps: int,
        branch: RowBranch,
        block: int,
        partial: torch.Tensor,
        grid: TokenGrid,
    ) -> None:
        """Take in one sample at one block.

        Args:
            step: The denoising step, from 0.
            num_steps: How many the video has.
            branch: Branch of guidance.
            block: The block's number.
            partial: What `partial_sums` returned, on the CPU.
            grid: The grid of its tokens.

        Raises:
            ValueError: Videos of another number of steps were recorded before.
        """
        sizes = [grid.count((region,), self.boundary) for region in REGIONS]
        self.add_parts(step, num_steps, branch, block, partial[None], [sizes])

    def add_parts(
        self,
        step: int,
        num_steps: int,
        branch: RowBranch,
        block: int,
        partials: torch.Tensor,
        sizes: Sequence[Sequence[int]],
    ) -> None:
        """Take in one sample at one block of which several processes hold a part each.

        Args:
            step: Number of the denoising step, as of `add`.
            num_steps: Number of denoising steps.
            branch: Branch of guidance.
            block: Number of the block.
            partials: (parts, 3, 5, D), what `partial_sums` gives of each part, on the CPU.
            sizes: For each part, how many tokens of each region it has.

        Raises:
            ValueError: Videos of another number of steps were recorded before.
        """
        self.check_steps(num_steps)
        self.num_steps = num_steps
        key = (step, branch)
        if key not in self.cells:
            self.cells[key] = Moments.empty(len(self.blocks), len(REGIONS), self.width)
            self.samples[key] = 0
        index = self.blocks.index(block)
        if index == 0:
            self.samples[key] += 1
        present = {name: array[index] for name, array in self.cells[key].arrays().items()}
        for partial, counts in zip(partials, sizes, strict=True):
            Moments(**present).add_(Moments.of_partial(partial, counts))

    def add_maps(self, block: int, surface: torch.Tensor, values: torch.Tensor) -> None:
        """Take in one sample's maps at one of `map_blocks`.

        Args:
            block: The block's number.
            surface: (bins, D), what `surface_sums` returned.
            values: (map_dims, F, H, W), |h|.

        Raises:
            ValueError: Videos of another grid were recorded before.
        """
        index, blocks = self.map_blocks.index(block), len(self.map_blocks)
        if self.surface is None or self.token_map is None:
            self.surface = RunningMean((blocks, *surface.shape))
            self.token_map = RunningMean((blocks, *values.shape))
        if self.token_map.mean.shape[1:] != values.shape:
            raise ValueError(
                "Maps over the tokens need videos of one size: the first had (latent frames, rows, "
                f"columns) {tuple(self.token_map.mean.shape[2:])}, this one has "
                f"{tuple(values.shape[1:])}. Record it by itself, or without maps."
            )
        self.surface.add(surface, at=index)
        self.token_map.add(values, at=index)

    def keep_video_map(self) -> None:
        """Keep what was recorded so far as the map of one video; nothing where there are no maps.

        It is the mean over the latent frames after the first, whose magnitude is its own, or of
        the only one [our choice]: (rows, columns) for each block and dimension, float32.
        """
        if self.token_map is not None and self.map_dims:
            frames = self.token_map.mean
            later = frames[:, :, 1:] if frames.shape[2] > 1 else frames
            self.video_maps = later.mean(2)[None].float()

    def pooled(
        self,
        *,
        steps: Collection[int] | None = None,
        branches: Collection[RowBranch] | None = None,
        regions: Collection[Region] = REGIONS,
    ) -> Moments:
        """The moments over chosen steps, branches and regions, all of them by default.

        Returns:
            Arrays (blocks, D); counts of 0 when nothing of that was recorded.
        """
        total = Moments.empty(len(self.blocks), self.width)
        for (step, branch), cell in sorted(self.cells.items()):
            if (steps is None or step in steps) and (branches is None or branch in branches):
                for number, region in enumerate(REGIONS):
                    if region in regions:
                        arrays = {name: a[:, number] for name, a in cell.arrays().items()}
                        total.add_(Moments(**arrays))
        return total

    def merge(self, other: ActivationStats) -> None:
        """Take in what another run or machine recorded, exactly.

        Raises:
            ValueError: The other is of another model, or was recorded otherwise; nothing is
                changed then.
        """
        for name in ("blocks", "width", "boundary", "map_blocks", "map_dims"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"Statistics with {name} {getattr(self, name)} and {getattr(other, name)} "
                    "can't be merged. Record both with the same settings."
                )
        for name in ("transformer", "model", "config"):
            mine, theirs = self.metadata.get(name), other.metadata.get(name)
            if mine is not None and theirs is not None and mine != theirs:
                raise ValueError(
                    f"Statistics of two models can't be merged: {name} is {mine} and {theirs}."
                )
        if other.num_steps is not None:
            self.check_steps(other.num_steps)
        shapes = {each.token_map.mean.shape for each in (self, other) if each.token_map is not None}
        if len(shapes) > 1:
            raise ValueError("Statistics with maps of two sizes of video can't be merged.")
        self.num_steps = self.num_steps or other.num_steps
        for key, cell in other.cells.items():
            if key not in self.cells:
                self.cells[key] = Moments.empty(*cell.mean.shape)
                self.samples[key] = 0
            self.cells[key].add_(cell)
            self.samples[key] += other.samples[key]
        for name in ("surface", "token_map"):
            theirs_map: RunningMean | None = getattr(other, name)
            if theirs_map is not None:
                if getattr(self, name) is None:
                    setattr(self, name, RunningMean(theirs_map.mean.shape))
                getattr(self, name).add(theirs_map.mean, theirs_map.count)
        for name in ("video_maps", "video_ratios"):
            both = [getattr(each, name) for each in (self, other)]
            if known := [each for each in both if each is not None]:
                setattr(self, name, torch.cat(known))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statistics as safetensors; the file appears whole or not at all."""
        keys = sorted(self.cells)
        tensors = {}
        if keys:
            for name in self.cells[keys[0]].arrays():
                tensors[name] = torch.stack([getattr(self.cells[key], name) for key in keys])
        for name in ("surface", "token_map"):
            if (running := getattr(self, name)) is not None:
                tensors[f"{name}.mean"], tensors[f"{name}.count"] = running.mean, running.count
        for name in ("video_maps", "video_ratios"):
            if (of_videos := getattr(self, name)) is not None:
                tensors[name] = of_videos.contiguous()
        header = {
            "blocks": self.blocks,
            "width": self.width,
            "boundary": self.boundary,
            "map_blocks": self.map_blocks,
            "map_dims": self.map_dims,
            "num_steps": self.num_steps,
            "cells": [[step, branch, self.samples[step, branch]] for step, branch in keys],
            "metadata": self.metadata,
        }
        with whole_file(path) as temporary:
            save_file(tensors, temporary, {"format": FORMAT, "stats": json.dumps(header)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ActivationStats:
        """Read statistics that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is cut short, or not one of these; the message names it.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                # Its handle can't be iterated over, whatever the linter thinks.
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if said.get("format") != FORMAT:
                raise ValueError(f"expected the format {FORMAT}, but got {said.get('format')}")
            return cls._from_parts(json.loads(said["stats"]), tensors)
        except (KeyError, RecursionError, SafetensorError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} does not hold activation statistics, or is cut short: {error}"
            ) from error

    @classmethod
    def _from_parts(
        cls, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
    ) -> ActivationStats:
        expect(isinstance(header, Mapping), "expected an object")
        stats = cls(
            blocks=integers("blocks", header["blocks"]),
            width=header["width"],
            boundary=number("boundary", header["boundary"]),
            map_blocks=integers("map_blocks", header["map_blocks"]),
            map_dims=integers("map_dims", header["map_dims"]),
            metadata=header["metadata"],
        )
        steps, cells, texts = header["num_steps"], header["cells"], header["metadata"]
        expect(0 <= stats.boundary <= 0.5, "boundary must be between 0 and 0.5")
        expect(is_whole(stats.width, 1, 2**31), "width must be an integer above 0")
        expect(steps is None or is_whole(steps, 1), "num_steps must be an integer above 0")
        is_text = isinstance(texts, dict) and all(isinstance(t, str) for t in texts.values())
        expect(is_text, "metadata must be text")
        stats.num_steps = steps
        shape = (len(stats.blocks), len(REGIONS), stats.width)
        for name, array in Moments.empty(*shape).arrays().items():
            _expect_array(name, tensors.get(name), (len(cells), *shape), array.dtype, bool(cells))
        for place, (step, branch, samples) in enumerate(cells):
            known = is_whole(step, 0, steps or 0) and is_whole(samples) and branch in ROW_BRANCHES
            expect(known, f"cell {place} is of no step and branch")
            stats.cells[step, branch] = Moments(
                **{name: tensors[name][place].clone() for name in Moments.empty(0).arrays()}
            )
            stats.samples[step, branch] = samples
        expect(len(stats.cells) == len(cells), "two cells are of one step and branch")
        for name, axes in (("surface", 3), ("token_map", 5)):
            if f"{name}.mean" in tensors:
                mean, count = tensors[f"{name}.mean"], tensors.get(f"{name}.count")
                expect(mean.ndim == axes, f"{name}.mean must have {axes} axes")
                running = RunningMean(mean.shape)
                _expect_array(f"{name}.mean", mean, mean.shape, running.mean.dtype)
                _expect_array(f"{name}.count", count, mean.shape, running.count.dtype)
                running.mean, running.count = mean.clone(), tensors[f"{name}.count"].clone()
                setattr(stats, name, running)
        mapped = (len(stats.map_blocks), len(stats.map_dims))
        for name, axes, of_one in (("video_maps", 5, mapped), ("video_ratios", 2, (stats.width,))):
            if (kept := tensors.get(name)) is not None:
                fits = kept.ndim == axes and tuple(kept.shape[1 : 1 + len(of_one)]) == of_one
                expect(fits and kept.dtype == torch.float32, f"{name} are not of these videos")
                setattr(stats, name, kept.clone())
        return stats


def _expect_array(
    name: str,
    array: torch.Tensor | None,
    shape: Sequence[int],
    dtype: torch.dtype,
    needed: bool = True,
) -> None:
    if array is None:
        expect(not needed, f"{name} is missing")
    else:
        fits = tuple(array.shape) == tuple(shape) and array.dtype == dtype
        expect(fits, f"{name} must be {dtype} of shape {tuple(shape)}")
