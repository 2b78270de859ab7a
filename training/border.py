"""Where a massive dimension is large: head and tail of a latent frame, or the picture's border?

    python -m training.border [FOLDER] [--videos 192] [--output FILE] [--picture FILE]

Head and tail of a latent frame in raster order are also parts of its first and last row, and what
lies at the border of a picture is mostly background. Half of the captions have an object at the
border, so that both, object and background, are seen at every place. A token counts as object when
that covers most of its pixels in the finished video, as background when it covers none of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline
from matplotlib.figure import Figure
from rich.progress import track

import stas
from stas.activations.profiles import FOLDER_PROFILE
from stas.assets import BUNDLED_MODEL
from stas.method.tokens import TokenGrid
from stas.pipelines.model import LoadedPipeline
from stas.studies.differences import TOO_FEW, paired_difference
from training.clips import Scene
from training.evaluate import chosen_scenes
from training.export import weights_hash, write_json
from training.truth import Values, cover_of

OBJECT, BACKGROUND = 0.5, 0.002  # share of a token's pixels: above, below
# Places of a latent frame, each with the one that it is compared to, for the same content.
COMPARED = (
    ("head and tail", "rest of the first and last row"),
    ("first and last row", "first and last column"),
    ("border", "inside"),
)


def places(grid: TokenGrid) -> dict[str, Values]:
    """Which tokens of a latent frame are of a place: (rows, columns) of 0 and 1."""
    k = grid.boundary_size(stas.STASConfig().boundary)
    order = np.arange(grid.tokens_per_frame).reshape(grid.height, grid.width)
    ends = (order < k) | (order >= grid.tokens_per_frame - k)
    rows = np.zeros_like(ends)
    rows[[0, -1]] = True
    columns = np.zeros_like(ends)
    columns[1:-1, [0, -1]] = True
    return {
        "head and tail": ends,
        "rest of the first and last row": rows & ~ends,
        "first and last row": rows,
        "first and last column": columns,
        "border": rows | columns,
        "inside": ~(rows | columns),
    }


def token_cover(cover: Values, grid: TokenGrid, frames_of: Any) -> Values:
    """The mean cover of each token's pixels: (T, H, W) to (F, rows, columns)."""
    by_frame = [cover[list(frames_of.pixel_frames(f))].mean(0) for f in range(grid.frames)]
    tiles = np.stack(by_frame).reshape(
        grid.frames, grid.height, cover.shape[1] // grid.height, grid.width, -1
    )
    return np.asarray(tiles.mean((2, 4)))


def mean_of(values: Values, chosen: Values) -> float:
    return float(values[chosen].mean()) if chosen.any() else float("nan")


def by_place(values: Values, cover: Values, grid: TokenGrid) -> dict[str, float]:
    """Mean |h| of one video for every content, place and part of the video, NaN where none is."""
    found = {}
    for content, has in (("object", cover > OBJECT), ("background", cover < BACKGROUND)):
        for place, mask in places(grid).items():
            for part, frames in (("first frame", slice(0, 1)), ("later frames", slice(1, None))):
                chosen = has[frames] & mask
                found[f"{content}, {place}, {part}"] = mean_of(values[frames], chosen)
    return found


