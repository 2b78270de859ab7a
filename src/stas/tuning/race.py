"""Racing settings against steering off on paired numbers: pure statistics, without videos.

Two stages. The race spends its part of the budget on finding the most promising setting: the
weaker ones are dropped as phases end (Karnin, Koren and Somekh, 2013), or earlier where the
evidence says so. The confirmation tests that setting alone, on prompts that the race never saw, so
that the number of settings does not enter. It looks after every round, and its interval holds at
all looks at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, isfinite, log2, nan, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Literal, get_args

from stas.activations.intervals import MeanInterval, always_valid, always_valid_t
from stas.checks import expect, is_whole

Better = Literal["higher", "lower"]
Stage = Literal["race", "confirmation", "finished"]
Numbers = Mapping[str, Mapping[str, float]]  # of one sample, by setting, then by measure
FEWEST_PAIRS = 8  # fewer never decide a confirmation
POWER = 0.8  # with which the smallest effect that is told would have been seen


@dataclass(frozen=True)
class Objective:
    """A measure and which way is better.

    Args:
        measure: Its name, as a comparison's table has it.
        better: "higher" or "lower".
        margin: Of a guard, how much worse is still allowed, in the measure's units; None for the
            measure that decides.

    Raises:
        ValueError: No direction, or a margin that is not above 0.

    Example:
        >>> Objective.read("flicker:lower:0.5")
        Objective(measure='flicker', better='lower', margin=0.5)
    """

    measure: str
    better: Better
    margin: float | None = None

    def __post_init__(self) -> None:
        expect(
            self.better in get_args(Better),
            f"say which way {self.measure!r} is better, higher or lower, but got {self.better!r}",
        )
        fits = self.margin is None or (isfinite(self.margin) and self.margin > 0)
        expect(fits, f"the margin of {self.measure!r} must be above 0, but got {self.margin}")

    @classmethod
    def read(cls, text: str) -> Objective:
        """MEASURE:higher or MEASURE:lower; for a guard with its margin behind it.

        Raises:
            ValueError: It is not that.
        """
        measure, _, better = text.rpartition(":")
        margin = None
        if better not in get_args(Better):
            try:
                margin = float(better)
            except ValueError:
                margin = None
            measure, _, better = measure.rpartition(":")
        if not measure or better not in get_args(Better):
            raise ValueError(
                f"Which way is better is never guessed: expected MEASURE:higher or MEASURE:lower, "
                f"for a guard with its margin, as in MEASURE:lower:0.5, but got {text!r}."
            )
        return cls(measure, better, margin)  # type: ignore[arg-type]  # it was checked

    def gain(self, off: float, on: float) -> float:
        """How much better `on` is; below 0 where it is worse."""
        return on - off if self.better == "higher" else off - on


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What decides a race, all of it before the first number.

    Args:
        objective: The measure that decides.
        guards: Measures that must not get worse by more than their margins. All must hold beside
            the objective, each at the full level: no correction is due (an intersection-union
            test).
        budget: The most videos, those without steering among them.
        prompts: How many prompts there are. Each is used once; half of them are kept for the
            confirmation.
        error: The chance of saying that a setting helps which does not.
        round: Samples between two looks.
        share: The confirmation's part of the budget.

    Raises:
        ValueError: A value is out of its range; the message says what was expected.
    """

    objective: Objective
    guards: tuple[Objective, ...] = ()
    budget: int
    prompts: int
    error: float = 0.05
    round: int = 4
    share: float = 0.5

    def __post_init__(self) -> None:
        for guard in self.guards:
            expect(
                guard.margin is not None,
                f"the guard {guard.measure!r} needs a margin, as in {guard.measure}:"
                f"{guard.better}:0.5: how much worse is still allowed",
            )
        expect(self.objective.margin is None, "the measure that decides has no margin")
        names = [each.measure for each in (self.objective, *self.guards)]
        expect(len(set(names)) == len(names), "a measure is named twice")
        expect(0 < self.error < 0.5, f"error must be between 0 and 0.5, but got {self.error}")
        expect(0 < self.share < 1, f"share must be between 0 and 1, but got {self.share}")
        expect(is_whole(self.round, 1), f"round must be 1 or more, but got {self.round}")
        expect(
            self.prompts >= 2 * FEWEST_PAIRS,
            f"a prompt counts once and half of them are kept for the confirmation: expected "
            f"{2 * FEWEST_PAIRS} prompts or more, but got {self.prompts}",
        )

    def smallest_budget(self, settings: int) -> int:
        """The fewest videos with which so many settings can be raced and the winner confirmed."""
        race = (settings + 1) * self.round if settings > 1 else 0
        confirmation = 2 * FEWEST_PAIRS
        return max(race + confirmation, ceil(race / (1 - self.share)))

    @property
    def race_budget(self) -> float:
        """How many videos the race may have; the confirmation always has enough to decide."""
        return min((1 - self.share) * self.budget, self.budget - 2 * FEWEST_PAIRS)


