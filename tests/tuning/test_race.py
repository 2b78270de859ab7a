"""Races on numbers that are drawn: what wins, what is dropped, what is refused."""

from __future__ import annotations

import math
import random

import pytest

from stas.activations.intervals import always_valid
from stas.tuning.page import draw_intervals, rows
from stas.tuning.race import FEWEST_PAIRS, Objective, Race, Rules
from stas.tuning.run import evidence

SCORE = Objective("score", "higher")


def rules(**changes):
    return Rules(**{"objective": SCORE, "budget": 200, "prompts": 200} | changes)


def play(race, effects, *, noise=0.7, seed=0, guard=None):
    """Race on numbers of planted effects; `guard` is by how much each setting changes it."""
    draw = random.Random(seed)
    while count := race.next_round():
        race.add(
            [
                {
                    name: {
                        "score": draw.gauss(effects.get(name, 0), noise),
                        "guard": draw.gauss(0 if name == "off" else guard or 0, noise),
                        "same": 1.0,
                    }
                    for name in ("off", *race.alive)
                }
                for _ in range(count)
            ]
        )
    return race


def test_a_large_effect_wins_with_fewer_videos_than_the_budget():
    race = play(Race(["a", "b", "c"], rules()), {"b": 2.0})
    assert race.outcome.winner == "b"
    assert race.spent < 120
    assert race.confirmation_interval().low > 0
    assert {drop.setting for drop in race.drops} == {"a", "c"}


def test_nothing_beats_off_and_the_smallest_effect_is_told():
    outcomes = [play(Race(["a", "b"], rules()), {}, seed=seed).outcome for seed in range(40)]
    assert sum(outcome.winner is not None for outcome in outcomes) <= 4
    lost = next(outcome for outcome in outcomes if outcome.winner is None)
    assert "Nothing beats off at this budget" in lost.words
    assert 0.3 < lost.smallest < 1.5


def test_the_smallest_effect_is_seen_about_as_often_as_it_says():
    smallest = next(
        outcome.smallest
        for seed in range(20)
        if (outcome := play(Race(["a"], rules(budget=80)), {}, seed=seed).outcome).winner is None
    )
    seen = [
        play(Race(["a"], rules(budget=80)), {"a": smallest}, seed=seed).outcome.winner
        for seed in range(60)
    ]
    assert seen.count("a") / 60 > 0.65


def test_lower_is_better_where_it_is_said():
    downwards = rules(objective=Objective("score", "lower"))
    assert play(Race(["a", "b"], downwards), {"a": -2.0, "b": 2.0}).outcome.winner == "a"
    assert play(Race(["a", "b"], rules()), {"a": -2.0, "b": 2.0}).outcome.winner == "b"


def test_a_setting_that_breaks_a_guard_does_not_win():
    guarded = rules(guards=(Objective("guard", "higher", 0.5),))
    broken = play(Race(["a"], guarded), {"a": 2.0}, guard=-2.0).outcome
    assert broken.winner is None and "guard" in broken.words
    assert play(Race(["a"], guarded), {"a": 2.0}, guard=0.0).outcome.winner == "a"


def test_interval_holds_at_all_looks_at_once():
    draw = random.Random(0)
    left = narrower = 0
    for _ in range(400):
        values = [draw.gauss(3, 2) for _ in range(60)]
        looks = (always_valid(values[:n], 0.05, 30) for n in range(2, 61))
        left += any(not look.low <= 3 <= look.high for look in looks)
        # Twice its standard error is what a single look would ask for.
        means = (always_valid(values[:n], 0.05, 30) for n in range(2, 61))
        narrower += any(abs(m.mean - 3) > 2 * m.deviation / m.n**0.5 for m in means)
    assert left / 400 <= 0.05 < narrower / 400


def test_the_same_numbers_make_the_same_race():
    first, second = (play(Race(["a", "b", "c"], rules()), {"a": 0.5}, seed=3) for _ in range(2))
    assert (first.drops, first.outcome) == (second.drops, second.outcome)


def test_budget_and_prompts_are_never_exceeded():
    for seed in range(20):
        race = play(Race(list("abcde"), rules(budget=90, prompts=40)), {"a": 0.4}, seed=seed)
        assert race.spent <= 90
        assert len(race.raced) <= 20 and len(race.confirmed) <= 20


def test_a_constant_measure_is_an_error():
    race = Race(["a"], rules())
    with pytest.raises(ValueError, match=r"'score' is 1 in every video"):
        for _ in range(3):
            race.add([{"off": {"score": 1.0}, "a": {"score": 1.0}}] * race.next_round())


