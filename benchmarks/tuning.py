"""Is `stas tune` right? Simulated worlds with effects of known size, and worlds without any.

    python -m benchmarks.tuning --output benchmarks/results/tuning.json

Eight settings, a budget of 200 videos. A number of a video is its sample's own plus noise, so that
the settings of one sample share what off has of it; effects are in standard deviations of a pair's
difference. Compared are a plain grid of the same budget, every setting by Student's t on all of its
pairs: corrected for eight settings (Bonferroni), and as it is often done, the best one without.
In the worlds with a guard every setting makes the guard worse by so much, where half a deviation is
still allowed; at half a deviation "it helps" is false.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path

import numpy as np
from scipy import stats

from stas.files import whole_file
from stas.tuning.race import Objective, Race, Rules

SETTINGS, BUDGET, ERROR = 8, 200, 0.05
OFF = "off"
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return (rng.lognormal(0, 1, shape) - np.exp(0.5)) / sqrt((np.e - 1) * np.e)


NOISE: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape) / sqrt(3),
    "skewed": skewed,
    "right or wrong": lambda rng, shape: np.where(rng.random(shape) < 0.8, 0.5, -2.0),
}
EFFECTS: dict[str, tuple[float, ...]] = {
    "none": (0.0,) * SETTINGS,
    "all worse by 0.5": (-0.5,) * SETTINGS,
    "one of 0.4": (0.4, *(0.0,) * (SETTINGS - 1)),
    "one of 0.6": (0.6, *(0.0,) * (SETTINGS - 1)),
    "one of 1": (1.0, *(0.0,) * (SETTINGS - 1)),
    "0.8 down to 0": tuple(np.linspace(0.8, 0, SETTINGS)),
    "all 0.6": (0.6,) * SETTINGS,
    "all 1": (1.0,) * SETTINGS,
}


GUARDS = (0.0, 0.5, 1.0)  # how much worse the guard is, in worlds where every setting helps by 1
MARGIN = 0.5


def numbers(
    rng: np.random.Generator, noise: Draw, effects: Sequence[float], count: int
) -> np.ndarray:
    """(count, 1 + settings): off first; a pair's difference has a deviation of 1."""
    return noise(rng, (count, 1 + len(effects))) / sqrt(2) + np.array([0.0, *effects])


def race(
    rng: np.random.Generator, noise: Draw, effects: Sequence[float], guard: float | None = None
) -> tuple[int | None, int]:
    names = [str(number) for number in range(len(effects))]
    rules = Rules(
        objective=Objective("score", "higher"),
        guards=() if guard is None else (Objective("guard", "higher", MARGIN),),
        budget=BUDGET,
        prompts=BUDGET,
        error=ERROR,
    )
    found = Race(names, rules)
    while count := found.next_round():
        rows = numbers(rng, noise, effects, count)
        others = numbers(rng, noise, [-(guard or 0.0)] * len(effects), count)
        columns = {OFF: 0} | {name: int(name) + 1 for name in found.alive}
        found.add(
            [
                {name: {"score": row[at], "guard": other[at]} for name, at in columns.items()}
                for row, other in zip(rows, others, strict=True)
            ]
        )
    assert found.outcome is not None
    winner = found.outcome.winner
    return None if winner is None else int(winner), found.spent


def grid(
    rng: np.random.Generator, noise: Draw, effects: Sequence[float], error: float
) -> tuple[int | None, int]:
    count = BUDGET // (1 + len(effects))
    rows = numbers(rng, noise, effects, count)
    gains = rows[:, 1:] - rows[:, :1]
    t, p = stats.ttest_1samp(gains, 0)
    best = int(np.argmax(t))
    helps = t[best] > 0 and p[best] < error
    return (best if helps else None), count * (1 + len(effects))


METHODS = {
    "stas tune": race,
    "grid, corrected": lambda *world: grid(*world, ERROR / SETTINGS),
    "grid, best one": lambda *world: grid(*world, ERROR),
}


def measure(
    noise: str, effects: str, runs: int, guard: float | None = None
) -> list[dict[str, object]]:
    rows = []
    for method, play in METHODS.items() if guard is None else [("stas tune", race)]:
        rng = np.random.default_rng(0)
        world = NOISE[noise], EFFECTS[effects], *(() if guard is None else (guard,))
        played = [play(rng, *world) for _ in range(runs)]
        winners = [winner for winner, _ in played if winner is not None]
        gained = [EFFECTS[effects][winner] for winner in winners]
        rows.append(
            {
                "noise": noise,
                "effects": effects,
                "guard": guard,
                "method": method,
                "runs": runs,
                "says it helps": len(winners) / runs,
                "best setting": sum(g == max(EFFECTS[effects]) for g in gained) / runs,
                "effect of the winner": sum(gained) / len(gained) if gained else None,
                "videos": sum(spent for _, spent in played) / runs,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    worlds: list[tuple[str, str, float | None]] = [(noise, "none", None) for noise in NOISE]
    worlds += [("normal", effects, None) for effects in EFFECTS if effects != "none"]
    worlds += [("normal", "all 1", guard) for guard in GUARDS]
    rows = []
    for noise, effects, guard in worlds:
        for row in measure(noise, effects, options.runs, guard):
            rows.append(row)
            print(json.dumps(row), flush=True)
    if options.output:
        data = {"settings": SETTINGS, "budget": BUDGET, "error": ERROR, "rows": rows}
        with whole_file(options.output) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
