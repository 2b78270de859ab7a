"""Studies: what their files say, running and resuming them on the bundled model, their tables."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stas.measures.measure import Measures
from stas.measures.result import VideoMetrics
from stas.media.video import read_video
from stas.method.config import STASConfig
from stas.pipelines import sample as sample_files
from stas.pipelines.load import load_pipeline
from stas.pipelines.manifest import Manifest
from stas.pipelines.options import PipelineOptions
from stas.pipelines.sample import MANIFEST, METRICS, STRIP, VIDEO, Finished
from stas.studies.differences import paired_difference
from stas.studies.figures import draw_axis
from stas.studies.file import load_study
from stas.studies.page import write_study_report
from stas.studies.plan import Setting, Study, folder_name, with_dims
from stas.studies.run import carry_out
from stas.studies.study import StudyRun, open_study
from stas.studies.tables import axis_table
from tests.command import BUNDLED_DIMS, files, interrupt

OPTIONS = PipelineOptions(device="cpu").resolved()
SHIPPED = sorted(Path("src/stas/assets/studies").glob("*.toml"))
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


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_studies_that_ship(path):
    study = load_study(path.stem)
    assert study.model == "bundled" and len(study.prompts) >= 32
    assert len(study.settings()) > 2
    assert path.stem in path.read_text()  # the command that it names


def test_each_axis_is_varied_from_the_base():
    study = make(
        base={"blocks": "all"},
        axes={"scale": (0.5, 1.0), "regions": (("first_frame",), ("first_frame", "boundary"))},
    )
    off, *cells = study.settings()
    assert off == Setting("off", None)
    assert [cell.name for cell in cells] == ["scale=0.5", "base", "regions=first_frame"]
    assert all(STASConfig.from_dict(cell.config).blocks == "all" for cell in cells)
    assert STASConfig.from_dict(cells[2].config).regions == ("first_frame",)
    assert cells[1].values == {"scale": 1.0, "regions": ("first_frame", "boundary")}


def test_all_combinations():
    axes = {"scale": (0.5, 2.0), "stop": (0.2, 0.4, 1.0)}
    study = make(axes=axes, vary="all")
    names = [cell.name for cell in study.settings()]
    assert names[:3] == ["off", "scale=0.5,stop=0.2", "scale=0.5,stop=0.4"]
    assert len(names) == 1 + 2 * 3
    rows = dict(study.settings_of("stop"))
    assert [cell.name for cell in rows["1"]] == ["scale=0.5,stop=1", "scale=2,stop=1"]


def test_values_that_are_nearly_alike_have_names_of_their_own():
    study = make(axes={"scale": (1.0000001, 1.0000002, 2.0)})
    assert len(study.settings()) == 4
    assert [len(cells) for _, cells in study.settings_of("scale")] == [1, 1, 1]


def test_one_cell_stands_for_the_values_of_two_axes_that_agree():
    axes = {"regions": (("first_frame",),), "intervention": ("max-first-frame", "zero")}
    cells = make(axes=axes).settings()
    assert [cell.name for cell in cells] == ["off", "regions=first_frame", "intervention=zero"]
    assert cells[1].values["intervention"] == "max-first-frame"
    assert STASConfig.from_dict(cells[2].config).op == "zero"


@given(
    prompts=st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1, max_size=9),
    repeats=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_every_sample_has_a_seed_and_a_name_of_its_own(prompts, repeats, seed):
    study = make(prompts=tuple(prompts), samples_per_prompt=repeats, seed=seed)
    samples = study.samples()
    assert len(samples) == len(prompts) * repeats
    assert [sample.seed for sample in samples] == list(range(seed, seed + len(samples)))
    assert len({sample.name for sample in samples}) == len(samples)
    assert [sample.prompt for sample in samples] == [p for p in prompts for _ in range(repeats)]


BAD = [
    ({"axes": {"sclae": (1.0,)}}, "no axis 'sclae'. Known: dims, blocks"),
    ({"axes": {}}, "there is no axis"),
    ({"axes": {"scale": ()}}, "the axis scale has no values"),
    ({"axes": {"scale": (1.0, 1.0)}}, "Two configs are alike: base and scale=1"),
    ({"axes": {"blocks": ("middle", "midle")}}, 'blocks=midle: blocks must be "all", "middle"'),
    ({"axes": {"dims": ("massiv",)}}, "massive, weak, ordinary, random, but got 'massiv'"),
    ({"axes": {"intervention": ("zerro",)}}, "no intervention 'zerro'. Known: zero, mean"),
    ({"axes": {"scale": (-1.0,)}}, "scale must be a finite number"),
    ({"base": {"alpha": 2.0}}, "base has no alpha. Known: dims"),
    ({"base": {"boundary": 0.6}}, "expected 0 to 0.5"),
    ({"axes": {"scale": 1.5}}, "expected a list, but got 1.5"),
    ({"axes": {"intervention": ({"a": 1},)}}, "no intervention"),
    (
        {"vary": "all", "axes": {"intervention": ("stas",), "scale": (1.5,)}},
        "intervention decides scale",
    ),
    ({"prompts": "a red circle"}, "prompts must be a list of texts"),
    ({"prompts": ("a", " ")}, "a prompt is empty"),
    ({"measures": ("beauty",)}, "no measure 'beauty'. Known: pixel difference"),
    ({"measures": ()}, "nothing to measure"),
    ({"own_measures": (1,)}, "own_measures must be a list of texts"),
    ({"encoders": (1,)}, "encoders must be a list of texts"),
    ({"aesthetic": 3}, "aesthetic must be a text"),
    ({"aesthetic_clip": "a/b"}, "give it by aesthetic"),
    ({"seed": 2**63 - 1}, "below 2"),
    ({"vary": "some"}, 'vary must be "each" or "all"'),
    ({"seed": -1}, "seed must be a whole number, 0 or more"),
    ({"samples_per_prompt": 0}, "1 or more, but got 0"),
    ({"prompts": ()}, "there is no prompt"),
    ({"arguments": {"prompt": "x"}}, "not in arguments"),
    ({"arguments": {"num_inference_steps": 0}}, "num_inference_steps"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_is_no_study(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make(**options)


FILES = [
    ("scale = [", "is not a study: "),
    ('axis = "scale"', "unknown keys 'axis'. Known: aesthetic, aesthetic_clip, arguments"),
    ('prompts = ["a", " "]\n[axes]\nscale = [1.0]', "a prompt is empty"),
    ('prompts = ["a"]\ncount = 2\n[axes]\nscale = [1.0]', "count must be 1 to 1"),
    ('prompts = ["a"]\ncount = true\n[axes]\nscale = [1.0]', "count must be 1 to 1"),
    ("[prompts]\na = 1\n[axes]\nscale = [1.0]", "prompts must be a list or a file"),
    ("prompts = 3\n[axes]\nscale = [1.0]", "prompts must be a list or a file, but got 3"),
    ("[axes]\nscale = 1.0", "scale must be a list, but got 1.0"),
    ("axes = 3", "axes must be a table"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_what_is_no_study_file(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_study(tmp_path / "s.toml")
    assert "s.toml is not a study" in str(error.value)


def test_a_study_file_with_changes(tmp_path):
    (tmp_path / "mine.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "s.toml").write_text(
        'prompts = "mine.txt"\nown_measures = ["a:b"]\n'
        "[arguments]\nwidth = 64\nnum_inference_steps = 9\n[axes]\nscale = [1.5]"
    )
    study = load_study(tmp_path / "s.toml")
    assert study.prompts == ("one", "two", "three") and study.name == "s"
    assert study.samples()[2].prompt_file["line"] == 3
    changed = load_study(
        tmp_path / "s.toml",
        count=2,
        seed=7,
        model=None,
        arguments={"num_inference_steps": 3},
        own_measures=["c:d"],
    )
    assert changed.prompts == ("one", "two") and changed.model == "bundled"
    assert changed.arguments == {"width": 64, "num_inference_steps": 3}
    assert changed.own_measures == ("a:b", "c:d") and changed.samples()[0].seed == 7
    (tmp_path / "s.toml").write_text('own_measures = "a:b"\n[axes]\nscale = [1.5]')
    with pytest.raises(ValueError, match="own_measures must be a list"):
        load_study(tmp_path / "s.toml", own_measures=["c:d"])
    (tmp_path / "s.toml").write_text('prompts = "none.txt"\n[axes]\nscale = [1.5]')
    with pytest.raises(FileNotFoundError, match=r"no prompt file .*none.txt"):
        load_study(tmp_path / "s.toml")
    with pytest.raises(ValueError, match="Copy the file and give dims of yours"):
        load_study("ablation-reference", model="org/model")
    with pytest.raises(FileNotFoundError, match=r"no study 'ablation-skale': .* ablation-scale"):
        load_study("ablation-skale")


def test_the_classes_of_dimensions_become_dimensions():
    study = make(axes={"dims": ("massive", "weak", (3, 4))})
    cells = with_dims(study.settings(), {"massive": (242,), "weak": (9,)})
    assert [cell.config and cell.config["dims"] for cell in cells] == [None, [242], [9], [3, 4]]
    assert cells[1].values == {"dims": "massive"}
    with pytest.raises(ValueError, match="alike: dims=massive and dims=242"):
        with_dims(make(axes={"dims": ("massive", (242,))}).settings(), {"massive": (242,)})


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
    left_over = [path for path in folder.rglob(".*") if path.name != ".lock"]
    assert left_over == []


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
    assert page.count("data:image/png;base64") == 2 and "scale=2" in page
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
    (folder / "00-off/.0000-seed0-x1y2.mp4").write_bytes(b"of a process that was killed")
    made = []
    again = open_study(run.study, folder)
    assert again.left == len(lost)
    carry_out(again, pipeline, BRIGHT, report=lambda *n: made.append(n))
    assert again.left == 0 == open_study(run.study, folder).left
    assert {number for number, _, _ in made} == set(range(len(lost)))
    changed = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed == {run.files(*place).path(VIDEO) for place in lost}
    after = {key: found.manifest.frames for key, found in again.finished.items()}
    assert after == {key: found.manifest.frames for key, found in run.finished.items()}
    assert not list(folder.rglob(".*x1y2*"))


def test_one_process_at_a_time(finished):
    run, _ = finished
    with (
        run.claim(OPTIONS),
        pytest.raises(RuntimeError, match="Another process runs"),
        run.claim(OPTIONS),
    ):
        pass


def test_the_folder_of_another_study(finished, tmp_path):
    run, folder = finished
    before = (folder / "study.json").read_text()
    same = {"arguments": FEW, "measures": ("pixel difference",)}
    with pytest.raises(ValueError, match=r"holds another study.*seed 0 -> 1. Give another -o"):
        open_study(make(**same, seed=1), folder)
    with pytest.raises(ValueError, match="axes"):  # folders are numbered by their order
        open_study(make(**same, axes={"scale": (2.0, 1.0)}), folder)
    other = PipelineOptions(device="cpu", dtype="bfloat16")
    with (
        pytest.raises(ValueError, match=r'made otherwise: dtype "float32" -> "bfloat16"'),
        run.claim(other),
    ):
        pass
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
    (tmp_path / "empty/.lock").touch()  # killed before the record was there
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


def test_a_measure_that_needs_a_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"ssim: these need pip install 'stas\[metrics\]'"):
        open_study(make(measures=("ssim", "colourfulness")), tmp_path)
    assert "ssim" not in open_study(make(), tmp_path / "all").measured


def test_a_full_disk_loses_nothing(pipeline, tmp_path, monkeypatch):
    study = make(arguments=FEW, measures=("pixel difference",))
    real, count = sample_files.write_mp4, 0

    def full(path, frames, fps):
        nonlocal count
        count += 1
        if count == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, frames, fps)

    monkeypatch.setattr(sample_files, "write_mp4", full)
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
    with pytest.raises(RuntimeError, match=r"off of 0001-seed1 \('a blue square'\) .* no blue"):
        carry_out(run, pipeline, Measures(names=(), own=(fails,)))
    assert len(run.finished) == 3
    write_study_report(run)
    assert "3 of 6 videos" in (tmp_path / "run/tables.md").read_text()


def test_classes_are_found_by_recording(pipeline, tmp_path):
    study = make(arguments=FEW, axes={"dims": ("massive", "random")}, recorded=1)
    run = open_study(study, tmp_path / "run")
    with run.claim(OPTIONS):
        run.find_dims(pipeline)
    massive, random = (cell.config["dims"] for cell in run.settings[1:])
    assert (
        massive[0] == BUNDLED_DIMS[0] and len(random) == len(massive) and not {*random} & {*massive}
    )
    again = open_study(study, tmp_path / "run")
    assert [cell.config["dims"] for cell in again.settings[1:]] == [massive, random]


# Its tables


def unmade(study):
    """A run that has no folder."""
    return StudyRun(Path(), study.settings(), study.samples(), {}, (), study=study)


def planted(study, value):
    """A run whose numbers are those of `value(sample, cell)`."""
    run = unmade(study)
    for sample in run.samples:
        for cell in run.settings:
            metrics = VideoMetrics({}, {}, np.zeros(0, bool), {"x": value(sample, cell)})
            run.finished[sample.name, cell.name] = Finished(None, metrics)
    return run


def test_a_prompt_counts_once_however_many_seeds_it_has():
    study = make(prompts=tuple("abcdefgh"), samples_per_prompt=5)
    run = planted(study, lambda sample, cell: cell.values.get("scale", 0.0) + sample.seed % 5)
    found = axis_table(run, "scale")
    assert [row.found.pairs for row in found.differences[0]] == [8, 8]
    assert [row.found.difference for row in found.differences[0]] == [1.0, 2.0]
    assert [row.words for row in found.differences[0]] == ["higher", "higher"]
    assert found.before == [2.0]
    alone = planted(make(prompts=("a",), samples_per_prompt=7), lambda s, c: float(s.seed))
    assert axis_table(alone, "scale").differences[0][0].found.pairs == 7


def test_all_combinations_are_averaged_over_the_other_axes():
    study = make(
        prompts=tuple("abcdef"), vary="all", axes={"scale": (1.5, 3.0), "stop": (0.1, 0.2)}
    )
    run = planted(study, lambda s, c: c.values.get("scale", 0.0) * 10 * c.values.get("stop", 0.0))
    rows = axis_table(run, "scale").differences[0]
    assert [row.found.difference for row in rows] == pytest.approx([2.25, 4.5])
    # A sample counts once all cells of its value are there.
    del run.finished[run.samples[0].name, "scale=3,stop=0.2"]
    rows = axis_table(run, "scale").differences[0]
    assert [row.found.pairs for row in rows] == [6, 5]


def test_a_missing_number_is_no_zero():
    study = make(prompts=tuple("abcdefgh"))
    run = planted(study, lambda s, c: float("nan") if s.prompt == "a" else 1.0)
    row = axis_table(run, "scale").differences[0][0]
    assert row.found.pairs == 7 and row.found.difference == 0
    empty = axis_table(planted(study, lambda s, c: float("nan")), "scale")
    assert empty.differences[0][0].found is None
    assert len(draw_axis(axis_table(run, "scale")).axes[0].lines) == 5  # zero, two of each value
    assert len(draw_axis(empty).axes[0].lines) == 0
    with pytest.raises(ValueError, match="No video of the study"):
        write_study_report(unmade(study))


# The command


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
    assert files(tmp_path) == ["r/.lock", "r/study.json", "s.toml"]


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
