"""`stas reproduce`."""

from __future__ import annotations

from tests.command import files, interrupt
from tests.reproduction.made import TOML, write


def test_the_command(run, tmp_path):
    write(tmp_path)
    code, out, err = run("reproduce", "small.toml", "--dry-run", "--device", "cpu")
    assert code == 0, err
    assert "hours, here" in out and "people's votes" in out and "ablations" in out
    assert files(tmp_path) == ["small.toml"]
    code, out, err = run(
        "reproduce", "small.toml", "--quick", "--only", "record", "--only", "overhead"
    )
    assert code == 0 and "reproductions/small-quick/report.html" in out, err
    assert "Bundled & small: Overhead" in err and "Left out" not in err
    # Not gone on with as something else.
    code, _, err = run(
        "reproduce", "small.toml", "-o", "reproductions/small-quick", "--only", "record", "-q"
    )
    assert code == 1 and "Error: record of Bundled & small" in err and "can't be gone on" in err


def test_the_papers_is_sized_without_its_models(run):
    code, out, err = run("reproduce", "paper.toml", "--dry-run", "--model", "Wan2.1-1.3B")
    assert code == 0, err
    lines = {line.split()[1]: line for line in out.splitlines() if line.strip().startswith("Wan")}
    assert "12,440" in lines["vbench"] and "223" in lines["vbench"]  # 12,440 videos of 64.6 s
    assert "stas bench setup" in lines["vbench"] and "hours, NVIDIA H100 80GB" in out


def test_bad_input_gets_a_clear_error(run, tmp_path):
    for arguments, message in (
        (["none"], "There is no reproduction 'none'"),
        (["paper.toml", "--quick"], "it has no table `quick`"),
        (["bundled.toml", "--only", "vbench"], "has no stage 'vbench'"),
        (["bundled.toml", "--model", "x"], "has no model 'x'. It has bundled"),
    ):
        code, _, err = run("reproduce", *arguments)
        assert code == 1 and message in err and "Traceback" not in err
    assert files(tmp_path) == []


def test_ctrl_c_ends_the_command_with_130_and_keeps_what_is_finished(tmp_path):
    write(tmp_path, TOML.replace("num_inference_steps = 3", "num_inference_steps = 400"))
    interrupt(tmp_path, "reproduce", "small.toml", "-o", "r")
    left = [name for name in files(tmp_path) if not name.endswith((".html", ".csv"))]
    assert left == ["small.toml"]
