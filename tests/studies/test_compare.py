"""Comparisons, end to end on the bundled model and few steps, and the numbers they rest on."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import types

import numpy as np
import pytest
from PIL import Image

from stas.activations.profiles import FOLDER_PROFILE
from stas.assets import BUNDLED_MODEL
from stas.measures.features import load_aesthetic, load_encoder
from stas.measures.measure import Measures
from stas.media.pictures import GAP, side_by_side, strips
from stas.media.video import read_video
from stas.method.config import STASConfig
from stas.method.frames import FrameMap
from stas.method.presets import preset
from stas.pipelines.load import load_pipeline
from stas.pipelines.manifest import Manifest, frames_record
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.studies.compare import compare
from stas.studies.plan import Setting
from tests.command import DIMS, files, interrupt
from tests.measures.test_features import save_encoder, save_head

OPTIONS = PipelineOptions(device="cpu").resolved()
SMALL = {"num_frames": 5, "num_inference_steps": 2, "height": 64, "width": 64}
FEW = ["--steps", "2", "--frames", "5", "--size", "64x64"]
SAMPLES = [Sample("circle-0", "a red circle <b>", 0), Sample("circle-1", "a red circle <b>", 1)]
ON = ("steered", "plain", "decoding")
RUNS = [
    Setting("off", None),
    Setting("on", STASConfig().to_dict()),
    Setting("zero-1.5", preset("zero").to_dict()),
]


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(OPTIONS)


@pytest.fixture(scope="module")
def made(pipeline, tmp_path_factory):
    """One comparison of three runs and two samples: what it returned, and its folder."""
    folder = tmp_path_factory.mktemp("compare")
    told = []
    encoder = load_encoder(str(save_encoder("dino", folder / "tiny")))
    result = compare(
        pipeline,
        SAMPLES,
        folder / "out",
        settings=RUNS,
        arguments=SMALL,
        measures=Measures(encoders=(encoder,)),
        report=told.append,
    )
    return result, folder / "out", told


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_files_are_there_and_the_pixels_exact(made):
    _, folder, _ = made
    videos = [
        f"videos/{sample.name}-{each.name}{kind}"
        for sample in SAMPLES
        for each in RUNS
        for kind in (".json", ".metrics.json", ".mkv", ".mp4")
    ]
    shown = [f"{sample.name}{kind}" for sample in SAMPLES for kind in (".mp4", ".png")]
    own = ["comparison.json"]
    tables = ["curves.csv", "curves.png", "differences.csv", "report.html", "values.csv"]
    assert files(folder) == sorted(videos + shown + own + tables)
    for stem in {name.removesuffix(".mkv") for name in videos if name.endswith(".mkv")}:
        record = Manifest.load(folder / f"{stem}.json")
        exact = read_video(folder / f"{stem}.mkv")
        assert frames_record(exact) == dict(record.frames)
        assert (record.steering is None) == stem.endswith("off")


def test_off_is_what_the_pipeline_makes_without_stas(made, pipeline):
    _, folder, _ = made
    arguments = pipeline.arguments(SMALL | {"prompt": SAMPLES[1].prompt})
    plain = pipeline.generate(arguments, seed=1)
    assert np.array_equal(read_video(folder / "videos/circle-1-off.mkv"), plain)
    assert not np.array_equal(read_video(folder / "videos/circle-1-on.mkv"), plain)


def test_the_tables_are_those_of_the_exact_frames(made):
    result, folder, _ = made
    curves, values = table(folder / "curves.csv"), table(folder / "values.csv")
    for sample in SAMPLES:
        for each in RUNS:
            frames = read_video(folder / f"videos/{sample.name}-{each.name}.mkv")
            expected = Measures().of(frames, FrameMap(4))
            mine = [r for r in curves if (r["sample"], r["run"]) == (sample.name, each.name)]
            for name, curve in expected.curves.items():
                found = [float(row["value"]) for row in mine if row["measure"] == name]
                assert found == pytest.approx(curve)
            crossing = [r["cross-chunk"] for r in mine if r["measure"] == "ssim"]
            assert crossing == ["1", "0", "0", "0"]
            numbers = {
                row["measure"]: float(row["value"])
                for row in values
                if (row["sample"], row["run"]) == (sample.name, each.name)
            }
            assert numbers == pytest.approx(numbers | expected.summary())
    assert any("tiny similarity to the first frame" in row["measure"] for row in curves)
    rows = table(folder / "differences.csv")
    assert len(rows) == len(result.differences())
    assert {row["run"] for row in rows} == {"on", "zero-1.5"}
    assert {row["n"] for row in rows} == {"2"}
    assert {row["words"] for row in rows} <= {"no difference shown", "too few pairs to tell"}


def test_progress_counts_every_video_and_step(made):
    result, _, told = made
    steps = [
        (each.task, each.state, each.step, each.steps)
        for progress in told
        for each in progress.working
        if each.task != "preparing"
    ]
    # Of two steps the first is steered; each video tells its beginning, both steps, and no more.
    states = ["off"] * 3 + [f"{name} {s}" for name in ("on", "zero-1.5") for s in ON]
    assert steps == [
        (sample.name, state, step % 3, 2) for sample in SAMPLES for step, state in enumerate(states)
    ]
    assert {progress.videos for progress in told} == {6}
    assert told[0].finished == 0 and told[-1].finished == 6 == result.videos
    assert not told[-1].working


def test_side_by_side_and_strips_show_the_runs_in_order(made):
    _, folder, _ = made
    both = read_video(folder / "circle-0.mp4")
    assert both.shape == (5, 24 + 192, 3 * 192, 3)
    exact = read_video(folder / "videos/circle-0-zero-1.5.mkv").repeat(3, 1).repeat(3, 2)
    difference = np.abs(both[:, 24:, 2 * 192 :].astype(int) - exact)
    assert difference.mean() < 4  # compressed
    picture = Image.open(folder / "circle-0.png")
    assert picture.width == 5 * 64 + 4 * GAP and picture.height > 3 * 64
    assert np.asarray(Image.open(folder / "curves.png")).std() > 0


def test_the_report_holds_everything_and_escapes_the_prompt(made):
    _, folder, _ = made
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:video/mp4;base64,') == 2
    assert page.count('src="data:image/png;base64,') == 2 and page.count("<svg") == 1
    sources = re.findall(r'(?:src|href)="([^"]{0,5})', page)
    assert {source[0] for source in sources if source != "data:"} == {"#"}
    assert "a red circle &lt;b&gt;, seed 1" in page and "<b>" not in page
    assert "too few pairs to tell" in page and "no difference shown" in page
    assert "op: zero" in page and f"dims {DIMS}" in page


def test_without_the_extra_the_gap_is_said(pipeline, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = compare(pipeline, SAMPLES[:1], tmp_path, settings=RUNS[:2], arguments=SMALL)
    assert result.missing == ["ssim", "psnr", "warping error", "motion", "sharpness"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not measured:</strong> ssim, psnr" in page
    assert {row.measure for row in result.differences()} > {"pixel difference"}


def test_equal_videos_are_said_to_be_equal(pipeline, tmp_path):
    runs = [RUNS[0], Setting("never", STASConfig(start=0.9, stop=0.95).to_dict())]
    with pytest.warns(UserWarning, match="No step is steered"):
        result = compare(pipeline, SAMPLES[:1], tmp_path, settings=runs, arguments=SMALL)
    assert [result.identical(each) for each in runs] == [1, 1]
    assert "<strong>1 of 1</strong> videos of never equal" in (tmp_path / "report.html").read_text()


def test_going_on_with_another_measure_or_profile_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)

    def bright(frames, prompt):
        return {"bright": float(frames.mean())}

    def go_on(**options):
        measures = Measures(names=(), own=[bright])
        found = {"arguments": SMALL, "measures": measures} | options
        compare(load_pipeline(str(folder), device="cpu"), "a", tmp_path / "out", **found)

    go_on()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/videos").iterdir()}
    other = types.FunctionType(bright.__code__, {}, "bright")
    other.__module__, other.__qualname__ = "others", bright.__qualname__
    with pytest.raises(ValueError, match=r"own_measures .*test_compare:.* -> \[\"others:"):
        go_on(resume=True, measures=Measures(names=(), own=[other]))
    data = json.loads((folder / FOLDER_PROFILE).read_text())
    (folder / FOLDER_PROFILE).write_text(json.dumps(data | {"dims": [3], "ratios": [30.0]}))
    with pytest.raises(ValueError, match=rf"videos of on .* transformer \[{DIMS}\] -> \[3\]"):
        go_on(resume=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_ctrl_c_keeps_finished_samples_and_reports_them(pipeline, tmp_path):
    def stop(progress):
        # The second video of the second sample.
        if [(e.task, e.step, e.state) for e in progress.working] == [("circle-1", 1, "on plain")]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(pipeline, SAMPLES, tmp_path, settings=RUNS[:2], arguments=SMALL, report=stop)
    there = files(tmp_path)
    assert "videos/circle-1-off.mp4" in there and "videos/circle-1-on.mp4" not in there
    assert "circle-0.mp4" in there and "circle-1.mp4" not in there
    assert [name for name in there if "/." in name or name.startswith(".")] == []
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Stopped early:</strong> 1 of 2" in page
    assert {row["sample"] for row in table(tmp_path / "values.csv")} == {"circle-0"}
    # And it goes on: the three finished videos are not made again.
    before = {name: (tmp_path / name).read_bytes() for name in there if "videos/" in name}
    made = []
    with pytest.raises(FileExistsError, match="--resume"):
        compare(pipeline, SAMPLES, tmp_path, settings=RUNS[:2], arguments=SMALL)
    with pytest.raises(ValueError, match=r"holds another comparison.*fps"):
        compare(pipeline, SAMPLES, tmp_path, settings=RUNS[:2], arguments=SMALL, fps=3, resume=True)
    result = compare(
        pipeline,
        SAMPLES,
        tmp_path,
        settings=RUNS[:2],
        arguments=SMALL,
        resume=True,
        report=made.append,
    )
    assert {p.finished for p in made} == {3, 4} and result.left == 0
    assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    whole = tmp_path / "whole"
    compare(pipeline, SAMPLES, whole, settings=RUNS[:2], arguments=SMALL)
    for name in ("values.csv", "curves.csv", "differences.csv", "circle-1.mp4", "circle-1.png"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


WRONG = [
    (RUNS[:1], SAMPLES, {}, "two runs"),
    (RUNS, [], {}, "one sample at least"),
    ([RUNS[0], RUNS[0]], SAMPLES, {}, "Two runs have the name 'off'"),
    (RUNS, [SAMPLES[0], SAMPLES[0]], {}, "Two samples have the name"),
    (RUNS, SAMPLES, {"num_frames": 1}, "ask for more frames"),
    (RUNS, SAMPLES, {"num_frames": 6}, "nearest are 5 and 9"),
    ([RUNS[0], Setting("bad", STASConfig(blocks=(99,)).to_dict())], SAMPLES, {}, "8 blocks"),
]


@pytest.mark.parametrize(("runs", "samples", "arguments", "message"), WRONG)
def test_what_can_not_be_compared_is_refused_before_any_work(
    pipeline, tmp_path, runs, samples, arguments, message
):
    with pytest.raises(ValueError, match=message):
        compare(
            pipeline,
            samples,
            tmp_path / "out",
            settings=runs,
            arguments=SMALL | arguments,
        )
    assert files(tmp_path) == [] and not (tmp_path / "out").exists()


def test_the_command_scores_frames(run, tmp_path):
    save_encoder("clip", tmp_path / "tiny")
    save_head(tmp_path / "head.pth")
    options = ["--aesthetic", "head.pth", "--aesthetic-clip", "tiny", *FEW, "-o", "c"]
    code, _, err = run("compare", "a red circle", *options)
    assert code == 0, err
    names = {row["measure"] for row in table(tmp_path / "c/differences.csv")}
    assert "aesthetic, first frame" in names
    scorer = load_aesthetic(tmp_path / "head.pth", str(tmp_path / "tiny"))
    expected = {
        name: scorer.scores(read_video(tmp_path / f"c/videos/a-red-circle-seed0-{name}.mkv")).mean()
        for name in ("off", "on")
    }
    rows = [row for row in table(tmp_path / "c/values.csv") if row["measure"] == "aesthetic"]
    assert {row["run"]: float(row["value"]) for row in rows} == pytest.approx(expected, abs=1e-6)


def test_the_command(run, tmp_path):
    STASConfig(scale=2.0).save(tmp_path / "twice.json")
    arguments = ["compare", "a red circle", "--run", "off", "--run", "twice.json", *FEW]
    code, out, err = run(*arguments, "--measure", "tests.studies.test_run:brightness", "-o", "c")
    assert code == 0, err
    frames = read_video(tmp_path / "c/videos/a-red-circle-seed0-twice.mkv")
    bright = {
        row["run"]: float(row["value"])
        for row in table(tmp_path / "c/values.csv")
        if row["measure"] == "brightness"
    }
    assert bright["twice"] == pytest.approx(frames.mean())
    assert "1 pair can't tell whether steering" in out and "c/report.html" in out
    assert {row["run"] for row in table(tmp_path / "c/differences.csv")} == {"twice"}
    record = json.loads((tmp_path / "c/videos/a-red-circle-seed0-twice.json").read_text())
    assert record["steering"]["scale"] == 2.0
    code, _, err = run(*arguments, "-o", "c")
    assert code == 1 and "--force" in err
    assert run(*arguments, "-o", "c", "--force")[0] == 0
    code, out, err = run(
        "generate", "--manifest", "c/videos/a-red-circle-seed0-twice.json", "-o", "again.mp4"
    )
    assert code == 0 and "Identical" in out, err


USAGE = ("Give a prompt or --prompts", "not both", "by --aesthetic")
BAD = [
    (["compare"], "Give a prompt or --prompts"),
    (["compare", "x", "--prompts", "none.txt"], "not both"),
    (["compare", "--prompts", "none.txt"], "no prompt file"),
    (["compare", "x", "--run", "off", "--run", "onn"], "no run 'onn'"),
    (["compare", "x", "--run", "off", "--run", "broken.json"], "not a steering config"),
    (["compare", "x", "--run", "off", *FEW], "two runs"),
    (["compare", "x", "--run", "on", "--run", "on", *FEW], "Two runs have the name 'on'"),
    (["compare", "x", "--encoder", "facebook/dinov2-none", *FEW], "hf download"),
    (["compare", "x", "--aesthetic", "none.pth", *FEW], "no file 'none.pth'"),
    (["compare", "x", "--aesthetic", "broken.json", *FEW], "does not hold weights"),
    (["compare", "x", "--aesthetic-clip", "a/b", *FEW], "by --aesthetic"),
    (["compare", "x", "-o", "broken.json"], "is a file"),
    (["compare", "x", "--frames", "6", "--steps", "2"], "The nearest are 5 and 9"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_gets_a_clear_error(run, tmp_path, arguments, message):
    (tmp_path / "broken.json").write_text("{")
    before = files(tmp_path)
    code, _, err = run(*arguments)
    assert code == (2 if message in USAGE else 1)
    assert re.search(rf"Error: [\s\S]*{message}", err)
    assert "Traceback" not in err
    assert files(tmp_path) == before


def test_videos_without_a_pixel_of_difference_in_shape_stand_side_by_side():
    small, large = (np.zeros((3, side, side + 2, 3), np.uint8) for side in (16, 200))
    assert side_by_side({"a": small, "b": small}).shape == (3, 24 + 192, 2 * 18 * 12, 3)
    assert side_by_side({"a": large, "b": large}).shape == (3, 24 + 200, 2 * 202, 3)
    assert strips({"a": small}).size == (3 * 18 + 2 * GAP, 24 + 16)


def test_ctrl_c_ends_the_command_with_130(tmp_path):
    small = ("--frames", "5", "--size", "64x64")
    interrupt(tmp_path, "compare", "a red circle", *small, "--steps", "400", "-o", "c")
    assert set(files(tmp_path)) <= {"c/comparison.json"}  # no half of a video


@pytest.mark.filterwarnings("default::stas.checks.StasWarning")
def test_a_run_in_which_nothing_was_steered_says_so_and_shows_no_difference(run, tmp_path):
    """A window without a step of the call: that both videos are alike is no finding."""
    config = tmp_path / "late.json"
    STASConfig(start=0.9, stop=0.95).save(config)
    arguments = ["--run", "off", "--run", str(config), "--run", "on", *FEW, "-o", "out"]
    code, out, err = run("compare", "a red circle", *arguments)
    assert code == 0, err
    assert "No step is steered" in err
    found = table(tmp_path / "out" / "differences.csv")
    assert {row["words"] for row in found if row["run"] == "late"} == {"nothing was steered"}
    rows = [line for line in out.splitlines() if " late " in line]
    assert rows and all("nothing was steered" in line for line in rows)
    assert all("nothing was steered" not in line for line in out.splitlines() if " on " in line)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "shows nothing of steering" in page
