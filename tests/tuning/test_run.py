"""Tunes on the bundled model: a planted effect, stopping and going on, what is written."""

from __future__ import annotations

import json
import math

import pytest

from stas.method.config import STASConfig
from stas.pipelines.load import load_pipeline
from stas.pipelines.options import PipelineOptions
from stas.tuning.plan import tune_of
from stas.tuning.run import open_tune, run_tune

# Massive activations of all tokens set to zero break a video, which anything can measure.
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
    with pytest.raises(ValueError, match="holds another tune, so it can't be gone on with: axes"):
        open_tune(make(tmp_path, axes={"op": ["zero", "mean"]}), folder)


@pytest.mark.parametrize(
    ("own", "said"),
    [("flat", "'flat' is 1 in every video"), ("silent", "'silent' gave a number for 0 of")],
)
def test_a_measure_that_cant_decide_is_an_error(pipeline, tmp_path, own, said):
    tune = make(tmp_path, objective=f"{own}:higher", own_measures=[f"tests.tuning.test_run:{own}"])
    with pytest.raises(ValueError, match=said):
        run_tune(tune, tmp_path / "run", pipeline=pipeline)
