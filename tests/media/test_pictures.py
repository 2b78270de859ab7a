"""Strips of frames."""

from __future__ import annotations

import numpy as np

from stas.media.pictures import GAP, strip
from tests.media.test_video import clip


def test_a_strip_shows_first_and_last_frame():
    frames = clip(count=17)
    pixels = np.asarray(strip(frames, count=5))
    assert pixels.shape == (32, 5 * 48 + 4 * GAP, 3)
    for column, index in enumerate((0, 4, 8, 12, 16)):
        left = column * (48 + GAP)
        assert np.array_equal(pixels[:, left : left + 48], frames[index])
        assert (pixels[:, left + 48 : left + 48 + GAP] == 255).all()
    assert strip(frames[:3], count=8).size == (3 * 48 + 2 * GAP, 32)
    assert strip(frames[:1]).size == (48, 32)


def test_the_frames_of_a_strip_have_their_numbers():
    """They change little, and each its own: nothing else tells the frames apart."""
    frames = np.full((17, 64, 64, 3), 128, dtype=np.uint8)
    shown = np.asarray(strip(frames))
    tiles = [shown[:, place * (64 + GAP) : place * (64 + GAP) + 64] for place in range(8)]
    changed = [(tile != 128).any(axis=-1) for tile in tiles]
    assert all(0 < each.mean() < 0.1 and not each[20:].any() for each in changed)
    assert len({tile.tobytes() for tile in tiles}) == 8
    small = np.asarray(strip(frames[:, :32]))  # no room
    assert (small[:, :64] == 128).all()
