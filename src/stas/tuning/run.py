"""Running a tune: rounds of samples under the settings that are still raced."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from stas.activations.intervals import MeanInterval
from stas.files import whole_file
from stas.measures.measure import Measures, available_names
from stas.method.config import STASConfig
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import MANIFEST, METRICS, STRIP, VIDEO, VideoFiles
from stas.preference.items import TUNE, Item
from stas.studies.plan import OFF, Setting, folder_name
from stas.studies.run import Run, carry_out
from stas.studies.study import load_measures
from stas.tuning.plan import Tune, load_tune
from stas.tuning.race import Race
from stas.tuning.votes import Ballot
from stas.workers.executors import HERE, Workers
from stas.workers.job import Progress, Report

TUNED, EVIDENCE = "tuned.json", "evidence.json"


@dataclass(repr=False)
class TuneRun(Run):
    """A tune in its folder. Made by `open_tune`.

    Which videos it makes follows from the numbers of those before, so its race is not stored: it is
    run again over what is finished, which gives the same.

    Args:
        tune: The tune.
        unrated: Pairs whose votes are waited for.
    """

    noun: ClassVar[str] = TUNE
    tune: Tune = field(kw_only=True)
    unrated: list[Item] = field(default_factory=list)

    def plan(self) -> dict[str, Any]:
        return self.tune.to_dict()

    def files(self, number: int, sample: Sample) -> VideoFiles:
        setting = self.settings[number]
        numbers = {each.name: n for n, each in enumerate(self.tune.study.settings())}
        folder = self.folder / folder_name(numbers[setting.name], setting)
        return VideoFiles(folder / sample.name, (VIDEO, STRIP, METRICS, MANIFEST), strip_frames=6)

    def new_race(self) -> Race:
        """Its race, before the first number."""
        return Race(self.tune.names, self.tune.rules)

    def round(self, race: Race) -> TuneRun:
        """The videos of a race's next round, as a run of its own in the same folder."""
        racing, confirming = self.tune.samples()
        samples, done = (
            (racing, len(race.raced)) if race.stage == "race" else (confirming, len(race.confirmed))
        )
        wanted = {OFF, *race.alive}
        return replace(
            self,
            settings=[setting for setting in self.settings if setting.name in wanted],
            samples=samples[done : done + race.next_round()],
            finished={},
            unrated=[],
        )

    def add_round(self, race: Race, made: TuneRun) -> bool:
        """Tell a race the numbers of a round; whether all of it is there, so that it was."""
        numbers = self.numbers()
        names = [setting.name for setting in made.settings]
        if any((s.name, name) not in numbers for s in made.samples for name in names):
            return False
        if self.tune.voted:
            ballot = Ballot(self)
            if not {s.name for s in made.samples} <= set(ballot.counted()):
                self.unrated = ballot.count(made)
                if self.unrated:
                    return False
            for sample, voted in ballot.counted().items():
                for name, each in voted.items():
                    numbers[sample, name] = numbers[sample, name] | each
        race.add([{name: numbers[s.name, name] for name in names} for s in made.samples])
        return True

    def race(self) -> Race:
        """Its race as far as the finished videos lead it.

        Raises:
            ValueError: A measure is constant, or failed on most videos.
        """
        race = self.new_race()
        while race.next_round() and self.add_round(race, self.round(race)):
            pass
        return race


def open_tune(tune: Tune, folder: str | os.PathLike[str] | None = None) -> TuneRun:
    """A tune and what is finished of it in its folder, which is only read.

    Args:
        tune: The tune.
        folder: Its run directory; runs/NAME by default.

    Raises:
        NotADirectoryError: The folder is a file.
        ValueError: It is the folder of another tune, the message says what differs.
        FileExistsError: It holds other things.
    """
    study = tune.study
    run = TuneRun(
        folder=Path("runs") / study.name if folder is None else Path(folder),
        settings=study.settings(),
        samples=[sample for part in tune.samples() for sample in part],
        arguments=study.arguments,
        measured=available_names() if study.measures is None else study.measures,
        tune=tune,
    )
    run.read()
    return run


