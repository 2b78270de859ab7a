"""What steering does to the bundled model's videos: pairs of the same caption and seed, off and on.

    python -m benchmarks.effect [--pairs 64] [--motion rotating] [--output FILE]

The judge of `training/` scores each video by the log-probability that it gives to what the caption
says, in nats: 0 is certain, and one wrong video weighs more than many right ones. Reported are the
mean of the paired differences, on minus off, with a 95 % bootstrap interval. Captions are held-out
ones, seeds are those that no other measurement uses.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import torch
from diffusers import WanPipeline
from rich.progress import track

import stas
from benchmarks.timing import report
from stas.paired import paired_difference
from stas.pipelines import BUNDLED_MODEL, call_arguments, generate
from training.classifier import LABELS
from training.clips import MOTIONS
from training.evaluate import chosen_scenes
from training.truth import truth

FIRST_SEED = 10_000
CONFIGS: dict[str, stas.STASConfig | None] = {
    "off": None,
    "on (defaults)": stas.STASConfig(),
    "on, all blocks": stas.STASConfig(blocks="all"),
    "on, all blocks, scale 3": stas.STASConfig(blocks="all", scale=3.0),
}


def against_off(off: torch.Tensor, on: torch.Tensor) -> dict[str, object]:
    """The paired difference of log-probabilities, of which higher is better, to 4 decimals."""
    found = paired_difference(off, on, words=("worse", "better"))
    return {
        "difference": round(found.difference, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "pairs": found.pairs,
        "in words": found.words,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--motion", choices=MOTIONS, help="only captions with this motion")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    scenes = chosen_scenes(150, "held-out")
    if options.motion:
        scenes = [scene for scene in scenes if scene.things[0].motion == options.motion]
    scores: dict[str, dict[str, list[float]]] = {
        name: {label: [] for label in LABELS} for name in CONFIGS
    }
    for pair in track(range(options.pairs), description="pairs"):
        scene = scenes[pair % len(scenes)]
        arguments = call_arguments(pipeline, {"prompt": scene.caption})
        for name, config in CONFIGS.items():
            with contextlib.nullcontext() if config is None else stas.steer(pipeline, config):
                frames = generate(pipeline, arguments, FIRST_SEED + pair)
            found = truth(frames, scene.caption)
            for label in LABELS:
                scores[name][label].append(found[f"{label}, log-probability"])
    table = {name: {k: torch.tensor(v) for k, v in rows.items()} for name, rows in scores.items()}
    result = {
        label: {
            "mean": {name: round(rows[label].mean().item(), 4) for name, rows in table.items()},
            "right": {name: int((rows[label] > -0.6931).sum()) for name, rows in table.items()},
            "against off": {
                name: against_off(table["off"][label], rows[label])
                for name, rows in table.items()
                if name != "off"
            },
        }
        for label in LABELS
    }
    report("effect", {"motion": options.motion or "all", **result}, options.output)


if __name__ == "__main__":
    main()
