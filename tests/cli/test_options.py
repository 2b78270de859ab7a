"""How options are read."""

from __future__ import annotations

import pytest
import typer

from stas.cli import options


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (options.read_integers, "3,-1", (3, -1)),
        (options.read_blocks, "middle", "middle"),
        (options.read_blocks, "0,3", (0, 3)),
        (options.read_maps, "none", "none"),
        (options.read_seeds, "0,7,10-12,7", [0, 7, 10, 11, 12]),
        (options.read_size, "832X480", (832, 480)),
        (options.read_lora, "a=b.safetensors=0.5", ("a=b.safetensors", 0.5)),
        (options.read_lora, "owner/name", ("owner/name", 1.0)),
        (options.read_some_of(("x", "y")), "y, x", ("x", "y")),
    ],
)
def test_what_is_given_is_read(read, text, expected):
    assert read(text) == expected


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (options.read_integers, "3,", "expected whole numbers"),
        (options.read_seeds, "3-1", "expected numbers from 0"),
        (options.read_seeds, str(2**63), r"below 2\*\*63"),
        (options.read_size, "832", "expected WIDTHxHEIGHT"),
        (options.read_lora, "a=b", "expected SOURCE"),
        (options.read_some_of(("x", "y")), "z", "expected some of x, y"),
    ],
)
def test_a_slip_is_a_usage_error(read, text, message):
    with pytest.raises(typer.BadParameter, match=message):
        read(text)
