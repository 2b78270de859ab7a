"""Pictures of recorded activations, each with its numbers as CSV beside it.

They are the paper's Figures 1 and 2 (arXiv 2603.17825) and two more, for any recorded model. All
magnitudes are mean |h|, without unit. Each picture is a function that returns a matplotlib figure,
which a notebook shows as it is; `plot` writes all of them.

Example:
    >>> import stas
    >>> loaded = stas.load_pipeline(device="cpu")
    >>> call = {"prompt": "a red circle", "num_inference_steps": 1, "num_frames": 5}
    >>> with stas.record(loaded.pipeline, map_blocks="middle", map_dims=(254,)) as recording:
    ...     frames = loaded.generate(loaded.arguments(call), seed=0)
    >>> figure = stas.plots.surface(recording.stats)
    >>> figure.axes[0].get_title()
    'bundled_model, block 4\\nn = 1 samples a step, 1 steps'
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from stas.activations.massive import RecordedMassiveActivations, find_massive_activations
from stas.activations.stats import ActivationStats
from stas.files import whole_file, write_table
from stas.media.figure import Picture
from stas.method.config import REGIONS, Region

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = {"first_frame": "#D55E00", "boundary": "#0072B2", "interior": "#009E73"}
LABELS = {"first_frame": "first frame", "boundary": "boundary", "interior": "interior"}
BARS = 48  # at most so many bars along each axis of a surface

Rows = list[list[object]]


def surface(stats: ActivationStats, *, name: str | None = None, block: int | None = None) -> Figure:
    """The paper's Fig. 1a-d: mean |h| over tokens and dimensions.

    Args:
        stats: Statistics with maps of the block: see `map_blocks` of `stas.record`.
        name: What the title calls the model; the end of its id or path when None.
        block: The block to show; the middle one of those recorded when None.

    Returns:
        The figure, 1600 pixels wide.

    Raises:
        ValueError: Nothing was recorded, not this block, or no map of it.

    Example:
        >>> from stas import ActivationStats, TokenGrid, plots
        >>> from stas.activations.sums import partial_sums, surface_sums
        >>> grid, h = TokenGrid(2, 2, 2), torch.ones(8, 64)
        >>> stats = ActivationStats(blocks=(0,), width=64, boundary=0.08, map_blocks=(0,))
        >>> stats.add(0, 1, "cond", 0, partial_sums(h, grid, 0.08), grid)
        >>> stats.add_maps(0, surface_sums(h), torch.empty(0, 2, 2, 2))
        >>> plots.surface(stats).axes[0].get_zlabel()
        'mean |h|'
    """
    return _draw_surface(_View(stats, name, block=block))[0]


def groups(
    stats: ActivationStats,
    *,
    name: str | None = None,
    dims: Sequence[int] | None = None,
    block: int | None = None,
) -> Figure:
    """The paper's Fig. 1e: mean |h| at first-frame, boundary and interior tokens.

    Args:
        stats: What `stas.record` recorded.
        name: What the title calls the model; the end of its id or path when None.
        dims: Dimensions to show; the massive ones, else the strongest, when None.
        block: The block to show; the middle one of those recorded when None.

    Returns:
        The figure, 1600 pixels wide.

    Raises:
        ValueError: Nothing was recorded, or not this block or one of the dimensions.

    Example:
        >>> from stas import ActivationStats, TokenGrid, plots
        >>> from stas.activations.sums import partial_sums
        >>> grid, h = TokenGrid(2, 2, 2), torch.ones(8, 64)
        >>> stats = ActivationStats(blocks=(0,), width=64, boundary=0.08)
        >>> stats.add(0, 1, "cond", 0, partial_sums(h, grid, 0.08), grid)
        >>> [tick.get_text() for tick in plots.groups(stats, dims=(7, 9)).axes[0].get_xticklabels()]
        ['dimension 7', 'dimension 9']
    """
    return _draw_groups(_View(stats, name, dims, block))[0]


def steps(
    stats: ActivationStats,
    *,
    name: str | None = None,
    dims: Sequence[int] | None = None,
    block: int | None = None,
) -> Figure:
    """The paper's Fig. 2: mean |h| over denoising by token group, and boundary over interior.

    Args:
        stats: What `stas.record` recorded.
        name: What the title calls the model; the end of its id or path when None.
        dims: The first of them is shown; the strongest dimension when None.
        block: The block to show; the middle one of those recorded when None.

    Returns:
        The figure, 1600 pixels wide.

    Raises:
        ValueError: Nothing was recorded, or not this block or one of the dimensions.

    Example:
        >>> from stas import ActivationStats, TokenGrid, plots
        >>> from stas.activations.sums import partial_sums
        >>> grid, h = TokenGrid(2, 2, 2), torch.ones(8, 64)
        >>> stats = ActivationStats(blocks=(0,), width=64, boundary=0.08)
        >>> for step in range(3):
        ...     stats.add(step, 3, "cond", 0, partial_sums(h / (1 + step), grid, 0.08), grid)
        >>> [float(value.round(2)) for value in plots.steps(stats).axes[0].lines[0].get_ydata()]
        [1.0, 0.5, 0.33]
    """
    return _draw_steps(_View(stats, name, dims, block))[0]


def ratios(stats: ActivationStats, *, name: str | None = None) -> Figure:
    """The strongest dimensions by block: mean |h| over the mean of that over dimensions.

    Args:
        stats: What `stas.record` recorded.
        name: What the title calls the model; the end of its id or path when None.

    Returns:
        The figure, 1600 pixels wide.

    Raises:
        ValueError: Nothing was recorded.

    Example:
        >>> from stas import ActivationStats, TokenGrid, plots
        >>> from stas.activations.sums import partial_sums
        >>> grid, h = TokenGrid(2, 2, 2), torch.ones(8, 64)
        >>> h[:, 7] = 99.0
        >>> stats = ActivationStats(blocks=(0,), width=64, boundary=0.08)
        >>> stats.add(0, 1, "cond", 0, partial_sums(h, grid, 0.08), grid)
        >>> plots.ratios(stats).axes[0].get_yticklabels()[0].get_text()
        '7'
    """
    return _draw_ratios(_View(stats, name))[0]


def token_map(
    stats: ActivationStats,
    *,
    name: str | None = None,
    dims: Sequence[int] | None = None,
    block: int | None = None,
) -> Figure:
    """Where in the picture the magnitudes are: mean |h| over the grid of tokens.

    Args:
        stats: Statistics with maps of dimensions at the block: see `map_blocks` and `map_dims` of
            `stas.record`.
        name: What the title calls the model; the end of its id or path when None.
        dims: Dimensions to show, as far as they were mapped; the massive ones, else the strongest,
            when None. The first that was mapped when none of them was.
        block: The block to show; the middle one of those recorded when None.

    Returns:
        The figure, 1600 pixels wide: a row a dimension, at most six latent frames in it.

    Raises:
        ValueError: Nothing was recorded, not this block or one of the dimensions, or no map of a
            dimension at this block.

    Example:
        >>> from stas import ActivationStats, TokenGrid, plots
        >>> from stas.activations.sums import partial_sums, surface_sums
        >>> grid, h = TokenGrid(2, 2, 2), torch.ones(8, 64)
        >>> maps = {"map_blocks": (0,), "map_dims": (7,)}
        >>> stats = ActivationStats(blocks=(0,), width=64, boundary=0.08, **maps)
        >>> stats.add(0, 1, "cond", 0, partial_sums(h, grid, 0.08), grid)
        >>> stats.add_maps(0, surface_sums(h), h[:, [7]].abs().T.reshape(1, 2, 2, 2))
        >>> plots.token_map(stats).axes[0].get_title()
        'dim 7, frame 0'
    """
    return _draw_token_map(_View(stats, name, dims, block))[0]


def models(stats: Mapping[str, ActivationStats], *, block: int | None = None) -> Figure:
    """The paper's Fig. 1 whole: models side by side, video and image ones, and their token groups.

    Each model has a surface (Fig. 1a-d), or its strongest dimensions where no map is. The last
    panel (Fig. 1e) has the strongest dimension of each at first-frame and boundary tokens, over
    that at interior ones; an image model has no such groups.

    Args:
        stats: Statistics by the name that the picture gives them.
        block: The block to show; the middle one of those recorded, of each model, when None.

    Returns:
        The figure, 1600 pixels wide.

    Raises:
        ValueError: There are no statistics, nothing was recorded, or not this block.

    Example:
        >>> from stas import ActivationStats, TokenGrid, plots
        >>> from stas.activations.sums import partial_sums
        >>> grid, h = TokenGrid(2, 2, 2), torch.ones(8, 64)
        >>> stats = ActivationStats(blocks=(0,), width=64, boundary=0.08)
        >>> stats.add(0, 1, "cond", 0, partial_sums(h, grid, 0.08), grid)
        >>> [axes.get_title() for axes in plots.models({"one": stats, "two": stats}).axes][-1]
        '(c) token groups\\nin the strongest dimension'
    """
    return _draw_models(list(_views(stats, None, block).values()))[0]


def plot(
    stats: Mapping[str, ActivationStats],
    folder: str | os.PathLike[str],
    *,
    dims: Sequence[int] | None = None,
    block: int | None = None,
    figure: int | None = None,
) -> list[Path]:
    """Draw every picture that the statistics allow.

    Args:
        stats: Statistics by the name that the pictures give them; several are also drawn side by
            side.
        folder: Where to write; made if it isn't there, pictures of the same names are replaced.
        dims: Dimensions to show; the massive ones of each model, else its strongest, when None.
        block: The block to show; the middle one of those recorded when None.
        figure: Only the pictures of this figure of the paper, one of `FIGURES`; all when None.

    Returns:
        The pictures and tables, in the order that they were written.

    Raises:
        ValueError: Nothing was recorded, the block or a dimension was not, or there is no such
            figure.
        OSError: The folder can't be written to.
    """
    if figure is not None and figure not in FIGURES:
        raise ValueError(
            f"figure must be {' or '.join(map(str, FIGURES))}, which show recorded activations, "
            f"but got {figure}. The others show videos: docs/figures.md."
        )
    wanted = (*PICTURES, "models") if figure is None else FIGURES[figure]
    views = _views(stats, dims, block)
    if len({view.slug for view in views.values()}) < len(views):
        raise ValueError(f"Two of {', '.join(views)} would have the same file names: rename one.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for view in views.values():
        prefix = "" if len(views) == 1 else f"{view.slug}-"
        for name, draw in PICTURES.items():
            if name in wanted:
                with suppress(_NotMappedError):
                    written += _write(folder / f"{prefix}{name}", *draw(view))
    if len(views) > 1 and "models" in wanted:
        written += _write(folder / "models", *_draw_models(list(views.values())))
    return written


class _NotMappedError(ValueError):
    """The statistics lack the maps that a picture shows."""


class _View:
    """One model's statistics with what is to be shown of them."""

    def __init__(
        self,
        stats: ActivationStats,
        name: str | None,
        dims: Sequence[int] | None = None,
        block: int | None = None,
    ) -> None:
        if name is None:
            name = Path(stats.metadata.get("model", "")).name or "model"
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

    @property
    def regions(self) -> list[Region]:
        """The regions that have tokens: an image has but one."""
        return [r for r in REGIONS if int(self.stats.pooled(regions=(r,)).count[self.row, 0])]

    @property
    def map_row(self) -> int:
        """Where the maps of the block are."""
        if self.block not in self.stats.map_blocks:
            raise _NotMappedError(
                f"Block {self.block} has no maps; blocks with maps are {self.stats.map_blocks}. "
                f"Record with map_blocks=[{self.block}], or show one of those."
            )
        return self.stats.map_blocks.index(self.block)


