"""What people prefer, as a stage."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import ClassVar

from stas.preference.items import read_rated
from stas.preference.report import PreferenceReport, write_preference
from stas.preference.votes import Votes, kept_rating
from stas.reproduction.crew import Crew
from stas.reproduction.measured import ComparisonStage
from stas.reproduction.stage import STAS, Finding, Stage
from stas.studies.plan import OFF
from stas.workers.job import Report


@dataclass(kw_only=True, repr=False)
class RatingStage(Stage):
    """What people prefer, by their votes on the videos of the stage "comparison"."""

    name: ClassVar[str] = "rating"
    title: ClassVar[str] = "Human preference"

    @property
    def rated(self) -> Path:
        return self.home / ComparisonStage.name

    @property
    def left(self) -> int:
        return 0

    def waits_for(self) -> str:
        if not (self.rated / "comparison.json").is_file():
            return f"the stage {ComparisonStage.name} comes first: its videos are rated"
        return ""

    def lacks(self) -> str:
        if self.waits_for():
            return "people's votes"
        if kept_rating(self.rated) is None:
            return (
                f"there are no votes yet: `stas rate {self.rated} --run {OFF} --run {STAS}` serves "
                "the page for them"
            )
        return ""

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        if (found := self._report()) is not None:
            write_preference(found)

    def findings(self) -> list[Finding]:
        if (found := self._report()) is None:
            return []
        rows = []
        for each in found.preferences:
            low, high = each.decided.interval if each.decided.trials else (nan, nan)
            name = f"{each.question}: share of {each.second} against {each.first}"
            share, n = each.decided.share, each.decided.trials
            rows.append(Finding(name, share, low, high, n, each.words))
        return rows

    def _report(self) -> PreferenceReport | None:
        if self.waits_for() or (kept := kept_rating(self.rated)) is None:
            return None
        rated = read_rated(self.rated, kept.settings)
        with closing(Votes(rated, kept)) as votes:
            return PreferenceReport(rated, kept.questions, votes.all())
