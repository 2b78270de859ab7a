"""`stas bench`: the commands in their order, with a stub in place of VBench."""

from __future__ import annotations

import json
import os

import pytest

from stas.pipelines.options import PipelineOptions
from stas.suites.compbench import read_samples
from stas.suites.run import BenchmarkRun
from tests.command import files
from tests.suites.made import OFF, all_models, rows, stub_environment, write_info
from tests.suites.test_compbench import write_prompts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stub lies in lib/")
SIZE = ("--frames", 5, "--size", "32x32", "--steps", 2)


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stub")
    stub_environment(folder / "env", write_info(folder, rows(1)))
    return folder


def test_vbench_from_its_first_video_to_its_table(run, tmp_path, stub):
    make = ("bench", "make", "vbench", "-o", "r", "--env", stub / "env", *SIZE)
    make = (*make, "--samples", 1, "--dimension", "human_action", "--dimension", "scene")
    code, out, err = run(*make, "--dry-run")
    assert code == 0, err
    assert "4 videos: 2 settings x 2 samples" in err and not (tmp_path / "r").exists()
    assert "4 to make: about" in out and " GB." in out
    code, out, err = run(*make)
    assert code == 0, err
    assert len(list((tmp_path / "r").rglob("*.mp4"))) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*.mp4")}
    code, out, err = run(*make)
    assert code == 0 and "4 of them finished" in err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*.mp4")}
    code, _, err = run(*make, "--seed", 1)
    assert code == 1 and "holds another benchmark" in err

    cache = all_models(tmp_path / "cache")
    score = (
        "bench",
        "score",
        "r",
        "--env",
        stub / "env",
        "--cache",
        cache,
        "--device",
        "cpu",
        "-q",
    )
    (tmp_path / "r" / "00-off" / "stray.mp4").touch()
    code, _, err = run(*score, "--dimension", "human_action")
    assert code == 0 and "Left out: 1 files in 00-off" in err and "stray.mp4" in err
    (cache / "does").write_text("nan")
    code, _, err = run(*score, "--dimension", "background_consistency", "--run", "on")
    assert code == 1 and "background_consistency of on: background_consistency has the" in err

    code, out, err = run("bench", "table", "r", "-q")
    assert code == 0 and "No total of off: 16 of 16 dimensions are not whole" in err
    assert "(1 of 100 prompts)" in out and "not scored" in out
    text = (tmp_path / "r" / "table.csv").read_text()
    assert "human_action,on,0." in text and "total,on,,-" in text


def test_bad_input_gets_a_clear_error(run, tmp_path, stub):
    env = ("--env", stub / "env")
    (tmp_path / "two.txt").write_text("a\nb\n")
    for arguments, message in (
        (("make", "vbench", "-o", "r", "--env", "none"), "is no environment of Python"),
        (("make", "vbench", "-o", "r", "--info", "none.json"), "There is no 'none.json'"),
        (("make", "vbench", "-o", "r", *env, "--prompts", "two.txt"), "two.txt has 2 lines, but"),
        (("make", "vbench", "-o", "r", *env, "--dimension", "colour"), "no dimension 'colour'"),
        (("make", "vbench", "-o", "r", *env, "--run", "on", "--run", "on"), "have the name 'on'"),
        (("make", "vbench", "-o", "r", *env, "--run", "maybe"), "no run 'maybe'"),
        (("make", "compbench", "-o", "r", "--prompts", "."), "no prompt file"),
        (("score", "."), "holds no benchmark"),
        (("table", "two.txt"), "holds no benchmark"),
        (("doctor", "--env", "none"), "is no environment of Python"),
    ):
        code, _, err = run("bench", *arguments)
        assert code == 1 and message in err and "Traceback" not in err, (arguments, err)
    code, _, err = run("bench", "make", "compbench", "-o", "r")
    assert code == 2 and "takes --prompts DIR" in err
    assert files(tmp_path) == ["two.txt"]


def test_a_record_that_is_none(run, tmp_path):
    (tmp_path / "benchmark.json").write_text(json.dumps({"format": "stas.benchmark/1"}))
    code, _, err = run("bench", "table", ".")
    assert code == 1 and "is no record of a benchmark" in err


def test_the_doctor_ends_with_1_where_something_is_missing(run, tmp_path, stub):
    code, out, _ = run("bench", "doctor", "--env", stub / "env", "--cache", tmp_path)
    assert code == 1 and "temporal_flickering: ready" in out
    assert "scene: " in out and "tag2text_swin_14m.pth is missing; it comes from" in out


def test_what_compbenchs_scorers_would_not_heed_is_refused(run, tmp_path):
    samples, source = read_samples(write_prompts(tmp_path / "prompts"))
    options = {"arguments": {}, "measured": (), "model": "bundled", "source": source}
    made = BenchmarkRun(tmp_path / "r", [OFF], samples, suite="compbench", **options)
    made.begin(PipelineOptions(device="cpu").resolved())
    code, _, err = run("bench", "score", "r", "--dimension", "scene", "--no-static")
    assert code == 2 and "remove --dimension, --static/--no-static. Only --run can be" in err, err


def test_compbench_is_not_laid_out_before_it_is_whole(run, tmp_path):
    write_prompts(tmp_path / "prompts")
    code, _, err = run(
        "bench", "make", "compbench", "-o", "r", "--prompts", "prompts", *SIZE, "--dry-run"
    )
    assert code == 0 and "1,400 videos: 2 settings x 700 samples" in err, err
    assert not (tmp_path / "r").exists()
