"""What a tune is: a space of settings, and the rules by which they are raced."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from stas.checks import expect, is_whole, number
from stas.measures.measure import NAMES, available_names
from stas.pipelines.prompts import Sample
from stas.preference.votes import QUESTIONS
from stas.studies.file import read_toml, study_of
from stas.studies.plan import OFF, Study
from stas.tuning.race import Objective, Race, Rules

RULES = ("objective", "guards", "budget", "error", "round", "share")  # keys beside a study's
VOTES = {f"votes, {question}": question for question in QUESTIONS}  # measures, by their questions
PARTS = (", within chunks", ", across chunks", ", first frame")  # of `VideoMetrics.summary`


@dataclass(frozen=True)
class Tune:
    """A space of settings on prompts, and the rules of its race.

    Args:
        study: The space, as a study's grid; its prompts, each of which is used once; its model.
        rules: What decides.

    Raises:
        ValueError: Two prompts are alike, dimensions are named by class, there is one setting
            alone, the budget can't decide, or there is no such measure.

    Example:
        >>> tune = load_tune("quick")
        >>> tune.rules.budget, len(tune.names)
        (64, 4)
    """

    study: Study
    rules: Rules

    def __post_init__(self) -> None:
        study = self.study
        expect(
            study.samples_per_prompt == 1,
            "a tune makes one sample of each prompt: leave samples_per_prompt out",
        )
        twice = [prompt for prompt in study.prompts if study.prompts.count(prompt) > 1]
        expect(not twice, f"a prompt counts once, but two are {twice[:1]}")
        classes = [setting.name for setting in study.settings() if setting.dims_class is not None]
        expect(not classes, f"dims must be numbers, but got {', '.join(classes)}")
        expect(
            len(self.names) > 1,
            f"a space has two settings beside off or more, but this one has {self.names}: give an "
            "axis more values, or ask with `stas compare` whether that setting helps",
        )
        names = available_names() if study.measures is None else study.measures
        if not (study.own_measures or study.encoders or study.aesthetic):
            for each in (self.rules.objective, *self.rules.guards):
                name = each.measure
                if name in VOTES:
                    continue
                for part in PARTS:
                    name = name.removesuffix(part)
                known, votes = ", ".join(names), "; ".join(VOTES)
                more = "" if names == NAMES else "; others need to be in measures, or stas[metrics]"
                expect(
                    name in names, f"nothing measures {name!r}. Measured: {known}; {votes}{more}"
                )
        Race(self.names, self.rules)

    @property
    def voted(self) -> list[str]:
        """The measures that are votes of `stas rate`."""
        rules = self.rules
        return [e.measure for e in (rules.objective, *rules.guards) if e.measure in VOTES]

    @property
    def names(self) -> list[str]:
        """The settings that are raced against off."""
        return [setting.name for setting in self.study.settings() if setting.name != OFF]

    def samples(self) -> tuple[list[Sample], list[Sample]]:
        """The samples of the race, and those of the confirmation: other prompts, other seeds."""
        samples = self.study.samples()
        Random(self.study.seed).shuffle(samples)  # lists of prompts may be in some order
        half = len(samples) // 2
        return samples[:half], samples[half:]

    def to_dict(self) -> dict[str, Any]:
        """All that decides the tune's videos and its outcome, as JSON's own types."""
        return {"study": self.study.to_dict(), "rules": asdict(self.rules)}


def load_tune(source: str | os.PathLike[str], **changes: Any) -> Tune:
    """Read a tune from its TOML file: a study's keys, and those of its rules.

    Args:
        source: A file, or "quick", which ships.
        **changes: As of `stas.studies.file.load_study`, and those of the rules.

    Raises:
        FileNotFoundError: There is no such file, or no such list of prompts.
        ValueError: Not TOML, an unknown key, or what `Tune` refuses; the message names the file.
    """
    path, data = read_toml(source, "tunes", "tune")
    try:
        return tune_of(path, data, **changes)
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a tune: {error}") from error


def tune_of(path: Path, data: Mapping[str, Any], **changes: Any) -> Tune:
    """A tune from what its file says; `path` names it, and its prompts lie beside it.

    Raises:
        FileNotFoundError, TypeError, ValueError: As `load_tune` says, without the file's name.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    said = {**data, **{name: given.pop(name) for name in RULES if name in given}}
    rules = {name: said.pop(name) for name in RULES if name in said}
    for name in ("objective", "budget"):
        expect(name in rules, f"there is no {name}: {_WHY[name]}")
    guards = rules.get("guards", ())
    expect(isinstance(guards, Sequence) and not isinstance(guards, str), "guards must be a list")
    for name in ("error", "share"):
        if name in rules:
            rules[name] = number(name, rules[name])
    expect(
        is_whole(rules["budget"], 1),
        f"budget must be a number of videos, but got {rules['budget']!r}",
    )
    rules |= {
        "objective": _objective(rules["objective"]),
        "guards": tuple(map(_objective, guards)),
    }
    study = study_of(path, said, **given)
    return Tune(study, Rules(**rules, prompts=len(study.prompts)))


_WHY = {
    "objective": "say which measure decides and which way is better, as in ssim:higher",
    "budget": "say how many videos may be made",
}


def _objective(value: Any) -> Objective:
    expect(isinstance(value, str), f"expected MEASURE:higher or MEASURE:lower, but got {value!r}")
    return Objective.read(value)
