"""Streaming statistics: exact against a direct computation, on merge, and through a file."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stas.activations.stats import ActivationStats, Moments
from stas.activations.sums import SUM, SUM_SQUARES, SURFACE_BINS, partial_sums, surface_sums
from stas.method.config import REGIONS
from stas.method.tokens import TokenGrid, VideoTokens

GRIDS = st.builds(TokenGrid, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
R = st.sampled_from([0.0, 0.08, 0.3, 0.5])


def values(grid, width, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(grid.num_tokens, width, generator=generator) * 2.0 + offset


def record(stats, step, tokens, grid, branch="cond", block=0, num_steps=4):
    partial = partial_sums(tokens, grid, stats.boundary)
    stats.add(step, num_steps, branch, block, partial, grid)


def assert_same(one: Moments, two: Moments, tolerance=1e-6):
    assert torch.equal(one.count, two.count)
    for name in ("mean_abs", "mean", "max_abs"):
        torch.testing.assert_close(
            getattr(one, name), getattr(two, name), rtol=tolerance, atol=tolerance
        )
    torch.testing.assert_close(one.variance, two.variance, rtol=1e-4, atol=1e-4)


@given(GRIDS, R, st.sampled_from([0.0, 1500.0, -400.0]), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_moments_are_those_of_all_tokens_at_once(grid, r, offset, samples):
    stats = ActivationStats(blocks=(0,), width=3, boundary=r)
    parts = [values(grid, 3, seed, offset) for seed in range(samples)]
    for part in parts:
        record(stats, 0, part, grid)
    for region in REGIONS:
        mask = grid.mask((region,), r)
        everything = torch.cat([part[mask] for part in parts]).double()
        found = stats.pooled(regions=(region,))
        assert found.count.tolist() == [[len(everything)] * 3]
        if len(everything):
            direct = {
                "mean_abs": everything.abs().mean(0),
                "mean": everything.mean(0),
                "variance": everything.var(0, correction=0),
                "mean_square": everything.square().mean(0),
            }
            for name, expected in direct.items():
                torch.testing.assert_close(getattr(found, name)[0], expected, rtol=2e-6, atol=2e-5)
            assert torch.equal(found.max_abs[0], everything.abs().amax(0).float())


def test_a_large_dimension_keeps_its_small_spread():
    """The naive sum of squares in float32 has lost the variance of 4 at this size."""
    grid = TokenGrid(21, 30, 52)
    tokens = values(grid, 2, seed=0, offset=1500.0)
    stats = ActivationStats(blocks=(0,), width=2, boundary=0.08)
    record(stats, 0, tokens, grid)
    expected = tokens.double().var(0, correction=0)
    torch.testing.assert_close(stats.pooled().variance[0], expected, rtol=1e-5, atol=0.0)
    naive = tokens.square().mean(0) - tokens.mean(0).square()
    assert not torch.allclose(naive.double(), expected, rtol=1e-3)


def test_rounded_sums_give_no_negative_variance():
    partial = torch.zeros(len(REGIONS), 5, 1)
    partial[0, SUM], partial[0, SUM_SQUARES] = 3.0, 3.0 - 1e-6
    assert Moments.of_partial(partial, [3, 0, 0]).m2.min() == 0


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_merging_is_exact_in_any_order_and_split(order, cut):
    grid = TokenGrid(3, 2, 4)
    whole = ActivationStats(blocks=(0,), width=4, boundary=0.2)
    one, two = (ActivationStats(blocks=(0,), width=4, boundary=0.2) for _ in range(2))
    for seed in range(5):
        record(whole, seed % 2, values(grid, 4, seed, 30.0), grid)
    for place, seed in enumerate(order):
        record(one if place < cut else two, seed % 2, values(grid, 4, seed, 30.0), grid)
    one.merge(two)
    assert one.samples == whole.samples
    for key in whole.cells:
        assert_same(one.cells[key], whole.cells[key], tolerance=1e-12)


def test_other_axes_and_dtypes_give_the_same_sums():
    grid = TokenGrid(3, 8, 16)
    tokens = values(grid, 4, seed=1).bfloat16()
    plain = partial_sums(tokens, grid, 0.1)
    channel_major = tokens.T.contiguous().T
    torch.testing.assert_close(partial_sums(channel_major, grid, 0.1), plain)
    assert torch.equal(partial_sums(tokens.float(), grid, 0.1), plain)


@pytest.mark.parametrize("tile", [None, 8])
def test_tokens_in_tiles_come_back_in_raster_order(tile):
    video = VideoTokens(TokenGrid(2, 8, 16), tile=tile)
    order = torch.arange(video.grid.num_tokens)
    stored = video.arrange(order)
    assert (tile is None) == torch.equal(stored, order)
    assert torch.equal(video.raster(stored[None, :, None])[0, :, 0], order)


def test_folded_axes_come_back_in_raster_order():
    grid = TokenGrid(3, 2, 4)
    video = VideoTokens(grid, batch=2)
    tokens = torch.randn(2, grid.num_tokens, 5)
    by_frame = tokens.unflatten(1, (3, 8))
    spatial, temporal = by_frame.flatten(0, 1), by_frame.transpose(1, 2).flatten(0, 1)
    assert torch.equal(video.raster(video.of(spatial, "(BF)SD")), tokens)
    assert torch.equal(video.raster(video.of(temporal, "(BS)FD")), tokens)
    assert torch.equal(video.of(tokens[0], "ND").expand(1, -1, -1), tokens[:1])


def test_nonfinite_values_are_counted_and_never_averaged_in():
    grid = TokenGrid(2, 2, 2)
    stats = ActivationStats(blocks=(0,), width=3, boundary=0.5)
    good = values(grid, 3, seed=0)
    bad = good.clone()
    bad[0, 1] = math.nan  # the first frame
    bad[7, 2] = math.inf  # the boundary
    record(stats, 0, good, grid)
    record(stats, 0, bad, grid)
    found = stats.cells[0, "cond"]
    assert found.nonfinite[0].tolist() == [[0, 4, 0], [0, 0, 4], [0, 0, 0]]
    assert found.count[0].tolist() == [[8, 4, 8], [8, 8, 4], [0, 0, 0]]
    for array in found.arrays().values():
        assert torch.isfinite(array).all()
    torch.testing.assert_close(found.mean_abs[0, 0, 1], good[:4, 1].abs().mean().double())


def test_a_map_averages_each_place_over_its_finite_values():
    stats = ActivationStats(blocks=(0,), width=2, boundary=0.1, map_blocks=(0,), map_dims=(1,))
    one, two = torch.full((1, 1, 1, 2), 3.0), torch.tensor([5.0, math.nan]).reshape(1, 1, 1, 2)
    for chosen in (one, two):
        stats.add_maps(0, torch.ones(2, 2), chosen)
    assert stats.token_map.mean.flatten().tolist() == [4.0, 3.0]
    assert stats.token_map.count.flatten().tolist() == [2, 1]


def test_pooling_takes_the_steps_and_branches_that_are_asked_for():
    grid = TokenGrid(1, 1, 2)
    stats = ActivationStats(blocks=(0,), width=1, boundary=0.1)
    for number, (step, branch) in enumerate([(0, "cond"), (0, "uncond"), (1, "cond")]):
        record(stats, step, torch.full((2, 1), 10.0**number), grid, branch)
    assert stats.pooled().mean_abs.item() == 37.0
    assert stats.pooled(steps=[0]).mean_abs.item() == 5.5
    assert stats.pooled(branches=("cond",)).mean_abs.item() == 50.5
    assert stats.pooled(steps=[1], branches=("uncond",)).count.item() == 0


def test_nothing_recorded_is_no_error():
    empty = ActivationStats(blocks=(0, 1), width=3, boundary=0.08)
    assert empty.pooled().count.tolist() == [[0] * 3] * 2
    assert torch.equal(empty.pooled().variance, torch.zeros(2, 3, dtype=torch.float64))


@given(st.integers(1, 700), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_surface_averages_neighbouring_tokens(count, width):
    tokens = torch.randn(count, width, generator=torch.Generator().manual_seed(count))
    surface = surface_sums(tokens)
    assert surface.shape == (min(count, SURFACE_BINS), width)
    edges = [-(-bin_ * count // len(surface)) for bin_ in range(len(surface) + 1)]
    for row, start, end in zip(surface, edges, edges[1:], strict=False):
        torch.testing.assert_close(row, tokens[start:end].abs().mean(0))


def full(blocks=(0, 5)):
    grid = TokenGrid(2, 2, 3)
    stats = ActivationStats(
        blocks=blocks,
        width=4,
        boundary=0.2,
        map_blocks=blocks[:1],
        map_dims=(1, 3),
        metadata={"model": "m", "config": "c", "prompts": "abc"},
    )
    for step in range(2):
        for block in blocks:
            tokens = values(grid, 4, seed=step)
            record(stats, step, tokens, grid, block=block, num_steps=2)
            if block in stats.map_blocks:
                chosen = tokens[:, [1, 3]].abs().T.reshape(2, 2, 2, 3)
                stats.add_maps(block, surface_sums(tokens), chosen)
    return stats


def test_a_file_gives_everything_back(tmp_path):
    stats = full()
    stats.save(tmp_path / "s.safetensors")
    loaded = ActivationStats.load(tmp_path / "s.safetensors")
    for name in ("blocks", "width", "boundary", "map_blocks", "map_dims", "metadata"):
        assert getattr(loaded, name) == getattr(stats, name)
    assert loaded.num_steps == 2 and loaded.samples == stats.samples
    for key, cell in stats.cells.items():
        for name, array in cell.arrays().items():
            assert torch.equal(array, getattr(loaded.cells[key], name))
    assert torch.equal(loaded.surface.mean, stats.surface.mean)
    assert torch.equal(loaded.token_map.mean, stats.token_map.mean)
    loaded.merge(stats)
    assert_same(loaded.pooled(steps=[0]), _twice(stats.pooled(steps=[0])))
    torch.testing.assert_close(loaded.token_map.mean, stats.token_map.mean)
    assert torch.equal(loaded.token_map.count, 2 * stats.token_map.count)


def test_empty_statistics_become_what_they_take_in():
    stats = full()
    empty = ActivationStats(blocks=(0, 5), width=4, boundary=0.2, map_blocks=(0,), map_dims=(1, 3))
    empty.merge(stats)
    assert (empty.num_steps, empty.samples) == (stats.num_steps, stats.samples)
    assert_same(empty.pooled(), stats.pooled())
    assert torch.equal(empty.surface.mean, stats.surface.mean)
    assert torch.equal(empty.token_map.mean, stats.token_map.mean)


def _twice(moments):
    doubled = dict(moments.arrays())
    doubled["count"] = moments.count * 2
    doubled["m2"] = moments.m2 * 2
    return Moments(**doubled)


def break_format(path):
    save_file({"x": torch.zeros(1)}, path, {"format": "something else"})


def break_header(path):
    tensors = load_file(path)
    save_file(tensors, path, {"format": "stas.stats/1", "stats": "{}"})


def break_shapes(path):
    save_file(
        {"count": torch.zeros(1)},
        path,
        {
            "format": "stas.stats/1",
            "stats": json.dumps(
                {
                    "blocks": [0],
                    "width": 2,
                    "boundary": 0.1,
                    "map_blocks": [],
                    "map_dims": [],
                    "num_steps": 1,
                    "cells": [[0, "cond", 1]],
                    "metadata": {},
                }
            ),
        },
    )


@pytest.mark.parametrize(
    "break_file",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("hello"),
        break_format,
        break_header,
        break_shapes,
    ],
)
def test_a_broken_file_is_named(tmp_path, break_file):
    path = tmp_path / "s.safetensors"
    full().save(path)
    break_file(path)
    with pytest.raises(ValueError, match=r"s\.safetensors does not hold activation statistics"):
        ActivationStats.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        ActivationStats.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: setattr(s, "boundary", 0.3), "boundary 0.2 and 0.3"),
        (lambda s: s.metadata.update(model="other"), "two models"),
        (lambda s: s.metadata.update(config="other"), "two models.*config is c and other"),
        (lambda s: setattr(s, "map_dims", (1, 2)), r"map_dims \(1, 3\) and \(1, 2\)"),
        (lambda s: setattr(s, "num_steps", 9), "2 denoising steps, and one of 9"),
        (lambda s: setattr(s, "width", 9), "width 4 and 9"),
        (lambda s: setattr(s.token_map, "mean", torch.zeros(1, 2, 5, 5, 5)), "two sizes"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(change, message):
    stats, other = full(), full()
    before = stats.pooled()
    change(other)
    with pytest.raises(ValueError, match=message):
        stats.merge(other)
    for name, array in before.arrays().items():
        assert torch.equal(array, getattr(stats.pooled(), name))


def test_videos_of_another_length_or_size_are_refused():
    stats = full()
    grid = TokenGrid(2, 2, 3)
    with pytest.raises(ValueError, match="2 denoising steps, and one of 7"):
        record(stats, 0, values(grid, 4, 0), grid, num_steps=7)
    with pytest.raises(ValueError, match="videos of one size"):
        stats.add_maps(0, torch.zeros(12, 4), torch.zeros(2, 1, 1, 1))
