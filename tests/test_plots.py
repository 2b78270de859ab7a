"""Pictures and tables of recorded statistics."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from stas.plots import plot
from stas.stats import ActivationStats, partial_sums, surface_sums
from stas.tokens import TokenGrid
from tests.test_massive import planted


def recorded(dims=None, seed=0):
    stats = planted(128, dims or {9: 60, 30: 8}, steps=4, seed=seed)
    stats.map_blocks, stats.map_dims = (2,), (9,)
    grid = TokenGrid(3, 4, 6)
    tokens = np.linspace(1, 2, grid.num_tokens)
    for _ in range(2):
        values = planted_tokens(grid, tokens)
        stats.add_maps(2, surface_sums(values), values[:, [9]].abs().T.reshape(1, 3, 4, 6))
    return stats


def planted_tokens(grid, scale):
    import torch

    values = torch.ones(grid.num_tokens, 128)
    values[:, 9] = 60 * torch.as_tensor(scale, dtype=torch.float32)
    return values


def table(path):
    with path.open() as file:
        return list(csv.reader(file))


def test_every_picture_has_its_numbers_beside_it(tmp_path):
    stats = recorded()
    written = plot({"a model": stats}, tmp_path / "plots")
    names = {path.stem for path in written}
    assert names == {"surface", "groups", "steps", "ratios", "map"}
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width == 800
                assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    groups = table(tmp_path / "plots/groups.csv")
    pooled = stats.pooled(regions=("boundary",))
    row = next(row for row in groups if row[:2] == ["9", "boundary"])
    assert float(row[2]) == pytest.approx(float(pooled.mean_abs[2, 9]))
    steps = table(tmp_path / "plots/steps.csv")
    assert len(steps) == 1 + 4
    assert float(steps[1][4]) == pytest.approx(float(steps[1][2]) / float(steps[1][3]))
    ratios = table(tmp_path / "plots/ratios.csv")
    assert ratios[0][1] == "dimension 9" and len(ratios) == 1 + 4
    surface = table(tmp_path / "plots/surface.csv")
    assert max(float(value) for value in surface[1][1:]) == pytest.approx(60, rel=0.05)
    assert len(table(tmp_path / "plots/map.csv")) == 1 + 3 * 4 * 6


def test_several_models_side_by_side(tmp_path):
    written = plot({"one": recorded(), "two": planted(128, {}, seed=3)}, tmp_path)
    assert {"one-surface", "two-groups", "models"} <= {path.stem for path in written}
    rows = table(tmp_path / "models.csv")
    assert {row[0] for row in rows[1:]} == {"one", "two"}
    assert not (tmp_path / "two-surface.png").exists()  # no maps were recorded


def test_a_single_frame_and_a_single_step(tmp_path):
    grid = TokenGrid(1, 2, 2)
    stats = ActivationStats(blocks=(0,), width=64, boundary=0.1)
    stats.add(0, 1, "other", 0, partial_sums(planted_tokens(grid, 1)[:, :64], grid, 0.1), grid)
    assert {path.stem for path in plot({"m": stats}, tmp_path)} == {"groups", "steps", "ratios"}
    assert table(tmp_path / "steps.csv")[1][2] == "nan"


@pytest.mark.parametrize(
    ("stats", "options", "message"),
    [
        ({}, {}, "no statistics"),
        ({"m": ActivationStats(blocks=(0,), width=4, boundary=0.1)}, {}, "no samples"),
        ({"m": planted(64, {})}, {"block": 9}, "Block 9 was not recorded"),
        ({"m": planted(64, {})}, {"dims": (64,)}, "from 0 to 63"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, stats, options, message):
    with pytest.raises(ValueError, match=message):
        plot(stats, tmp_path / "plots", **options)
    assert not (tmp_path / "plots").exists()
