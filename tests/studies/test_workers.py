"""Studies, comparisons, recordings and videos by several processes, beside one process."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from stas.activations.stats import ActivationStats
from stas.measures.measure import Measures
from stas.pipelines.load import load_pipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.recorder import record_videos
from stas.studies.compare import compare
from stas.studies.study import open_study, run_study
from stas.workers.executors import TasksFailedError, Workers
from stas.workers.leases import Leases
from tests.pipelines.test_recorder import same
from tests.studies.test_run import FEW, brightness, make

TWO = Workers(2)
CPU = PipelineOptions(device="cpu")
PROMPTS = ["a red circle", "a blue square", "a green triangle"]


@pytest.fixture(autouse=True)
def alike(monkeypatch):
    """One torch thread in all processes: their number decides the order of additions."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(run):
    return {key: found.manifest.frames for key, found in run.finished.items()}


def fails(frames, prompt):
    """A measure that one prompt has not."""
    if prompt == PROMPTS[1]:
        raise ValueError("no blue")
    return brightness(frames, prompt)


def test_a_study_with_classes_of_dimensions(tmp_path):
    """They are found by one process, and all others go by what it found."""
    study = make(
        prompts=tuple(PROMPTS),
        arguments=FEW,
        axes={"dims": ("massive", "random")},
        recorded=2,
        own_measures=("tests.studies.test_run:brightness",),
    )
    told = []
    options = {"device": "cpu"}
    alone = run_study(study, tmp_path / "one", options=options)
    found = run_study(study, tmp_path / "two", options=options, workers=TWO, report=told.append)
    assert found.left == 0 and pixels(found) == pixels(alone)
    assert found.numbers() == alone.numbers()
    assert [s.config for s in found.settings] == [s.config for s in alone.settings]
    for name in ("values.csv", "differences.csv", "tables.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert {each.task for p in told for each in p.working} >= {"preparing"}
    assert {path.name for path in (tmp_path / "two").rglob(".*")} == set()
    assert json.loads((tmp_path / "two/study.json").read_text())["threads"] == 1


def test_a_comparison_and_its_page(tmp_path):
    given = {"arguments": FEW, "measures": Measures(names=("pixel difference",))}
    alone = compare(CPU, PROMPTS, tmp_path / "one", **given)
    found = compare(CPU, PROMPTS, tmp_path / "two", workers=TWO, **given)
    assert pixels(found) == pixels(alone)
    pages = [
        re.sub('data:[^"]*', "", (tmp_path / name / "report.html").read_text())
        for name in ("one", "two")
    ]
    assert pages[0] == pages[1] and "1 of 8 blocks" in pages[0]
    with pytest.raises(FileExistsError, match="--resume"):
        compare(CPU, PROMPTS, tmp_path / "two", workers=TWO, **given)
    with pytest.raises(ValueError, match="nearest are 5 and 9"):  # and nothing is replaced
        bad = given | {"arguments": FEW | {"num_frames": 6}}
        compare(CPU, PROMPTS, tmp_path / "two", workers=TWO, force=True, **bad)
    assert (tmp_path / "two/videos").is_dir() and (tmp_path / "two/report.html").is_file()
    again = compare(CPU, PROMPTS[:1], tmp_path / "two", workers=TWO, force=True, **given)
    assert again.left == 0 and again.videos == 2


def test_force_waits_for_others(tmp_path):
    given = {"arguments": FEW, "measures": Measures(names=("pixel difference",))}
    compare(CPU, PROMPTS[:1], tmp_path, **given)
    with (
        Leases(tmp_path, "another host 1").take("x"),
        pytest.raises(RuntimeError, match="another host 1 is at work in"),
    ):
        compare(CPU, PROMPTS[:1], tmp_path, force=True, **given)


def test_a_sample_that_fails_in_a_worker(tmp_path):
    study = make(
        prompts=tuple(PROMPTS), arguments=FEW, own_measures=("tests.studies.test_workers:fails",)
    )
    with pytest.raises(TasksFailedError, match=r"1 of 3 failed[^$]*off of 0001-seed1.*no blue"):
        run_study(study, tmp_path / "run", options={"device": "cpu"}, workers=TWO)
    run = open_study(study, tmp_path / "run")
    assert (
        len(run.whole_samples()) == 2
        and "6 of 9 videos" in (tmp_path / "run/tables.md").read_text()
    )


def test_recording_merges_to_the_same_numbers(tmp_path):
    call = FEW | {"height": 32, "width": 32}
    given = {"map_blocks": "middle", "map_dims": None}
    alone = record_videos(load_pipeline(CPU), PROMPTS, call, tmp_path / "one.safetensors", **given)
    found = record_videos(CPU, PROMPTS, call, tmp_path / "two.safetensors", workers=TWO, **given)
    assert alone.metadata == found.metadata and alone.map_dims == found.map_dims != ()
    same(alone, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one.safetensors",
        "two.safetensors",
    ]


def test_parts_that_came_early_are_merged_in_order(tmp_path):
    """A video that another process lacks yet holds back those behind it, and no more."""
    path = tmp_path / "s.safetensors"
    call = FEW | {"height": 32, "width": 32}

    def stop(progress):
        if [each.task for each in progress.working] == ["0002"]:
            raise KeyboardInterrupt

    whole = record_videos(load_pipeline(CPU), PROMPTS, call, tmp_path / "w.safetensors")
    parts = tmp_path / ".s.safetensors.parts"
    with (
        Leases(make_folder(parts), "another host 1").take("0000"),
        pytest.raises(KeyboardInterrupt),
    ):
        record_videos(load_pipeline(CPU), PROMPTS, call, path, report=stop)
    assert [each.name for each in parts.glob("*.safetensors")] == ["0001.safetensors"]
    assert not path.exists()
    found = record_videos(load_pipeline(CPU), PROMPTS, call, path)
    assert found.metadata["finished"] == "3" and not parts.exists()
    same(ActivationStats.load(path), whole)


def make_folder(path):
    path.mkdir()
    return path


def test_a_pipeline_that_is_loaded_can_not_be_sent(tmp_path):
    loaded = load_pipeline(CPU)
    with pytest.raises(TypeError, match="Workers are processes of their own"):
        compare(loaded, PROMPTS, tmp_path / "c", arguments=FEW, workers=TWO)
    with pytest.raises(TypeError, match="Workers are processes of their own"):
        record_videos(loaded, PROMPTS, FEW, tmp_path / "s.safetensors", workers=TWO)
    assert list(tmp_path.iterdir()) == []


def test_two_versions_and_two_devices_of_one_folder(tmp_path):
    study = make(arguments=FEW, measures=("pixel difference",))
    run_study(study, tmp_path / "run", options={"device": "cpu"})
    record = tmp_path / "run/study.json"
    data = json.loads(record.read_text())
    data["made_with"]["stas"] = "0.0.1"
    record.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r'made otherwise: stas "0.0.1" ->'):
        run_study(study, tmp_path / "run", options={"device": "cpu"}, workers=TWO)
    with pytest.raises(ValueError, match="holds another study"):
        other = make(arguments=FEW, measures=("pixel difference",), seed=7)
        run_study(other, tmp_path / "run", options={"device": "cpu"}, workers=TWO)


def test_all_go_on_with_the_threads_that_a_run_began_with(tmp_path):
    study = make(prompts=tuple(PROMPTS[:1]), arguments=FEW, measures=("pixel difference",))
    torch.set_num_threads(2)
    run = run_study(study, tmp_path / "run", options={"device": "cpu"})
    first = pixels(run)
    torch.set_num_threads(1)
    for path in (tmp_path / "run").glob("*/*seed0.json"):
        path.unlink()
    again = run_study(study, tmp_path / "run", options={"device": "cpu"})
    assert pixels(again) == first and torch.get_num_threads() == 1
    threads = {found.manifest.versions["threads"] for found in again.finished.values()}
    assert threads == {2}
