"""Pictures of recorded activations, each with its numbers as CSV beside it.

They are the paper's Figures 1 and 2 (arXiv 2603.17825) and two more, for any recorded model. All
magnitudes are mean |h|, without unit.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from stas.activations.massive import RecordedMassiveActivations, find_massive_activations
from stas.activations.stats import ActivationStats
from stas.files import whole_file
from stas.method.config import REGIONS

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = {"first_frame": "#D55E00", "boundary": "#0072B2", "interior": "#009E73"}


LABELS = {"first_frame": "first frame", "boundary": "boundary", "interior": "interior"}


WIDTH, DPI = 8.0, 100  # 800 pixels


BARS = 48  # at most so many bars along each axis of a surface


Rows = list[list[object]]


def plot(
    stats: Mapping[str, ActivationStats],
    folder: str | os.PathLike[str],
    *,
    dims: Sequence[int] | None = None,
    block: int | None = None,
) -> list[Path]:
    """Draw every picture that the statistics allow.

    Args:
        stats: Statistics by the name that the pictures give them; several are also drawn side by
            side.
        folder: Where to write; made if it isn't there, pictures of the same names are replaced.
        dims: Dimensions to show; the massive ones of each model, else its strongest, when None.
        block: The block to show; the middle one of those recorded when None.

    Returns:
        The pictures and tables, in the order that they were written.

    Raises:
        ValueError: Nothing was recorded, or the block or a dimension was not.
        OSError: The folder can't be written to.
    """
    if not stats:
        raise ValueError("There are no statistics to draw.")
    views = {name: _View(name, each, dims, block) for name, each in stats.items()}
    if len({view.slug for view in views.values()}) < len(views):
        raise ValueError(f"Two of {', '.join(views)} would have the same file names: rename one.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for view in views.values():
        prefix = "" if len(views) == 1 else f"{view.slug}-"
        for name, draw in PICTURES.items():
            drawn = draw(view)
            if drawn is not None:
                written += _write(folder / f"{prefix}{name}", *drawn)
    if len(views) > 1:
        written += _write(folder / "models", *_side_by_side(list(views.values())))
    return written


class _View:
    """One model's statistics with what is to be shown of them."""

    def __init__(
        self, name: str, stats: ActivationStats, dims: Sequence[int] | None, block: int | None
    ) -> None:
        self.name = name
        self.slug = "".join(c if c.isalnum() else "-" for c in name).strip("-") or "model"
        self.stats = stats
        self.found: RecordedMassiveActivations = find_massive_activations(stats)
        if block is not None and block not in stats.blocks:
            raise ValueError(f"Block {block} was not recorded; recorded are {stats.blocks}.")
        self.block = stats.blocks[len(stats.blocks) // 2] if block is None else block
        self.row = stats.blocks.index(self.block)
        if dims is not None and not all(0 <= dim < stats.width for dim in dims):
            raise ValueError(f"dims must be from 0 to {stats.width - 1}, but got {tuple(dims)}.")
        self.dims = tuple(dims or self.found.dims[:3] or self.found.strongest[:1])
        # A chunked video, or one under a scheduler of order 2, has several samples a step.
        finished = stats.metadata.get("finished")
        self.seen = (
            f"{finished} videos" if finished else f"{max(stats.samples.values())} samples a step"
        )

    @property
    def source(self) -> str:
        return f"n = {self.seen}, {self.stats.num_steps} steps"


def _figure(height: float = 4.2) -> Figure:
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def _groups(view: _View) -> tuple[Figure, Rows]:
    """Fig. 1e: magnitudes at first-frame, boundary and interior tokens."""
    figure = _figure()
    axes = figure.subplots()
    rows: Rows = [["dimension", "region", "mean |h|", "tokens"]]
    for number, region in enumerate(REGIONS):
        pooled = view.stats.pooled(regions=(region,))
        heights = [float(pooled.mean_abs[view.row, dim]) for dim in view.dims]
        places = np.arange(len(view.dims)) + 0.27 * (number - 1)
        axes.bar(places, heights, width=0.25, color=COLOURS[region], label=LABELS[region])
        for place, height, dim in zip(places, heights, view.dims, strict=True):
            axes.text(place, height, f"{height:.3g}", ha="center", va="bottom", fontsize=9)
            rows.append([dim, region, height, int(pooled.count[view.row, dim])])
    axes.set_xticks(range(len(view.dims)), [f"dimension {dim}" for dim in view.dims])
    axes.set_ylabel("mean |h|")
    axes.margins(y=0.3)  # room for the legend above the bars
    axes.set_title(f"{view.name}: token groups at block {view.block}\n{view.source}", fontsize=11)
    axes.legend(loc="upper center", ncols=3)
    return figure, rows


def _steps(view: _View) -> tuple[Figure, Rows]:
    """Fig. 2: magnitudes over denoising by token group, and boundary over interior."""
    figure = _figure()
    left, right = figure.subplots(1, 2)
    dim, steps = view.dims[0], sorted({step for step, _ in view.stats.cells})
    rows: Rows = [["step", *(f"{region} mean |h|" for region in REGIONS), "boundary / interior"]]
    series: dict[str, list[float]] = {region: [] for region in REGIONS}
    for step in steps:
        for region in REGIONS:
            pooled = view.stats.pooled(steps=[step], regions=(region,))
            seen = int(pooled.count[view.row, dim])
            value = float(pooled.mean_abs[view.row, dim]) if seen else float("nan")
            series[region].append(value)
    ratios = [
        b / i if i else float("nan")
        for b, i in zip(series["boundary"], series["interior"], strict=True)
    ]
    for region in REGIONS:
        left.plot(steps, series[region], color=COLOURS[region], label=LABELS[region], marker=".")
    right.plot(steps, ratios, color="black", marker=".")
    right.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    for axes, label in ((left, "mean |h|"), (right, "boundary / interior")):
        axes.set_xlabel("denoising step")
        axes.set_ylabel(label)
    left.legend()
    figure.suptitle(
        f"{view.name}: dimension {dim} at block {view.block} over denoising\n{view.source}",
        fontsize=11,
    )
    rows += [
        [step, *(series[region][i] for region in REGIONS), ratios[i]]
        for i, step in enumerate(steps)
    ]
    return figure, rows


def _ratios(view: _View) -> tuple[Figure, Rows]:
    """The ratio to the mean over dimensions, by block, of the strongest dimensions."""
    figure = _figure()
    axes = figure.subplots()
    pooled = view.stats.pooled().mean_abs
    ratios = pooled / pooled.mean(dim=1, keepdim=True)
    strongest = view.found.strongest
    picture = ratios[:, list(strongest)].T.numpy()
    image = axes.imshow(np.log10(picture.clip(min=0.1)), aspect="auto", cmap="cividis", vmin=0)
    for (row, column), value in np.ndenumerate(picture):
        if len(view.stats.blocks) <= 16:
            light = np.log10(max(value, 0.1)) > 0.6 * np.log10(picture.max())
            colour = "black" if light else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
    every = -(-len(view.stats.blocks) // 16)
    shown = [str(block) for block in view.stats.blocks[::every]]
    axes.set_xticks(range(0, len(view.stats.blocks), every), shown)
    axes.set_yticks(range(len(strongest)), [str(dim) for dim in strongest])
    axes.set_xlabel("block")
    axes.set_ylabel("dimension")
    bar = figure.colorbar(image)
    bar.set_label("times the mean over dimensions (log10)")
    axes.set_title(f"{view.name}: strongest dimensions by block\n{view.source}", fontsize=11)
    rows: Rows = [["block", *(f"dimension {dim}" for dim in strongest)]]
    rows += [
        [block, *picture[:, column].tolist()] for column, block in enumerate(view.stats.blocks)
    ]
    return figure, rows


def _bars(view: _View) -> tuple[np.ndarray[Any, Any], list[int]] | None:
    """Mean |h| of groups of tokens (rows) by dimension (columns), few enough to be seen.

    Dimensions are grouped by their maximum and not their mean, which would bury a massive one.
    """
    surface = view.stats.surface
    if surface is None or view.block not in view.stats.map_blocks:
        return None
    values = surface.mean[view.stats.map_blocks.index(view.block)]
    tokens = torch.stack([part.mean(0) for part in values.tensor_split(min(BARS, len(values)))])
    parts = torch.arange(view.stats.width).tensor_split(min(BARS, view.stats.width))
    bars = torch.stack([tokens[:, part].amax(1) for part in parts], dim=1)
    return bars.numpy(), [int(part[0]) for part in parts]


def _draw_surface(axes: Any, view: _View, bars: np.ndarray[Any, Any], starts: list[int]) -> None:
    rows, columns = bars.shape
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    scaled = bars / bars.max()
    colours = matplotlib.colormaps["cividis"](scaled.ravel())
    axes.bar3d(x.ravel(), y.ravel(), 0, 0.9, 0.9, bars.ravel(), color=colours, shade=False)
    ticks = list(range(0, columns, max(1, columns // 4)))
    axes.set_xticks(ticks, [str(starts[tick]) for tick in ticks], fontsize=8)
    axes.set_yticks([0, rows - 1], ["first", "last"], fontsize=8)
    axes.tick_params(axis="z", labelsize=8)
    axes.set_xlabel("dimension", fontsize=9)
    axes.set_ylabel("token", fontsize=9)
    axes.set_title(f"{view.name}, block {view.block}\n{view.source}", fontsize=10)
    axes.view_init(elev=28, azim=-58)


def _surface_rows(bars: np.ndarray[Any, Any], starts: list[int]) -> Rows:
    rows: Rows = [["token group", *(f"from dimension {start}" for start in starts)]]
    rows += [[number, *row] for number, row in enumerate(bars.tolist())]
    return rows


def _surface(view: _View) -> tuple[Figure, Rows] | None:
    """Fig. 1a-d: mean magnitude over tokens and dimensions."""
    found = _bars(view)
    if found is None:
        return None
    figure = _figure(6.0)
    axes = figure.add_subplot(projection="3d")
    _draw_surface(axes, view, *found)
    axes.set_zlabel("mean |h|", fontsize=9)
    return figure, _surface_rows(*found)


def _map(view: _View) -> tuple[Figure, Rows] | None:
    """Where in the picture the magnitudes are, for the dimensions that were mapped."""
    running = view.stats.token_map
    shown = [dim for dim in view.dims if dim in view.stats.map_dims] or view.stats.map_dims[:1]
    if running is None or not shown or view.block not in view.stats.map_blocks:
        return None
    values = running.mean[view.stats.map_blocks.index(view.block)]
    maps = values[[view.stats.map_dims.index(dim) for dim in shown]].numpy()
    frames = min(maps.shape[1], 6)
    chosen = np.linspace(0, maps.shape[1] - 1, frames).round().astype(int)
    figure = _figure(1.1 + 1.7 * len(shown))
    grid = figure.subplots(len(shown), frames, squeeze=False)
    rows: Rows = [["dimension", "latent frame", "row", "column", "mean |h|"]]
    for line, dim in enumerate(shown):
        low, high = maps[line].min(), maps[line].max()
        for column, frame in enumerate(chosen):
            axes = grid[line, column]
            image = axes.imshow(maps[line, frame], cmap="cividis", vmin=low, vmax=high)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"dim {dim}, frame {frame}", fontsize=8)
        figure.colorbar(image, ax=grid[line].tolist(), label="mean |h|")
        for (frame, row, column), value in np.ndenumerate(maps[line]):
            rows.append([dim, frame, row, column, float(value)])
    figure.suptitle(
        f"{view.name}: over the latent frames at block {view.block}\n{view.source}", fontsize=11
    )
    return figure, rows


def _side_by_side(views: list[_View]) -> tuple[Figure, Rows]:
    """Several models: their surfaces, and first : boundary : interior of each."""
    figure = _figure(4.0 if len(views) <= 2 else 7.5)
    across = min(len(views), 2)
    down = -(-len(views) // across)
    rows: Rows = [["model", "dimension", "ratio", "class", *REGIONS]]
    for number, view in enumerate(views):
        bars = _bars(view)
        if bars is not None:
            axes = figure.add_subplot(down, across, number + 1, projection="3d")
            _draw_surface(axes, view, *bars)
        else:
            axes = figure.add_subplot(down, across, number + 1)
            axes.bar(range(len(view.found.ratios)), view.found.ratios, color=COLOURS["boundary"])
            axes.set_xticks(range(len(view.found.ratios)), map(str, view.found.strongest))
            axes.set_xlabel("dimension")
            axes.set_ylabel("times the mean")
            axes.set_title(f"{view.name}\n{view.source}", fontsize=10)
        for finding in view.found.findings:
            groups = (finding.first_frame, finding.boundary, finding.interior)
            kind = finding.dimension_class
            rows.append([view.name, finding.dim, finding.ratio, kind, *groups])
    return figure, rows


PICTURES: dict[str, Callable[[_View], tuple[Figure, Rows] | None]] = {
    "surface": _surface,
    "groups": _groups,
    "steps": _steps,
    "ratios": _ratios,
    "map": _map,
}


def _write(stem: Path, figure: Figure, rows: Iterable[Sequence[object]]) -> list[Path]:
    picture, table = stem.with_suffix(".png"), stem.with_suffix(".csv")
    with whole_file(picture) as temporary:
        figure.savefig(temporary)
    with whole_file(table) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return [picture, table]
