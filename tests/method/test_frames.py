"""Pixel frames and latent frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stas.method.frames import FrameMap


@given(st.integers(1, 8), st.booleans(), st.integers(1, 30))
def test_pixel_frames_and_latent_frames_invert_each_other(ratio, causal, latent_frames):
    frames = FrameMap(ratio, causal)
    covered = [p for f in range(latent_frames) for p in frames.pixel_frames(f)]
    assert covered == list(range(len(covered)))
    assert frames.num_latent_frames(len(covered)) == latent_frames
    for f in range(latent_frames):
        assert {frames.latent_frame(p) for p in frames.pixel_frames(f)} == {f}


def test_the_papers_cross_chunk_transitions():
    crossing = [p for p in range(24, 36) if FrameMap(4).is_cross_chunk(p)]
    assert crossing == [24, 28, 32]


@pytest.mark.parametrize(
    ("pixel_frames", "nearest"), [(80, "77 and 81"), (0, "1 and 5"), (3, "1 and 5")]
)
def test_impossible_lengths_name_the_nearest(pixel_frames, nearest):
    with pytest.raises(ValueError, match=f"nearest are {nearest}"):
        FrameMap(4).num_latent_frames(pixel_frames)
