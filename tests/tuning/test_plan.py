"""What a tune's file says, and what is refused of it before anything is made."""

from __future__ import annotations

import pytest

from stas.tuning.plan import load_tune, tune_of
from stas.tuning.race import Objective

SPACE = {
    "objective": "pixel difference:lower",
    "budget": 64,
    "measures": ["pixel difference"],
    "axes": {"scale": [0.5, 2.0]},
}


def make(tmp_path, **changes):
    return tune_of(tmp_path / "t.toml", SPACE | changes)


def test_race_and_confirmation_share_no_prompt_and_no_seed(tmp_path):
    tune = make(tmp_path)
    racing, confirming = tune.samples()
    assert not {s.prompt for s in racing} & {s.prompt for s in confirming}
    assert not {s.seed for s in racing} & {s.seed for s in confirming}
    assert len(racing) + len(confirming) == tune.rules.prompts == len(tune.study.prompts)


def test_options_stand_above_the_file(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text(
        'objective = "pixel difference:lower"\nbudget = 64\nmeasures = ["pixel difference"]\n'
        "[axes]\nscale = [0.5, 2.0]\n"
    )
    changed = load_tune(file, objective="pixel difference:higher", budget=80, seed=5)
    assert changed.rules.objective == Objective("pixel difference", "higher")
    assert (changed.rules.budget, changed.study.seed) == (80, 5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "pixel difference"}, "never guessed"),
        ({"objective": "beauty:higher"}, "nothing measures 'beauty'. Measured: pixel difference"),
        ({"guards": ["pixel difference, first frame:higher"]}, "needs a margin"),
        ({"guards": "pixel difference:higher:1"}, "guards must be a list"),
        ({"budget": 20}, "a budget of 20 videos can't decide between off and 2 settings"),
        ({"budget": "many"}, "budget must be a number of videos"),
        ({"axes": {}}, "there is no axis"),
        ({"axes": {"scale": [2.0]}}, r"a space has two settings beside off or more.*scale=2"),
        ({"axes": {"scale": [1.0, 1.0]}}, "alike"),
        ({"axes": {"dims": ["weak", "massive"]}}, "dims must be numbers"),
        ({"prompts": ["a", "b"]}, "expected 16 prompts or more, but got 2"),
        ({"prompts": [*map(str, range(20)), "3"]}, r"a prompt counts once, but two are \['3'\]"),
        ({"samples_per_prompt": 2}, "leave samples_per_prompt out"),
        ({"colour": 1}, "unknown keys 'colour'"),
    ],
)
def test_bad_input_gets_a_clear_error(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        make(tmp_path, **changes)


@pytest.mark.parametrize("name", ["objective", "budget"])
def test_what_must_be_said(tmp_path, name):
    with pytest.raises(ValueError, match=f"there is no {name}: say"):
        tune_of(tmp_path / "t.toml", {key: SPACE[key] for key in SPACE if key != name})


def test_errors_name_the_file(tmp_path):
    (tmp_path / "t.toml").write_text("budget = 64\n")
    with pytest.raises(ValueError, match=r"t\.toml is not a tune: there is no objective"):
        load_tune(tmp_path / "t.toml")
    with pytest.raises(FileNotFoundError, match="no tune 'none': expected a TOML file or one of"):
        load_tune("none")
