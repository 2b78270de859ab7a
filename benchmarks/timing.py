"""Interleaved timing and measured memory, shared by the benchmarks."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from stas.files import whole_file


@dataclass(frozen=True)
class Times:
    """Seconds of repeated runs: the median and the middle half."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        low, median, high = statistics.quantiles(seconds, n=4)
        return cls(median, low, high, len(seconds))


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    *,
    runs: int,
    warmup: int = 2,
    around: Mapping[str, Callable[[], AbstractContextManager[object]]] | None = None,
) -> dict[str, list[float]]:
    """Time each variant `runs` times in turn, so that drift of the machine meets all alike.

    Every other round runs in reverse order: no variant always follows the same one. `around` gives
    a variant a context that is entered and left outside the timed part.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(-warmup, runs):
        names = list(variants) if round_number % 2 == 0 else list(reversed(variants))
        for name in names:
            with (around or {}).get(name, nullcontext)():
                begin = time.perf_counter()
                variants[name]()
                taken = time.perf_counter() - begin
            if round_number >= 0:
                seconds[name].append(taken)
    return seconds


def transient_bytes(call: Callable[[], object]) -> int:
    """Peak of the memory that `call` holds at once beyond what was there, as torch allocates it."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def report(name: str, result: Mapping[str, object], path: Path | None) -> None:
    """Print a benchmark's result as JSON, and write it where asked."""
    text = json.dumps(
        {"benchmark": name, **machine(), **result},
        indent=2,
        default=lambda value: asdict(value) if isinstance(value, Times) else str(value),
    )
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    sys.stdout.flush()