def _views(
    stats: Mapping[str, ActivationStats], dims: Sequence[int] | None, block: int | None
) -> dict[str, _View]:
    if not stats:
        raise ValueError("There are no statistics to draw.")
    return {name: _View(each, name, dims, block) for name, each in stats.items()}


def _draw_groups(view: _View) -> tuple[Figure, Rows]:
    figure = Picture()
    axes = figure.subplots()
    rows: Rows = [["dimension", "region", "mean |h|", "tokens"]]
    for number, region in enumerate(view.regions):
        pooled = view.stats.pooled(regions=(region,))
        heights = [float(pooled.mean_abs[view.row, dim]) for dim in view.dims]
        places = np.arange(len(view.dims)) + 0.27 * (number - (len(view.regions) - 1) / 2)
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


def _draw_steps(view: _View) -> tuple[Figure, Rows]:
    figure = Picture()
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
    for region in view.regions:
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


def _draw_ratios(view: _View) -> tuple[Figure, Rows]:
    figure = Picture()
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


def _bars(view: _View) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Mean |h| of groups of tokens (rows) by dimension (columns), few enough to be seen.

    Dimensions are grouped by their maximum and not their mean, which would bury a massive one.
    """
    row, running = view.map_row, view.stats.surface
    if running is None:
        raise _NotMappedError("These statistics hold no maps: record a whole step of a video.")
    values = running.mean[row]
    tokens = torch.stack([part.mean(0) for part in values.tensor_split(min(BARS, len(values)))])
    parts = torch.arange(view.stats.width).tensor_split(min(BARS, view.stats.width))
    bars = torch.stack([tokens[:, part].amax(1) for part in parts], dim=1)
    return bars.numpy(), [int(part[0]) for part in parts]


def _draw_bars(axes: Any, view: _View, bars: np.ndarray[Any, Any], starts: list[int]) -> None:
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


def _draw_surface(view: _View) -> tuple[Figure, Rows]:
    found = _bars(view)
    figure = Picture(6.0)
    axes: Any = figure.add_subplot(projection="3d")
    _draw_bars(axes, view, *found)
    axes.set_zlabel("mean |h|", fontsize=9)
    return figure, _surface_rows(*found)


def _draw_token_map(view: _View) -> tuple[Figure, Rows]:
    row, running = view.map_row, view.stats.token_map
    shown = [dim for dim in view.dims if dim in view.stats.map_dims] or view.stats.map_dims[:1]
    if running is None or not shown:
        raise _NotMappedError(
            f"No dimension was mapped over the tokens: record with map_dims={list(view.dims)}."
        )
    values = running.mean[row]
    maps = values[[view.stats.map_dims.index(dim) for dim in shown]].numpy()
    frames = min(maps.shape[1], 6)
    chosen = np.linspace(0, maps.shape[1] - 1, frames).round().astype(int)
    figure = Picture(1.1 + 1.7 * len(shown))
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


def _draw_models(views: Sequence[_View]) -> tuple[Figure, Rows]:
    grouped = [view for view in views if "interior" in view.regions]
    panels = len(views) + bool(grouped)
    across = min(panels, 3)
    down = -(-panels // across)
    figure = Picture(0.3 + 3.2 * down)
    rows: Rows = [["model", "dimension", "ratio", "class", *REGIONS]]
    for number, view in enumerate(views):
        try:
            bars = _bars(view)
        except _NotMappedError:
            axes: Any = figure.add_subplot(down, across, number + 1)
            axes.bar(range(len(view.found.ratios)), view.found.ratios, color=COLOURS["boundary"])
            axes.set_xticks(range(len(view.found.ratios)), map(str, view.found.strongest))
            axes.set_xlabel("dimension")
            axes.set_ylabel("times the mean")
        else:
            axes = figure.add_subplot(down, across, number + 1, projection="3d")
            _draw_bars(axes, view, *bars)
        letter = ascii_lowercase[number % 26]
        axes.set_title(f"({letter}) {view.name}, block {view.block}\n{view.source}", fontsize=9)
        for finding in view.found.findings:
            groups = (finding.first_frame, finding.boundary, finding.interior)
            kind = finding.dimension_class
            rows.append([view.name, finding.dim, finding.ratio, kind, *groups])
    if grouped:
        axes = figure.add_subplot(down, across, panels)
        _draw_groups_of_models(axes, grouped)
        letter = ascii_lowercase[len(views) % 26]
        axes.set_title(f"({letter}) token groups\nin the strongest dimension", fontsize=9)
    return figure, rows


def _draw_groups_of_models(axes: Any, views: Sequence[_View]) -> None:
    """Each region's mean |h| in a model's strongest dimension, over that of interior tokens."""
    heights = {
        region: [
            float(view.stats.pooled(regions=(region,)).mean_abs[view.row, view.dims[0]])
            for view in views
        ]
        for region in REGIONS
    }
    for number, region in enumerate(REGIONS):
        over = np.divide(heights[region], heights["interior"])
        places = np.arange(len(views)) + 0.27 * (number - 1)
        axes.bar(places, over, width=0.25, color=COLOURS[region], label=LABELS[region])
        for place, value in zip(places, over, strict=True):
            axes.text(place, value, f"{value:.2f}", ha="center", va="bottom", fontsize=7)
    names = [f"{view.name}\ndim {view.dims[0]}" for view in views]
    axes.set_xticks(range(len(views)), names, fontsize=8)
    axes.set_ylabel("mean |h| over interior", fontsize=9)
    axes.margins(y=0.35)  # room for the legend above the bars
    axes.legend(loc="upper center", ncols=3, fontsize=7, columnspacing=0.8, handlelength=1.0)


PICTURES: dict[str, Callable[[_View], tuple[Figure, Rows]]] = {
    "surface": _draw_surface,
    "groups": _draw_groups,
    "steps": _draw_steps,
    "ratios": _draw_ratios,
    "map": _draw_token_map,
}


# Which pictures a figure of the paper is.
FIGURES: dict[int, tuple[str, ...]] = {1: ("surface", "groups", "models"), 2: ("steps",)}


def _write(stem: Path, figure: Figure, rows: Iterable[Sequence[object]]) -> list[Path]:
    picture, table = stem.with_suffix(".png"), stem.with_suffix(".csv")
    with whole_file(picture) as temporary:
        figure.savefig(temporary)
    write_table(table, rows, alone=False)
    return [picture, table]
