"""What the votes say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isfinite, isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from stas import __version__
from stas.files import Rows, write_table
from stas.pipelines.prompts import Sample
from stas.preference.items import Item, Rated
from stas.preference.statistics import bradley_terry, krippendorff_alpha, sign_test, wilson
from stas.preference.votes import QUESTIONS, Vote
from stas.studies.differences import DRAWS, Difference, difference, tail, unit_of_pairs
from stas.studies.html import write_page

TEMPLATE = Path(__file__).parent / "templates" / "preference.html"
PAGE, TABLE, BY_PROMPT = "preference.html", "preference.csv", "preference-prompts.csv"


@dataclass(frozen=True)
class Share:
    """A share with Wilson's 95 % interval."""

    successes: int
    trials: int

    @property
    def share(self) -> float:
        return self.successes / self.trials if self.trials else nan

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.trials)

    def __str__(self) -> str:
        if not self.trials:
            return "-"
        low, high = self.interval
        return f"{self.share:.0%} ({low:.0%} to {high:.0%})"


@dataclass(frozen=True)
class Counts:
    """Votes on two settings: for the first, ties, for the second."""

    first: int
    ties: int
    second: int

    @classmethod
    def of(cls, votes: Iterable[Vote]) -> Counts:
        found = [vote.preferred for vote in votes]
        items = [vote.item for vote in votes]
        first = sum(p == item.first for p, item in zip(found, items, strict=True))
        ties = found.count(None)
        return cls(first, ties, len(found) - first - ties)

    @property
    def votes(self) -> int:
        return self.first + self.ties + self.second


@dataclass(frozen=True)
class Preference:
    """What one question's votes say of two settings.

    Args:
        question: Of QUESTIONS.
        first: The setting that comes first in the run.
        second: The other one.
        counts: The votes, each a rater's first on a pair.
        prompts: Of how many prompts more was for the first, as much for both, more for the second.
        difference: The mean over prompts of (share of the second - share of the first), a tie as
            half for each.
    """

    question: str
    first: str
    second: str
    counts: Counts
    prompts: Counts
    difference: Difference

    @property
    def decided(self) -> Share:
        """The share of the second among votes that are no ties."""
        return Share(self.counts.second, self.counts.first + self.counts.second)

    @property
    def sign_test(self) -> float:
        """The exact sign test's two-sided p, over prompts."""
        return sign_test(self.prompts.second, self.prompts.first)

    @property
    def words(self) -> str:
        """What the interval by prompt says."""
        said = self.difference.words
        preferred = {"higher": self.second, "lower": self.first}.get(said)
        return said if preferred is None else f"{preferred} is preferred"


@dataclass(frozen=True)
class Strength:
    """A setting among more than two: its log strength in Bradley and Terry's model.

    NaN where there is none: some settings were never preferred to some others. The interval, by
    prompt, is NaN where that is so in any draw of the bootstrap.
    """

    question: str
    setting: str
    strength: float
    low: float
    high: float

    @property
    def short(self) -> str:
        """The strength in short, "-" for none."""
        return "-" if isnan(self.strength) else f"{self.strength:+.2f}"

    @property
    def interval(self) -> str:
        """The interval in short, "-" for none."""
        if isnan(self.low) or isnan(self.high):
            return "-"
        return f"{self.low:+.2f} to {self.high:+.2f}"


@dataclass(frozen=True)
class Agreement:
    """How far raters agree with each other and with themselves on one question.

    Args:
        question: Of QUESTIONS.
        raters: How many voted.
        alpha: Krippendorff's, over pairs of videos; NaN where nobody shares one.
        others: Of two raters' votes on one pair, the share that says the same.
        own: Of votes on pairs that were shown again, the share that says the same.
        left: Of votes that are no ties, the share for the left side.
    """

    question: str
    raters: int
    alpha: float
    others: Share
    own: Share
    left: Share


