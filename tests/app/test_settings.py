"""Settings and their forms."""

from __future__ import annotations

import pytest

from stas import STASConfig
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


def test_a_link_holds_everything():
    assert Settings.from_query(WHOLE.to_query()) == WHOLE


def test_python_compiles_and_the_command_names_the_steering():
    compile(WHOLE.to_python(), "made", "exec")
    command = WHOLE.to_command()
    assert "--scale=1.2" in command and "--blocks=0,-1" in command and "--size=128x128" in command


@pytest.mark.parametrize(
    ("query", "said"),
    [("seed=1", "no prompt"), ("prompt=a&x=1", "unknown"), ("prompt=a&width=8", "both")],
)
def test_bad_links_are_refused(query, said):
    with pytest.raises(ValueError, match=said):
        Settings.from_query(query)
