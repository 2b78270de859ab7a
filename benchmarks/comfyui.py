"""What STAS Steer costs in ComfyUI: samplings plain and steered, in turn, in one process.

    COMFYUI_DIR=... PYTHONPATH=src:. PYTHON -m benchmarks.comfyui --output FILE

PYTHON is that of ComfyUI's environment. The model is a random Wan as ComfyUI loads a checkpoint, of
a width and number of blocks that a CPU can sample. Reported are medians, and medians of ratios to
the plain sampling of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from tests.comfyui import zoo

zoo.start()

import comfy.ops  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.timing import report  # noqa: E402
from stas.comfyui.nodes import STASSteer  # noqa: E402
from tests.comfyui.test_headless import sample  # noqa: E402

SETTINGS = {
    "middle block": {"blocks": "middle", "dims": "3,77"},
    "all blocks": {"blocks": "all", "dims": "3,77"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--size", type=int, default=16, help="Of the latent, height and width.")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    plain = zoo.load(
        zoo.wan(
            comfy.ops.disable_weight_init,
            dim=options.width,
            ffn_dim=4 * options.width,
            num_heads=options.width // 128,
            num_layers=options.blocks,
        )
    )
    shared = {"scale": 1.0, "boundary": 0.08, "start_percent": 0.0, "end_percent": 0.4}
    models = {"plain": plain} | {
        name: STASSteer.execute(plain, **shared, **values).args[0]
        for name, values in SETTINGS.items()
    }
    latent = (1, 16, 5, options.size, options.size)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in tqdm(range(-1, options.rounds), desc="rounds"):
        names = list(models) if number % 2 else list(reversed(models))
        for name in names:
            started = time.perf_counter()
            sample(models[name], latent, steps=options.steps, cfg=3.0)
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    settings = {k: v for k, v in vars(options).items() if k != "output"}
    report(
        "comfyui",
        {
            **settings,
            "seconds": {name: round(value, 3) for name, value in medians.items()},
            "ratios": {
                name: round(
                    statistics.median(
                        [a / b for a, b in zip(times, seconds["plain"], strict=True)]
                    ),
                    4,
                )
                for name, times in seconds.items()
            },
        },
        options.output,
    )


if __name__ == "__main__":
    main()
