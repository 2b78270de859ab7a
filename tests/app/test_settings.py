"""Settings and their forms."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("gradio")

from stas import STASConfig
from stas.app.page import FIELDS, STEERING, fill_form, read_form, read_scales
from stas.app.settings import Settings

WHOLE = Settings(
    prompt="a red circle's way & back",
    negative_prompt="blur",
    seed=3,
    steps=6,
    guidance=2.5,
    width=128,
    height=128,
    frames=9,
    fps=4,
    steering=STASConfig(dims=(1, 2), blocks=(0, -1), scale=1.2, branches=("cond",), stop=0.5),
)


@pytest.mark.parametrize(
    "settings",
    [WHOLE, replace(WHOLE, negative_prompt="", seed=2**63 - 1, make="off", dtype="bfloat16")],
)
def test_a_link_holds_everything(settings):
    assert Settings.from_query(settings.to_query()) == settings


def test_the_form_holds_everything():
    wide = replace(WHOLE, seed=2**53 + 1, make="on", steering=replace(WHOLE.steering, scale=7))
    assert read_form(tuple(fill_form(wide))) == wide


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("steps", 2.9, "Steps: expected a whole number, but got 2.9"),
        ("seed", "x", "Seed: "),
        ("dims", "1, x", "Dims: expected whole numbers"),
        ("blocks", "0,,3", "Blocks: expected whole numbers"),
    ],
)
def test_a_form_that_cant_be_read_is_refused(name, value, said):
    form = fill_form(WHOLE)
    form[(FIELDS + STEERING).index(name)] = value
    with pytest.raises(ValueError, match=said):
        read_form(tuple(form))


@pytest.mark.parametrize("text", ["1", "1, 1.0000001", "1, x", "2, 150", "nan, 1"])
def test_scales_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="Expected two scales or more from 0 to 100"):
        read_scales(text)


def test_python_compiles_and_the_command_names_the_steering():
    compile(WHOLE.to_python(), "made", "exec")
    command = WHOLE.to_command()
    assert "--scale=1.2" in command and "--blocks=0,-1" in command and "--size=128x128" in command


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("seed=1", "no prompt"),
        ("prompt=a&x=1", "unknown"),
        ("prompt=a&width=8", "both"),
        ("prompt=a&guidance=nan", "finite"),
        ("prompt=a&guidance=101", "0 to 100"),
        ("prompt=a&fps=0", "fps must be"),
        ("prompt=a&seed=9223372036854775808", "below 2"),
        ("prompt=a&steps=-5", "at least 1"),
        ("prompt=a&make=all", "make must be one of both, on, off"),
        ("prompt=a&dtype=int3", "dtype must be one of"),
    ],
)
def test_bad_links_are_refused(query, said):
    with pytest.raises(ValueError, match=said):
        Settings.from_query(query)