def compare(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Paired differences over videos, as shares of the mean of what is compared to."""

    def row(name: str, other: str) -> dict[str, Any]:
        both = np.array([[r[other], r[name]] for r in rows])
        both = both[np.isfinite(both).all(1)]
        if len(both) < 2:
            return {"what": name, "against": other, "pairs": len(both), "words": TOO_FEW}
        scale = both[:, 0].mean()
        difference = asdict(paired_difference(*(both / scale).T.tolist()))
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in difference.items()}
        return {"what": name, "against": other} | rounded

    table = []
    for content in ("background", "object"):
        for part in ("first frame", "later frames"):
            for place, other in COMPARED:
                name = f"{content}, {place}, {part}"
                table.append(row(name, f"{content}, {other}, {part}"))
        first, later = (
            f"{content}, inside, {p} frame{s}" for p, s in (("first", ""), ("later", "s"))
        )
        table.append(row(first, later))
    for place in ("border", "inside"):
        name, other = (f"{content}, {place}, later frames" for content in ("background", "object"))
        table.append(row(name, other))
    return table


class MeanMap:
    """Mean over videos of (F, rows, columns), for tokens of one content only."""

    def __init__(self) -> None:
        self.total: Values | float = 0.0
        self.count: Values | float = 0.0

    def add(self, values: Values, has: Values) -> None:
        self.total = self.total + np.where(has, values, 0.0)
        self.count = self.count + has

    @property
    def mean(self) -> Values:
        """NaN where fewer than 3 videos had that content."""
        enough = np.asarray(self.count) >= 3
        return np.where(enough, self.total / np.maximum(self.count, 1), np.nan)


def draw(maps: Mapping[str, MeanMap], title: str) -> Figure:
    """The latent frames side by side, a row for each content, one scale for all."""
    tables = {name: each.mean for name, each in maps.items()}
    frames = next(iter(tables.values())).shape[0]
    figure = Figure(figsize=(8.0, 0.8 + 1.6 * len(tables)), dpi=100, layout="constrained")
    grid = figure.subplots(len(tables), frames, squeeze=False)
    low = min(np.nanmin(table) for table in tables.values())
    high = max(np.nanmax(table) for table in tables.values())
    for axes_row, (name, table) in zip(grid, tables.items(), strict=True):
        for frame, axes in enumerate(axes_row):
            image = axes.imshow(table[frame], cmap="cividis", vmin=low, vmax=high)
            axes.set(xticks=[], yticks=[], title=f"frame {frame}")
        axes_row[0].set_ylabel(name)
    figure.colorbar(image, ax=grid.ravel().tolist(), label="mean |h|")
    figure.suptitle(title, fontsize=11)
    return figure


def scenes_of(videos: int) -> list[Scene]:
    """Half of them with an object at the border."""
    half = videos // 2
    return [
        *chosen_scenes(videos - half, "held-out"),
        *chosen_scenes(half, "held-out", "at the border"),
    ]


def measure(
    folder: Path, device: torch.device, *, videos: int, steps: int
) -> tuple[dict[str, Any], Figure]:
    """All comparisons for the model's strongest dimension at its middle block, and their maps.

    Args:
        folder: The model, with its profile.
        device: Where to make the videos.
        videos: How many, half with an object at the border.
        steps: Denoising steps.
    """
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
    loaded = LoadedPipeline(pipeline)
    profile = json.loads((folder / FOLDER_PROFILE).read_text(encoding="utf-8"))
    dim, block = profile["dims"][0], len(pipeline.transformer.blocks) // 2
    rows: list[dict[str, float]] = []
    maps = {"object": MeanMap(), "background": MeanMap()}
    for seed, scene in enumerate(track(scenes_of(videos), description="videos")):
        wanted = {"prompt": scene.caption, "num_inference_steps": steps}
        with stas.record(
            pipeline, blocks=[block], map_blocks=[block], map_dims=(dim,)
        ) as recording:
            frames = loaded.generate(loaded.arguments(wanted), seed)
        running = recording.stats.token_map
        assert running is not None
        values = running.mean[0, 0].numpy()
        grid = TokenGrid(*values.shape)
        cover = token_cover(cover_of(frames, scene), grid, loaded.frame_map)
        rows.append(by_place(values, cover, grid))
        maps["object"].add(values, cover > OBJECT)
        maps["background"].add(values, cover < BACKGROUND)
    known = {name: [r[name] for r in rows if np.isfinite(r[name])] for name in rows[0]}
    means = {name: round(float(np.mean(v)), 2) if v else None for name, v in known.items()}
    result = {
        "dimension": dim,
        "block": block,
        "videos": videos,
        "denoising steps": steps,
        "sha256 of the weights": weights_hash(folder),
        "mean |h|": means,
        "differences, as shares": compare(rows),
    }
    return result, draw(maps, f"Dimension {dim} at block {block}, {videos} videos")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=BUNDLED_MODEL)
    parser.add_argument("--videos", type=int, default=192)
    parser.add_argument("--steps", type=int, default=10, help="denoising steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("border.json"))
    parser.add_argument("--picture", type=Path, default=Path("border.png"))
    options = parser.parse_args()
    result, figure = measure(
        options.folder, torch.device(options.device), videos=options.videos, steps=options.steps
    )
    write_json(options.output, result)
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