def test_numbers_that_are_missing_leave_their_pair_out_until_they_are_too_many():
    race = Race(["a"], rules())
    race.add(
        [{"off": {"score": 0.0}, "a": {"score": 1.0}}] * 3
        + [{"off": {"score": math.nan}, "a": {"score": 1.0}}]
    )
    assert race.confirmation_interval().n == 3
    with pytest.raises(ValueError, match=r"gave a number for 0 of 8 videos"):
        Race(["a"], rules()).add([{"off": {}, "a": {}}] * 4)
    with pytest.raises(ValueError, match=r"gave a number for 7 of 16 videos"):
        race.add([{"off": {}, "a": {}}] * 4)


def test_every_setting_may_be_dropped_in_the_race():
    guarded = rules(guards=(Objective("guard", "higher", 0.5),), budget=400)
    race = play(Race(["a", "b"], guarded), {"a": -4.0, "b": -4.0}, noise=0.2)
    assert race.outcome.winner is None and not race.alive and not race.confirmed
    assert [drop.why for drop in race.drops] == ["not better than off"] * 2
    assert race.spent < 60
    assert evidence(race)["confirmation"] == {}
    assert {row[1] for row in rows(race)} == {"race"}
    draw_intervals(race)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": 15}, "expected 16 prompts or more, but got 15"),
        ({"guards": (Objective("guard", "lower"),)}, "needs a margin, as in guard:lower:0.5"),
        ({"guards": (Objective("score", "lower", 1.0),)}, "named twice"),
        ({"error": 0.7}, "between 0 and 0.5"),
    ],
)
def test_rules_are_checked(changes, said):
    with pytest.raises(ValueError, match=said):
        rules(**changes)


def test_a_budget_that_cant_decide_is_refused_and_the_smallest_is_told():
    least = rules().smallest_budget(3)
    with pytest.raises(ValueError, match=f"expected {least} or more"):
        Race(["a", "b", "c"], rules(budget=least - 1))
    race = play(Race(["a", "b", "c"], rules(budget=least)), {"a": 5.0}, noise=0.1)
    assert race.outcome.winner == "a"
    assert len(race.confirmed) >= FEWEST_PAIRS


def test_direction_is_required():
    with pytest.raises(ValueError, match="never guessed: expected MEASURE:higher"):
        Objective.read("motion")
    assert Objective.read("a: b:lower") == Objective("a: b", "lower")


def test_numbers_that_are_all_alike():
    """Eight that say the same are enough to tell; zeros never are, and fewer tell little."""
    eight, three = always_valid([1.0] * 8, 0.05, 8), always_valid([1.0] * 3, 0.05, 8)
    assert eight.low > 0 and eight.mean == 1 <= eight.high and eight.deviation == 0
    assert three.low < 0 and always_valid([0.0] * 30, 0.05, 8).low == -math.inf
    assert always_valid([-1.0] * 8, 0.05, 8).high < 0


def test_no_effect_is_claimed_to_be_seen_where_pairs_dont_vary():
    rules = Rules(objective=Objective("x", "higher"), budget=200, prompts=40)
    race = Race(["a", "b"], rules)
    while count := race.next_round():
        same = {"x": float(race.spent)}  # it varies, but never by steering
        race.add([dict.fromkeys(["off", *race.alive], same)] * count)
    assert race.outcome.winner is None and "would have been seen" not in race.outcome.words


def test_a_guard_that_never_changes_holds():
    race = play(Race(["a", "b"], rules(guards=(Objective("same", "higher", 0.1),))), {"a": 3.0})
    assert race.outcome.winner == "a"


@pytest.mark.parametrize(("share", "size", "settings"), [(0.2, 4, 3), (0.5, 1, 2), (0.01, 1, 2)])
def test_the_smallest_budget_can_decide(share, size, settings):
    names = [str(number) for number in range(settings)]
    least = rules(share=share, round=size).smallest_budget(settings)
    enough = rules(share=share, round=size, budget=least, prompts=4000)
    assert play(Race(names, enough), {"1": 100.0}).outcome.winner == "1"
    with pytest.raises(ValueError, match=f"expected {least} or more"):
        Race(names, rules(share=share, round=size, budget=least - 1))


def test_evidence_after_a_measure_failed_in_the_confirmation():
    race = Race(["a"], rules(budget=80))
    sample = {"off": {"score": 0.0, "guard": 0.0}, "a": {"score": 1.0, "guard": 0.0}}
    with pytest.raises(ValueError, match="gave a number for"):
        race.add([{name: {} for name in sample}] * race.next_round())
    assert race.confirmation_interval().n == 0
