"""What a comparison is made of and what it found: runs, samples, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any

from stas.measures.measure import NAMES
from stas.measures.result import VideoMetrics
from stas.method.config import STASConfig
from stas.method.presets import INTERVENTIONS, preset
from stas.pipelines.prompts import Sample
from stas.studies.differences import Difference, all_names, difference

OFF, ON = "off", "on"


@dataclass(frozen=True)
class Run:
    """One way to make the videos: a name, and how to steer; None steers nothing."""

    name: str
    config: STASConfig | None


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


def read_run(text: str) -> Run:
    """A run from its name on the command line.

    Args:
        text: "off"; "on", the defaults of STASConfig; an intervention of `stas.method.presets`; or
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
