"""docs/tuning.md is what the simulations gave, and they keep what it says."""

from __future__ import annotations

import json

import pytest

from benchmarks.tuning import ERROR, MARGIN, measure
from docs.make_tuning import PAGE, RESULTS, page

MEASURED = json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "the results have changed: run `make docs`"


def test_false_alarms_are_at_most_five_in_a_hundred_over_a_thousand_null_runs():
    false = [
        row
        for row in MEASURED["rows"]
        if row["method"] == "stas tune"
        and (row["effects"] in ("none", "all worse by 0.5") or (row["guard"] or 0) >= MARGIN)
    ]
    assert len(false) == 7
    assert all(row["runs"] >= 1000 and row["says it helps"] <= ERROR for row in false)


@pytest.mark.slow
def test_the_simulation_gives_what_is_written():
    for noise, effects in (("skewed", "none"), ("normal", "one of 0.6")):
        now = measure(noise, effects, 200)[0]
        then = next(
            row
            for row in MEASURED["rows"]
            if (row["noise"], row["effects"], row["method"]) == (noise, effects, "stas tune")
        )
        assert now["says it helps"] == pytest.approx(then["says it helps"], abs=0.08)
