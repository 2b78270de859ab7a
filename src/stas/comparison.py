"""What a comparison is made of and what it found: runs, samples, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from stas.config import STASConfig
from stas.interventions import INTERVENTIONS, preset
from stas.metrics import NAMES, VideoMetrics
from stas.paired import PairedDifference, paired_difference
from stas.sample import Sample

OFF, ON = "off", "on"


@dataclass(frozen=True)
class Run:
    """One way to make the videos: a name, and how to steer; None steers nothing."""

    name: str
    config: STASConfig | None


@dataclass(frozen=True)
class Difference:
    """One row of the table: what a measure says of a run against the first.

    `before` and `after` are means over the same pairs. `found` is None, and both are NaN, when no
    pair has a number for that measure.
    """

    measure: str
    run: str
    before: float
    after: float
    found: PairedDifference | None

    @property
    def words(self) -> str:
        return self.found.words if self.found else "no number"

    @property
    def interval(self) -> str:
        """The interval in short; "-" where one pair or none gives no interval."""
        if self.found is None or self.found.pairs < 2:
            return "-"
        return f"{self.found.low:+.3g} to {self.found.high:+.3g}"


@dataclass
class Comparison:
    """What was made and measured; `finished` samples of `samples` unless it was stopped.

    Args:
        runs: The first is what the others are compared with.
        samples: All that were asked for.
        arguments: Arguments of the pipeline's calls, without the prompt.
        model: Id or folder of the model.
        device: Where it ran.
        fps: Of the videos.
        names: The measures that were taken of frames.
        finished: For each finished sample, in order and by run, what was measured.
        identical: By run, how many videos equal those of the first run in every pixel.
        steered: By run, what was steered where in the last video, in words.
    """

    runs: Sequence[Run]
    samples: Sequence[Sample]
    arguments: Mapping[str, Any]
    model: str
    device: str
    fps: float
    names: Sequence[str]
    finished: list[dict[str, VideoMetrics]] = field(default_factory=list)
    identical: dict[str, int] = field(default_factory=dict)
    steered: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Measures that were not taken because the extra `metrics` is not installed."""
        return [name for name in NAMES if name not in self.names]

    def differences(self) -> list[Difference]:
        """The table: each measure of each run against the first run, over the finished pairs."""
        if not self.finished:
            return []
        numbers = [
            {run: metrics.summary() for run, metrics in by_run.items()} for by_run in self.finished
        ]
        base = self.runs[0].name
        return [
            difference_of_pairs(
                name,
                run.name,
                [(sample[base][name], sample[run.name][name]) for sample in numbers],
            )
            for run in self.runs[1:]
            for name in numbers[0][base]
        ]


def difference_of_pairs(name: str, run: str, pairs: Sequence[tuple[float, float]]) -> Difference:
    """What a measure says of a run, from (first run, run) of each pair.

    Pairs with a number that is not finite are left out.
    """
    known = [pair for pair in pairs if isfinite(pair[0]) and isfinite(pair[1])]
    if not known:
        return Difference(name, run, float("nan"), float("nan"), None)
    before, after = (list(values) for values in zip(*known, strict=True))
    found = paired_difference(before, after)
    return Difference(name, run, float(np.mean(before)), float(np.mean(after)), found)


def read_run(text: str) -> Run:
    """A run from its name on the command line.

    Args:
        text: "off"; "on", the defaults of STASConfig; an intervention of `stas.interventions`; or
            the path of a config that `STASConfig.save` wrote, which is named by its stem.

    Raises:
        ValueError: None of those, or the file is not a config.

    Example:
        >>> read_run("off"), read_run("boundary").config.regions
        (Run(name='off', config=None), ('boundary',))
    """
    if text == OFF:
        return Run(OFF, None)
    if text == ON:
        return Run(ON, STASConfig())
    if text in INTERVENTIONS:
        return Run(text, preset(text))
    path = Path(text)
    if path.is_file():
        return Run(path.stem, STASConfig.load(path))
    raise ValueError(
        f"There is no run {text!r}: expected {OFF}, {ON}, one of {', '.join(INTERVENTIONS)}, or "
        "the JSON file of a STASConfig."
    )
