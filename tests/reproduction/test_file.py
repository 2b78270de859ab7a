"""Reading a reproduction."""

from __future__ import annotations

import pytest

from stas.assets import shipped
from stas.reproduction.file import load_reproduction
from stas.reproduction.stages import STAGES, make_stages
from tests.reproduction.made import TOML, write


@pytest.mark.parametrize("name", shipped("reproductions", ".toml"))
@pytest.mark.parametrize("quick", [False, True])
def test_those_that_ship_can_be_read(name, quick, tmp_path):
    if quick and name == "paper":
        with pytest.raises(ValueError, match="no table `quick`"):
            load_reproduction(name, quick=True)
        return
    plan = load_reproduction(f"{name}.toml", quick=quick)
    assert len(make_stages(plan, tmp_path)) == len(plan.models) * len(plan.stages)
    assert not list(tmp_path.iterdir())


def test_the_papers_has_every_stage_and_all_settings_have_a_source_or_are_our_choice():
    plan = load_reproduction("paper")
    assert set(plan.stages) == set(STAGES)
    for model in plan.models:
        assert all(source for _, _, source in model.settings())
        assert model.seconds


def test_quick_takes_the_place_of_the_rest_key_by_key(tmp_path):
    path = write(tmp_path)
    whole, quick = load_reproduction(path), load_reproduction(path, quick=True)
    assert (whole.stages["record"], quick.stages["record"]) == ({"count": 2}, {"count": 1})
    assert quick.stages["comparison"] == {"count": 2}
    assert quick.models[0].arguments == {**whole.models[0].arguments, "num_inference_steps": 2}
    assert (whole.quick, quick.quick) == (False, True)


def test_arguments_of_a_model_come_before_those_of_all(tmp_path):
    path = write(
        tmp_path, TOML.replace('model = "bundled"', 'model = "bundled"\narguments = { width = 64 }')
    )
    arguments = load_reproduction(path).models[0].arguments
    assert (arguments["width"], arguments["height"]) == (64, 32)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 5", "seed = -1", "seed must be a whole number"),
        ("seed = 5", "sed = 5", "the file: unknown keys 'sed'"),
        ("[stages.rating]", "[stages.voting]", "stages: unknown keys 'voting'"),
        ("rounds = 2", "round = 2", "stages.overhead: unknown keys 'round'. Known: rounds"),
        ("rounds = 2", "rounds = 0", "overhead.rounds must be 1 or more"),
        ("[stages.record]\ncount = 2", "[stages.record]\ncount = 4", "record.count must be 1 to 3"),
        ('["zero", "scale-all"]', '["none"]', "there is no intervention 'none'"),
        ("scale = [1.0, 2.0]", "scale = 2.0", "ablations.axes must be a table of lists"),
        ("scale = [1.0, 2.0]", "scales = [2.0]", "There is no axis 'scales'"),
        ('num_frames = "a test"', 'frames = "a test"', "sources names 'frames'"),
        ("[[models]]\nname", "[[model]]\nname", "the file: unknown keys 'model'"),
        ('name = "Bundled & small"\nmodel', 'name = ""\nmodel', "name must be a text"),
        (
            'value = "0.8"',
            'value = "0.8"\nnumber = 1',
            "what the paper says: unknown keys 'number'",
        ),
        ('model = "Bundled & small"', 'model = "another"', "says something of 'another'"),
        ("[arguments]", "[steering]\ndims = [1]\n[arguments]", "dims are those that are recorded"),
        ("[arguments]", "[steering]\nscale = 'a'\n[arguments]", "scale"),
        ("title", "title = = 1", "is not a reproduction"),
    ],
)
def test_bad_files_get_a_clear_error(tmp_path, old, new, message):
    assert old in TOML
    path = write(tmp_path, TOML.replace(old, new))
    with pytest.raises(ValueError, match="is not a reproduction") as caught:
        load_reproduction(path)
    assert message in str(caught.value) and "small.toml" in str(caught.value)


def test_unknown_files_and_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a TOML file or one of bundled, paper"):
        load_reproduction("none")
    with pytest.raises(ValueError, match="It has Bundled & small"):
        load_reproduction(write(tmp_path), model="other")
    twice = TOML.replace(
        "[stages.record]",
        '[[models]]\nname = "Bundled - small"\nmodel = "bundled"\n[stages.record]',
    )
    with pytest.raises(ValueError, match="two models have the slug"):
        load_reproduction(write(tmp_path, twice))
