"""What the command line says."""

from __future__ import annotations

import pytest
from rich.console import Console

from stas.cli import say
from stas.workers.job import Progress
from stas.workers.leases import Holding


def test_an_error_is_one_sentence():
    assert say.sentence(FileNotFoundError(2, "No such file", "x.json")) == "No such file: x.json"
    assert say.sentence(ValueError("what to do")) == "what to do"
    assert say.sentence(KeyboardInterrupt()) == "KeyboardInterrupt"


@pytest.fixture
def shown(monkeypatch):
    """What the bars show at last, line by line."""
    console = Console(width=100, record=True, force_terminal=False, quiet=False)
    monkeypatch.setattr(say, "notes", console)

    def lines(*told):
        with say.bars() as report:
            for progress in told:
                report(progress)
        return console.export_text().splitlines()

    return lines


def held(worker, task, step, steps=4, state="on steered"):
    return Holding(task, f"host {worker}", "host", worker, 1, step, steps, state)


def test_a_bar_over_all_videos_and_one_for_each_worker(shown):
    found = shown(
        Progress(2, 6, 0, [held(1, "0001", 1), held(2, "0002", 3)]),
        Progress(3, 6, 1, [held(1, "0001", 2), held(2, "0004", 1, state="off")]),
    )
    assert len(found) == 3
    assert "3 of 6 videos, 1 failed" in found[0] and "left" in found[0]
    assert "host 1: 0001 step 2 of 4 on steered" in found[1]
    assert "host 2: 0004 step 1 of 4 off" in found[2]


def test_a_long_name_leaves_room_for_its_bar(shown):
    name = "a-red-circle-moving-right-seed7"
    found = shown(Progress(0, 2, 0, [held(1, name, 1)]))
    assert "…ing-right-seed7 step 1 of 4" in found[1]


def test_a_worker_that_died_has_no_bar_and_what_it_had_is_not_counted(shown):
    found = shown(
        Progress(2, 4, 0, [held(1, "0001", 3), held(2, "0002", 4)]),
        Progress(2, 4, 0, [held(1, "0001", 3)]),
    )
    assert len(found) == 2 and "2 of 4 videos" in found[0] and "0002" not in "".join(found)


def test_one_video_has_one_bar(shown):
    found = shown(Progress(0, 1, 0, [held(1, "a", 4, state="decoding")]), Progress(1, 1, 0, ()))
    assert len(found) == 1 and "step 4 of 4 decoding" in found[0] and "host" not in found[0]
