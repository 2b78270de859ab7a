"""`stas study`."""

from __future__ import annotations

import pytest

from tests.command import files, interrupt
from tests.studies.test_run import TOML


def test_the_command(run, tmp_path):
    (tmp_path / "s.toml").write_text(TOML)
    code, _, err = run("study", "s.toml", "-o", "r", "--dry-run")
    assert code == 0, err
    assert "6 videos: 3 settings x 2 samples. 6 to make, about" in err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]
    code, out, err = run("study", "s.toml", "-o", "r")
    assert code == 0 and "r/report.html" in out, err
    assert len(list(tmp_path.rglob("*.mp4"))) == 6
    code, out, err = run("study", "s.toml", "-o", "r", "--report")
    assert code == 0 and "r/report.html" in out
    code, _, err = run("study", "s.toml", "-o", "r", "--steps", "3")
    assert code == 1 and "holds another study" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "no study 'none': expected a TOML file or one of ablation-"),
        (["s.toml", "--measure", "nothing:here"], "'nothing:here' can't be loaded"),
        (["s.toml", "-o", "s.toml"], "is a file, but a study is a folder"),
        (["s.toml", "--count", "9"], "count must be 1 to 2"),
    ],
)
def test_bad_input_gets_a_clear_error(run, tmp_path, arguments, message):
    (tmp_path / "s.toml").write_text(TOML)
    code, _, err = run("study", *arguments)
    assert code == 1 and message in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


def test_a_grid_that_explodes_is_not_started(run, tmp_path):
    values = ", ".join(f"{1 + number / 1000}" for number in range(600))
    (tmp_path / "s.toml").write_text(TOML.replace("[1.0, 2.0]", f"[{values}]"))
    code, _, err = run("study", "s.toml", "-o", "r")
    assert code == 1
    assert "1,202 videos: 601 settings x 2 samples. Start that with --yes" in err
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


def test_ctrl_c_ends_the_command_with_130(tmp_path):
    text = TOML.replace("num_inference_steps = 2", "num_inference_steps = 400")
    (tmp_path / "s.toml").write_text(
        text.replace('own_measures = ["tests.studies.test_run:brightness"]', "")
    )
    interrupt(tmp_path, "study", "s.toml", "-o", "r")
    assert set(files(tmp_path)) <= {"r/study.json", "s.toml"}  # no half of a video
