"""`stas rate`: what it refuses, and --report. Its page is tested in tests/preference."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from stas.preference.items import read_rated
from stas.preference.votes import FILE, Rating, Votes
from tests.command import files
from tests.preference.made import make


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("rate") / "c").folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "c")


def voted(folder):
    votes = Votes(read_rated(folder), Rating(settings=("off", "on"), questions=("motion",)))
    for rater in ("ann", "bob"):
        for shown in votes.showings(rater):
            votes.add(rater, shown, "motion", "left" if shown.left == "on" else "right")
    votes.close()


def test_the_report(run, folder):
    voted(folder)
    code, out, err = run("rate", "c", "--report")
    assert code == 0, err
    assert "too few pairs to tell" in out and "c/preference.html" in out
    assert "100% (61% to 100%)" in out  # of 6 votes
    assert "motion: raters 2, alpha -, agree with each other 100%" in out
    assert {"preference.html", "preference.csv", "preference-prompts.csv"} <= set(files(folder))
    # Votes that asked other things are not gone on with.
    code, _, err = run("rate", "c", "--question", "quality", "--port", "0")
    assert code == 1 and "votes of another rating: questions" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c", "--report"], "There are no votes in 'c'"),
        (["none"], "'none' holds no comparison, no study and no pair"),
        (["c", "--run", "on"], "Two runs at least are compared, but got ['on']"),
        (["c", "--run", "on", "--run", "nothing"], "There is no run 'nothing' in 'c'"),
        (["c", "--question", "taste"], "question must be one of quality, motion, alignment"),
    ],
)
def test_bad_input_gets_a_clear_error_and_changes_nothing(run, folder, arguments, message):
    before = files(folder)
    code, _, err = run("rate", *arguments)
    assert code == 1 and message in err and "Traceback" not in err
    assert files(folder) == before


def test_report_takes_no_other_options(run, folder):
    code, _, err = run("rate", "c", "--report", "--count", "3")
    assert code == 2 and "takes none of the others" in err


def test_a_port_in_use_is_said_and_leaves_no_votes(run, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("rate", "c", "--port", str(port))
    assert code == 1 and f"Can't serve on port {port}" in err and "Traceback" not in err


def test_votes_that_are_none_are_said(run, folder):
    (folder / FILE).write_text("no database, and long enough to look like something" * 9)
    code, _, err = run("rate", "c", "--report")
    assert code == 1 and "is no file of votes" in err and "Traceback" not in err


def test_a_run_of_one_setting_is_refused(run, tmp_path):
    record = (make(tmp_path / "c").folder / "comparison.json").read_text()
    (tmp_path / "c" / "comparison.json").write_text(record.replace('"on"', '"off"'))
    code, _, err = run("rate", "c", "--run", "off")
    assert code == 1 and "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_it_with_130(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "stas", "rate", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert "Pairs to compare: 3. Open http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Stopped" in err and "Traceback" not in err
