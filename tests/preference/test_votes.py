"""Votes: kept, kept once, kept through a kill, and never of other videos."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from stas.preference.items import read_rated
from stas.preference.votes import CHOICES, FILE, Rating, Votes, check_rater, kept_rating
from tests.preference.made import OFF, ON, STRONG, make

RATING = Rating(settings=("off", "on"), repeats=0.5)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("votes") / "c").folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "c")


@pytest.fixture
def votes(folder):
    votes = Votes(read_rated(folder), RATING)
    yield votes
    votes.close()


def again(folder, rating=RATING):
    votes = Votes(read_rated(folder), rating)
    found = votes.all(), votes.secret
    votes.close()
    return found


def test_a_vote_is_kept_with_its_side_and_another_answer_replaces_it(votes, folder):
    shown = votes.showings("ann")
    assert [each.repeat for each in shown].count(1) == 2
    votes.add("ann", shown[0], "quality", "left")
    votes.add("ann", shown[0], "motion", "tie")
    votes.add("ann", shown[0], "quality", "right")
    votes.add("bob", votes.showings("bob")[0], "quality", "left")
    kept, secret = again(folder)
    assert (kept, secret) == (votes.all(), votes.secret)
    mine = {vote.question: vote for vote in kept if vote.rater == "ann"}
    assert mine["quality"].preferred == shown[0].right and mine["quality"].left == shown[0].left
    assert mine["motion"].preferred is None
    assert len(kept) == 3
    assert votes.answers("ann") == {(shown[0].item, 0): {"quality": "right", "motion": "tie"}}


def test_the_disk_has_each_vote_before_it_is_answered(votes):
    assert votes._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert votes._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_votes_survive_a_kill(folder):
    code = """
import sys
from pathlib import Path
from stas.preference.items import read_rated
from stas.preference.votes import Rating, Votes
votes = Votes(read_rated(sys.argv[1]), Rating(settings=("off", "on"), repeats=0.5))
number = 0
while True:
    for shown in votes.showings(f"rater {number}"):
        for question in votes.rating.questions:
            votes.add(f"rater {number}", shown, question, "left")
            print("answered", flush=True)
    number += 1
