"""Massive activations over training: which dimensions, from when, in which blocks.

    python -m training.over_training runs/bundled

After a run of `python -m training`: makes videos with the weights that it kept along the way, and
writes `FOLDER/over-training.json`, in which each of them has its strongest dimensions beside the
share of videos that the judge names right, and `FOLDER/over-training.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from matplotlib.figure import Figure
from safetensors.torch import load_file, load_model

import stas
from stas.activations.stats import ActivationStats
from training.activations import activation_report
from training.classifier import Classifier, labels_of
from training.evaluate import chosen_scenes, generate
from training.export import weights_hash, write_json
from training.loop import log, snapshot_path

NAME = "transformer"
TRACKED = 4  # dimensions of the finished model that are followed back to the start


def snapshots(folder: Path) -> dict[int, Path]:
    """The steps of which weights were kept, in order, and where.

    Raises:
        FileNotFoundError: There are none.
    """
    pattern = snapshot_path(folder, NAME, 0).name.replace("0" * 6, "?" * 6)
    found = {int(path.stem.rpartition("-")[2]): path for path in sorted(folder.glob(pattern))}
    if not found:
        raise FileNotFoundError(
            f"{str(folder)!r} holds no weights from along the way. Expected the --output of a "
            "finished `python -m training`."
        )
    return found


def load_snapshot(pipeline: WanPipeline, path: Path) -> None:
    """Give the pipeline's transformer and text encoder the weights of a snapshot."""
    parts = torch.nn.ModuleDict(
        {name: getattr(pipeline, name) for name in ("transformer", "text_encoder")}
    )
    tensors = {key.removeprefix(f"{NAME}."): value for key, value in load_file(path).items()}
    missing = {name for name, _ in parts.named_parameters()} ^ tensors.keys()
    if missing:
        raise ValueError(f"{path} is of another model: {sorted(missing)[:3]} are in one of both.")
    parts.load_state_dict(tensors, strict=False)


def look(
    pipeline: WanPipeline, judge: Classifier, arguments: dict[str, Any], videos: int
) -> tuple[float, ActivationStats]:
    """The share of videos that the judge names right in all, and their recorded activations."""
    scenes = chosen_scenes(videos, "held-out")
    with stas.record(pipeline) as recording:
        made = list(generate(pipeline, [scene.caption for scene in scenes], arguments))
    clips = [video.permute(1, 0, 2, 3)[None].to(pipeline.device) * 2 - 1 for video in made]
    named = [judge.name(clip)[0] == labels_of(s) for clip, s in zip(clips, scenes, strict=True)]
    return sum(named) / len(named), recording.stats


def over_training(
    folder: Path, device: torch.device, *, videos: int, steps: int
) -> list[dict[str, Any]]:
    """A row for each kept step of training.

    Args:
        folder: The output of a run.
        device: Where to make the videos.
        videos: How many a row, of held-out captions.
        steps: Denoising steps.
    """
    model = folder / "model"
    pipeline = WanPipeline.from_pretrained(model).to(device)
    defaults = json.loads((model / "defaults.json").read_text(encoding="utf-8"))
    arguments = defaults | {"num_inference_steps": steps}
    judge = Classifier().to(device).eval()
    load_model(judge, folder / "classifier.safetensors", device=str(device))
    rows, ratios = [], []
    for step, path in snapshots(folder).items():
        load_snapshot(pipeline, path)
        right, stats = look(pipeline, judge, arguments, videos)
        everywhere = stats.pooled().mean_abs  # (blocks, D)
        ratios.append(everywhere / everywhere.mean(1, keepdim=True))
        blocks = activation_report(stats)
        rows.append(
            {
                "step": step,
                "named right": round(right, 4),
                "blocks": blocks,
                "blocks at the first denoising step": activation_report(stats, [0]),
                "blocks at the last denoising step": activation_report(stats, [steps - 1]),
            }
        )
        strongest = max(blocks, key=lambda row: row["ratios"][0])
        log(
            f"step {step}: {right:.0%} named right, dimension {strongest['dims'][0]} at "
            f"{strongest['ratios'][0]} in block {strongest['block']}"
        )
    dims = ratios[-1].median(0).values.argsort(descending=True)[:TRACKED].tolist()
    for row, table in zip(rows, ratios, strict=True):
        row["followed"] = {dim: [round(v, 2) for v in table[:, dim].tolist()] for dim in dims}
    return rows


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Ratios over training: the middle block's strongest dimensions, each block's strongest one."""
    figure = Figure(figsize=(8.0, 3.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    middle = len(rows[-1]["blocks"]) // 2
    for dim in rows[-1]["followed"]:
        values = [row["followed"][dim][middle] for row in rows]
        left.plot(steps, values, marker=".", label=f"dimension {dim}")
    named = left.twinx()
    named.plot(steps, [100 * row["named right"] for row in rows], color="0.6", linestyle="--")
    named.set(ylabel="named right (%, dashed)", ylim=(0, 105))
    left.set(ylabel=f"mean |h| over its mean, block {middle}", title="Strongest at the end")
    left.legend()
    for place, row in enumerate(rows[-1]["blocks"]):
        values = [each["blocks"][place]["ratios"][0] for each in rows]
        shade = 0.15 + 0.7 * place / len(rows[-1]["blocks"])
        right.plot(steps, values, marker=".", color=str(shade), label=f"block {row['block']}")
    right.set(title="Strongest of each block")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=max(1, steps[1]) if len(steps) > 1 else 1)
        axes.set_xlim(left=0)
        axes.set_xlabel("step of training")
        axes.set_yscale("log")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="denoising steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    rows = over_training(
        options.folder, torch.device(options.device), videos=options.videos, steps=options.steps
    )
    written = {"videos": options.videos, "denoising steps": options.steps}
    written |= {"sha256 of the weights": weights_hash(options.folder / "model"), "rows": rows}
    write_json(options.folder / "over-training.json", written)
    draw(rows).savefig(options.folder / "over-training.png")


if __name__ == "__main__":
    main()