def run_tune(
    tune: Tune | str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    pipeline: LoadedPipeline | PipelineOptions | None = None,
    workers: Workers = HERE,
    batch: int = 1,
    report: Report | None = None,
) -> Race:
    """Run a tune, or go on with it, and write what it found: `stas tune` as a call.

    The run directory gets every video, `report.html`, `evidence.json` with what was seen of each
    setting, and `tuned.json`, the STASConfig that beats off, where one does. Called again it goes
    on where it was stopped: no video is made twice.

    Args:
        tune: A tune, its TOML file, or the name of one that ships, "quick".
        folder: The run directory; runs/NAME by default.
        pipeline: What `stas.load_pipeline` returned, or how to load it; by default the tune's
            model as PipelineOptions says.
        workers: How many processes make it, and where; they load the pipeline for each round.
        batch: How many samples are made in one call of the pipeline.
        report: Called with how far all is, against the whole budget.

    Returns:
        The race; its `outcome` says what it found, and is None where votes are waited for: the same
        call goes on when they are there.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: What `load_tune`, `open_tune` or the
            pipeline refuses, before the first video; or a measure that can't decide.
        stas.workers.executors.TasksFailedError: Some samples failed; the others are finished.
    """
    wanted = tune if isinstance(tune, Tune) else load_tune(tune)
    run = open_tune(wanted, folder)
    study = wanted.study
    loaded = pipeline or PipelineOptions(
        model=study.model, revision=study.revision, dtype=study.dtype
    )
    measures = load_measures(study)
    race = run.new_race()
    try:
        while race.next_round():
            made = run.round(race)
            if not run.add_round(race, made):
                _make_round(made, race, loaded, measures, workers, batch, report)
                run.finished |= made.finished
                if not run.add_round(race, made):
                    break  # until people have voted
    finally:
        # After an error or Ctrl-C too: what is finished is worth its report.
        if race.spent or run.unrated:
            write_findings(run, race)
    return race


def _make_round(
    made: TuneRun,
    race: Race,
    loaded: LoadedPipeline | PipelineOptions,
    measures: Measures,
    workers: Workers,
    batch: int,
    report: Report | None,
) -> None:
    def overall(progress: Progress) -> None:
        if report is not None:
            finished, budget = progress.finished + race.spent, race.rules.budget
            report(replace(progress, finished=finished, videos=budget))

    carry_out(made, loaded, measures, workers=workers, batch=batch, report=overall)


def write_findings(run: TuneRun, race: Race) -> Path:
    """Write `evidence.json`, `tuned.json` where a setting beats off, and the page.

    Args:
        run: The tune.
        race: Its race, with one round at least.

    Returns:
        The page.
    """
    from stas.studies.page import reporting
    from stas.tuning.page import write_tune_page

    with reporting(run):
        with whole_file(run.folder / EVIDENCE, alone=True) as temporary:
            temporary.write_text(json.dumps(evidence(race), indent=2) + "\n", encoding="utf-8")
        if (config := tuned(run, race)) is not None:
            config.save(run.folder / TUNED)
        return write_tune_page(run, race)


def tuned(run: TuneRun, race: Race) -> STASConfig | None:
    """The config that beats off; None where none does, or the race is not finished."""
    if race.outcome is None or race.outcome.winner is None:
        return None
    return _setting(run, race.outcome.winner).steering()


def _setting(run: TuneRun, name: str) -> Setting:
    return next(setting for setting in run.settings if setting.name == name)


def evidence(race: Race) -> dict[str, Any]:
    """What a race saw and found, as JSON's own types; ends that are not known are null."""
    drops = {drop.setting: asdict(drop) for drop in race.drops}
    objectives = (race.rules.objective, *race.rules.guards)
    confirmed = {
        each.measure: _plain(race.confirmation_interval(each))
        for each in objectives
        if race.confirmed
    }
    return {
        "format": "stas.evidence/1",
        "rules": asdict(race.rules),
        "stage": race.stage,
        "videos": race.spent,
        "outcome": None if race.outcome is None else _plain(race.outcome),
        "race": {
            name: {
                "dropped": drops.get(name),
                **{each.measure: _plain(race.race_interval(name, each)) for each in objectives},
            }
            for name in race.settings
        },
        "confirmation": confirmed,
    }


def _plain(record: MeanInterval | Any) -> Mapping[str, Any]:
    return {
        key: None if isinstance(value, float) and not isfinite(value) else value
        for key, value in asdict(record).items()
    }
