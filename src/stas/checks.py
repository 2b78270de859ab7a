"""What can be said of a request before its model is known, and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from typing import Any


class StasWarning(UserWarning):
    """What stas warns of; `warnings.filterwarnings("error", category=stas.StasWarning)` raises it."""


FRAMES = ("num_frames", "frames", "video_length")  # what pipelines call the number of pixel frames


def check_fps(fps: object) -> None:
    """Raise ValueError unless `fps` is a finite number above 0.

    Example:
        >>> check_fps(29.97)
    """
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < inf:
        raise ValueError(f"fps must be a finite number above 0, but got {fps!r}.")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments that no pipeline can be called with.

    Args:
        arguments: By the pipelines' own names; None stands for the default.

    Raises:
        ValueError: A size or a number of frames or steps is no integer above 0, or a number is
            not finite.

    Example:
        >>> check_arguments({"num_frames": 17, "width": None})
    """
    for key in ("height", "width", *FRAMES, "num_inference_steps"):
        value = arguments.get(key, 1)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be an integer, at least 1, but got {value!r}.")
    for key, value in arguments.items():
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{key} must be a finite number, but got {value}.")
