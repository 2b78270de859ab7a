"""What was measured, split at cross-chunk transitions."""

from __future__ import annotations

import numpy as np

from stas.measures.result import cross_chunk
from stas.method.frames import FrameMap
from tests.measures.test_measure import WAN, measure


def test_transitions_are_split_by_chunks():
    assert cross_chunk(33, WAN).nonzero()[0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert cross_chunk(9, FrameMap(4, causal=False)).nonzero()[0].tolist() == [3, 7]
    video = np.zeros((9, 16, 16, 3), np.uint8)
    video[1:5], video[5:] = 10, 30  # jumps of 10 and 20 at the two cross-chunk transitions
    summary = measure(video, WAN, ["pixel difference"]).summary()
    assert summary == {
        "pixel difference": 30 / 8,
        "pixel difference, within chunks": 0,
        "pixel difference, across chunks": 15,
    }


def test_no_such_transition_is_no_number():
    summary = measure(np.zeros((2, 16, 16, 3), np.uint8), WAN, ["pixel difference"]).summary()
    assert np.isnan(summary["pixel difference, within chunks"])