class PreferenceReport:
    """All that the votes of a run say.

    Args:
        rated: The run.
        questions: What was asked.
        votes: What was answered.

    Raises:
        ValueError: There is no vote.
    """

    def __init__(self, rated: Rated, questions: Sequence[str], votes: Sequence[Vote]) -> None:
        if not votes:
            raise ValueError(
                f"There are no votes in {str(rated.folder)!r} yet: `stas rate {rated.folder}` "
                "serves the page for them."
            )
        self.rated, self.questions, self.votes = rated, tuple(questions), tuple(votes)

    @property
    def raters(self) -> list[str]:
        return sorted({vote.rater for vote in self.votes})

    @property
    def samples(self) -> list[Sample]:
        """Those that were voted on."""
        names = {vote.item.sample for vote in self.votes}
        return [sample for sample in self.rated.samples if sample.name in names]

    @property
    def unit(self) -> str:
        """What counts as independent: "prompts", or "seeds" when there is one prompt alone."""
        return unit_of_pairs(self.samples)

    @cached_property
    def preferences(self) -> list[Preference]:
        """Every question and two settings."""
        return [
            self._preference(question, first, second)
            for question in self.questions
            for first, second in self.rated.pairs
        ]

    @cached_property
    def strengths(self) -> list[Strength]:
        """Every question and setting, where there are more than two settings."""
        if len(self.rated.settings) < 3:
            return []
        return [found for question in self.questions for found in self._strengths(question)]

    @cached_property
    def agreements(self) -> list[Agreement]:
        """Every question."""
        return [self._agreement(question) for question in self.questions]

    def by_prompt(self) -> list[tuple[str, str, str, str, Counts]]:
        """Question, both settings, prompt, or seed of one, and the votes on it."""
        return [
            (each.question, each.first, each.second, unit, Counts.of(votes))
            for each in self.preferences
            for unit, votes in self._units(
                self._first_votes(each.question, each.first, each.second)
            ).items()
        ]

    def _first_votes(self, question: str, *settings: str) -> list[Vote]:
        """Votes that count: of pairs that were shown again the first."""
        return [
            vote
            for vote in self.votes
            if vote.question == question
            and not vote.repeat
            and (not settings or (vote.item.first, vote.item.second) == settings)
        ]

    def _units(self, votes: Iterable[Vote]) -> dict[str, list[Vote]]:
        """Votes by what counts as independent."""
        names = {
            sample.name: sample.prompt if self.unit == "prompts" else f"seed {sample.seed}"
            for sample in self.samples
        }
        found: dict[str, list[Vote]] = {}
        for vote in votes:
            found.setdefault(names[vote.item.sample], []).append(vote)
        return found

    def _preference(self, question: str, first: str, second: str) -> Preference:
        votes = self._first_votes(question, first, second)
        by_sample: dict[str, list[float]] = {}
        for vote in votes:
            by_sample.setdefault(vote.item.sample, []).append(vote.score)
        shares = {
            name: (0.5 - fmean(scores) / 2, 0.5 + fmean(scores) / 2)
            for name, scores in by_sample.items()
        }
        found = difference(question, second, self.samples, shares)
        # As in the difference: a sample is the mean of its raters, a prompt that of its samples.
        prompts: dict[str, list[float]] = {}
        for unit, mine in self._units(votes).items():
            prompts[unit] = [fmean(by_sample[name]) for name in {vote.item.sample for vote in mine}]
        means = [round(fmean(each), 9) for each in prompts.values()]
        signs = Counts(sum(m < 0 for m in means), means.count(0), sum(m > 0 for m in means))
        return Preference(question, first, second, Counts.of(votes), signs, found)

    def _strengths(self, question: str) -> Iterator[Strength]:
        settings = self.rated.settings
        places = {name: place for place, name in enumerate(settings)}
        units = list(self._units(self._first_votes(question)).values())
        wins = torch.zeros(len(units), len(settings), len(settings), dtype=torch.float64)
        for number, votes in enumerate(units):
            for vote in votes:
                first, second = places[vote.item.first], places[vote.item.second]
                wins[number, first, second] += (1 - vote.score) / 2
                wins[number, second, first] += (1 + vote.score) / 2
        generator = torch.Generator().manual_seed(0)
        strengths = bradley_terry(wins.sum(0))
        if not units:
            low = high = strengths
        else:
            drawn = torch.randint(len(units), (DRAWS, len(units)), generator=generator)
            times = torch.nn.functional.one_hot(drawn, len(units)).sum(1).double()
            draws = bradley_terry((times @ wins.flatten(1)).view(-1, *wins.shape[1:]))
            # A draw without strengths leaves NaN, which quantiles keep.
            low, high = (draws.quantile(q, 0) for q in _ends(len(units)))
        for place, setting in enumerate(settings):
            yield Strength(question, setting, *(x[place].item() for x in (strengths, low, high)))

    def _agreement(self, question: str) -> Agreement:
        first = self._first_votes(question)
        by_item: dict[Item, list[str | None]] = {}
        for vote in first:
            by_item.setdefault(vote.item, []).append(vote.preferred)
        others = [a == b for said in by_item.values() for a, b in combinations(said, 2)]
        before = {(vote.rater, vote.item): vote.preferred for vote in first}
        again = [vote for vote in self.votes if vote.question == question and vote.repeat]
        own = [
            before[vote.rater, vote.item] == vote.preferred
            for vote in again
            if (vote.rater, vote.item) in before
        ]
        sides = [vote.preferred == vote.left for vote in (*first, *again) if vote.preferred]
        return Agreement(
            question,
            len({vote.rater for vote in first}),
            krippendorff_alpha(by_item.values()),
            *(Share(sum(each), len(each)) for each in (others, own, sides)),
        )


def write_preference(report: PreferenceReport) -> Path:
    """Write `preference.html`, `preference.csv` and `preference-prompts.csv` into the run's folder.

    Returns:
        The page.
    """
    folder = report.rated.folder
    write_table(folder / TABLE, _rows(report))
    write_table(folder / BY_PROMPT, _prompt_rows(report))
    return write_page(
        folder / PAGE,
        TEMPLATE,
        report=report,
        questions=QUESTIONS,
        draws=DRAWS,
        version=__version__,
    )


def _ends(units: int) -> tuple[float, float]:
    return tail(units), 1 - tail(units)


def _rows(report: PreferenceReport) -> Rows:
    yield [
        "question",
        "first",
        "second",
        "votes",
        "for first",
        "ties",
        "for second",
        "share of second",
        "low",
        "high",
        f"{report.unit} for first",
        f"{report.unit} for both",
        f"{report.unit} for second",
        "sign test p",
        "difference",
        "difference low",
        "difference high",
        "words",
    ]
    for each in report.preferences:
        counts, found = each.counts, each.difference.found
        yield [
            each.question,
            each.first,
            each.second,
            counts.votes,
            counts.first,
            counts.ties,
            counts.second,
            *map(_cell, (each.decided.share, *each.decided.interval)),
            each.prompts.first,
            each.prompts.ties,
            each.prompts.second,
            each.sign_test,
            *((found.difference, found.low, found.high) if found else ("",) * 3),
            each.words,
        ]


def _prompt_rows(report: PreferenceReport) -> Rows:
    yield ["question", "first", "second", report.unit[:-1], "for first", "ties", "for second"]
    for question, first, second, unit, counts in report.by_prompt():
        yield [question, first, second, unit, counts.first, counts.ties, counts.second]


def _cell(value: float) -> Any:
    return value if isfinite(value) else ""
