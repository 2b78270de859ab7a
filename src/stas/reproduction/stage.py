"""What a stage of a reproduction is, and what it says it found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import ClassVar

from stas.activations.massive import RecordedMassiveActivations, find_massive_activations
from stas.activations.stats import ActivationStats
from stas.checks import expect, is_whole
from stas.method.config import STASConfig
from stas.method.presets import preset
from stas.pipelines.prompts import Prompt, Sample, samples_of
from stas.reproduction.crew import Crew
from stas.reproduction.plan import ReproducedModel, Reproduction
from stas.studies.differences import Difference
from stas.studies.plan import OFF, PRESET_FIELDS, Setting
from stas.workers.job import Report

RECORD = "record"  # the stage whose massive dimensions all others steer
ACTIVATIONS = "activations.safetensors"
STAS = "stas"


@dataclass(frozen=True)
class Finding:
    """One number or fact that a stage found.

    Args:
        name: By which the paper's is found.
        value: What it is: a number, or words.
        low: Lower end of its 95 % interval; NaN where it has none.
        high: Upper end.
        n: How many prompts, videos or rounds it rests on.
        words: What that says.
    """

    name: str
    value: float | str
    low: float = nan
    high: float = nan
    n: int | None = None
    words: str = ""

    @classmethod
    def of(cls, name: str, difference: Difference) -> Finding:
        """A paired difference."""
        found, words = difference.found, difference.words
        if found is None:
            return cls(name, nan, words=words)
        ends = (found.low, found.high) if found.pairs > 1 else (nan, nan)
        return cls(name, found.difference, *ends, n=found.pairs, words=words)


@dataclass(kw_only=True, repr=False)
class Stage(ABC):
    """One stage on one model.

    Args:
        plan: The reproduction.
        model: The model.
        home: Folder of the model.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    plan: Reproduction
    model: ReproducedModel
    home: Path

    @property
    def key(self) -> tuple[str, str]:
        """Names of the model and of the stage."""
        return self.model.name, self.name

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.home / self.name

    @property
    @abstractmethod
    def left(self) -> int:
        """How many videos are still to be made."""

    @abstractmethod
    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        """Do what is left of it.

        Raises:
            Exception: What its runs raise; what is finished is kept.
        """

    @abstractmethod
    def findings(self) -> list[Finding]:
        """What was found; nothing as long as nothing is finished."""

    def lacks(self) -> str:
        """What is missing that no stage makes, in words; "" when nothing is."""
        return ""

    def waits_for(self) -> str:
        """Which stage must come first and isn't finished, in words; "" when none must."""
        found = self.recorded
        if found is None:
            return f"the stage {RECORD} comes first: it finds the massive dimensions"
        return "" if found.dims else f"no dimension is massive: {found.describe()}"

    @property
    def begun(self) -> bool:
        """Whether there may be anything of it."""
        return self.folder.exists() and not (self.waits_for() or self.lacks())

    def to_do(self) -> str:
        """What is left to other tools once its videos are made, in words; "" when nothing is."""
        return ""

    def pictures(self) -> list[Path]:
        """What there is to look at."""
        return []

    @property
    def page(self) -> Path | None:
        """The report that it has of its own, if it is written."""
        path = self.folder / "report.html"
        return path if path.is_file() else None

    @property
    def recorded(self) -> RecordedMassiveActivations | None:
        """The massive dimensions; None until all of the recording is finished."""
        stats = read_stats(self.home / RECORD / ACTIVATIONS)
        return None if stats is None else find_massive_activations(stats)

    @property
    def dims(self) -> tuple[int, ...]:
        """What is steered: the dimensions that were recorded as massive."""
        found = self.recorded
        return () if found is None else found.dims

    def samples(self, count: int) -> list[Sample]:
        """The first prompts, each with a seed of its own."""
        origin = self.plan.prompt_file
        return [
            Sample(
                sample.name,
                sample.prompt,
                sample.seed,
                None if origin is None else {**origin, "prompt": number + 1},
            )
            for number, prompt in enumerate(self.plan.prompts[:count])
            for sample in samples_of([Prompt(prompt)], [self.plan.seed + number])
        ]

    def setting(self, name: str) -> Setting:
        """ "off"; or an intervention of `stas.method.presets`, with the reproduction's steering."""
        if name == OFF:
            return Setting(OFF, None)
        config = STASConfig.from_dict(dict(self.plan.steering)).to_dict()
        chosen = preset(name)
        if name != STAS:
            config |= {each: getattr(chosen, each) for each in PRESET_FIELDS}
        config = STASConfig.from_dict({**config, "dims": list(self.dims)}).to_dict()
        return Setting(name, config)

    def _check_count(self, name: str) -> None:
        value, most = getattr(self, name), len(self.plan.prompts)
        expect(
            is_whole(value, 1, most + 1),
            f"{self.name}.{name} must be 1 to {most}, the number of prompts, but got {value!r}",
        )


def read_stats(path: Path) -> ActivationStats | None:
    """Statistics that are finished; None where they aren't.

    Raises:
        ValueError: The file is broken.
    """
    if not path.is_file():
        return None
    stats = ActivationStats.load(path)
    done = stats.metadata.get("finished") == stats.metadata.get("videos")
    return stats if done else None