@dataclass(frozen=True)
class Drop:
    """A setting that left the race.

    Args:
        setting: Its name.
        samples: After how many.
        why: In words.
    """

    setting: str
    samples: int
    why: str


@dataclass(frozen=True)
class Outcome:
    """How a race ended.

    Args:
        winner: The setting that beats off; None where nothing does at this budget.
        words: That in a sentence.
        smallest: The effect of the objective that this budget would have shown with a chance of
            80 %; NaN where no pair says how they vary.
    """

    winner: str | None
    words: str
    smallest: float


@dataclass
class Race:
    """A race, told the numbers of one sample after another. The same numbers, the same race.

    Args:
        settings: Names, without "off".
        rules: What decides.

    Raises:
        ValueError: No setting, or a budget that can't decide.

    Example:
        >>> rules = Rules(objective=Objective("score", "higher"), budget=40, prompts=40)
        >>> race = Race(["scale=1", "scale=2"], rules)
        >>> race.stage, race.alive
        ('race', ['scale=1', 'scale=2'])
    """

    settings: Sequence[str]
    rules: Rules
    alive: list[str] = field(init=False)
    spent: int = field(init=False, default=0)
    drops: list[Drop] = field(init=False, default_factory=list)
    raced: list[Numbers] = field(init=False, default_factory=list)
    confirmed: list[Numbers] = field(init=False, default_factory=list)
    outcome: Outcome | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        expect(bool(self.settings), "there is no setting to compare with off")
        least = self.rules.smallest_budget(len(self.settings))
        expect(
            self.rules.budget >= least,
            f"a budget of {self.rules.budget} videos can't decide between off and "
            f"{len(self.settings)} settings: expected {least} or more, or fewer settings",
        )
        self.alive = list(self.settings)
        count = len(self.settings)
        rounds = int(self.rules.race_budget // ((count + 1) * self.rules.round))
        self._phases = max(1, min(ceil(log2(count)) if count > 1 else 1, rounds))
        self._phase = 0
        self._planned = 0

    @property
    def stage(self) -> Stage:
        if self.outcome is not None:
            return "finished"
        return "race" if len(self.alive) > 1 else "confirmation"

    def next_round(self) -> int:
        """How many samples, under off and each of `alive`, come next; 0 when it is finished."""
        if self.outcome is not None:
            return 0
        done, half = len(self.raced), self.rules.prompts // 2
        if self.stage == "race":
            return min(self.rules.round, half - done)
        limit = self.confirmation_pairs
        return min(self.rules.round, limit - len(self.confirmed))

    @property
    def confirmation_pairs(self) -> int:
        """The most pairs that the confirmation may have; known once the race is over."""
        before = self.spent - 2 * len(self.confirmed)
        half = self.rules.prompts - self.rules.prompts // 2
        return min((self.rules.budget - before) // 2, half)

    def add(self, samples: Sequence[Numbers]) -> None:
        """Take in the samples of a round, look at them, drop and decide.

        Args:
            samples: As many as `next_round` says: the numbers of "off" and each of `alive`. A
                number that is missing or not finite leaves that pair out.

        Raises:
            ValueError: A measure gave no number for more than half of the pairs, or the objective
                is the same in every video: it can't decide.
        """
        self.spent += len(samples) * (len(self.alive) + 1)
        if self.stage == "race":
            self.raced += samples
            self._check()
            self._drop_by_evidence()
            self._end_phases()
            if not self.alive:
                self._nothing("every setting was dropped in the race")
            elif self._race_was_lost():
                self._nothing(f"{self.alive[0]}, the best of the race, was no better than off")
        else:
            self.confirmed += samples
            self._check()
            self._look()

    def gains(
        self, setting: str, objective: Objective, samples: Sequence[Numbers] | None = None
    ) -> list[float]:
        """How much better a setting was than off, pair by pair; of the race by default."""
        measure = objective.measure
        pairs = (
            (each["off"].get(measure, nan), each[setting].get(measure, nan))
            for each in (self.raced if samples is None else samples)
            if setting in each
        )
        return [objective.gain(off, on) for off, on in pairs if isfinite(off) and isfinite(on)]

    def race_interval(self, setting: str, objective: Objective | None = None) -> MeanInterval:
        """What the race says of a setting; for all settings at once."""
        error = self.rules.error / len(self.settings)
        return self._interval(setting, objective, self.raced, error, len(self.raced))

    def confirmation_interval(self, objective: Objective | None = None) -> MeanInterval:
        """What the confirmation says of the setting that won the race."""
        name, error = self.alive[0], self.rules.error
        return self._interval(name, objective, self.confirmed, error, self._planned)

    def _interval(
        self,
        setting: str,
        objective: Objective | None,
        samples: Sequence[Numbers],
        error: float,
        planned: int,
    ) -> MeanInterval:
        objective = objective or self.rules.objective
        # A guard that never changes holds, unless pairs are so few that one more could break it.
        return always_valid(
            self.gains(setting, objective, samples),
            error,
            max(planned, FEWEST_PAIRS),
            unlike=-(objective.margin or 0.0),
        )

    def _race_was_lost(self) -> bool:
        """Whether the best setting was no better than off, in enough pairs to leave it at that."""
        gains = self.gains(self.alive[0], self.rules.objective)
        return len(self.alive) == 1 and len(gains) >= FEWEST_PAIRS and fmean(gains) <= 0

    def _mean(self, setting: str) -> float:
        gains = self.gains(setting, self.rules.objective)
        return fmean(gains) if gains else -inf

    def _check(self) -> None:
        every = [*self.raced, *self.confirmed]
        enough = len(every) >= FEWEST_PAIRS
        for each in (self.rules.objective, *self.rules.guards):
            values = [
                numbers.get(each.measure, nan) for sample in every for numbers in sample.values()
            ]
            known = [value for value in values if isfinite(value)]
            if not known or (enough and 2 * len(known) < len(values)):
                raise ValueError(
                    f"The measure {each.measure!r} gave a number for {len(known)} of "
                    f"{len(values)} videos, too few to decide by it. Mend it, or name another."
                )
            if enough and each.margin is None and len(set(values)) == 1:
                raise ValueError(
                    f"The measure {each.measure!r} is {known[0]:g} in every video, so nothing can "
                    "be told by it. Name another."
                )

    def _drop_by_evidence(self) -> None:
        leader = max(self.alive, key=self._mean)
        objective, measure = self.rules.objective, self.rules.objective.measure
        error = self.rules.error / len(self.settings)
        for name in list(self.alive):
            why = None
            if self.race_interval(name).high <= 0:
                why = "not better than off"
            for guard in self.rules.guards:
                if self.race_interval(name, guard).high < -(guard.margin or 0):
                    why = f"{guard.measure} got worse"
            behind = [
                objective.gain(each[name].get(measure, nan), each[leader].get(measure, nan))
                for each in self.raced
            ]
            behind = [value for value in behind if isfinite(value)]
            if name != leader and always_valid(behind, error, len(self.raced)).low > 0:
                why = f"worse than {leader}"
            if why is not None:
                self._drop(name, why)

    def _end_phases(self) -> None:
        """Keep the best where a phase's videos are spent, or the prompts are."""
        count, rules = len(self.settings), self.rules
        out_of_prompts = len(self.raced) >= rules.prompts // 2
        while len(self.alive) > 1:
            left = (self._phase + 1) * rules.race_budget / self._phases - self.spent
            if left >= rules.round * (len(self.alive) + 1) and not out_of_prompts:
                return
            self._phase += 1
            last = out_of_prompts or self._phase == self._phases
            keep = 1 if last else max(1, round(count ** (1 - self._phase / self._phases)))
            ranked = sorted(self.alive, key=self._mean, reverse=True)
            for name in ranked[keep:]:
                self._drop(name, "behind when a phase ended")

    def _drop(self, name: str, why: str) -> None:
        self.alive.remove(name)
        self.drops.append(Drop(name, len(self.raced), why))

    def _look(self) -> None:
        """Decide, or let the confirmation go on."""
        self._planned = self.confirmation_pairs
        found = self.confirmation_interval()
        guards = [(each, self.confirmation_interval(each)) for each in self.rules.guards]
        name, measure = self.alive[0], self.rules.objective.measure
        over = len(self.confirmed) >= self._planned
        if found.n >= FEWEST_PAIRS:
            worse = [each for each, at in guards if at.high < -(each.margin or 0)]
            kept = all(at.low > -(each.margin or 0) for each, at in guards)
            if found.low > 0 and kept:
                words = f"{name} beats off: {measure} is better by {found.mean:.3g}"
                self.outcome = Outcome(name, f"{words}.", self.smallest_effect())
                return
            if worse:
                self._nothing(f"{name} makes {worse[0].measure} worse")
                return
            if found.high <= 0:
                self._nothing(f"{name} was not better on new prompts")
                return
        if over:
            unsure = (
                "" if found.low <= 0 or not guards else ", because a guard is not known to hold"
            )
            self._nothing(f"{name} was not confirmed on new prompts{unsure}")

    def _nothing(self, why: str) -> None:
        smallest = self.smallest_effect()
        seen = (
            f" An effect of {smallest:.3g} would have been seen with a chance of {POWER:.0%}."
            if isfinite(smallest)
            else ""
        )
        self.outcome = Outcome(None, f"Nothing beats off at this budget: {why}.{seen}", smallest)

    def smallest_effect(self) -> float:
        """The effect that the confirmation would have shown with a chance of 80 %."""
        objective = self.rules.objective
        gains = self.gains(self.alive[0], objective, self.confirmed) if self.alive else []
        every = [self.gains(name, objective) for name in self.settings]
        known = [each for each in ([gains] if len(gains) > 2 else every) if len(each) > 1]
        pairs = self.confirmation_pairs
        if not known or pairs < FEWEST_PAIRS:
            return nan
        deviation = fmean(stdev(each) for each in known)
        if deviation == 0:
            return nan
        threshold = always_valid_t(pairs, self.rules.error, pairs) + NormalDist().inv_cdf(POWER)
        return threshold * deviation / sqrt(pairs)
