"""What a comparison is made of and what it found: runs, samples, and paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any

from stas.config import STASConfig
from stas.interventions import INTERVENTIONS, preset
from stas.metrics import NAMES, VideoMetrics
from stas.paired import NO_DIFFERENCE, TOO_FEW, PairedDifference, paired_difference
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
    def told(self) -> bool:
        """Whether a difference is shown."""
        return self.found is not None and self.words not in (NO_DIFFERENCE, TOO_FEW)

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
        samples = self.samples[: len(self.finished)]
        numbers = {
            (sample.name, run): metrics.summary()
            for sample, by_run in zip(samples, self.finished, strict=True)
            for run, metrics in by_run.items()
        }
        base = self.runs[0].name
        return [
            difference(
                measure,
                run.name,
                samples,
                {
                    sample.name: (
                        numbers[sample.name, base].get(measure, nan),
                        numbers[sample.name, run.name].get(measure, nan),
                    )
                    for sample in samples
                },
            )
            for run in self.runs[1:]
            for measure in all_names(numbers.values())
        ]


def all_names(numbers: Iterable[Mapping[str, float]]) -> list[str]:
    """Every measure that any of the videos has, in order."""
    return list(dict.fromkeys(name for each in numbers for name in each))


def unit_of_pairs(samples: Sequence[Sample]) -> str:
    """What the pairs of a table are: "prompts", or "seeds" when there is one prompt alone."""
    return "prompts" if len({sample.prompt for sample in samples}) > 1 else "seeds"


def difference(
    measure: str, run: str, samples: Sequence[Sample], pairs: Mapping[str, tuple[float, float]]
) -> Difference:
    """What a measure says of a run.

    Seeds of one prompt are alike, so they are averaged first and a prompt counts once; with one
    prompt alone its seeds are the pairs, and speak of that prompt. Left out is what is not finite.

    Args:
        measure: Its name.
        run: Name of the run.
        samples: The samples.
        pairs: By sample, the numbers of the first run and of this one; missing where unfinished.
    """
    by_prompt = unit_of_pairs(samples) == "prompts"
    units: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        pair = pairs.get(sample.name, (nan, nan))
        if all(map(isfinite, pair)):
            units.setdefault(sample.prompt if by_prompt else sample.name, []).append(pair)
    if not units:
        return Difference(measure, run, nan, nan, None)
    before, after = (
        [fmean(pair[side] for pair in unit) for unit in units.values()] for side in (0, 1)
    )
    return Difference(measure, run, fmean(before), fmean(after), paired_difference(before, after))


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
