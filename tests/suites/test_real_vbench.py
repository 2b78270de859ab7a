"""VBench itself, on random checkpoints in the layout of its own, and on what needs none.

Runs where STAS_VBENCH_ENV names an environment that `stas bench setup` made.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from stas.suites.environment import Environment
from stas.suites.score import Score, score_path, score_run
from stas.suites.table import VBenchTable
from stas.suites.vbench import DIMENSIONS, make_samples_of, read_dimensions, read_entries
from tests.suites.made import OFF, a_run, fill, write_info

ENV = os.environ.get("STAS_VBENCH_ENV")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ENV, reason="STAS_VBENCH_ENV names no environment of VBench"),
]
# The others need a package that is built from its source, or a tokenizer from a hub.
RUN_HERE = [each.name for each in DIMENSIONS.values() if not (each.detectron2 or each.bert)]
STANDARD = """
import sys
from vbench import VBench
VBench("cpu", sys.argv[1], sys.argv[2]).evaluate(
    videos_path=sys.argv[3], name="standard", dimension_list=["temporal_flickering"]
)
"""


def listed(environment, name, count):
    rows = json.loads(environment.info.read_text(encoding="utf-8"))
    return [row for row in rows if name in row["dimension"]][:count]


def in_env(environment, code, *arguments, **variables):
    subprocess.run(
        [environment.python, "-I", "-c", code, *map(str, arguments)],
        check=True,
        env=os.environ | variables,
    )


def with_list(environment, info, monkeypatch):
    """The environment, as if its list were a shorter one."""
    monkeypatch.setattr(Environment, "info", property(lambda _: info))
    return environment


def test_the_list_is_the_one_that_the_table_tells_of():
    entries = read_entries(Environment(Path(ENV)).info)
    assert len(entries) == 946 and len({entry.prompt for entry in entries}) == 944
    assert len(make_samples_of(entries)) == 6220
    for each in DIMENSIONS.values():
        assert sum(each.name in entry.dimensions for entry in entries) == each.prompts


def test_temporal_flickering_is_that_of_vbenchs_standard_mode(tmp_path, monkeypatch):
    """20 videos, by our way and by VBench's own."""
    environment = Environment(Path(ENV), tmp_path / "cache")
    info = write_info(tmp_path / "list", listed(environment, "temporal_flickering", 4))
    run = a_run(tmp_path / "run", info, settings=[OFF], videos=5)
    fill(run)
    named = tmp_path / "named"
    named.mkdir()
    for sample in run.samples:
        index = sample.name.rpartition("-")[2]
        target = named / f"{sample.prompt}-{index}.mp4"
        target.write_bytes(run.files(0, sample).path(".mp4").read_bytes())
    assert len(list(named.iterdir())) == 20
    in_env(environment, STANDARD, info, tmp_path / "out", named)
    (theirs,) = (tmp_path / "out").glob("*_eval_results.json")
    score, videos = json.loads(theirs.read_text())["temporal_flickering"]

    environment = with_list(environment, info, monkeypatch)
    assert score_run(run, environment, device="cpu") == []
    ours = Score.load(score_path(run, OFF, "temporal_flickering"))
    assert ours.score == score
    by_name = {Path(each["video_path"]).stem: each["video_results"] for each in videos}
    prompts = {sample.name: sample.prompt for sample in run.samples}
    assert len(ours.videos) == 20
    for name, value in ours.videos.items():
        assert by_name[f"{prompts[name]}-{name.rpartition('-')[2]}"] == value
    assert "temporal_flickering: 4 of 75 prompts" in VBenchTable(run).gaps(OFF)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    code = (Path(__file__).parent / "checkpoints.py").read_text()
    in_env(Environment(Path(ENV)), code, folder, VBENCH_CACHE_DIR=str(folder))
    return folder


@pytest.mark.parametrize("name", RUN_HERE)
def test_models_are_loaded_and_run(tmp_path, monkeypatch, cache, name):
    environment = Environment(Path(ENV), cache)
    assert not environment.missing(DIMENSIONS[name])
    info = write_info(tmp_path / "list", listed(environment, name, 1))
    run = a_run(tmp_path / "run", info, settings=[OFF], videos=2)
    fill(run, size=64, frames=8)
    environment = with_list(environment, info, monkeypatch)
    assert score_run(run, environment, dimensions=read_dimensions([name]), device="cpu") == []
    found = Score.load(score_path(run, OFF, name))
    assert len(found.videos) == 2
    assert found.score == pytest.approx(sum(found.videos.values()) / 2, abs=1e-6)


def test_the_filter_runs(tmp_path, monkeypatch, cache):
    environment = Environment(Path(ENV), cache)
    info = write_info(tmp_path / "list", listed(environment, "temporal_flickering", 1))
    run = a_run(tmp_path / "run", info, settings=[OFF], videos=2)
    fill(run, size=64, still=True)
    environment = with_list(environment, info, monkeypatch)
    failed = score_run(run, environment, device="cpu", static=True)
    # Random weights may see motion where nothing moves.
    assert failed in (
        [],
        ["temporal_flickering by its filter of off: the filter takes no video for static."],
    ), failed


def test_the_doctor_says_what_is_ready(cache):
    found = Environment(Path(ENV), cache).doctor()
    assert {name for name, lacks in found.lacking.items() if not lacks} >= set(RUN_HERE)
    assert not found.ready or found.versions["detectron2"]
    empty = Environment(Path(ENV), cache / "none").doctor()
    assert [n for n, lacks in empty.lacking.items() if not lacks] == ["temporal_flickering"]
