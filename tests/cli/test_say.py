"""What the command line says."""

from __future__ import annotations

from stas.cli.say import sentence, video_bar


def test_an_error_is_one_sentence():
    assert sentence(FileNotFoundError(2, "No such file", "x.json")) == "No such file: x.json"
    assert sentence(ValueError("what to do")) == "what to do"
    assert sentence(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_late_bar_shows_nothing_until_it_is_told(capsys):
    with video_bar(3, "recorded", late=True):
        pass
    assert "recorded" not in capsys.readouterr().err
    with video_bar(3, "recorded", late=True) as report:
        report(1, 2, 4)
    assert "recorded 2 of 3 step 2 of 4" in capsys.readouterr().err
