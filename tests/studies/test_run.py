"""Studies: what their files say, running and resuming them on the bundled model, their tables."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from stas.files import whole_file
from stas.measures.measure import Measures
from stas.media.video import read_video
from stas.pipelines import sample as sample_files
from stas.pipelines.load import load_pipeline
from stas.pipelines.manifest import Manifest
from stas.pipelines.options import PipelineOptions
from stas.pipelines.sample import MANIFEST, METRICS, STRIP, VIDEO
from stas.studies.differences import paired_difference
from stas.studies.page import write_study_report
from stas.studies.plan import Study, folder_name
from stas.studies.run import carry_out
from stas.studies.study import open_study
from stas.workers.executors import TasksFailedError

OPTIONS = PipelineOptions(device="cpu").resolved()
FEW = {"num_frames": 5, "num_inference_steps": 2, "height": 64, "width": 64}
PROMPTS = ("a red circle", "a blue square")
PIXELS = Measures(names=("pixel difference",))
TOML = """
prompts = ["a red circle", "a blue square"]
own_measures = ["tests.studies.test_run:brightness"]
measures = ["pixel difference"]
[arguments]
num_frames = 5
num_inference_steps = 2
height = 64
width = 64
[axes]
scale = [1.0, 2.0]
"""


def brightness(frames, prompt):
    """A measure of one's own, as a user writes it."""
    return {"brightness": float(frames.mean()), "words": float(len(prompt.split()))}


BRIGHT = Measures(names=("pixel difference",), own=(brightness,))


def make(**options):
    options = {"name": "test", "prompts": PROMPTS, "axes": {"scale": (1.0, 2.0)}} | options
    return Study(**options)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(OPTIONS)


@pytest.fixture(scope="module")
def finished(pipeline, tmp_path_factory):
    """A whole study in its folder."""
    folder = tmp_path_factory.mktemp("study") / "run"
    run = open_study(make(arguments=FEW, measures=("pixel difference",)), folder)
    assert not folder.exists()
    carry_out(run, pipeline, BRIGHT)
    write_study_report(run)
    return run, folder


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What a study is


# Running one


def test_a_finished_study_has_every_file(finished):
    run, folder = finished
    assert run.left == 0
    for number, cell in enumerate(run.settings):
        for sample in run.samples:
            assert run.files(number, sample).path(STRIP).parent.name == folder_name(number, cell)
            manifest = Manifest.load(run.files(number, sample).path(MANIFEST))
            assert manifest.seed == sample.seed and manifest.arguments["prompt"] == sample.prompt
            assert manifest.steering == cell.config
            assert len(read_video(run.files(number, sample).path(VIDEO))) == 5
    assert list(folder.rglob(".*")) == []


def test_the_numbers_are_those_of_the_videos(finished):
    run, folder = finished
    values = table(folder / "values.csv")
    assert {row["cell"] for row in values} == {"off", "base", "scale=2"}
    assert {row["measure"] for row in values} >= {"brightness", "pixel difference, across chunks"}
    words = [float(row["value"]) for row in values if row["measure"] == "words"]
    assert words == [3.0] * 6
    differences = {(row["value"], row["measure"]): row for row in table(folder / "differences.csv")}
    bright = {
        (row["cell"], row["sample"]): float(row["value"])
        for row in values
        if row["measure"] == "brightness"
    }
    samples = [sample.name for sample in run.samples]
    found = paired_difference(
        [bright["off", name] for name in samples], [bright["scale=2", name] for name in samples]
    )
    row = differences["2", "brightness"]
    assert float(row["difference"]) == pytest.approx(found.difference) and row["n"] == "2"
    assert row["words"] in ("too few pairs to tell", "no difference shown")
    text = (folder / "tables.md").read_text()
    assert "### scale" in text and "| brightness |" in text and "6 of 6 videos" in text
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64") == 1 and page.count("<svg") == 1
    assert page.count("data:video/mp4;base64") == 3 and "scale=2" in page
    assert np.asarray(Image.open(folder / "scale.png")).std() > 0
    assert Image.open(folder / "scale-frames.png").height > 3 * 64


def test_going_on_makes_only_what_is_missing(finished, pipeline):
    run, folder = finished
    first, second = run.samples
    lost = [(2, first), (1, second), (0, first), (0, second), (1, first)]
    run.files(*lost[0]).path(METRICS).unlink()
    run.files(*lost[1]).path(VIDEO).write_bytes(b"no video")
    run.files(*lost[2]).path(STRIP).unlink()
    cut = run.files(*lost[3]).path(VIDEO)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])  # its header is whole
    run.files(*lost[4]).path(MANIFEST).write_text(
        run.files(*lost[4]).path(MANIFEST).read_text().replace('"count": 5', '"kount": 5')
    )
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    with suppress(KeyError), whole_file(folder / "00-off/0000-seed0.mp4") as left:
        shutil.copy(folder / "study.json", left)
        left.rename(left.with_name(f"{left.name}-killed"))  # as a process that was killed leaves it
        raise KeyError
    made = []
    again = open_study(run.study, folder)
    assert again.left == len(lost)
    carry_out(again, pipeline, BRIGHT, report=made.append)
    assert again.left == 0 == open_study(run.study, folder).left
    told = {(e.task, e.state.split()[0]) for p in made for e in p.working if e.task != "preparing"}
    assert told == {(sample.name, again.settings[number].name) for number, sample in lost}
    changed = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed == {run.files(*place).path(VIDEO) for place in lost}
    after = {key: found.manifest.frames for key, found in again.finished.items()}
    assert after == {key: found.manifest.frames for key, found in run.finished.items()}
    assert not list(folder.rglob(".*"))


