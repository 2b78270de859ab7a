"""Sums of parts: what processes that share a video's tokens add together is that of all of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stas.activations.stats import Moments
from stas.activations.sums import partial_sums, partial_sums_of_part, region_sizes
from stas.method.config import REGIONS
from stas.method.tokens import TokenGrid, VideoTokens


@pytest.mark.parametrize("tile", [None, 2])
@given(cuts=st.lists(st.integers(0, 48), max_size=4), seed=st.integers(0, 99))
def test_the_moments_of_parts_together_are_those_of_the_whole(tile, cuts, seed):
    video = VideoTokens(TokenGrid(3, 4, 4), tile=tile)
    tokens = 7 + 3 * torch.randn(48, 5, generator=torch.Generator().manual_seed(seed))
    ends = [0, *sorted(cuts), 48]
    parts = [range(first, end) for first, end in pairwise(ends)]
    sizes = [region_sizes(video, 0.2, part) for part in parts]
    whole_sizes = [video.grid.count((region,), 0.2) for region in REGIONS]
    assert [sum(each) for each in zip(*sizes, strict=True)] == whole_sizes
    found = Moments.empty(3, 5)
    for part, size in zip(parts, sizes, strict=True):
        sums = partial_sums_of_part(tokens[part.start : part.stop], video, 0.2, part)
        found.add_(Moments.of_partial(sums, size))
    raster = video.raster(tokens[None])[0]
    wanted = Moments.of_partial(partial_sums(raster, video.grid, 0.2), whole_sizes)
    for name, values in wanted.arrays().items():
        torch.testing.assert_close(found.arrays()[name], values, rtol=1e-5, atol=1e-5)
