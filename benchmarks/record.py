"""What recording costs: a plain step, recorded, and with the hidden states kept and reduced after.

    python -m benchmarks.record [--runs 15] [--output FILE]

The width-1536 Wan of `benchmarks.overhead` (4 blocks, 2,080 tokens) on the CPU: all blocks, all
dimensions. "keep and reduce" is the obvious way: copy every block's output, and take the same
statistics when the step is over. Memory is what each way holds at once beyond a plain step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import stas
from benchmarks.overhead import overhead, step_of, wide
from benchmarks.timing import Times, interleaved, report, transient_bytes
from stas.hooks.record import TransformerRecording
from stas.method.config import REGIONS
from stas.method.tokens import TokenGrid


@contextmanager
def keep_and_reduce(transformer: Any, grid: TokenGrid) -> Iterator[None]:
    """The obvious way, with the same statistics in float64."""
    kept: list[torch.Tensor] = []

    def reduce(*_: object) -> None:
        for hidden in kept:
            values = hidden[0].double()
            for region in REGIONS:
                part = values[grid.mask((region,), 0.08)]
                part.abs().mean(0), part.mean(0), part.var(0), part.abs().amax(0)
        kept.clear()

    hooks = [
        block.register_forward_hook(lambda module, args, output: kept.append(output.clone()))
        for block in transformer.blocks
    ]
    hooks.append(transformer.register_forward_hook(reduce))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    transformer, size = wide()
    step = step_of(transformer, size)
    grid = TokenGrid(size[0], size[1] // 2, size[2] // 2)
    ways = {
        "recorded": lambda: stas.record(transformer),
        "keep and reduce": lambda: keep_and_reduce(transformer, grid),
    }
    seconds = interleaved(
        dict.fromkeys(("plain", "plain again", *ways), step), runs=options.runs, around=ways
    )
    plain = seconds["plain"]
    result: dict[str, object] = {
        "tokens": grid.num_tokens,
        "seconds": {name: Times.of(values) for name, values in seconds.items()},
        "paired percent": {
            name: overhead(values, plain) for name, values in seconds.items() if name != "plain"
        },
        "inside percent": 100 * seconds_inside(transformer, step) / statistics.median(plain),
        "extra bytes at once": extra_bytes(transformer, step, ways),
    }
    report("record", result, options.output)


def seconds_inside(transformer: nn.Module, step: Any) -> float:
    """Median over steps of the time that one step spends in recording, read in place."""
    spent: list[float] = []

    def timed(method: Any) -> Any:
        def call(*args: Any) -> Any:
            begin = time.perf_counter()
            result = method(*args)
            spent.append(time.perf_counter() - begin)
            return result

        return call

    totals = []
    owner = TransformerRecording
    with (
        mock.patch.object(owner, "act", timed(owner.act)),
        mock.patch.object(owner, "begin", timed(owner.begin)),
        mock.patch.object(owner, "end", timed(owner.end)),
        stas.record(transformer),
    ):
        for _ in range(8):
            spent.clear()
            step()
            totals.append(sum(spent))
    return statistics.median(totals[2:])


def extra_bytes(transformer: nn.Module, step: Any, ways: dict[str, Any]) -> dict[str, int]:
    """Peak memory of one step beyond that of a plain step."""
    plain = transient_bytes(step)
    extra = {}
    for name, attach in ways.items():
        with attach():
            extra[name] = transient_bytes(step) - plain
    return extra


if __name__ == "__main__":
    main()
