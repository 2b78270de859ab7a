"""Pictures and tables of recorded statistics."""

from __future__ import annotations

import csv
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import stas
from stas.activations import plots
from stas.activations.massive import find_massive_activations
from stas.activations.plots import plot
from stas.activations.stats import ActivationStats
from stas.activations.sums import partial_sums, surface_sums
from stas.method.config import REGIONS
from stas.method.tokens import TokenGrid
from tests.activations.test_massive import planted


def recorded(dims=None, seed=0):
    stats = planted(128, dims or {9: 60, 30: 8}, steps=4, seed=seed)
    stats.map_blocks, stats.map_dims = (2,), (30, 9)
    grid = TokenGrid(3, 4, 6)
    tokens = np.linspace(1, 2, grid.num_tokens)
    for _ in range(2):
        values = planted_tokens(grid, tokens)
        stats.add_maps(2, surface_sums(values), values[:, [30, 9]].abs().T.reshape(2, 3, 4, 6))
    return stats


def planted_tokens(grid, scale):
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
                assert image.width == 1600
                assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    surface = table(tmp_path / "plots/surface.csv")
    assert max(float(value) for value in surface[1][1:]) == pytest.approx(60, rel=0.05)


def numbers(path):
    """A table's rows without its heading, what is a number as one."""
    return [[float(cell) if cell[0].isdigit() else cell for cell in row] for row in table(path)[1:]]


def test_the_tables_hold_the_statistics_of_the_middle_block(tmp_path):
    stats = recorded()
    plot({"m": stats}, tmp_path, dims=(9, 30))
    pooled = {region: stats.pooled(regions=(region,)) for region in REGIONS}
    assert numbers(tmp_path / "groups.csv") == [
        [dim, region, float(each.mean_abs[2, dim]), int(each.count[2, dim])]
        for region, each in pooled.items()
        for dim in (9, 30)
    ]
    for step, *values, ratio in numbers(tmp_path / "steps.csv"):
        of_step = [stats.pooled(steps=[int(step)], regions=(region,)) for region in REGIONS]
        assert values == [float(each.mean_abs[2, 9]) for each in of_step]
        assert ratio == pytest.approx(values[1] / values[2])
    assert [row[0] for row in numbers(tmp_path / "steps.csv")] == [0, 1, 2, 3]
    everything = stats.pooled().mean_abs
    strongest = find_massive_activations(stats).strongest
    assert table(tmp_path / "ratios.csv")[0] == ["block", *(f"dimension {d}" for d in strongest)]
    ratios = everything / everything.mean(1, keepdim=True)
    assert [row[0] for row in numbers(tmp_path / "ratios.csv")] == [0, 1, 2, 3]
    assert [row[1:] for row in numbers(tmp_path / "ratios.csv")] == ratios[:, strongest].tolist()
    maps = dict(zip(stats.map_dims, stats.token_map.mean[0], strict=True))
    for dim, *place, value in numbers(tmp_path / "map.csv"):
        assert value == maps[dim][tuple(map(int, place))]
    assert len(numbers(tmp_path / "map.csv")) == 2 * 3 * 4 * 6


def test_several_models_side_by_side(tmp_path):
    stats = recorded()
    written = plot({"one": stats, "two": planted(128, {}, seed=3)}, tmp_path)
    assert {"one-surface", "two-groups", "models"} <= {path.stem for path in written}
    rows = table(tmp_path / "models.csv")
    assert {row[0] for row in rows[1:]} == {"one", "two"}
    found = find_massive_activations(stats).findings[0]
    groups = found.first_frame, found.boundary, found.interior
    assert rows[1] == ["one", *map(str, (9, found.ratio, "massive", *groups))]
    assert not (tmp_path / "two-surface.png").exists()  # no maps were recorded


def test_a_figure_of_the_paper_is_some_of_the_pictures(tmp_path):
    stats = {"one": recorded(), "two": recorded(seed=1)}
    for figure, stems in {1: {"surface", "groups", "models"}, 2: {"steps"}}.items():
        written = plot(stats, tmp_path, figure=figure)
        assert {path.stem.split("-")[-1] for path in written} == stems
    with pytest.raises(ValueError, match=r"figure must be 1 or 2, .* but got 3"):
        plot(stats, tmp_path, figure=3)


