"""What the votes say: counted by hand, and by prompt."""

from __future__ import annotations

import csv
import shutil
from math import isnan, log

import pytest

from stas.preference.items import Item, read_rated
from stas.preference.report import PreferenceReport, Share, write_preference
from stas.preference.votes import QUESTIONS, Vote
from tests.preference.made import OFF, ON, STRONG, make

MANY = tuple(f"prompt {number}" for number in range(8))


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    return read_rated(make(tmp_path_factory.mktemp("r") / "c", prompts=MANY, seeds=(0, 1)).folder)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t") / "c"
    return read_rated(make(folder, (OFF, ON, STRONG), prompts=MANY).folder)


def vote(rated, place, preferred, rater="ann", *, repeat=0, left="off", pair=("off", "on")):
    item = Item(rated.samples[place].name, *pair)
    return Vote(rater, item, "quality", repeat, left, preferred)


def report(rated, votes):
    return PreferenceReport(rated, ["quality"], votes)


def test_counts_shares_and_signs(rated):
    # Samples 2 n and 2 n + 1 are the seeds of prompt n.
    votes = [vote(rated, place, "on") for place in range(10)]
    votes += [vote(rated, 10, "off"), vote(rated, 11, "on")]  # a tie of its prompt
    votes += [vote(rated, 12, None), vote(rated, 13, None)]
    votes += [vote(rated, 14, "off")]
    votes += [
        vote(rated, 0, "off", "bob"),
        vote(rated, 0, "off", repeat=1),
    ]  # which counts for none
    (found,) = report(rated, votes).preferences
    assert (found.counts.first, found.counts.ties, found.counts.second) == (3, 2, 11)
    assert (found.decided.successes, found.decided.trials) == (11, 14)
    assert (found.prompts.first, found.prompts.ties, found.prompts.second) == (1, 2, 5)
    assert found.sign_test == pytest.approx(2 * (1 + 6) / 2**6)
    # Prompt 0: one seed 0 and one 1, so half; by hand over 8 prompts.
    assert found.difference.found.difference == pytest.approx((0.5 + 4 * 1 + 0 + 0 - 1) / 8)
    assert found.difference.found.pairs == 8
    by_prompt = {row[3]: row[4] for row in report(rated, votes).by_prompt()}
    assert (by_prompt["prompt 0"].first, by_prompt["prompt 0"].second) == (1, 2)
    assert by_prompt["prompt 6"].ties == 2


def test_more_raters_on_the_same_prompts_are_no_more_prompts(rated):
    one = [vote(rated, place, "on" if place % 4 else "off") for place in range(16)]
    many = [
        Vote(f"rater {n}", v.item, v.question, 0, v.left, v.preferred)
        for v in one
        for n in range(9)
    ]
    alone, together = (report(rated, votes).preferences[0] for votes in (one, many))
    assert together.sign_test == alone.sign_test
    assert together.difference == alone.difference
    assert together.counts.votes == 9 * alone.counts.votes


def test_words(rated):
    def words(votes):
        return report(rated, votes).preferences[0].words

    assert words([vote(rated, place, "on") for place in range(16)]) == "on is preferred"
    assert words([vote(rated, place, "off") for place in range(16)]) == "off is preferred"
    assert words([vote(rated, place, None) for place in range(16)]) == "no difference shown"
    assert words([vote(rated, place, "on") for place in range(4)]) == "too few pairs to tell"
    with pytest.raises(ValueError, match="There are no votes in"):
        report(rated, [])
    other = PreferenceReport(rated, ["quality", "motion"], [vote(rated, 0, "on")]).preferences[1]
    assert other.words == "no number" and str(other.decided) == "-" and other.sign_test == 1


