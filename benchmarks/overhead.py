"""What steering costs a whole denoising step: plain and steered, interleaved in one process.

    python -m benchmarks.overhead [--runs 31] [--output FILE]

Two models on the CPU: the bundled one, and a random-weight Wan of the 1.3B's width (1536, 12
heads) with 4 blocks and 2,080 tokens. A step is one forward of the transformer with guidance off;
with it both sides of the ratio double.

Two measures. "paired percent" is the median over pairs of neighbouring runs of steered / plain - 1,
on one model whose hooks are put on and taken off outside the timed part, next to the same of two
plain runs, which is the noise. "inside percent" is the time spent in the hooks themselves, read
in place, as a share of the step: it resolves what the noise hides.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import WanPipeline, WanTransformer3DModel

import stas
from benchmarks.timing import Times, interleaved, report
from stas.assets import BUNDLED_MODEL
from stas.hooks.registry import BlockHook
from stas.hooks.transformer import TransformerHooks


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
    for name, make, steerings in (
        (
            "bundled model",
            bundled,
            {"all blocks": {"blocks": "all"}, "defaults (middle block)": {}},
        ),
        ("width 1536, 4 blocks", wide, {"all blocks": {"blocks": "all", "dims": (3, 7)}}),
    ):
        transformer, size = make()
        step = step_of(transformer, size)
        tokens = size[0] * (size[1] // 2) * (size[2] // 2)
        variants = {"plain": step, "plain again": step} | dict.fromkeys(steerings, step)
        seconds = interleaved(
            variants,
            runs=options.runs * 8 if tokens < 1000 else options.runs,
            around={
                label: functools.partial(stas.steer, transformer, **options)
                for label, options in steerings.items()
            },
        )
        plain = statistics.median(seconds["plain"])
        result[name] = {
            "tokens": tokens,
            "seconds": {key: Times.of(values) for key, values in seconds.items()},
            "paired percent": {
                label: overhead(seconds[label], seconds["plain"])
                for label in ("plain again", *steerings)
            },
            "inside percent": {
                label: 100 * seconds_inside(transformer, step, options) / plain
                for label, options in steerings.items()
            },
        }
    report("overhead", result, options.output)


def seconds_inside(
    transformer: WanTransformer3DModel, step: Callable[[], object], options: dict[str, Any]
) -> float:
    """Median over steps of the time that one step spends in the hooks of steering."""
    spent = 0.0

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal spent
            begin = time.perf_counter()
            result = method(*args)
            spent += time.perf_counter() - begin
            return result

        return call

    totals = []
    with (
        mock.patch.object(BlockHook, "post_forward", timed(BlockHook.post_forward)),
        mock.patch.object(TransformerHooks, "_enter", timed(TransformerHooks._enter)),
        mock.patch.object(TransformerHooks, "_leave", timed(TransformerHooks._leave)),
        stas.steer(transformer, **options),
    ):
        for _ in range(12):
            spent = 0.0
            step()
            totals.append(spent)
    return statistics.median(totals[2:])


def overhead(changed: list[float], base: list[float]) -> float:
    """Percent by which a run is slower than its neighbour, as a median over pairs."""
    ratios = [a / b for a, b in zip(changed, base, strict=True)]
    return 100 * (statistics.median(ratios) - 1)


if __name__ == "__main__":
    main()
