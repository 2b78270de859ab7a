"""How sure planted dimensions are, by the number of prompts."""

from __future__ import annotations

import pytest
import torch

from stas.activations.certainty import certainty, is_sure
from stas.activations.stats import ActivationStats


def stats_of(prompts, dims, spread=0.1, seed=0):
    """Ratios of a model of width 16 whose dimensions have these, and prompts that vary."""
    draw = torch.Generator().manual_seed(seed)
    ratios = torch.ones(prompts, 16)
    for dim, ratio in dims.items():
        ratios[:, dim] = ratio * torch.exp(spread * torch.randn(prompts, generator=draw))
    stats = ActivationStats(blocks=(0,), width=16, boundary=0.08)
    stats.video_ratios = ratios
    return stats


def test_a_strong_dimension_is_sure_at_once_and_one_near_the_threshold_takes_more():
    found = certainty(stats_of(100, {3: 60.0, 5: 10.5}))
    assert [each.dim for each in found.sure] == [3] and not found.unsure
    assert found.enough == 6
    near = certainty(stats_of(100, {3: 60.0, 5: 21.5}))
    assert [each.dim for each in near.sure] == [3, 5]
    assert 6 < near.enough < 100


def test_a_dimension_at_the_threshold_is_never_called_sure_for_long():
    found = [certainty(stats_of(30, {5: 20.0}, seed=seed)) for seed in range(100)]
    assert sum(bool(each.sure) for each in found) <= 8
    unsure = next(each for each in found if each.unsure)
    assert unsure.enough is None and "Not sure yet: 5" in unsure.describe()


def test_few_prompts_say_nothing():
    found = certainty(stats_of(5, {3: 60.0}))
    assert (found.sure, found.enough) == ((), None)
    assert "record 6 or more" in found.describe()


def test_statistics_without_ratios_are_refused():
    with pytest.raises(ValueError, match="no ratios by video"):
        certainty(ActivationStats(blocks=(0,), width=8, boundary=0.08))


def test_ratios_survive_the_file_and_a_merge(tmp_path):
    one, other = stats_of(3, {3: 60.0}), stats_of(4, {3: 50.0}, seed=1)
    both = torch.cat([one.video_ratios, other.video_ratios])
    one.merge(other)
    one.save(tmp_path / "both.safetensors")
    assert torch.equal(ActivationStats.load(tmp_path / "both.safetensors").video_ratios, both)


def looked_at(stats):
    """After how many videos it is sure, looking after each; None for never."""
    ratios = stats.video_ratios
    for count in range(1, len(ratios) + 1):
        stats.video_ratios = ratios[:count]
        if is_sure(stats):
            return count
    return None


def test_recording_ends_when_it_is_sure():
    assert looked_at(stats_of(40, {3: 60.0})) == 6
    near = [looked_at(stats_of(100, {3: 60.0, 5: 21.5}, seed=seed)) for seed in range(20)]
    assert all(count is not None and count > 6 for count in near)


def test_looking_after_each_video_is_seldom_wrong():
    """At the threshold no answer is right: one is given in 5 of 100 recordings at most."""
    found = [looked_at(stats_of(60, {5: 20.0}, seed=seed)) for seed in range(200)]
    assert sum(count is not None for count in found) <= 18  # 10 expected at most, and chance
