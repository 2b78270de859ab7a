"""What STAS Steer costs in ComfyUI: samplings plain and steered, in turn, in one process.

    COMFYUI_DIR=... PYTHONPATH=src:. PYTHON -m benchmarks.comfyui --output FILE

PYTHON is that of ComfyUI's environment. The model is a random Wan as ComfyUI loads a checkpoint, of
a width and number of blocks that a CPU can sample. Reported are seconds, and ratios to the plain
sampling of the same round, each with the middle half of its rounds; "plain again" is the plain
model a second time in each round, whose ratios show what is noise.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from tests.comfyui import zoo

zoo.start()  # before anything of ComfyUI's is imported, so what follows is not at the top

import comfy.ops  # noqa: E402

from benchmarks.timing import Times, interleaved, report  # noqa: E402
from stas.comfyui.nodes import STASSteer  # noqa: E402
from tests.comfyui.test_headless import sample  # noqa: E402

SETTINGS = {
    "middle block": {"blocks": "middle", "dims": "3,77"},
    "all blocks": {"blocks": "all", "dims": "3,77"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=80)
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
    models = {"plain": plain, "plain again": plain} | {
        name: STASSteer.execute(plain, **shared, **values).args[0]
        for name, values in SETTINGS.items()
    }
    latent = (1, 16, 5, options.size, options.size)
    runs = {
        name: partial(sample, model, latent, steps=options.steps, cfg=3.0)
        for name, model in models.items()
    }
    seconds = interleaved(runs, runs=options.rounds)
    ratios = {
        name: [a / b for a, b in zip(times, seconds["plain"], strict=True)]
        for name, times in seconds.items()
        if name != "plain"
    }
    report(
        "comfyui",
        {
            **{name: value for name, value in vars(options).items() if name != "output"},
            "seconds": {name: Times.of(times) for name, times in seconds.items()},
            "ratios": {name: Times.of(each) for name, each in ratios.items()},
        },
        options.output,
    )


if __name__ == "__main__":
    main()
