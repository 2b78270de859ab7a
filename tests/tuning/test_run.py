"""Tunes on the bundled model: a planted effect, stopping and going on, what is written."""

from __future__ import annotations

import json
import math
from contextlib import closing

import pytest

from stas.activations.profiles import default_steering
from stas.method.config import STASConfig
from stas.pipelines.load import load_pipeline
from stas.pipelines.options import PipelineOptions
from stas.preference.items import read_rated
from stas.preference.report import PreferenceReport
from stas.preference.votes import Rating, Votes
from stas.tuning.plan import tune_of
from stas.tuning.run import open_tune, run_tune

# Massive activations of all tokens set to zero break a video, which anything can measure.
TABLES = ("base", "axes", "arguments")
SPACE = {
    "objective": "colourfulness:lower",
    "budget": 40,
    "round": 2,
    "measures": ["colourfulness"],
    "base": {"blocks": "all", "regions": ["first_frame", "boundary", "interior"], "stop": 1.0},
    "axes": {"op": ["zero", "max"]},
    "arguments": {"num_frames": 5, "num_inference_steps": 2, "height": 64, "width": 64},
}


def flat(frames, prompt):
    """A measure that says nothing."""
    return {"flat": 1.0}


def silent(frames, prompt):
    """A measure that fails on every video."""
    return {"silent": math.nan}


def make(tmp_path, **changes):
    return tune_of(tmp_path / "tune.toml", SPACE | changes)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(PipelineOptions(device="cpu").resolved())


@pytest.fixture(scope="module")
def directions(pipeline, tmp_path_factory):
    """The same space, by each direction of one measure."""
    found = {}
    for better in ("lower", "higher"):
        folder = tmp_path_factory.mktemp(better)
        tune = make(folder, objective=f"colourfulness:{better}")
        found[better] = run_tune(tune, folder / "run", pipeline=pipeline), tune, folder / "run"
    return found


def test_one_direction_wins_and_the_other_finds_nothing(directions):
    winners = {better: race.outcome.winner for better, (race, *_) in directions.items()}
    assert winners == {"lower": None, "higher": "op=zero"}


def test_what_is_written(directions):
    for race, tune, folder in directions.values():
        evidence = json.loads((folder / "evidence.json").read_text())
        videos = len(list(folder.rglob("*.mp4")))
        assert evidence["videos"] == race.spent == videos <= tune.rules.budget
        assert race.outcome.words in (folder / "report.html").read_text().replace("&#39;", "'")
        tuned = folder / "tuned.json"
        assert tuned.exists() == (race.outcome.winner is not None)
        if tuned.exists():
            setting = next(s for s in tune.study.settings() if s.name == race.outcome.winner)
            assert STASConfig.load(tuned) == setting.steering()


def test_a_finished_tune_is_told_again_without_a_video(directions):
    for race, tune, folder in directions.values():
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
        again = run_tune(tune, folder, pipeline=PipelineOptions(model="no such model"))
        assert (again.outcome, again.drops) == (race.outcome, race.drops)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == before


def test_a_stopped_tune_goes_on_to_the_same_end(directions, pipeline, tmp_path):
    race, tune, _ = directions["lower"]

    def stop(progress):
        if progress.finished >= 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tune(tune, tmp_path / "run", pipeline=pipeline, report=stop)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.mp4")}
    assert 0 < len(made) < race.spent
    assert open_tune(tune, tmp_path / "run").race().outcome is None
    again = run_tune(tune, tmp_path / "run", pipeline=pipeline)
    assert (again.outcome, again.drops) == (race.outcome, race.drops)
    assert all(path.stat().st_mtime_ns == at for path, at in made.items())


def test_another_space_is_refused(directions, tmp_path):
    *_, folder = directions["lower"]
    with pytest.raises(
        ValueError, match="holds another tune, so it can't be gone on with: study axes"
    ):
        open_tune(make(tmp_path, axes={"op": ["zero", "mean"]}), folder)
    others = [f"a red circle {n}" for n in range(len(make(tmp_path).study.prompts))]
    with pytest.raises(ValueError, match="study prompts"):
        open_tune(make(tmp_path, prompts=others), folder)


@pytest.mark.parametrize(
    ("own", "said"),
    [("flat", "'flat' is 1 in every video"), ("silent", "'silent' gave a number for 0 of")],
)
def test_a_measure_that_cant_decide_is_an_error(pipeline, tmp_path, own, said):
    tune = make(tmp_path, objective=f"{own}:higher", own_measures=[f"tests.tuning.test_run:{own}"])
    with pytest.raises(ValueError, match=said):
        run_tune(tune, tmp_path / "run", pipeline=pipeline)


def vote(folder, preferred, rater="ann"):
    """Answer every pair: the one setting is better than off, and off than all others."""
    rated = read_rated(folder)
    with closing(Votes(rated, Rating(settings=rated.settings, questions=("quality",)))) as votes:
        for showing in votes.showings(rater):
            if not showing.repeat:
                item = showing.item
                best = item.second if item.second == preferred else item.first
                side = "left" if showing.left == best else "right"
                votes.add(rater, showing, "quality", side)
        return votes.all()


def test_people_decide(pipeline, tmp_path, run):
    tune = make(tmp_path, objective="votes, quality:higher")
    folder = tmp_path / "run"
    race = run_tune(tune, folder, pipeline=pipeline)
    assert race.outcome is None and race.spent == 0
    # Pairs of off and a setting alone, those that differ.
    items = read_rated(folder).items
    assert len(items) == 4 and {item.first for item in items} == {"off"}
    assert "4 pairs wait for votes" in (folder / "report.html").read_text()
    rounds = 0
    while race.outcome is None and (rounds := rounds + 1) < 20:
        votes = vote(folder, "base")
        race = run_tune(tune, folder, pipeline=pipeline)
    assert race.outcome.winner == "base"
    assert json.loads((folder / "tuned.json").read_text())["op"] == "max"
    gains = race.gains("base", tune.rules.objective, race.confirmed)
    assert gains == [1.0] * len(gains) and len(gains) >= 8
    # A vote that comes late changes nothing that was decided.
    vote(folder, "op=zero", "late")
    assert run_tune(tune, folder, pipeline=pipeline) == race
    report = PreferenceReport(read_rated(folder), ("quality",), votes)
    assert {(each.first, each.second) for each in report.preferences} == {
        ("off", "op=zero"),
        ("off", "base"),
    }


def test_votes_on_another_question_decide_nothing(pipeline, tmp_path):
    tune = make(tmp_path, objective="votes, motion:higher")
    run_tune(tune, tmp_path / "run", pipeline=pipeline)
    vote(tmp_path / "run", "base")
    with pytest.raises(ValueError, match="say nothing of motion, which decides"):
        run_tune(tune, tmp_path / "run", pipeline=pipeline)


def test_a_winner_is_kept_in_the_profile(directions, run, tmp_path):
    race, _, folder = directions["higher"]
    file = tmp_path / "tune.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in SPACE.items() if key not in TABLES]
    for name in TABLES:
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in SPACE[name].items())]
    file.write_text("\n".join(lines))
    options = ("--objective", "colourfulness:higher", "-o", folder, "--keep")
    code, out, err = run("tune", file, *options)
    assert code == 0, err
    assert race.outcome.winner == "op=zero" and default_steering("bundled").op == "zero"
    assert str(tmp_path / "cache") in out
    code, _, err = run("tune", file, *options[:-1], "--model", "some/one", "--keep")
    assert code == 1 and "--keep needs a profile of 'some/one'" in err
