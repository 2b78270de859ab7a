"""The grid of visual tokens: latent frames, the paper's three regions, pixel frames."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import torch

from stas.method.config import Region
from stas.method.shards import Shard

Axes = Literal["BND", "ND", "(BF)SD", "(BS)FD"]  # brackets: folded into one axis


Place = Literal["all", "head", "tail"]


@dataclass(frozen=True)
class TokenGrid:
    """Visual tokens in raster order: `frames` latent frames of `height * width` tokens.

    The regions partition the tokens: `first_frame` is latent frame 0; `boundary` is the first and
    last `ceil(r * S)` of the S tokens of every later latent frame; `interior` is the rest
    (arXiv 2603.17825; that they partition the tokens is [our choice]).

    Args:
        frames: Latent frames F, at least 1.
        height: Tokens per column of a latent frame, at least 1.
        width: Tokens per row of a latent frame, at least 1.

    Raises:
        ValueError: A size below 1.

    Example:
        >>> grid = TokenGrid(frames=5, height=8, width=8)
        >>> grid.num_tokens, grid.boundary_size(0.08)
        (320, 6)
        >>> int(grid.mask(("boundary",), 0.08).sum())
        48
    """

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(
                "A token grid needs at least one token on each axis, but got "
                f"frames={self.frames}, height={self.height}, width={self.width}."
            )

    @property
    def tokens_per_frame(self) -> int:
        """S, the tokens of one latent frame."""
        return self.height * self.width

    @property
    def num_tokens(self) -> int:
        """N = F * S, all visual tokens of one sample."""
        return self.frames * self.tokens_per_frame

    def boundary_size(self, boundary: float) -> int:
        """k = ceil(r * S): how many tokens the head, and the tail, of a latent frame has.

        `boundary` is r, read as written in decimal (0.07 of 100 tokens is 7, not 8).
        """
        # The tolerance absorbs binary rounding; Fraction would be exact, but torch.compile can't
        # trace it.
        return max(0, math.ceil(boundary * self.tokens_per_frame - 1e-9))

    def count(self, regions: Collection[Region], boundary: float) -> int:
        """How many tokens of one sample `regions` hold."""
        frame_size, later = self.tokens_per_frame, self.frames - 1
        ends = min(2 * self.boundary_size(boundary), frame_size)
        sizes = {
            "first_frame": frame_size,
            "boundary": later * ends,
            "interior": later * (frame_size - ends),
        }
        return sum(sizes[region] for region in regions)

    def views(
        self, tokens: torch.Tensor, regions: Collection[Region], boundary: float
    ) -> list[torch.Tensor]:
        """Views of `tokens` that cover `regions` once each, whatever its strides.

        Args:
            tokens: Tensor (B, N, ...) with N = `num_tokens` on axis 1.
            regions: Any of `first_frame`, `boundary`, `interior`.
            boundary: r, the head and tail share of each latent frame, 0 to 0.5.

        Returns:
            Views of `tokens`, never copies; empty regions give no view.
        """
        frame_size, k = self.tokens_per_frame, self.boundary_size(boundary)
        first = tokens[:, :frame_size]
        views = [first] if "first_frame" in regions else []
        if self.frames == 1:
            return views
        later = torch.unflatten(tokens[:, frame_size:], 1, (self.frames - 1, frame_size))
        if "boundary" in regions and "interior" in regions:
            views.append(later)
        elif "boundary" in regions and k > 0:
            if 2 * k >= frame_size:
                views.append(later)
            else:
                views += [later[:, :, :k], later[:, :, frame_size - k :]]
        elif "interior" in regions and 2 * k < frame_size:
            views.append(later[:, :, k : frame_size - k])
        return views

    def mask(
        self,
        regions: Collection[Region],
        boundary: float,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """Boolean mask (N,) that is true at the tokens of `regions`."""
        mask = torch.zeros(1, self.num_tokens, dtype=torch.bool, device=device)
        for view in self.views(mask, regions, boundary):
            view.fill_(True)
        return mask[0]


@dataclass(frozen=True)
class VideoTokens:
    """Where the visual tokens of the video lie in what the blocks of one forward return.

    Args:
        grid: The video's own latent frames, without those before it.
        batch: Samples B in the forward.
        place: The video is "all" of a block's tokens, or its "head" or "tail", with tokens of
            history, references, conditions or text before or after it.
        lead: Latent frames that come before the video's first and are not of it (reference
            images, padding).
        tile: The tokens of a latent frame are ordered in square tiles of this many rows, tile by
            tile; None for raster order.

    Raises:
        ValueError: A frame does not divide into tiles.

    Example:
        >>> video = VideoTokens(TokenGrid(2, 1, 2), batch=1, lead=1)
        >>> video.of(torch.arange(6.0).reshape(1, 6, 1))[0, :, 0]
        tensor([2., 3., 4., 5.])
    """

    grid: TokenGrid
    batch: int = 1
    place: Place = "all"
    lead: int = 0
    tile: int | None = None

    def __post_init__(self) -> None:
        if self.tile and (self.grid.height % self.tile or self.grid.width % self.tile):
            raise ValueError(f"{self.grid} does not divide into tiles of {self.tile} rows.")

    def of(
        self, hidden_states: torch.Tensor, axes: Axes = "BND", shard: Shard | None = None
    ) -> torch.Tensor:
        """The video's tokens as a view of hidden states.

        Args:
            hidden_states: What a block returned, with these `axes`: B samples, N tokens, F latent
                frames of S tokens, D features.
            shard: Which of the sequence's tokens these are, where processes share them.

        Returns:
            (B, N, D), or (B, F, S, D) for folded axes; always a view. Of a shard (B, n, D), its
            tokens of the video, `part`.

        Raises:
            RuntimeError: The number of tokens is not the one that the forward's inputs say.
        """
        frames, size = self.grid.frames, self.grid.tokens_per_frame
        if axes == "ND":
            hidden_states = hidden_states.unsqueeze(0)
        elif axes == "(BF)SD":
            return torch.unflatten(hidden_states, 0, (-1, frames))  # caches halve the batch
        elif axes == "(BS)FD":
            return torch.unflatten(hidden_states, 0, (-1, size)).transpose(1, 2)
        if shard is not None:
            here = self.part(shard)
            start = self._first(shard.total) + here.start - shard.start
            return hidden_states[:, max(0, start) : max(0, start) + len(here)]
        wanted = (self.lead + frames) * size
        present = hidden_states.shape[1]
        if present < wanted or (self.place == "all" and present > wanted):
            raise RuntimeError(
                f"A block returned {present} tokens a sample, but the transformer's inputs make "
                f"{wanted} ({self.grid}, {self.lead} latent frames before it). Where another "
                "package than diffusers splits the tokens over processes, name the processes that "
                "share them: stas.steer(..., group=...)."
            )
        if present == frames * size:
            return hidden_states
        end = present if self.place == "tail" else wanted
        return hidden_states[:, end - frames * size : end]

    def _first(self, total: int) -> int:
        """Where the video's first token is in a sequence of so many."""
        if self.place == "tail":
            return total - self.grid.num_tokens
        return self.lead * self.grid.tokens_per_frame

    def part(self, shard: Shard) -> range:
        """Which of the video's tokens a shard holds, in the order of the sequence.

        Example:
            >>> video = VideoTokens(TokenGrid(2, 1, 3), place="tail")
            >>> video.part(Shard(0, 5, 9)), video.part(Shard(5, 9, 9))
            (range(0, 2), range(2, 6))
        """
        first = self._first(shard.total)
        ends = (min(max(0, end - first), self.grid.num_tokens) for end in (shard.start, shard.stop))
        return range(*ends)

    def raster(self, tokens: torch.Tensor) -> torch.Tensor:
        """What `of` returned as (B, N, D) in raster order; a copy where a view can't be."""
        if tokens.ndim == 4:
            tokens = tokens.flatten(1, 2)
        if self.tile:
            frames, height, width = self.grid.frames, self.grid.height, self.grid.width
            rows, columns = height // self.tile, width // self.tile
            tiles = torch.unflatten(tokens, 1, (frames, rows, columns, self.tile, self.tile))
            tokens = tiles.transpose(3, 4).flatten(1, 5)
        return tokens

    def arrange(self, tokens: torch.Tensor, axes: Axes = "BND") -> torch.Tensor:
        """One value per token (N,) in raster order, as `of` orders and shapes the tokens."""
        if self.tile:
            frames, height, width = self.grid.frames, self.grid.height, self.grid.width
            rows, columns = height // self.tile, width // self.tile
            tokens = tokens.reshape(frames, rows, self.tile, columns, self.tile)
            tokens = tokens.permute(0, 1, 3, 2, 4).flatten()
        if axes in ("(BF)SD", "(BS)FD"):
            tokens = tokens.reshape(self.grid.frames, self.grid.tokens_per_frame)
        return tokens