def test_the_folder_of_another_study(finished, tmp_path):
    run, folder = finished
    before = (folder / "study.json").read_text()
    same = {"arguments": FEW, "measures": ("pixel difference",)}
    with pytest.raises(ValueError, match=r"holds another study.*seed 0 -> 1. Give another -o"):
        open_study(make(**same, seed=1), folder)
    with pytest.raises(ValueError, match="axes"):  # folders are numbered by their order
        open_study(make(**same, axes={"scale": (2.0, 1.0)}), folder)
    other = PipelineOptions(device="cpu", dtype="bfloat16")
    with pytest.raises(ValueError, match=r'made otherwise: dtype "float32" -> "bfloat16"'):
        run.begin(other)
    assert (folder / "study.json").read_text() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        open_study(run.study, tmp_path / "file")
    with pytest.raises(FileExistsError, match="not empty"):
        open_study(run.study, tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="no record of a study"):
        open_study(run.study, tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.leases").mkdir()  # killed before the record was there
    assert open_study(run.study, tmp_path / "empty").left == 6


def test_what_the_model_refuses_is_found_before_any_video(pipeline, tmp_path):
    for options, message in (
        ({"axes": {"blocks": ((99,),)}}, "8 blocks"),
        ({"arguments": {"num_frames": 6}}, "nearest are 5 and 9"),
        ({"arguments": {"num_frames": 1}}, "ask for more frames"),
    ):
        run = open_study(make(**{"arguments": FEW} | options), tmp_path / "x")
        with pytest.raises(ValueError, match=message):
            run.check(pipeline)
    assert not (tmp_path / "x").exists()


def test_a_full_disk_loses_nothing(pipeline, tmp_path, monkeypatch):
    study = make(arguments=FEW, measures=("pixel difference",))
    real, count = sample_files.write_by_suffix, 0

    def full(path, *what):
        nonlocal count
        count += 1
        if count == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, *what)

    monkeypatch.setattr(sample_files, "write_by_suffix", full)
    run = open_study(study, tmp_path / "run")
    with pytest.raises(OSError, match="No space left"):
        carry_out(run, pipeline, PIXELS)
    assert len(list((tmp_path / "run").rglob("*.mp4"))) == 2
    assert not list((tmp_path / "run").rglob(".*.mp4"))
    run = open_study(study, tmp_path / "run")
    assert run.left == 4
    carry_out(run, pipeline, PIXELS)
    assert run.left == 0


def test_a_measure_that_fails_says_where(pipeline, tmp_path):
    def fails(frames, prompt):
        if prompt == PROMPTS[1]:
            raise ValueError("no blue")
        return {"x": 1.0}

    run = open_study(make(arguments=FEW, measures=(), own_measures=("a:b",)), tmp_path / "run")
    said = r"1 of 2 failed; the others are finished.*\s.*off of 0001-seed1 \('a blue square'\)"
    with pytest.raises(TasksFailedError, match=rf"{said} .* no blue"):
        carry_out(run, pipeline, Measures(names=(), own=(fails,)))
    assert len(run.finished) == 3 and not list((tmp_path / "run").rglob(".*"))
    write_study_report(run)
    assert "3 of 6 videos" in (tmp_path / "run/tables.md").read_text()


# Its tables


# The command


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL, which other systems do not have")
def test_a_kill_loses_and_repeats_nothing(tmp_path):
    text = TOML.replace("[1.0, 2.0]", "[1.0, 1.5, 2.0, 2.5]")
    (tmp_path / "s.toml").write_text(text)
    command = [sys.executable, "-m", "stas", "study", str(tmp_path / "s.toml"), "-o"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    folder = tmp_path / "killed"
    kills = 0
    for wanted in (2, 5):
        process = subprocess.Popen([*command, str(folder)], env=environment)
        deadline = time.monotonic() + 300
        while len(list(folder.glob("*/*-seed?.json"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kills += 1
        for path in folder.glob("*/*-seed?.json"):
            Manifest.load(path)
            assert read_video(path.with_suffix(".mp4")).shape == (5, 64, 64, 3)
    before = {path: path.read_bytes() for path in folder.glob("*/*-seed?.json")}
    assert kills == 2 and 5 <= len(before) < 10
    subprocess.run([*command, str(folder)], env=environment, check=True)
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True)
    after = {path: path.read_bytes() for path in folder.glob("*/*-seed?.json")}
    assert len(after) == 10 and after | before == after
    assert table(folder / "values.csv") == table(tmp_path / "whole/values.csv")
    for path in after:
        whole = json.loads((tmp_path / "whole" / path.relative_to(folder)).read_text())
        assert json.loads(after[path])["frames"] == whole["frames"]
