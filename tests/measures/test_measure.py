"""Measures on frames of which the truth is known, and what can't be measured."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from stas.measures.frames import (
    pixel_difference,
    sharpness,
    temporal_flickering,
)
from stas.measures.measure import NAMES, WITHOUT_EXTRA, Measures, available_names
from stas.method.frames import FrameMap

WAN = FrameMap(4)


def measure(video, frame_map, names=NAMES, encoders=(), own=(), prompt="", aesthetic=None):
    measures = Measures(names=names, encoders=encoders, own=own, aesthetic=aesthetic)
    return measures.of(video, frame_map, prompt)


def texture(side, *, seed=0):
    """Smooth colours over the full range, (side, side, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float64)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def shifted(count=6, *, x=2, y=0, side=64):
    """A picture that moves left by x and up by y pixels a frame."""
    picture = texture(side + 40)
    starts = [(5 + y * p, 5 + x * p) for p in range(count)]
    return np.stack([picture[r : r + side, c : c + side] for r, c in starts])


def test_a_constant_video():
    video = np.repeat(texture(64)[None], 6, axis=0)
    summary = measure(video, WAN).summary()
    for part in ("", ", within chunks", ", across chunks"):
        assert summary[f"pixel difference{part}"] == 0
        assert summary[f"ssim{part}"] == pytest.approx(1)
        assert summary[f"psnr{part}"] == np.inf
        assert summary[f"motion{part}"] < 0.01
        assert summary[f"warping error{part}"] < 1e-6
    assert temporal_flickering(video) == 1
    assert summary["sharpness"] == pytest.approx(summary["sharpness, first frame"])


def test_every_name_can_be_asked_for_alone():
    video = shifted(2, side=16)
    for name in NAMES:
        found = measure(video, WAN, [name])
        assert [*found.curves, *found.frames] == [name]


BAD = [
    (np.full((2, 16, 16, 3), np.nan, np.float32), ValueError, "NaN"),
    (np.zeros((2, 16, 16, 3), np.float32), TypeError, r"uint8.*to_frames"),
    (np.zeros((1, 16, 16, 3), np.uint8), ValueError, "at least two frames"),
    (np.zeros((2, 16, 16), np.uint8), ValueError, "grayscale"),
    (np.zeros((2, 16, 16, 1), np.uint8), ValueError, "grayscale"),
    (np.zeros((2, 3, 16, 16), np.uint8), ValueError, "shape"),
    (np.zeros((2, 15, 16, 3), np.uint8), ValueError, "16 x 16 pixels"),
]


@pytest.mark.parametrize(("frames", "error", "message"), BAD)
def test_what_can_not_be_measured_is_refused(frames, error, message):
    with pytest.raises(error, match=message):
        measure(frames, WAN)
    with pytest.raises(error, match=message):
        pixel_difference(frames)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"no measure 'lpips'\. Known: pixel"):
        measure(shifted(2), WAN, ["lpips"])


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"cv2: pip install 'stas\[metrics\]'"):
        sharpness(shifted(2))
    with pytest.raises(ValueError, match=r"sharpness.*pip install 'stas\[metrics\]'"):
        measure(shifted(2), WAN)
    assert set(Measures().of(shifted(2), WAN).summary())
    assert available_names() == WITHOUT_EXTRA
    assert set(measure(shifted(2), WAN, WITHOUT_EXTRA).summary())


@pytest.mark.parametrize("returned", [3, {"x": "bright"}, None])
def test_a_measure_of_ones_own_returns_numbers_by_name(returned):
    def broken(frames, prompt):
        return returned

    with pytest.raises(ValueError, match=r"broken must return numbers by name, .* returned"):
        measure(shifted(3), FrameMap(4), (), own=[broken])
    found = measure(shifted(3), FrameMap(4), (), own=[lambda f, p: {"n": len(p)}], prompt="ab")
    assert found.summary() == {"n": 2.0}


def test_what_a_measure_of_ones_own_writes_changes_nothing():
    def blackens(frames, prompt):
        frames[:] = 0
        return {"black": 1.0}

    def sees(frames, prompt):
        return {"same": float(np.array_equal(frames, shifted(3)))}

    video = shifted(3)
    assert measure(video, WAN, (), own=[blackens, sees]).summary()["same"] == 1
    assert np.array_equal(video, shifted(3))


@pytest.mark.parametrize("name", ["n", "pixel difference", "pixel difference, across chunks"])
def test_a_name_that_another_measure_has_is_refused(name):
    own = [lambda frames, prompt: {"n": 1}, lambda frames, prompt: {name: 1}]
    with pytest.raises(ValueError, match=f"returned '{name}', which another measure gives already"):
        measure(shifted(3), WAN, ("pixel difference",), own=own)
