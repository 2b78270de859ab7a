"""What the nodes' text fields take."""

from __future__ import annotations

import pytest

from stas.comfyui.text import blocks_of, dims_of, numbers


def test_numbers_and_ranges():
    assert numbers("dims", "1188, 7 20-22,7") == (1188, 7, 20, 21, 22)
    assert numbers("blocks", "-1") == (-1,)


@pytest.mark.parametrize(
    "text", ["x", "1;2", "3-1", "1.5", "1e3", "--1", "99999999999", "0-99999999999", "²", "½"]
)
def test_what_is_no_number_is_named(text):
    with pytest.raises(ValueError, match=r"blocks: .* is not a number or a range"):
        numbers("blocks", text)


@pytest.mark.parametrize("text", ["", "  ", ","])
def test_nothing_is_said_to_be_nothing(text):
    with pytest.raises(ValueError, match=r"dims is empty.*say auto"):
        dims_of(text)


def test_words():
    assert blocks_of("blocks", "ALL ") == "all"
    assert dims_of("profile") is None
    assert dims_of(" Auto").origin == "detected"
    with pytest.raises(ValueError, match=r"blocks: 'most'.*Or say all, or middle"):
        blocks_of("blocks", "most")
    with pytest.raises(ValueError, match="counted from 0"):
        dims_of("-3")
