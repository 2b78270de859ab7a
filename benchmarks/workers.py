"""How much faster a study is made by several workers than by one.

    python -m benchmarks.workers --output benchmarks/results/workers.json

The same study of the bundled model is made in new folders by `stas study`: alone, with `--workers`,
by as many commands at once that share the folder, and with `--ray local`, one after the other in
each round. Reported are ratios of the time alone: of whole commands, and of making, from when the
first worker has loaded the pipeline to the last video. Every folder must hold the same videos.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.timing import report

STUDY = """
prompts = "list"
count = {count}
samples_per_prompt = {samples}
measures = ["pixel difference"]
[arguments]
num_inference_steps = {steps}
[axes]
scale = [1.0]
"""


def ways(workers: int) -> dict[str, list[list[str]]]:
    """By name, the options of the commands that are started together."""
    many = ["--workers", str(workers)]
    found = {"alone": [[]], "processes": [many], "commands": [[]] * workers}
    return found | ({"ray": [[*many, "--ray", "local"]]} if find_spec("ray") else {})


def make(study: Path, folder: Path, commands: list[list[str]], options: list[str]) -> float:
    """Make the study in a folder; how long it took."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    if not torch.cuda.is_available():
        environment["OMP_NUM_THREADS"] = "1"  # as many in all ways
    started = time.monotonic()
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "stas",
                "study",
                str(study),
                "--yes",
                "-o",
                str(folder),
                *each,
                *options,
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in commands
    ]
    if any([process.wait() for process in running]):
        raise RuntimeError(f"stas study failed with {commands}.")
    return time.monotonic() - started


def pixels(folder: Path) -> dict[str, str]:
    """The hash of each video's pixels."""
    manifests = [p for p in folder.rglob("*.json") if not p.name.endswith(".metrics.json")]
    found = {str(p.relative_to(folder)): json.loads(p.read_text()) for p in manifests}
    return {name: data["frames"]["sha256"] for name, data in found.items() if "frames" in data}


def making(folder: Path) -> float:
    """Seconds from the record, which the first worker writes to begin, to the last video."""
    begun = (folder / "study.json").stat().st_mtime
    return max(path.stat().st_mtime for path in folder.glob("*/*.metrics.json")) - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--count", type=int, default=12, help="Prompts.")
    parser.add_argument("--samples", type=int, default=1, help="Of each prompt.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    chosen = {k: v for k, v in ways(options.workers).items() if k in (options.only or [k])}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as temporary:
        study = Path(temporary) / "study.toml"
        study.write_text(STUDY.format(**vars(options)))
        expected: dict[str, str] = {}
        for number in tqdm(range(options.rounds), desc="rounds"):
            for name, commands in chosen.items():
                folder = Path(temporary) / f"{name}-{number}"
                whole = make(study, folder, commands, ["--batch", str(options.batch)])
                seconds[name].append((whole, making(folder)))
                found = pixels(folder)
                if len(found) != 2 * options.count * options.samples or found != (
                    expected or found
                ):
                    raise RuntimeError(f"{name} made other videos.")
                expected = found
    videos = 2 * options.count * options.samples
    result: dict[str, Any] = {
        "workers": options.workers,
        "videos": videos,
        "steps": options.steps,
        "batch": options.batch,
    }
    alone = [statistics.median(part) for part in zip(*seconds["alone"], strict=True)]
    for name, times in seconds.items():
        whole, made = (statistics.median(part) for part in zip(*times, strict=True))
        result[name] = {
            "seconds": round(whole, 1),
            "seconds of making": round(made, 1),
            "videos a second of making": round(videos / made, 2),
            "faster, whole": round(alone[0] / whole, 2),
            "faster, making": round(alone[1] / made, 2),
        }
    report("workers", result, options.output)


if __name__ == "__main__":
    main()
