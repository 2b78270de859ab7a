"""The table of VBench: gaps, totals, paired differences."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stas.pipelines.manifest import Manifest
from stas.pipelines.sample import Finished
from stas.suites.rows import table_rows
from stas.suites.score import Score, score_path
from stas.suites.table import VBenchTable, total_difference
from stas.suites.vbench import DIMENSIONS, FLICKERING, read_entries, totals, videos_of
from tests.suites.made import OFF, ON, a_run, rows, write_info

VERSIONS = {"vbench": "0.1.5", "torch": "2.13.0"}


def manifest(sample, setting):
    return Manifest(
        pipeline={},
        model={},
        arguments={"prompt": sample.prompt},
        prompt_file=None,
        seed=sample.seed,
        fps=8.0,
        steering=setting.config,
        dims=None
        if setting.config is None
        else {"transformer": {"dims": [1], "steered_forwards": 9}},
        frames={"sha256": f"{setting.name} {sample.name}", "count": 4},
        versions={},
        device="cpu",
        seconds=1.0,
        created="",
    )


@pytest.fixture
def run(tmp_path):
    """A whole run as it is known when it was read; the videos themselves are not looked at."""
    return whole(tmp_path, rows())


def whole(folder, listed, **options):
    run = a_run(folder / "run", write_info(folder, listed), **options)
    run.finished = {
        (sample.name, setting.name): Finished(manifest(sample, setting))
        for sample in run.samples
        for setting in run.settings
    }
    return run


def write_scores(run, names=DIMENSIONS, gain=0.01, static=False, versions=VERSIONS, missing=0):
    """Scores of invented numbers, those of "on" higher by `gain`."""
    entries = read_entries(run.folder / "VBench_full_info.json")
    for name in names:
        listed = videos_of(entries, name, {each.name for each in run.samples}, 5)
        videos = [each for names in listed.values() for each in names][missing:]
        base = np.random.default_rng(0).uniform(0.05, 0.3, len(videos))
        for number, setting in enumerate(run.settings):
            values = dict(zip(videos, (base + gain * number).tolist(), strict=True))
            Score(
                dimension=name,
                setting=setting.name,
                static=static,
                score=float(np.mean(list(values.values()))),
                videos=values,
                frames={each: f"{setting.name} {each}" for each in videos},
                versions=versions,
                device="cpu",
                created="",
            ).save(score_path(run, setting, name, static=static))


def by_name(run):
    return {row.name: row for row in VBenchTable(run).rows()}


def test_a_whole_table(run):
    write_scores(run)
    table = by_name(run)
    assert list(table) == [*DIMENSIONS, "quality", "semantic", "total"]
    for name, dimension in DIMENSIONS.items():
        (found,) = table[name].differences
        assert found.found.difference == pytest.approx(0.01)
        assert found.found.pairs == dimension.prompts and found.words == "higher"
    scores = {name: table[name].values["off"] for name in DIMENSIONS}
    assert table["total"].values["off"] == pytest.approx(totals(scores).total)
    for name in ("quality", "semantic", "total"):
        (found,) = table[name].differences
        gained = table[name].values["on"] - table[name].values["off"]
        assert found.found.difference == pytest.approx(gained)
        assert found.found.pairs == 946 and found.words == "higher"


@pytest.mark.parametrize("name", [FLICKERING, "color", "scene"])
def test_a_gap_is_seen_and_there_is_no_total(run, name):
    write_scores(run, [each for each in DIMENSIONS if each != name])
    table = VBenchTable(run)
    assert table.gaps(OFF) == [f"{name}: not scored"]
    shown = {row.name: row for row in table.rows()}
    assert shown[name].cells == {"off": "not scored", "on": "not scored"}
    for total in ("quality", "semantic", "total"):
        assert shown[total].cells == {"off": "-", "on": "-"} and not shown[total].values
        assert shown[total].differences[0].found is None
    csv = [line for line in table_rows(list(shown.values()), ["off", "on"]) if line[0] == "total"]
    assert [line[2] for line in csv] == ["", ""]


def test_one_setting_may_have_totals_without_the_other(run):
    write_scores(run)
    score_path(run, ON, "scene").unlink()
    table = by_name(run)
    assert set(table["total"].values) == {"off"} and table["total"].cells["on"] == "-"
    assert table["total"].differences[0].words == "no number"


def test_the_filter_has_a_line_and_totals_of_its_own_and_no_pairs(run):
    write_scores(run)
    write_scores(run, [FLICKERING], gain=0.1, static=True)
    table = by_name(run)
    assert not table[f"{FLICKERING}, by its filter"].differences
    assert table["total, by the filter"].values["on"] > table["total"].values["on"]
    assert not table["total, by the filter"].differences and "semantic, by the filter" not in table


def test_fewer_videos_or_prompts_are_told(tmp_path):
    run = whole(tmp_path, rows(), videos=2)
    write_scores(run)
    table = VBenchTable(run)
    assert "scene: 2 of 5 videos a prompt" in table.gaps(OFF) and len(table.gaps(OFF)) == 16
    assert table.totals(OFF) is None
    few = whole(tmp_path / "few", rows(3))
    write_scores(few)
    assert "scene: 3 of 86 prompts" in VBenchTable(few).gaps(OFF)


def test_scores_of_some_videos_are_a_gap(run):
    write_scores(run)
    write_scores(run, ["scene"], missing=1)
    assert VBenchTable(run).gaps(OFF) == ["scene: not all videos scored"]


def test_scores_of_other_videos_are_a_gap(run):
    write_scores(run)
    sample = next(each for each in run.samples if each.prompt.startswith("scene"))
    other = replace(manifest(sample, ON), frames={"sha256": "another", "count": 4})
    run.finished[sample.name, "on"] = Finished(other)
    gaps = VBenchTable(run).gaps(ON)
    assert "scene: scored on other videos: score them again" in gaps and len(gaps) == 2


def test_scores_by_other_versions_are_refused(run):
    write_scores(run)
    write_scores(run, ["scene"], versions=VERSIONS | {"torch": "2.1.0"})
    with pytest.raises(ValueError, match=r"with torch 2\.13\.0, and scene of off with 2\.1\.0"):
        VBenchTable(run)


def test_a_score_in_anothers_place_is_refused(run):
    write_scores(run)
    path = score_path(run, ON, "scene")
    path.write_bytes(score_path(run, OFF, "scene").read_bytes())
    with pytest.raises(ValueError, match="holds the score of scene of off"):
        VBenchTable(run)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"scene\.json can't be read"):
        VBenchTable(run)


def test_videos_that_vbench_leaves_out_are_told_and_no_pairs(run):
    write_scores(run)
    path = score_path(run, ON, "color")
    data = json.loads(path.read_text())
    for name in list(data["videos"])[:7]:
        data["videos"][name] = None
    path.write_text(json.dumps(data))
    row = by_name(run)["color"]
    assert "7 videos without the object left out" in row.cells["on"]
    assert row.differences[0].found.pairs == 84  # five of them are one prompt's


def test_a_run_of_another_benchmark_is_refused(run):
    run.suite = "compbench"
    with pytest.raises(ValueError, match="holds a run of compbench, not of vbench"):
        VBenchTable(run)


@pytest.mark.parametrize("name", ["quality", "semantic", "total"])
def test_the_interval_of_a_total_is_that_of_draws_of_prompts(name):
    """As wide as the variance of what each prompt adds to the total, by whole videos, says."""
    generator = np.random.default_rng(0)
    pairs = {each: {} for each in DIMENSIONS}
    base = dict.fromkeys(DIMENSIONS, 0.5)
    rises = {
        each: (getattr(totals(base | {each: 0.6}), name) - getattr(totals(base), name)) / 0.1
        for each in DIMENSIONS
    }
    added = {}
    for row, each in enumerate(rows()):
        shared = generator.normal(0, 0.05)  # dimensions of one video differ together
        for dimension in each["dimension"]:
            pairs[dimension][row] = shared + generator.normal(0, 0.02)
        of_row = [rises[d] / DIMENSIONS[d].prompts * pairs[d][row] for d in each["dimension"]]
        added.setdefault(tuple(each["dimension"]), []).append(sum(of_row))
    found = total_difference(name, "on", pairs, 0, 0).found
    error = np.sqrt(sum(len(each) * np.var(each) for each in added.values()))
    assert found.difference == pytest.approx(sum(map(sum, added.values())))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.04)
