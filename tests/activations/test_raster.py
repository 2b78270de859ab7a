"""Position, border and content, planted into maps and into models."""

from __future__ import annotations

import pytest
import torch

from stas.activations.intervals import mean_interval
from stas.activations.raster import draw_raster, raster, write_raster
from stas.activations.stats import ActivationStats
from stas.hooks.record import record
from tests.tiny import plant_massive_dimension, tiny_wan_transformer
from tests.zoo.images import TINIES

GRID = (8, 10)


def stats_of(maps, boundary=0.08):
    stats = ActivationStats(blocks=(0,), width=8, boundary=boundary, map_blocks=(0,), map_dims=(3,))
    stats.video_maps = maps[:, None, None].float()
    return stats


def pictures(seed, count=24):
    """Content: the blob of each prompt is somewhere, and top and bottom differ."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(*map(torch.arange, GRID), indexing="ij")
    maps = []
    for _ in range(count):
        y, x = (float(torch.rand((), generator=draw)) * size for size in GRID)
        blob = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8)
        maps.append(100 - 40 * blob - 2.0 * rows + torch.randn(GRID, generator=draw))
    return torch.stack(maps)


def planted(kind):
    place = torch.arange(GRID[0] * GRID[1]).reshape(GRID)
    if kind == "position":  # head and tail in raster order, 8 % of 80 tokens
        return 15.0 * ((place < 6) | (place >= 74))
    if kind == "drift":
        return -1.0 * place
    if kind == "border":
        inner = torch.zeros(GRID)
        inner[1:-1, 1:-1] = 1
        return 30.0 * (1 - inner)
    return torch.zeros(GRID)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("position", "position in the sequence (head, tail)"),
        ("drift", "left and right differ in all rows"),
        ("border", "higher at the picture's border than in its middle"),
    ],
)
def test_planted_maps_are_told_apart(kind, said):
    (found,) = raster(stats_of(pictures(0, 96) + planted(kind)))
    assert found.words.startswith(said)


def test_content_is_seldom_taken_for_position():
    words = [raster(stats_of(pictures(seed)))[0].words for seed in range(60)]
    assert sum("position in the sequence" in each for each in words) <= 4


def test_a_few_prompts_tell_nothing():
    (found,) = raster(stats_of(pictures(0, 5) + planted("position")))
    assert "too few prompts" in found.words


class Planted(torch.nn.Module):
    """A patch embedding whose dimension 3 is larger at chosen tokens of each latent frame."""

    def __init__(self, embedding, added):
        super().__init__()
        self.embedding, self.added = embedding, added

    def forward(self, latents):
        tokens = self.embedding(latents).clone()  # (B, D, F, H, W)
        tokens[:, 3] += self.added
        return tokens


@pytest.mark.parametrize("kind", ["position", "border", "none"])
@pytest.mark.parametrize("frames", [1, 3])
def test_planted_models_are_told_apart(kind, frames):
    transformer = tiny_wan_transformer()
    plant_massive_dimension(transformer, 3)
    transformer.patch_embedding = Planted(transformer.patch_embedding, planted(kind))
    total = None
    for prompt in range(10):
        draw = torch.Generator().manual_seed(prompt)
        latents = torch.randn(1, 4, frames, 16, 20, generator=draw)
        text = torch.randn(1, 3, 16, generator=draw)
        with record(transformer, map_blocks="all", map_dims=(3,)) as recording, torch.no_grad():
            transformer(latents, torch.ones(1), text)
        recording.stats.keep_video_map()
        if total is None:
            total = recording.stats
        else:
            total.merge(recording.stats)
    said = {
        "position": "position in",
        "border": "higher at the picture's border",
        "none": "neither",
    }[kind]
    assert total.video_maps.shape == (10, 3, 1, *GRID)
    assert raster(total)[0].words.startswith(said)


@pytest.mark.parametrize("kind", ["position", "none"])
def test_an_image_model_is_read_by_its_only_frame(kind):
    tiny = next(each for each in TINIES if each.name == "stable diffusion 3")
    transformer, inputs = tiny.transformer(), tiny.inputs((1, 5, 8), 8)
    added = torch.full((40,), 100.0)
    if kind == "position":
        added[:4] += 30  # 8 % of 40 tokens, rounded up
    place = torch.nn.functional.one_hot(torch.tensor(3), 32)
    transformer.pos_embed.register_forward_hook(
        lambda module, args, tokens: tokens + added[:, None] * place
    )
    total = ActivationStats(
        blocks=(0, 1, 2), width=32, boundary=0.08, map_blocks=(0, 1, 2), map_dims=(3,)
    )
    for sample in range(8):
        one = {name: value[sample : sample + 1] for name, value in inputs.items()}
        with record(transformer, map_blocks="all", map_dims=(3,)) as recording, torch.no_grad():
            transformer(**one)
        recording.stats.keep_video_map()
        total.merge(recording.stats)
    assert total.video_maps.shape == (8, 3, 1, 5, 8)
    assert ("position in the sequence (head" in raster(total)[0].words) == (kind == "position")


def test_maps_by_prompt_survive_the_file_and_a_merge(tmp_path):
    one, other = stats_of(pictures(0, 3)), stats_of(pictures(1, 4))
    both = torch.cat([one.video_maps, other.video_maps])
    one.merge(other)
    one.save(tmp_path / "both.safetensors")
    loaded = ActivationStats.load(tmp_path / "both.safetensors")
    assert torch.equal(loaded.video_maps, both)
    assert ActivationStats(blocks=(0,), width=8, boundary=0.08).video_maps is None


def test_the_mean_of_later_latent_frames_is_kept():
    stats = ActivationStats(blocks=(0,), width=8, boundary=0.08, map_blocks=(0,), map_dims=(3,))
    values = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)[:1]
    stats.add_maps(0, torch.ones(8, 8), values)
    stats.keep_video_map()
    assert torch.equal(stats.video_maps[0, 0], values[:, 1:].mean(1))


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        (None, {}, "hold no maps by prompt. Record with map_blocks"),
        (torch.ones(8, 2, 4), {}, "but got 2 x 4"),
        (torch.ones(8, *GRID), {"block": 4}, r"block 4 has no maps; blocks with maps are \(0,\)"),
        (torch.ones(8, *GRID), {"dims": (1,)}, r"Dimensions \[1\] have no maps"),
        (torch.full((8, *GRID), torch.nan), {}, "no map of dimension 3 at block 0 is finite"),
    ],
)
def test_bad_input_gets_a_clear_error(changes, options, said):
    stats = ActivationStats(blocks=(0,), width=8, boundary=0.08)
    if changes is not None:
        stats = stats_of(changes)
    with pytest.raises(ValueError, match=said):
        raster(stats, **options)


def test_pictures_and_numbers_are_written(tmp_path):
    found = raster(stats_of(pictures(0)))
    assert draw_raster(found[0]).axes[0].get_xlabel().startswith("mean |h|")
    written = write_raster(found, tmp_path / "plots")
    assert [path.name for path in written] == ["raster-3.png", "raster.csv"]
    assert len((tmp_path / "plots" / "raster.csv").read_text().splitlines()) == 5


def test_intervals_hold_the_mean():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(400, 8, generator=draw).tolist()
    missed = sum(mean_interval(each).side != 0 for each in values)
    assert 4 <= missed <= 36
