"""What steering costs a whole denoising step: plain and steered, interleaved in one process.

    python -m benchmarks.overhead [--runs 31] [--output FILE]

Two models on the CPU: the bundled one, and a random-weight Wan of the 1.3B's width (1536, 12
heads) with 4 blocks and 2,080 tokens. A step is one forward of the transformer with guidance off.
All blocks are steered, in two dimensions. The overhead is the median over pairs of neighbouring
runs of steered / plain - 1: the machine's drift cancels within a pair. A second unsteered copy,
"plain again", shows how much of that is noise.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel

import stas
from benchmarks.timing import Times, interleaved, report
from stas.pipelines import BUNDLED_MODEL


def bundled() -> tuple[WanTransformer3DModel, tuple[int, ...]]:
    transformer = WanPipeline.from_pretrained(BUNDLED_MODEL).transformer
    return transformer, (5, 16, 16)


def wide() -> tuple[WanTransformer3DModel, tuple[int, ...]]:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=4
    )
    return transformer.eval(), (5, 32, 52)


def step_of(transformer: WanTransformer3DModel, size: tuple[int, ...]) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(1)
    config = transformer.config
    inputs = {
        "hidden_states": torch.randn(1, config.in_channels, *size, generator=generator),
        "timestep": torch.tensor([900]),
        "encoder_hidden_states": torch.randn(1, 512, config.text_dim, generator=generator),
        "return_dict": False,
    }

    def step() -> object:
        with torch.no_grad():
            return transformer(**inputs)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {}
    for name, make in (("bundled model", bundled), ("width 1536, 4 blocks", wide)):
        transformer, size = make()
        twins = [copy.deepcopy(transformer) for _ in range(2)]
        tokens = size[0] * (size[1] // 2) * (size[2] // 2)
        with stas.steer(twins[0], dims=(3, 7), blocks="all"):
            seconds = interleaved(
                {
                    "plain": step_of(transformer, size),
                    "steered": step_of(twins[0], size),
                    "plain again": step_of(twins[1], size),
                },
                runs=options.runs * 4 if tokens < 1000 else options.runs,
            )
        result[name] = {
            "tokens": tokens,
            "seconds": {key: Times.of(values) for key, values in seconds.items()},
            "overhead percent": overhead(seconds["steered"], seconds["plain"]),
            "noise percent": overhead(seconds["plain again"], seconds["plain"]),
        }
    report("overhead", result, options.output)


def overhead(changed: list[float], base: list[float]) -> float:
    """Percent by which a run is slower than its neighbour, as a median over pairs."""
    ratios = [a / b for a, b in zip(changed, base, strict=True)]
    return 100 * (statistics.median(ratios) - 1)


if __name__ == "__main__":
    main()