def test_models_have_their_token_groups_beside_them_and_images_have_none():
    grid = TokenGrid(1, 2, 2)
    image = ActivationStats(blocks=(0,), width=64, boundary=0.1)
    image.add(0, 1, "other", 0, partial_sums(planted_tokens(grid, 1)[:, :64], grid, 0.1), grid)
    stats = recorded()
    *models, groups = plots.models({"video": stats, "image": image}).axes
    assert [axes.get_title()[:9] for axes in models] == ["(a) video", "(b) image"]
    (finding,) = [found for found in find_massive_activations(stats).findings if found.dim == 9]
    of_regions = [
        float(stats.pooled(regions=(region,)).mean_abs[2, finding.dim]) for region in REGIONS
    ]
    heights = [patch.get_height() for patch in groups.patches]
    assert heights == pytest.approx([each / of_regions[2] for each in of_regions])
    assert [tick.get_text() for tick in groups.get_xticklabels()] == ["video\ndim 9"]
    assert len(plots.models({"image": image}).axes) == 1
    assert len(plots.groups(image).axes[0].patches) == 1
    assert [line.get_label() for line in plots.steps(image).axes[0].lines] == ["first frame"]


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


PICTURES = {
    "surface": (plots.surface, {"block": 2}),
    "groups": (plots.groups, {"dims": (9, 30), "block": 2}),
    "steps": (plots.steps, {"dims": (9, 30), "block": 2}),
    "ratios": (plots.ratios, {}),
    "map": (plots.token_map, {"dims": (9, 30), "block": 2}),
}


@pytest.mark.parametrize("stem", PICTURES)
def test_each_picture_is_a_figure_and_what_plot_writes(tmp_path, stem):
    draw, options = PICTURES[stem]
    stats = recorded()
    figure = draw(stats, name="m", **options)
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "alone.png")
    plot({"m": stats}, tmp_path, dims=(9, 30), block=2)
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / f"{stem}.png").read_bytes()


def test_models_is_the_figure_that_plot_writes(tmp_path):
    stats = {"one": recorded(), "two": planted(128, {}, seed=3)}
    plots.models(stats, block=2).savefig(tmp_path / "alone.png")
    plot(stats, tmp_path, block=2)
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "models.png").read_bytes()


def test_a_figure_shows_what_was_asked_for():
    stats = recorded()
    ticks = plots.groups(stats, dims=(30,), block=1).axes[0]
    assert [tick.get_text() for tick in ticks.get_xticklabels()] == ["dimension 30"]
    assert ticks.get_title().startswith("model: token groups at block 1")
    stats.metadata["model"] = "owner/name"
    assert plots.ratios(stats).axes[0].get_title().startswith("name: strongest")
    assert plots.ratios(stats, name="mine").axes[0].get_title().startswith("mine: strongest")
    shown = [axes.get_title() for axes in plots.token_map(stats, dims=(30,)).axes]
    assert shown[:3] == ["dim 30, frame 0", "dim 30, frame 1", "dim 30, frame 2"]


def test_a_notebook_shows_a_figure():
    with Image.open(BytesIO(plots.groups(recorded())._repr_png_())) as image:
        assert image.format == "PNG" and image.width == 1600


@pytest.mark.parametrize(
    ("draw", "stats", "message"),
    [
        (plots.surface, lambda: planted(64, {}), r"Block 2 has no maps; .* map_blocks=\[2\]"),
        (plots.token_map, lambda: planted(64, {}), "Block 2 has no maps"),
        (lambda stats: plots.surface(stats, block=1), recorded, r"blocks with maps are \(2,\)"),
        (lambda stats: plots.token_map(stats, block=9), recorded, "Block 9 was not recorded"),
        (lambda stats: plots.steps(stats, dims=(128,)), recorded, "from 0 to 127"),
        (lambda stats: plots.models({}), recorded, "no statistics"),
    ],
)
def test_what_was_not_recorded_is_not_drawn(draw, stats, message):
    with pytest.raises(ValueError, match=message):
        draw(stats())


def test_maps_without_dimensions_have_a_surface_and_no_token_map():
    stats, grid = planted(128, {9: 60}), TokenGrid(3, 4, 6)
    stats.map_blocks = (2,)
    with pytest.raises(ValueError, match="hold no maps"):
        plots.surface(stats)
    stats.add_maps(2, surface_sums(planted_tokens(grid, np.ones(72))), torch.empty(0, 3, 4, 6))
    assert plots.surface(stats).axes
    with pytest.raises(ValueError, match=r"map_dims=\[9\]"):
        plots.token_map(stats)


def test_plots_load_on_first_use_and_leave_matplotlib_as_it_is(tmp_path):
    probe = """
import sys
import stas
assert "plots" in dir(stas) and "matplotlib" not in sys.modules
import matplotlib
before = dict(dict.items(matplotlib.rcParams))  # rcParams["backend"] would choose one
import torch
from stas.activations.sums import partial_sums
grid = stas.TokenGrid(2, 2, 2)
stats = stas.ActivationStats(blocks=(0,), width=64, boundary=0.1)
stats.add(0, 1, "other", 0, partial_sums(torch.ones(8, 64), grid, 0.1), grid)
stas.plots.plot({"m": stats}, sys.argv[1])
import stas.studies.page
assert dict(dict.items(matplotlib.rcParams)) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    assert stas.plots is plots
    subprocess.run([sys.executable, "-c", probe, str(tmp_path)], check=True)
