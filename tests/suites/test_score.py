"""Scoring by a stub of VBench in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from stas.suites.environment import Environment
from stas.suites.run import read_run
from stas.suites.score import Score, claim_scores, score_path, score_run
from stas.suites.vbench import DIMENSIONS, INFO, RAFT, read_dimensions
from tests.suites.made import (
    OFF,
    ON,
    a_run,
    all_models,
    fill,
    rows,
    stub_environment,
    write_info,
    write_video,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stub lies in lib/")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with two prompts of each group, and a stub of the environment."""
    folder = tmp_path_factory.mktemp("made")
    info = write_info(folder, rows(2))
    run = a_run(folder / "run", info, videos=2)
    fill(run)
    return folder, stub_environment(folder / "env", info)


@pytest.fixture
def bench(made, tmp_path, monkeypatch):
    """Copies of both, which a test may break."""
    monkeypatch.setattr("stas.suites.environment._has_bert", lambda: True)
    shutil.copytree(made[0] / "run", tmp_path / "run")
    environment = Environment(made[1], all_models(tmp_path / "cache"))
    return read_run(tmp_path / "run"), environment


def score(run, environment, *names, **options):
    return score_run(run, environment, dimensions=read_dimensions(names), device="cpu", **options)


def load(run, name, setting=OFF, **options):
    return Score.load(score_path(run, run.setting(setting.name), name, **options))


def test_every_dimension(bench):
    run, environment = bench
    assert score_run(run, environment, device="cpu") == []
    for name in DIMENSIONS:
        found = load(run, name)
        assert len(found.videos) == 4 and found.versions["vbench"] == "0.1.5"
        assert found.score == pytest.approx(sum(found.videos.values()) / 4)
        assert load(run, name, ON).frames != found.frames
    assert not list(run.folder.rglob("*.part")) and not list(run.folder.rglob("*/info.json"))


def test_what_is_scored_is_not_scored_again(bench):
    run, environment = bench
    score(run, environment, "scene")
    first = load(run, "scene").created, score_path(run, OFF, "scene").stat().st_mtime_ns
    (environment.models / "does").write_text("crash")
    assert score(run, environment, "scene") == []
    assert (load(run, "scene").created, score_path(run, OFF, "scene").stat().st_mtime_ns) == first
    # Another video of the same name is another's score.
    sample = next(each for each in run.samples if "scene" in each.prompt)
    write_video(run, 0, sample, OFF, 12345)
    run.read()
    (failed,) = score(run, environment, "scene")
    assert "scene of off" in failed and "out of patience" in failed


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("nan", "scene has the score nan: expected 0 to 1"),
        ("high", "scene has the score 1.5"),
        ("nan video", "has the score nan"),
        ("skip", "VBench could not score the video"),
        ("foreign", "VBench scored '/elsewhere.mp4', which it wasn't given"),
        ("crash", "out of patience"),
    ],
)
def test_what_is_no_score_is_an_error_and_leaves_no_file(bench, does, message):
    run, environment = bench
    (environment.models / "does").write_text(does)
    failed = score(run, environment, "scene")
    assert len(failed) == 2 and all(message in each for each in failed)
    assert not score_path(run, OFF, "scene").exists()
    (environment.models / "does").unlink()
    assert score(run, environment, "scene") == []


def test_vbench_leaves_out_videos_of_color_alone(bench):
    run, environment = bench
    (environment.models / "does").write_text("skip")
    assert score(run, environment, "color") == []
    assert list(load(run, "color").videos.values()).count(None) == 1


def test_the_filter_is_a_score_of_its_own(bench):
    run, environment = bench
    assert score(run, environment, "temporal_flickering", static=True) == []
    both = load(run, "temporal_flickering"), load(run, "temporal_flickering", static=True)
    assert [len(each.videos) for each in both] == [4, 2]
    (environment.models / RAFT.path).unlink()
    (failed, _) = score(run, environment, "temporal_flickering", static=True)
    assert "by its filter" in failed and "raft-things.pth is missing" in failed


def lose(run):
    run.files(0, scene(run)).path(".mp4").unlink()


def cut(run):
    path = run.files(0, scene(run)).path(".mp4")
    path.write_bytes(path.read_bytes()[:300])


def rename(run):
    path = run.files(0, scene(run)).path(".mp4")
    path.rename(path.with_name("renamed.mp4"))


def scene(run):
    return next(each for each in run.samples if "scene" in each.prompt)


@pytest.mark.parametrize("harm", [lose, cut, rename])
def test_missing_and_broken_videos_are_errors(bench, harm):
    run, environment = bench
    harm(run)
    run.read()
    (failed,) = score(run, environment, "scene")
    assert f"1 of 4 videos are missing or can't be read in '{run.folder}" in failed
    assert scene(run).name in failed and (harm is not rename or "renamed.mp4" in failed)
    assert score_path(run, ON, "scene").exists() and not score_path(run, OFF, "scene").exists()


def test_exchanged_videos_are_errors(bench):
    run, environment = bench
    one, other = [each for each in run.samples if "scene" in each.prompt][:2]
    for kind in (".mp4", ".json"):
        paths = [run.files(0, each).path(kind) for each in (one, other)]
        paths[0].rename(paths[0].with_name("aside"))
        paths[1].rename(paths[0])
        paths[0].with_name("aside").rename(paths[1])
    run.read()
    (failed,) = score(run, environment, "scene")
    assert "another prompt, seed or setting" in failed and one.name in failed


def test_a_video_of_the_other_setting_is_an_error(bench):
    run, environment = bench
    for kind in (".mp4", ".json"):
        shutil.copy(run.files(1, scene(run)).path(kind), run.files(0, scene(run)).path(kind))
    run.read()
    (failed,) = score(run, environment, "scene")
    assert "another prompt, seed or setting" in failed


def test_a_model_that_is_missing_is_named(bench):
    run, environment = bench
    shutil.rmtree(environment.models / "caption_model")
    failed = score(run, environment, "scene")
    assert "tag2text_swin_14m.pth is missing; it comes from https://" in failed[0]


def test_one_scorer_a_folder(bench):
    run, environment = bench
    with claim_scores(run), pytest.raises(RuntimeError, match="Another process scores"):
        score(run, environment, "scene")
    assert score(run, environment, "scene") == []


def test_a_list_of_another_version_is_refused(bench, tmp_path):
    run, environment = bench
    other = stub_environment(tmp_path / "other", write_info(tmp_path / "list", rows(1)))
    with pytest.raises(ValueError, match="another version than the list"):
        score(run, Environment(other, environment.models), "scene")
    (run.folder / INFO).write_text(json.dumps(rows(1)))
    with pytest.raises(ValueError, match="not the list that the run was made from"):
        score(run, environment, "scene")


@pytest.mark.parametrize(
    "change",
    [
        {"score": None},
        {"score": 2.0},
        {"videos": {}},
        {"videos": {"0000-0": None}},
        {"format": "stas.vbench/0"},
        {"more": 1},
    ],
)
def test_a_file_that_is_no_score(bench, change):
    run, environment = bench
    score(run, environment, "scene")
    path = score_path(run, OFF, "scene")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="is no score of VBench"):
        Score.load(path)
    assert score(run, environment, "scene") == []  # it gives way
    Score.load(path)
