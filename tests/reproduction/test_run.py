"""Carrying out a reproduction: every stage, going on, and what keeps one from being done."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import closing
from dataclasses import replace

import pytest

from stas.activations.intervals import student_t
from stas.activations.massive import find_massive_activations
from stas.activations.profiles import Profile
from stas.activations.stats import ActivationStats
from stas.preference.items import read_rated
from stas.preference.votes import Rating, Votes
from stas.reproduction.crew import Crew
from stas.reproduction.file import load_reproduction
from stas.reproduction.page import write_reproduction
from stas.reproduction.record import group_magnitudes
from stas.reproduction.run import reproduce
from stas.reproduction.stages import STAGES, make_stages
from stas.studies.compare import compare
from stas.studies.plan import Setting
from stas.suites.compbench import CATEGORIES
from tests.reproduction.made import TOML, write
from tests.suites.made import all_models, rows, stub_environment, write_info
from tests.suites.test_compbench import write_prompts

CREW = Crew(device="cpu")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A reproduction that was carried out, and what was told of it."""
    folder = tmp_path_factory.mktemp("reproduction")
    plan = load_reproduction(write(folder))
    told = []
    failures = reproduce(
        plan, folder / "r", crew=CREW, left_out=lambda stage, why: told.append((stage.name, why))
    )
    assert failures == {}
    return plan, folder / "r", told


def table(folder):
    with (folder / "findings.csv").open(newline="", encoding="utf-8") as file:
        return {(row["stage"], row["finding"]): row for row in csv.DictReader(file)}


def by_name(plan, folder):
    return {stage.name: stage for stage in make_stages(plan, folder)}


def test_every_stage_is_finished_and_only_votes_lack(done):
    plan, folder, told = done
    assert [name for name, _ in told] == ["rating"] and "stas rate" in told[0][1]
    stages = by_name(plan, folder)
    assert {name: stage.left for name, stage in stages.items()} == dict.fromkeys(stages, 0)


def test_findings_are_those_of_the_parts_by_themselves(done):
    plan, folder, _ = done
    found, home = table(folder), folder / "bundled---small"
    stats = ActivationStats.load(home / "record" / "activations.safetensors")
    massive = find_massive_activations(stats)
    assert stats.metadata["videos"] == "2"
    row = found["record", "massive dimensions"]
    assert row["value"] == ", ".join(map(str, massive.dims))
    assert (row["paper"], row["source"]) == ("1188", "the <paper>")
    ratio = found["record", "ratio of the strongest dimension"]
    assert float(ratio["value"]) == massive.findings[0].ratio
    # Student's interval of the log ratios of two videos: t is 12.7, by the expansion that is used.
    logs = stats.video_ratios[:, massive.findings[0].dim].double().log()
    half = student_t(1, 0.975) * (logs[0] - logs[1]).abs() / 2
    assert float(ratio["high"]) == pytest.approx(float((logs.mean() + half).exp()))
    profile = Profile.load(home / "record" / "profile.json")
    assert profile.dims == massive.dims and profile.transformer == "WanTransformer3DModel"
    first, boundary, interior = group_magnitudes(stats, massive.findings[0].dim)
    with (home / "record" / "groups.csv").open(newline="") as file:
        drawn = [float(row["mean |h|"]) for row in csv.DictReader(file)][:3]
    assert [first, boundary, interior] == pytest.approx(drawn)  # those of Figure 1e
    said = found["record", "first frame > boundary > interior"]
    assert said["words"] == f"{first:.4g}, {boundary:.4g}, {interior:.4g}"
    assert said["value"] == ("yes" if first > boundary > interior else "no")

    stas = by_name(plan, folder)["comparison"].setting("stas")
    again = compare(
        "bundled",
        by_name(plan, folder)["comparison"].samples(2),
        folder.parent / "again",
        settings=[Setting("off", None), stas],
        arguments=plan.models[0].arguments,
    )
    rows = {row.measure: row for row in again.differences()}
    for measure in ("ssim, across chunks", "pixel difference, within chunks"):
        row = found["comparison", f"{measure}: stas"]
        assert float(row["value"]) == rows[measure].found.difference
        assert float(row["low"]) == rows[measure].found.low and row["n"] == "2"
    seconds = json.loads((home / "overhead" / "seconds.json").read_text())
    added = sum(seconds["on"]) / 2 - sum(seconds["off"]) / 2
    assert float(found["overhead", "seconds added by steering"]["value"]) == pytest.approx(added)


def test_what_is_steered_are_the_recorded_dimensions(done):
    plan, folder, _ = done
    stages = by_name(plan, folder)
    dims = list(stages["record"].dims)
    assert dims and stages["comparison"].setting("boundary").config["dims"] == dims
    for name in ("interventions", "ablations"):
        for setting in stages[name].open().settings[1:]:
            wanted = setting.name != "dims=ordinary"
            assert (list(setting.config["dims"]) == dims) == wanted, setting.name


