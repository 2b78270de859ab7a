"""What a study is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stas.method.config import STASConfig
from stas.studies.plan import Setting, with_dims
from tests.studies.test_run import make


def test_each_axis_is_varied_from_the_base():
    study = make(
        base={"blocks": "all"},
        axes={"scale": (0.5, 1.0), "regions": (("first_frame",), ("first_frame", "boundary"))},
    )
    off, *cells = study.settings()
    assert off == Setting("off", None)
    assert [cell.name for cell in cells] == ["scale=0.5", "base", "regions=first_frame"]
    assert all(STASConfig.from_dict(cell.config).blocks == "all" for cell in cells)
    assert STASConfig.from_dict(cells[2].config).regions == ("first_frame",)
    assert cells[1].values == {"scale": 1.0, "regions": ("first_frame", "boundary")}


def test_all_combinations():
    axes = {"scale": (0.5, 2.0), "stop": (0.2, 0.4, 1.0)}
    study = make(axes=axes, vary="all")
    names = [cell.name for cell in study.settings()]
    assert names[:3] == ["off", "scale=0.5,stop=0.2", "scale=0.5,stop=0.4"]
    assert len(names) == 1 + 2 * 3
    rows = dict(study.settings_of("stop"))
    assert [cell.name for cell in rows["1"]] == ["scale=0.5,stop=1", "scale=2,stop=1"]


def test_values_that_are_nearly_alike_have_names_of_their_own():
    study = make(axes={"scale": (1.0000001, 1.0000002, 2.0)})
    assert len(study.settings()) == 4
    assert [len(cells) for _, cells in study.settings_of("scale")] == [1, 1, 1]


def test_one_cell_stands_for_the_values_of_two_axes_that_agree():
    axes = {"regions": (("first_frame",),), "intervention": ("max-first-frame", "zero")}
    cells = make(axes=axes).settings()
    assert [cell.name for cell in cells] == ["off", "regions=first_frame", "intervention=zero"]
    assert cells[1].values["intervention"] == "max-first-frame"
    assert STASConfig.from_dict(cells[2].config).op == "zero"


@given(
    prompts=st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1, max_size=9),
    repeats=st.integers(1, 5),
    seed=st.integers(0, 2**40),
)
def test_every_sample_has_a_seed_and_a_name_of_its_own(prompts, repeats, seed):
    study = make(prompts=tuple(prompts), samples_per_prompt=repeats, seed=seed)
    samples = study.samples()
    assert len(samples) == len(prompts) * repeats
    assert [sample.seed for sample in samples] == list(range(seed, seed + len(samples)))
    assert len({sample.name for sample in samples}) == len(samples)
    assert [sample.prompt for sample in samples] == [p for p in prompts for _ in range(repeats)]


BAD = [
    ({"axes": {"sclae": (1.0,)}}, "no axis 'sclae'. Known: dims, blocks"),
    ({"axes": {}}, "there is no axis"),
    ({"axes": {"scale": ()}}, "the axis scale has no values"),
    ({"axes": {"scale": (1.0, 1.0)}}, "Two configs are alike: base and scale=1"),
    ({"axes": {"blocks": ("middle", "midle")}}, 'blocks=midle: blocks must be "all", "middle"'),
    ({"axes": {"dims": ("massiv",)}}, "massive, weak, ordinary, random, but got 'massiv'"),
    ({"axes": {"intervention": ("zerro",)}}, "no intervention 'zerro'. Known: zero, mean"),
    ({"axes": {"scale": (-1.0,)}}, "scale must be a finite number"),
    ({"base": {"alpha": 2.0}}, "base has no alpha. Known: dims"),
    ({"base": {"boundary": 0.6}}, "expected 0 to 0.5"),
    ({"axes": {"scale": 1.5}}, "expected a list, but got 1.5"),
    ({"axes": {"intervention": ({"a": 1},)}}, "no intervention"),
    (
        {"vary": "all", "axes": {"intervention": ("stas",), "scale": (1.5,)}},
        "intervention decides scale",
    ),
    ({"prompts": "a red circle"}, "prompts must be a list of texts"),
    ({"prompts": ("a", " ")}, "a prompt is empty"),
    ({"measures": ("beauty",)}, "no measure 'beauty'. Known: pixel difference"),
    ({"measures": ()}, "nothing to measure"),
    ({"own_measures": (1,)}, "own_measures must be a list of texts"),
    ({"encoders": (1,)}, "encoders must be a list of texts"),
    ({"aesthetic": 3}, "aesthetic must be a text"),
    ({"aesthetic_clip": "a/b"}, "give it by aesthetic"),
    ({"seed": 2**63 - 1}, "below 2"),
    ({"vary": "some"}, 'vary must be "each" or "all"'),
    ({"seed": -1}, "seed must be a whole number, 0 or more"),
    ({"samples_per_prompt": 0}, "1 or more, but got 0"),
    ({"prompts": ()}, "there is no prompt"),
    ({"arguments": {"prompt": "x"}}, "not in arguments"),
    ({"arguments": {"num_inference_steps": 0}}, "num_inference_steps"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_is_no_study(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make(**options)


def test_the_classes_of_dimensions_become_dimensions():
    study = make(axes={"dims": ("massive", "weak", (3, 4))})
    cells = with_dims(study.settings(), {"massive": (242,), "weak": (9,)})
    assert [cell.config and cell.config["dims"] for cell in cells] == [None, [242], [9], [3, 4]]
    assert cells[1].values == {"dims": "massive"}
    with pytest.raises(ValueError, match="alike: dims=massive and dims=242"):
        with_dims(make(axes={"dims": ("massive", (242,))}).settings(), {"massive": (242,)})