def test_agreement_with_others_and_with_oneself(rated):
    votes = [vote(rated, place, "on") for place in range(4)]
    votes += [vote(rated, place, "on", "bob", left="on") for place in range(3)]
    votes += [vote(rated, 3, None, "bob")]
    votes += [vote(rated, 0, "on", repeat=1, left="on"), vote(rated, 1, None, repeat=1, left="on")]
    votes += [vote(rated, 9, "on", repeat=1)]  # whose first time is not there
    (found,) = report(rated, votes).agreements
    assert found.raters == 2
    assert (found.others.successes, found.others.trials) == (3, 4)
    assert (found.own.successes, found.own.trials) == (1, 2)
    # Of 9 that are no ties: bob's 3 and the repeat with "on" on the left.
    assert (found.left.successes, found.left.trials) == (4, 9)
    # 7 of 8 values are "on": two disagreements of 8 observed, and 2 * 7 of 56 by chance.
    assert found.alpha == pytest.approx(1 - (2 / 8) / (14 / 56))
    assert str(Share(3, 4)) == "75% (30% to 95%)"


def test_strengths_of_three_settings(three):
    votes = []
    for place in range(8):
        for pair, better in ((("off", "on"), 6), (("on", "strong"), 5), (("off", "strong"), 7)):
            votes.append(vote(three, place, pair[place < better], pair=pair))
    found = report(three, votes).strengths
    assert [each.setting for each in found] == ["off", "on", "strong"]
    assert found[0].strength < found[1].strength < found[2].strength
    assert sum(each.strength for each in found) == pytest.approx(0, abs=1e-6)
    # Two settings alone: the log odds; one that never lost has no strength.
    votes = [vote(three, n, "on" if n < 6 else "off", pair=("off", "on")) for n in range(8)]
    votes += [vote(three, n, "strong", pair=("on", "strong")) for n in range(8)]
    assert all(isnan(each.strength) for each in report(three, votes).strengths)
    votes += [vote(three, n, ("on", "strong")[n % 2], "bob", pair=("on", "strong")) for n in (0, 1)]
    strengths = [each.strength for each in report(three, votes).strengths]
    assert strengths[1] - strengths[0] == pytest.approx(log(3), abs=1e-5)


def test_the_interval_of_strengths_holds_the_strength(three):
    votes = [
        vote(three, place, pair[(place + number + rater) % 3 != 0], f"rater {rater}", pair=pair)
        for rater in range(4)
        for place in range(8)
        for number, pair in enumerate((("off", "on"), ("on", "strong"), ("off", "strong")))
    ]
    found = report(three, votes).strengths
    assert all(each.low < each.strength < each.high for each in found)
    assert found == report(three, votes).strengths
    assert report(three, votes[:1]).preferences[0].difference.interval == "-"


def test_two_settings_need_no_scale(rated):
    assert report(rated, [vote(rated, 0, "on")]).strengths == []


def test_seeds_of_one_prompt_are_the_pairs(tmp_path):
    rated = read_rated(make(tmp_path / "c", prompts=("a cat",), seeds=range(7)).folder)
    found = report(rated, [vote(rated, place, "on") for place in range(7)])
    assert found.unit == "seeds" and found.preferences[0].prompts.second == 7
    assert found.by_prompt()[0][3] == "seed 0"


def test_the_files(three, tmp_path):
    folder = shutil.copytree(three.folder, tmp_path / "c")
    rated = read_rated(folder)
    votes = [
        vote(rated, place, "on", rater, left=("off", "on")[place % 2])
        for place in range(8)
        for rater in ("ann <i>", "bob")
    ]
    page = write_preference(PreferenceReport(rated, list(QUESTIONS), votes)).read_text()
    assert "on is preferred" in page and "Bradley and Terry" in page and "<i>" not in page
    with (folder / "preference.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert (rows[0]["for second"], rows[0]["votes"], rows[0]["words"]) == (
        "16",
        "16",
        "on is preferred",
    )
    assert float(rows[0]["sign test p"]) == pytest.approx(2 / 2**8)
    assert rows[-1]["share of second"] == "" and rows[-1]["words"] == "no number"
    with (folder / "preference-prompts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["for second"] for row in rows} == {"2"}