def test_overhead_is_that_of_steering(done, tmp_path, monkeypatch):
    """The rounds are made off and on, and each goes first in every other one."""
    plan, old, _ = done
    shutil.copytree(old / "bundled---small" / "record", tmp_path / "bundled---small" / "record")
    stage, steered = by_name(plan, tmp_path)["overhead"], []
    loaded = CREW.load(stage.model)
    steer, generate, clock = loaded.steered, loaded.generate, [0]

    def spy(config):
        steered.append(config)
        return steer(config)

    def slower_when_steered(*arguments):
        clock[0] += 1 if steered[-1] is None else 3
        return generate(*arguments)

    monkeypatch.setattr(loaded, "steered", spy)
    monkeypatch.setattr(loaded, "generate", slower_when_steered)
    monkeypatch.setattr("stas.reproduction.overhead.perf_counter", lambda: clock[0])
    stage.carry_out(CREW)
    on = stage.setting("stas").steering()
    assert steered == [None, on, on, None, None, on]  # two to warm up, then two rounds
    first = json.loads(stage.path.read_text())
    assert (first["off"], first["on"]) == ([1, 1], [3, 3])
    stage.carry_out(CREW)
    assert json.loads(stage.path.read_text()) == first and len(steered) == 6


def test_going_on_makes_nothing_twice_and_what_is_missing_again(done, tmp_path):
    plan, old, _ = done
    folder = tmp_path / "r"
    shutil.copytree(old, folder)
    made = [*folder.rglob("*.mp4"), *folder.rglob("*.safetensors"), *folder.rglob("seconds.json")]
    before = {path: path.stat().st_mtime_ns for path in made}
    gone = next(path for path in made if path.parent.name == "02-intervention=scale-all")
    gone.unlink()
    assert reproduce(plan, folder, crew=CREW, only=["interventions", "record"]) == {}
    after = {path: path.stat().st_mtime_ns for path in made}
    assert after.pop(gone) != before.pop(gone) and after == before


def test_the_page(done):
    plan, folder, _ = done
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "A small &lt;reproduction&gt;" in text and "1188 (the &lt;paper&gt;)" in text
    assert "<li>total: off: 0.8 (a summary)</li>" in text  # said, and not shown here
    assert "[our choice]" in text and "flow_shift" in text and "a test" in text
    assert "stas rate" in text and 'href="bundled---small/comparison/report.html"' in text
    assert text.count("data:image/png") >= 5
    # Where the paper says nothing its column is left out.
    assert 0 < text.count(">the paper</th>") < text.count(">95 % interval</th>")
    assert "quick form" not in text
    quick = write_reproduction(replace(plan, quick=True), folder.parent / "empty")
    text = quick.read_text(encoding="utf-8")
    assert "quick form" in text and "2 videos are missing" in text
    assert "the stage record comes first" in text


def test_the_papers_figures_are_drawn(done):
    plan, folder, _ = done
    drawn = {name: [p.name for p in s.pictures()] for name, s in by_name(plan, folder).items()}
    assert drawn["interventions"] == ["figure-3.png"]
    assert drawn["comparison"] == ["figure-4.png", "figure-5.png", "curves.png"]
    assert len(drawn["record"]) >= 3


def test_a_stage_that_fails_does_not_stop_the_others(done, tmp_path):
    plan, old, _ = done
    folder = tmp_path / "r"
    shutil.copytree(old, folder)
    path = folder / "bundled---small" / "overhead" / "seconds.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"device": "another"} | {"on": kept["on"][:1]}))
    shutil.rmtree(folder / "bundled---small" / "ablations")
    (folder / "bundled---small" / "ablations").touch()
    failures = reproduce(plan, folder, crew=CREW, only=["ablations", "overhead", "comparison"])
    assert set(failures) == {("Bundled & small", "ablations"), ("Bundled & small", "overhead")}
    assert "seconds of two machines are no pairs" in failures["Bundled & small", "overhead"]
    assert "is a file, but a study is a folder" in failures["Bundled & small", "ablations"]
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "no pairs" in text and "is a file" in text
    assert ("comparison", "ssim, across chunks: stas") in table(folder)


def test_another_reproduction_in_the_folder_is_refused(done, tmp_path):
    _, old, _ = done
    folder = tmp_path / "r"
    shutil.copytree(old, folder)
    other = load_reproduction(write(tmp_path, TOML.replace("seed = 5", "seed = 6")))
    before = {path: path.read_bytes() for path in folder.rglob("*.mp4")}
    failures = reproduce(other, folder, crew=CREW, only=["record", "interventions", "comparison"])
    assert len(failures) == 3 and all("can't be gone on with" in why for why in failures.values())
    assert before == {path: path.read_bytes() for path in folder.rglob("*.mp4")}


