"""What the command line says."""

from __future__ import annotations

import re

from stas.cli.say import sentence, video_bars


def test_an_error_is_one_sentence():
    assert sentence(FileNotFoundError(2, "No such file", "x.json")) == "No such file: x.json"
    assert sentence(ValueError("what to do")) == "what to do"
    assert sentence(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_bars_show_when_they_are_first_told(capsys):
    with video_bars(recorded=3, video=5) as (recorded, made):
        recorded(1, 2, 4)
    shown = capsys.readouterr().err
    assert "recorded 2 of 3 step 2 of 4" in shown and "video" not in shown
    with video_bars(recorded=3, video=5) as (recorded, made):
        recorded(2, 4, 4)
        made(4, 1, 2)
    shown = capsys.readouterr().err
    assert re.search(r"recorded 3 of 3 +step 4 of 4[\s\S]*video 5 of 5 +step 1 of 2", shown)
