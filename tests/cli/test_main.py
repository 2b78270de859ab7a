"""The whole command line: help, version, errors, how much is said, where there is little room."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import stas
from stas.cli.main import app

SMALL = ("generate", "a red circle", "--size", "32x32", "--frames", "5", "--steps", "2")
COMMANDS = """generate record plot compare study tune rate app reproduce config models profile bench
profile-list profile-show profile-delete bench-setup bench-doctor bench-make bench-score bench-table
"""


def test_version_and_help(run):
    assert run("--version") == (0, f"stas {stas.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    assert "generate" in out and "models" in out


@pytest.mark.parametrize("command", COMMANDS.split())
def test_help_has_room_in_less_than_80_columns(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "78")
    code, out, _ = run(*command.split("-"), "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 78 and "…" not in out


def test_paragraphs_of_help_break_where_the_terminal_ends():
    for each in app.registered_commands:
        assert not re.search(r"[^\n]\n[^\n]", each.callback.__doc__), each.callback.__name__


def test_a_traceback_can_be_asked_for(run):
    assert "Traceback" not in run("generate", "x", "--scale", "nan")[2]
    assert "Traceback" in run("generate", "x", "--scale", "nan", "--verbose")[2]


def test_quiet_says_results_and_errors_alone(run, tmp_path):
    code, out, err = run(*SMALL, "-o", "a.mp4", "--quiet")
    assert (code, err) == (0, "")
    assert "a.mp4 (5 frames" in out
    code, out, err = run(*SMALL, "-o", "a.mp4", "-q")
    assert (code, out) == (1, "") and "exists already" in err
    code, out, err = run(*SMALL, "-o", "b.mp4")
    assert "step 2 of 2" in err  # it is not quiet for good
    code, _, err = run(*SMALL, "-q", "-v")
    assert code == 1 and "are opposites" in err


def test_verbose_lets_the_libraries_speak(tmp_path):
    command = [sys.executable, "-m", "stas", *SMALL, "-o", "a.mp4"]
    said = {
        option: subprocess.run(
            [*command, *option, "--force"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stderr
        for option in ((), ("--verbose",))
    }
    assert "Loaded transformer" not in said[()] and "Loaded transformer" in said["--verbose",]


def test_no_color_and_no_terminal(tmp_path):
    for variables in ({"NO_COLOR": "1", "FORCE_COLOR": ""}, {}):
        done = subprocess.run(
            [sys.executable, "-m", "stas", "models", "--nothing"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | variables,
        )
        assert done.returncode == 2 and "\x1b" not in done.stdout + done.stderr


def test_a_shell_completes_commands(tmp_path):
    variables = {"_STAS_COMPLETE": "complete_bash", "COMP_WORDS": "stas gen", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['stas']; from stas.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | variables
    )
    assert done.stdout.split() == ["generate"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--guidance", "-1"), "'--guidance'"),
        (("--guidance", "500"), "'--guidance'"),
        (("--guidance", "inf"), "'--guidance'"),
        (("--fps", "100000"), "'--fps'"),
        (("--fps", "0"), "'--fps'"),
        (("--fps", "nan"), "'--fps'"),
        (("--dtype", "int8"), "dtype must be one of auto, float32"),
    ],
)
def test_what_makes_no_sense_is_refused(run, options, message):
    code, _, err = run(*SMALL, *options, "-o", "a.mp4")
    assert code == 2 and message in err


def test_short_names_of_types_are_known(run):
    assert run(*SMALL, "--dtype", "bf16", "-o", "a.mp4")[0] == 0


def test_studies_that_ship_are_named(run):
    _, out, _ = run("study", "--help")
    assert "ablation-scale" in out and "interventions" in out
