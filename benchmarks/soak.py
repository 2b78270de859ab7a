"""Call a steered and recorded pipeline a thousand times with changing sizes: does memory grow?

    python -m benchmarks.soak --output benchmarks/results/soak.json

A tiny Wan with random weights, steered for the first half of each turn and recorded all along;
frames, height, batch, steps and guidance change from call to call. Counted after each call, and
after garbage collection, are live tensors, live objects and resident memory. Compared are the
medians of the last fifth of the calls and of the second fifth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import resource
import statistics
import sys
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

import stas
from stas.files import whole_file
from tests.tiny import plant_massive_dimension, tiny_wan

ALLOWED = {"tensors": 1.01, "objects": 1.01, "resident MB": 1.05}


def resident() -> float:
    """Megabytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def counts() -> dict[str, float]:
    gc.collect()
    objects = gc.get_objects()
    return {
        "tensors": sum(isinstance(each, torch.Tensor) for each in objects),
        "objects": len(objects),
        "resident MB": resident(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    draw, rows = random.Random(0), []
    pipeline = tiny_wan()
    pipeline.set_progress_bar_config(disable=True)
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    handle = stas.steer(pipeline, blocks="all")
    recording = stas.record(pipeline)
    for number in tqdm(range(options.calls)):
        if number % 50 == 25:
            handle.remove()
        if number % 50 == 0 and number:
            handle = stas.steer(pipeline, blocks="all")
        pipeline(
            ["a red circle"] * draw.choice([1, 2]),
            height=32,
            width=32 * draw.randint(1, 3),
            num_frames=4 * draw.randint(0, 4) + 1,
            num_inference_steps=3,
            guidance_scale=draw.choice([1.0, 4.0]),
            output_type="latent",
            max_sequence_length=16,
            generator=torch.Generator().manual_seed(number),
        )
        assert recording.stats.num_steps == 3
        rows.append(counts())
    fifth = len(rows) // 5
    early, late = rows[fifth : 2 * fifth], rows[-fifth:]
    medians = {
        name: [statistics.median(row[name] for row in part) for part in (early, late)]
        for name in ALLOWED
    }
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "calls": options.calls,
        "second fifth and last": {
            name: [round(v, 1) for v in each] for name, each in medians.items()
        },
        "ratio": {name: round(late / early, 4) for name, (early, late) in medians.items()},
    }
    print(json.dumps(result, indent=2))
    if options.output is not None:
        with whole_file(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.exit(any(result["ratio"][name] > most for name, most in ALLOWED.items()))


if __name__ == "__main__":
    main()
