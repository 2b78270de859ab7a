"""How surely planted massive dimensions are found: precision and recall by ratio.

    python -m benchmarks.detection [--seeds 40] [--output FILE]

Statistics of hidden states with one planted dimension of a known ratio, over widths and noise (the
share by which a token's magnitude varies). A dimension is massive from a ratio of 20 on: below,
finding it is a mistake; from there on, not finding it is one.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from benchmarks.timing import report
from stas.activations.massive import find_massive_activations
from stas.method.detection import MASSIVE_RATIO
from tests.activations.test_massive import planted

RATIOS = (3, 6, 10, 15, 18, 19, 19.8, 20.2, 21, 22, 25, 30, 50, 100, 200)
WIDTHS = (256, 1536)
NOISES = (0.0, 0.3, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {"models of each kind": options.seeds}
    right = wrong = missed = 0
    for noise, width in itertools.product(NOISES, WIDTHS):
        shares = {}
        for ratio in RATIOS:
            found_it = 0
            for seed in range(options.seeds):
                dim = (seed * 37) % width
                stats = planted(
                    width, {dim: min(ratio, 0.7 * width)}, noise=noise, steps=2, blocks=(0, 1),
                    frames=2, seed=seed,
                )  # fmt: skip
                found = find_massive_activations(stats).dims
                found_it += dim in found
                is_massive = ratio >= MASSIVE_RATIO
                right += is_massive and dim in found
                missed += is_massive and dim not in found
                wrong += len(set(found) - {dim}) + (not is_massive and dim in found)
            shares[str(ratio)] = found_it / options.seeds
        result[f"found, width {width}, noise {noise:g}"] = shares
    result["precision"] = right / (right + wrong)
    result["recall"] = right / (right + missed)
    report("detection", result, options.output)


if __name__ == "__main__":
    main()
