"""Detection from magnitudes and statistics whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stas.activations.massive import find_massive_activations
from stas.activations.stats import ActivationStats, Moments
from stas.activations.sums import partial_sums
from stas.method.detection import MASSIVE_RATIO, massive_from_magnitudes
from stas.method.tokens import TokenGrid


def of_tokens(*blocks):
    """Statistics of one token a block, with these features."""
    width, grid = len(blocks[0]), TokenGrid(1, 1, 1)
    stats = ActivationStats(blocks=range(len(blocks)), width=width, boundary=0.1)
    for number, features in enumerate(blocks):
        partial = partial_sums(torch.tensor([features]), grid, 0.1)
        stats.add(0, 1, "cond", number, partial, grid)
    return stats


def test_a_ratio_at_the_threshold_counts():
    features = [5.0, 1.0, 1.0, 1.0]  # 2.5 times the mean, 0.5 times
    assert massive_from_magnitudes([torch.tensor(features)], threshold=2.5).dims == (0,)
    found = find_massive_activations(of_tokens(features), threshold=2.5, weak_threshold=0.5)
    assert found.dims == (0,)
    assert [each.dimension_class for each in found.findings] == ["massive"] + ["weak"] * 3
    assert [each.consistency for each in found.findings] == [1.0] * 4
    assert [each.blocks for each in found.findings] == [(0,)] * 4
    assert found.of_class("massive", 1) == (0,) and len(found.of_class("weak", 3)) == 3


def test_blocks_without_a_value_have_no_say():
    zero, nothing = [0.0] * 4, [math.nan] * 4
    found = find_massive_activations(of_tokens([5.0, 1.0, 1.0, 1.0], zero, zero, nothing))
    assert (found.ratios[0], found.nonfinite) == (2.5, 4)


def test_a_single_frame_has_no_boundary_and_no_interior():
    strongest = find_massive_activations(of_tokens([5.0, 1.0, 1.0, 1.0])).findings[0]
    assert strongest.first_frame == 5.0
    assert math.isnan(strongest.boundary) and math.isnan(strongest.interior)


def planted(width, dims, *, steps=3, blocks=(0, 1, 2, 3), noise=0.3, frames=3, seed=0, signs=None):
    """Statistics of hidden states with dimensions of known ratios, strongest in the first frame.

    The ratio is that of the mean |h| over all tokens to the mean over dimensions.
    """
    grid = TokenGrid(frames, 4, 6)
    generator = torch.Generator().manual_seed(seed)
    stats = ActivationStats(blocks=blocks, width=width, boundary=0.1)
    groups = torch.ones(grid.num_tokens, dtype=torch.float64)
    groups[grid.mask(("first_frame",), 0.1)] = 1.5
    groups[grid.mask(("boundary",), 0.1)] = 1.2
    groups /= groups.mean()
    rest = (width - sum(dims.values())) / (width - len(dims))
    for step in range(steps):
        for block in blocks:
            shape = (grid.num_tokens, width)
            spread = (
                1 + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
            ).abs()
            signs_of = torch.where(torch.rand(shape, generator=generator) < 0.5, 1.0, -1.0)
            tokens = rest * spread * signs_of
            for dim, ratio in dims.items():
                sign = (signs or {}).get(dim, 1.0)
                tokens[:, dim] = sign * ratio * groups * spread[:, dim]
            partial = partial_sums(tokens.float(), grid, 0.1)
            stats.add(step, steps, "cond", block, partial, grid)
    return stats


@given(
    st.sampled_from([128, 384, 1536]),
    st.floats(3, 200),
    st.floats(0.0, 0.5),
    st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_planted_dimensions_are_found_over_ratios_widths_and_noise(width, ratio, noise, seed):
    ratio = min(ratio, width / 3)
    dim = seed % width
    found = find_massive_activations(
        planted(width, {dim: ratio}, noise=noise, seed=seed, steps=2, blocks=(0, 1))
    )
    assert found.strongest[0] == dim
    assert found.ratios[0] == pytest.approx(ratio, rel=0.1)
    if abs(ratio - MASSIVE_RATIO) > 2:
        assert found.dims == ((dim,) if ratio > MASSIVE_RATIO else ())


def test_everything_about_a_planted_dimension():
    found = find_massive_activations(planted(512, {9: 60, 100: 6}, signs={9: -1.0}))
    strong, weak = found.findings[:2]
    assert (strong.dim, strong.dimension_class, strong.blocks) == (9, "massive", (0, 1, 2, 3))
    assert (weak.dim, weak.dimension_class) == (100, "weak")
    assert (strong.sign, weak.sign) == (pytest.approx(-1), pytest.approx(1))
    assert strong.consistency == weak.consistency == 1.0
    assert strong.first_frame > strong.boundary > strong.interior
    assert strong.first_frame / strong.interior == pytest.approx(1.5, rel=0.1)
    assert abs(found.findings[3].sign) < 0.2


def test_classes_for_the_papers_comparison():
    found = find_massive_activations(planted(512, {9: 60, 30: 40, 100: 6}))
    assert found.of_class("massive", 2) == (9, 30)
    assert found.of_class("weak", 1) == (100,)
    ordinary = found.of_class("ordinary", 5, seed=3)
    assert ordinary == found.of_class("ordinary", 5, seed=3) != found.of_class("ordinary", 5)
    assert not {9, 30, 100} & set(ordinary)
    with pytest.raises(ValueError, match="2 weak dimensions were asked for, but there are 1"):
        found.of_class("weak", 2)


def test_a_dimension_at_few_blocks_is_not_massive_and_thresholds_need_no_new_run():
    stats = planted(256, {5: 90}, blocks=(0,))  # 31 times, on average over three blocks
    wide = ActivationStats(blocks=(0, 1, 2), width=256, boundary=0.1)
    for source, block in ((stats, 0), (planted(256, {}, blocks=(0,)), 1)):
        for key, cell in source.cells.items():
            target = wide.cells.setdefault(key, Moments.empty(3, 3, 256))
            for name, array in cell.arrays().items():
                getattr(target, name)[block] = array[0]
    for cell in wide.cells.values():
        for array in cell.arrays().values():
            array[2] = array[1]
    found = find_massive_activations(wide)
    assert found.dims == ()
    assert find_massive_activations(wide, blocks=(0,)).dims == (5,)
    assert find_massive_activations(stats, threshold=100).dims == ()
    assert find_massive_activations(stats, threshold=80).dims == (5,)


def test_a_model_without_any_has_none():
    found = find_massive_activations(planted(128, {}))
    assert found.dims == () and found.findings[0].dimension_class == "ordinary"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 2.0}, "weak_threshold <= threshold"),
        ({"blocks": (7,)}, r"Blocks \[7\] were not recorded"),
    ],
)
def test_bad_questions(options, message):
    with pytest.raises(ValueError, match=message):
        find_massive_activations(planted(64, {}), **options)


def test_no_samples_and_nothing_but_nan():
    empty = ActivationStats(blocks=(0,), width=4, boundary=0.1)
    with pytest.raises(ValueError, match="no samples"):
        find_massive_activations(empty)
    grid = TokenGrid(1, 1, 2)
    empty.add(0, 1, "cond", 0, partial_sums(torch.full((2, 4), torch.nan), grid, 0.1), grid)
    with pytest.raises(ValueError, match="zero or not finite"):
        find_massive_activations(empty)