def test_another_scheduler_is_refused_before_anything_is_made(tmp_path):
    text = TOML.replace("flow_shift = 1.0", "flow_shift = 5.0")
    plan = load_reproduction(write(tmp_path, text))
    failures = reproduce(plan, tmp_path / "r", crew=CREW, only=["record"])
    assert "has flow_shift = 1.0, and the reproduction" in failures["Bundled & small", "record"]
    assert not list((tmp_path / "r").rglob("*.safetensors"))


def test_unknown_stages(done):
    plan, folder, _ = done
    with pytest.raises(ValueError, match=r"no stage 'vbench'\. It has record, interventions"):
        reproduce(plan, folder, only=["vbench"])


def test_votes_are_found(done, tmp_path):
    plan, old, _ = done
    folder = tmp_path / "r"
    shutil.copytree(old, folder)
    stage = by_name(plan, folder)["rating"]
    rated = read_rated(stage.rated, ("off", "stas"))
    with closing(Votes(rated, Rating(settings=rated.settings))) as votes:
        for showing in votes.showings("ann"):
            side = "right" if showing.left == "off" else "left"
            votes.add("ann", showing, "motion", side)
    assert stage.lacks() == "" and reproduce(plan, folder, crew=CREW, only=["rating"]) == {}
    row = table(folder)["rating", "motion: share of stas against off"]
    assert (row["value"], row["n"]) == ("1.0", "2") and 0 < float(row["low"]) < 1


def test_benchmarks_are_made_and_scored(done, tmp_path):
    """By a stub in place of VBench, which answers by the length of a video's file."""
    _, old, _ = done
    info = write_info(tmp_path, rows(1))
    stub_environment(tmp_path / "env", info)
    cache = all_models(tmp_path / "cache")
    text = TOML.replace(
        "[stages.rating]",
        f"[stages.vbench]\nenv = '{tmp_path / 'env'}'\ncache = '{cache}'\ndevice = 'cpu'\n"
        "samples_per_prompt = 1\ndimensions = ['human_action', 'dynamic_degree']\n"
        f"[stages.compbench]\nprompts = '{tmp_path / 'none'}'\n[stages.rating]",
    )
    plan, folder, told = load_reproduction(write(tmp_path, text)), tmp_path / "r", []
    shutil.copytree(old, folder)
    failures = reproduce(
        plan,
        folder,
        crew=CREW,
        only=["vbench", "compbench"],
        left_out=lambda stage, why: told.append((stage.name, why)),
    )
    assert failures == {}
    ((name, why),) = told
    assert name == "compbench" and "1_consistent_attr.txt" in why
    found = table(folder)
    assert 0 < float(found["vbench", "human_action: stas"]["value"]) < 1
    assert ("vbench", "human_action: stas - off") in found
    assert ("vbench", "total: off") not in found  # 14 dimensions were not scored
    home = folder / "bundled---small" / "vbench"
    assert len(list(home.glob("*/*.mp4"))) == 4
    stages = {stage.name: stage for stage in make_stages(plan, folder)}
    assert (stages["vbench"].left, stages["compbench"].left) == (0, 1400)


def test_videos_of_compbench_are_laid_out_and_their_scorers_named(done, tmp_path, monkeypatch):
    """With one prompt a category in place of a hundred."""
    for module in ("stas.suites.compbench", "stas.reproduction.benchmarks"):
        monkeypatch.setattr(f"{module}.PROMPTS", 1)
    _, old, _ = done
    prompts = write_prompts(tmp_path / "prompts", 1)
    text = TOML.replace("[stages.rating]", f"[stages.compbench]\nprompts = '{prompts}'")
    plan, folder = load_reproduction(write(tmp_path, text)), tmp_path / "r"
    shutil.copytree(old, folder)
    assert reproduce(plan, folder, crew=CREW, only=["compbench"]) == {}
    home = folder / "bundled---small" / "compbench" / "compbench"
    assert len(list(home.rglob("0001.mp4"))) == 2 * len(CATEGORIES)
    assert by_name(plan, folder)["compbench"].left == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "its scorers run in environments of yours" in text
    assert "python" in (home / "01-stas.sh").read_text(encoding="utf-8")


def test_what_comes_first_is_said(tmp_path):
    plan, told = load_reproduction(write(tmp_path)), []
    failures = reproduce(
        plan,
        tmp_path / "r",
        crew=CREW,
        only=["overhead", "rating"],
        left_out=lambda stage, why: told.append(why),
    )
    assert failures == {}
    assert [why.split(" comes")[0] for why in told] == ["the stage record", "the stage comparison"]
    assert next(iter(STAGES)) == "record"