"""
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    answered = 0
    for _ in process.stdout:
        answered += 1
        if answered == 40:
            process.send_signal(signal.SIGKILL)
    process.wait()
    # One more may have been kept than was said.
    assert len(again(folder)[0]) - answered in (0, 1) and answered >= 40


def test_many_threads_and_two_processes_vote_at_once(votes, folder):
    other = Votes(read_rated(folder), RATING)

    def vote(number):
        mine = (votes, other)[number % 2]
        rater = f"rater {number % 8}"
        for shown in mine.showings(rater):
            for question in RATING.questions:
                mine.add(rater, shown, question, CHOICES[number % 3])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vote, range(16)))
    other.close()
    assert len(votes.all()) == 8 * 5 * 3  # each of 8 raters: 3 pairs and 2 repeats, 3 questions


def test_the_same_slot_can_not_hold_two_votes(votes):
    votes.add("ann", votes.showings("ann")[0], "quality", "left")
    with pytest.raises(sqlite3.IntegrityError):
        votes._database.execute("INSERT INTO votes SELECT * FROM votes")


@pytest.mark.parametrize(
    ("question", "choice", "message"),
    [("sharpness", "left", "question must be one of"), ("quality", "up", "choice must be one of")],
)
def test_what_is_no_vote_is_refused(votes, question, choice, message):
    with pytest.raises(ValueError, match=message):
        votes.add("ann", votes.showings("ann")[0], question, choice)
    assert votes.all() == []


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 41, None, 7, "\x00"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="A rater's name has 1 to 40"):
        check_rater(name)


def test_votes_of_a_run_that_was_made_anew_are_refused(votes, folder):
    votes.add("ann", votes.showings("ann")[0], "quality", "left")
    shutil.rmtree(folder / "videos")
    (folder / "comparison.json").unlink()
    other = make(folder.parent / "other", brighter=3).folder
    shutil.copytree(other / "videos", folder / "videos")
    shutil.copy(other / "comparison.json", folder)
    with pytest.raises(ValueError, match=r"votes of other videos: .* was made anew"):
        again(folder)
    # The same pixels are the same videos, whenever they were made.
    shutil.rmtree(folder / "videos")
    same = make(folder.parent / "same").folder
    shutil.copytree(same / "videos", folder / "videos")
    assert len(again(folder)[0]) == 1


def test_votes_of_another_run_are_refused(votes, folder):
    votes.add("ann", votes.showings("ann")[0], "quality", "left")
    votes.close()  # all is in one file then
    other = make(folder.parent / "other", prompts=("a cat",)).folder
    shutil.copy(folder / FILE, other)
    with pytest.raises(ValueError, match=r"votes of other videos: .* is not there or not finished"):
        again(other)
    third = make(folder.parent / "third", (OFF, ON, STRONG)).folder
    shutil.copy(folder / FILE, third)
    with pytest.raises(ValueError, match="votes of another rating: settings"):
        Votes(read_rated(third), Rating(settings=("off", "on", "strong"), repeats=0.5))


def test_a_run_that_goes_on_keeps_its_votes(folder):
    video = folder / "videos" / "a-blue-triangle-seed0-on.json"
    text = video.read_text()
    video.unlink()
    votes = Votes(read_rated(folder), RATING)
    shown = votes.showings("ann")
    votes.add("ann", shown[0], "quality", "left")
    votes.close()
    video.write_text(text)
    votes = Votes(read_rated(folder), RATING)
    assert len(votes.showings("ann")) > len(shown)
    assert {each.key for each in shown if not each.repeat} <= {
        each.key for each in votes.showings("ann")
    }
    assert len(votes.all()) == 1
    votes.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": ("motion",)}, "questions"),
        ({"count": 2}, "count None and not 2"),
        ({"repeats": 0}, "repeats 0.5 and not 0"),
    ],
)
def test_another_rating_of_the_same_videos_is_refused(votes, folder, changes, message):
    votes.add("ann", votes.showings("ann")[0], "motion", "left")
    with pytest.raises(ValueError, match=f"votes of another rating: {message}"):
        again(folder, Rating(**{**vars(RATING), **changes}))
    assert kept_rating(folder) == RATING


@pytest.mark.parametrize(
    "changes",
    [
        {"questions": ()},
        {"questions": ("quality", "quality")},
        {"questions": ("sharpness",)},
        {"count": 0},
        {"count": True},
        {"repeats": 1.5},
        {"repeats": float("nan")},
        {"repeats": "many"},
    ],
)
def test_what_is_no_rating(changes):
    with pytest.raises(ValueError):
        Rating(**{"settings": ("off", "on"), **changes})


def test_a_file_that_holds_no_votes_is_left_as_it_is(folder):
    path = folder / FILE
    for content in (b"not a database, but long enough to look like something" * 9, None):
        path.unlink(missing_ok=True)
        if content is None:
            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE recipes (name TEXT)")
            database.close()
        else:
            path.write_bytes(content)
        before = path.read_bytes()
        for read in (lambda: kept_rating(folder), lambda: again(folder)):
            with pytest.raises(ValueError, match=r"votes\.sqlite is no file of votes"):
                read()
        if content is not None:
            assert path.read_bytes() == before


def test_a_rating_that_nobody_voted_in_gives_way(votes, folder):
    assert kept_rating(folder) is None
    other = Votes(read_rated(folder), Rating(settings=("off", "on"), questions=("motion",)))
    assert other.secret == votes.secret
    # Whoever serves the first one still is told.
    with pytest.raises(ValueError, match=r"another rating in .*: start this one again"):
        votes.add("ann", votes.showings("ann")[0], "quality", "left")
    other.add("ann", other.showings("ann")[0], "motion", "left")
    assert kept_rating(folder) == other.rating
    other.close()


def test_an_empty_file_of_a_process_that_was_killed_is_begun_anew(folder):
    (folder / FILE).write_bytes(b"")
    assert kept_rating(folder) is None
    assert again(folder)[0] == []
