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
