"""The token regions and the pixel-to-latent mapping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stas.method.config import REGIONS
from stas.method.tokens import TokenGrid, VideoTokens

grids = st.builds(TokenGrid, st.integers(1, 6), st.integers(1, 7), st.integers(1, 7))
shares = st.one_of(st.floats(0, 0.5), st.sampled_from([0.0, 0.07, 0.08, 0.5]))


@given(grids, shares)
def test_regions_partition_the_tokens(grid, boundary):
    total = sum(grid.mask((region,), boundary).int() for region in REGIONS)
    assert torch.equal(total, torch.ones(grid.num_tokens, dtype=torch.int32))
    assert grid.mask(REGIONS, boundary).all()


@given(grids, shares)
def test_boundary_is_the_head_and_tail_of_every_later_frame(grid, boundary):
    k = grid.boundary_size(boundary)
    frames = grid.mask(("boundary",), boundary).reshape(grid.frames, -1)
    assert not frames[0].any()
    for frame in frames[1:]:
        inside = [i for i, on in enumerate(frame.tolist()) if not on]
        assert inside == list(range(k, grid.tokens_per_frame - k))


@pytest.mark.parametrize(
    ("boundary", "size", "k"), [(0.08, 64, 6), (0.07, 100, 7), (0.29, 100, 29), (0.08, 1560, 125)]
)
def test_boundary_size_reads_r_as_written(boundary, size, k):
    assert TokenGrid(2, 1, size).boundary_size(boundary) == k


@given(grids, shares, st.lists(st.sampled_from(REGIONS), unique=True))
def test_views_share_storage_and_cover_each_token_once(grid, boundary, regions):
    counts = torch.zeros(1, grid.num_tokens)
    for view in grid.views(counts, regions, boundary):
        assert view.untyped_storage().data_ptr() == counts.untyped_storage().data_ptr()
        view.add_(1)
    assert grid.count(regions, boundary) == int(counts.sum())
    assert torch.equal(counts[0] == 1, grid.mask(regions, boundary))
    assert counts.max() <= 1


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_a_grid_without_tokens_is_refused(sizes):
    with pytest.raises(ValueError, match="at least one token on each axis"):
        TokenGrid(*sizes)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (12, 8)])
def test_a_frame_that_does_not_divide_into_tiles_is_refused(height, width):
    with pytest.raises(ValueError, match="does not divide into tiles of 8 rows"):
        VideoTokens(TokenGrid(2, height, width), tile=8)


@pytest.mark.parametrize("tokens", [11, 13])
def test_another_number_of_tokens_than_the_inputs_say_is_refused(tokens):
    video = VideoTokens(TokenGrid(3, 2, 2))
    with pytest.raises(RuntimeError, match=f"{tokens} tokens a sample, but .* make 12"):
        video.of(torch.zeros(1, tokens, 5))
