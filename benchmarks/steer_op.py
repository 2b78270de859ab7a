"""`steer_` against the obvious way, clone and where, on a block output of Wan2.1-1.3B.

    python -m benchmarks.steer_op [--runs 15] [--output FILE]

Both write the same values (checked first). The ratio is that of medians of interleaved runs in
one process; memory is what torch's allocator reports, not a calculation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.timing import Times, interleaved, report, transient_bytes
from stas.method.operators import steer_
from stas.method.tokens import TokenGrid

GRID = TokenGrid(frames=21, height=30, width=52)  # 81 frames of 832 x 480: 32,760 tokens
WIDTH = 1536
DIMS = (1188, 700)
REGIONS, BOUNDARY, SCALE = ("first_frame", "boundary"), 0.08, 1.2


def clone_and_where(hidden_states: torch.Tensor) -> torch.Tensor:
    """The equation as one would first write it: full-size masks and a new tensor."""
    tokens = GRID.mask(REGIONS, BOUNDARY)[None, :, None]
    features = torch.zeros(WIDTH, dtype=torch.bool)
    features[list(DIMS)] = True
    result = hidden_states.clone()
    peak = hidden_states.abs().amax(dim=1, keepdim=True)
    return torch.where(tokens & features, SCALE * peak * hidden_states.sign(), result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {"shape": [1, GRID.num_tokens, WIDTH], "dims": DIMS}
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        hidden_states = torch.randn(1, GRID.num_tokens, WIDTH).to(dtype)

        def steer(h: torch.Tensor = hidden_states) -> torch.Tensor:
            return steer_(h, GRID, DIMS, regions=REGIONS, boundary=BOUNDARY, scale=SCALE)

        def naive(h: torch.Tensor = hidden_states) -> torch.Tensor:
            return clone_and_where(h)

        if not torch.equal(naive(), steer(hidden_states.clone())):
            raise AssertionError("steer_ and clone-and-where disagree")
        seconds = interleaved({"steer_": steer, "clone and where": naive}, runs=options.runs)
        times = {name: Times.of(values) for name, values in seconds.items()}
        result[str(dtype).removeprefix("torch.")] = {
            "seconds": times,
            "times faster": times["clone and where"].median / times["steer_"].median,
            "transient MB": {
                "steer_": transient_bytes(steer) / 1e6,
                "clone and where": transient_bytes(naive) / 1e6,
            },
        }
    report("steer_op", result, options.output)


if __name__ == "__main__":
    main()
