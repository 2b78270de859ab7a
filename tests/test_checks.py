"""What is refused before any model is known."""

from __future__ import annotations

import pytest

from stas.checks import FRAMES, check_arguments, check_fps


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), True, "8", None])
def test_what_is_no_frame_rate_is_refused(fps):
    with pytest.raises(ValueError, match=r"fps must be from 0\.001 to 1000"):
        check_fps(fps)


@pytest.mark.parametrize("key", ["height", "width", *FRAMES, "num_inference_steps"])
@pytest.mark.parametrize("value", [0, -5, 1.5, "9", True])
def test_counts_are_integers_above_0(key, value):
    message = f"{key} must be an integer, at least 1, but got {value!r}"
    with pytest.raises(ValueError, match=message):
        check_arguments({key: value})


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_numbers_are_finite(value):
    with pytest.raises(ValueError, match="guidance_scale must be a finite number"):
        check_arguments({"guidance_scale": value})


def test_defaults_and_what_fits_pass():
    check_arguments({"prompt": "a red circle", "height": 64, "width": None, "guidance_scale": 4.0})
