"""Measures of exact frames, on frames whose numbers are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stas.measures.frames import (
    colourfulness,
    flow_metrics,
    optical_flow,
    pixel_difference,
    psnr,
    sharpness,
    ssim,
    temporal_flickering,
)
from tests.measures.test_measure import shifted


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, 3), (-1, 2)])
def test_a_known_shift_is_the_motion_and_leaves_no_warping_error(x, y):
    video = shifted(x=x, y=y, side=64) if x >= 0 else shifted(x=-x, y=y, side=64)[:, :, ::-1]
    video = np.ascontiguousarray(video)
    forth, back = next(optical_flow(video))
    middle = forth[16:48, 16:48].mean((0, 1))
    assert middle == pytest.approx([-x, -y], abs=0.1)
    assert back[16:48, 16:48].mean((0, 1)) == pytest.approx([x, y], abs=0.1)
    found = flow_metrics(video)
    assert found["motion"] == pytest.approx(np.full(5, np.hypot(x, y)), rel=0.05)
    unwarped = ((video[1:].astype(float) - video[:-1]) ** 2).mean() / 255**2
    assert found["warping error"].max() < unwarped / 100


def test_the_warping_error_sees_what_motion_does_not_explain():
    video = shifted()
    bright = video.copy()
    bright[3:] = np.clip(bright[3:].astype(int) + 25, 0, 255)
    calm, jump = (flow_metrics(v)["warping error"] for v in (video, bright))
    assert jump[2] == pytest.approx((25 / 255) ** 2, rel=0.25)  # some pixels are clipped
    assert np.delete(jump, 2).max() < 1e-4 and calm.max() < 1e-4


def test_known_noise():
    rng = np.random.default_rng(0)
    base = np.full((2, 64, 64, 3), 128, np.uint8)
    base[1] += rng.choice(np.array([0, 10], np.uint8), (64, 64, 3))
    difference = base[1].astype(float) - 128
    assert pixel_difference(base) == pytest.approx([difference.mean()])
    assert psnr(base) == pytest.approx([10 * np.log10(255**2 / (difference**2).mean())])
    more = base.copy()
    more[1] = np.where(base[1] > 128, 178, 128)
    assert ssim(more)[0] < ssim(base)[0] < 1


def test_ssim_of_two_flat_frames_is_its_luminance_term():
    flat = np.stack([np.full((32, 32, 3), v, np.uint8) for v in (100, 120)])
    c1 = (0.01 * 255) ** 2
    assert ssim(flat) == pytest.approx([(2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)])


def test_flickering_is_vbenchs_formula():
    video = np.random.default_rng(1).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    pairs = zip(video[:-1].astype(np.float32), video[1:].astype(np.float32), strict=True)
    scores = [np.mean(cv2.absdiff(a, b)) for a, b in pairs]
    expected = (255.0 - np.mean(scores).item()) / 255.0
    assert temporal_flickering(video) == pytest.approx(expected, abs=1e-7)


def test_sharpness_falls_with_blur_and_is_the_laplacians_variance():
    impulse = np.zeros((2, 32, 32, 3), np.uint8)
    impulse[:, 16, 16] = 100
    # -4 at the point, 1 at its four neighbours: the squares add up to 20, the mean is 0.
    assert sharpness(impulse) == pytest.approx(np.full(2, 20 * 100**2 / 32**2))
    clear = shifted(2)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in clear])
    assert (sharpness(blurred) < sharpness(clear) / 2).all()


def test_colourfulness_is_the_published_formula():
    half = np.zeros((2, 32, 32, 3), np.uint8)
    half[:, :16] = (255, 0, 0)
    half[:, 16:] = (0, 0, 255)
    # rg is 255 and 0, yb 127.5 and -255.
    expected = np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, -63.75)
    assert colourfulness(half) == pytest.approx(np.full(2, expected))
