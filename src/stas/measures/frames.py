"""Measures of exact frames that need no weights."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from stas.media.video import Frames

Values = npt.NDArray[np.float64]


Flow = npt.NDArray[np.float32]


SMALLEST = 16  # pixels a side: below, neither SSIM's window nor optical flow has room


FORWARD_BACKWARD = (0.01, 0.5)  # of Sundaram, Brox and Keutzer, 2010, as Lai et al., 2018 use them


def check_frames(frames: Any) -> Frames:
    """The frames as they are, if they can be measured.

    Raises:
        TypeError: Not 8-bit: measured are the exact frames of a video, from
            `stas.media.video.to_frames` or a lossless file.
        ValueError: NaN or infinite pixels, another shape than (T, H, W, 3), fewer than two
            frames, or sides below 16 pixels.
    """
    array = np.asarray(frames)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("The frames hold NaN or infinite pixels, so nothing can be measured.")
    if array.dtype != np.uint8:
        raise TypeError(
            f"Frames are measured as uint8, but got {array.dtype}. stas.media.video.to_frames "
            "makes them from what a pipeline returns."
        )
    if array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(
            f"Frames are (frames, height, width, 3), but got shape {array.shape}. Repeat the one "
            "channel of a grayscale video three times."
        )
    count, height, width = array.shape[:3]
    if count < 2 or min(height, width) < SMALLEST:
        raise ValueError(
            f"A video to be measured has at least two frames and {SMALLEST} x {SMALLEST} pixels, "
            f"but got {count} of {width} x {height}."
        )
    return array


def _extra(module: str) -> Any:
    """A module of the extra `metrics`."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This measure needs the package {error.name}: pip install 'stas[metrics]'."
        ) from error


def _pairs(frames: Frames) -> Iterator[tuple[Frames, Frames]]:
    return pairwise(frames)


def pixel_difference(frames: Frames) -> Values:
    """Mean absolute difference of consecutive frames, (T - 1,), in levels of 0 to 255.

    Example:
        >>> pixel_difference(np.stack([np.full((16, 16, 3), v, np.uint8) for v in (0, 3, 1)]))
        array([3., 2.])
    """
    # Pair by pair: a whole video in a wider type is large.
    pairs = _pairs(check_frames(frames))
    return np.array([np.abs(a.astype(np.int16) - b).mean() for a, b in pairs])


def temporal_flickering(frames: Frames) -> float:
    """VBench's temporal flickering: (255 - the mean of `pixel_difference`) / 255, higher is calmer.

    The score before VBench's normalisation, and without the filter by which VBench keeps only
    videos that ought to be static: a moving object counts as flicker. Equal to vbench 0.1.5 in six
    decimals on three videos (`benchmarks/vbench_agreement.py`).

    Example:
        >>> temporal_flickering(np.zeros((3, 16, 16, 3), np.uint8))
        1.0
    """
    return float((255.0 - pixel_difference(frames).mean()) / 255.0)


def ssim(frames: Frames) -> Values:
    """Structural similarity of consecutive frames, (T - 1,), 1 for equal ones.

    Wang et al., 2004, by scikit-image with the paper's Gaussian window, averaged over the colours.
    """
    metrics = _extra("skimage.metrics")
    options = {
        "channel_axis": -1,
        "data_range": 255,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    pairs = _pairs(check_frames(frames))
    return np.array([metrics.structural_similarity(a, b, **options) for a, b in pairs])


def psnr(frames: Frames) -> Values:
    """Peak signal-to-noise ratio of consecutive frames, (T - 1,), in dB; infinite if equal."""
    metrics = _extra("skimage.metrics")
    with np.errstate(divide="ignore"):
        pairs = _pairs(check_frames(frames))
        return np.array([metrics.peak_signal_noise_ratio(a, b, data_range=255) for a, b in pairs])


def optical_flow(frames: Frames) -> Iterator[tuple[Flow, Flow]]:
    """Dense flow of each transition, forth and back, by OpenCV's DIS (Kroeger et al., 2016).

    Yields:
        For each transition p: (H, W, 2) from frame p to p + 1 and from p + 1 to p, in pixels, as
        (x, y).
    """
    cv2 = _extra("cv2")
    grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in check_frames(frames)]
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for gray, following in pairwise(grays):
        yield estimator.calc(gray, following, None), estimator.calc(following, gray, None)


def flow_metrics(frames: Frames) -> dict[str, Values]:
    """Motion and warping error, from one pass of optical flow.

    - "motion": mean length of the flow from a frame to the next, in pixels.
    - "warping error": the next frame is drawn back along the flow, and its mean squared difference
      from the frame is taken, with pixels of 0 to 1, over those pixels that the flow forth and
      back agrees on and that stay in the picture (Lai et al., 2018, with DIS for the flow [our
      choice]). NaN where no pixel is left.

    Returns:
        Both, (T - 1,).
    """
    cv2 = _extra("cv2")
    frames = check_frames(frames)
    height, width = frames.shape[1:3]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    motion, error = [], []
    for (frame, following), (forth, back) in zip(_pairs(frames), optical_flow(frames), strict=True):
        target = grid + forth
        inside = ((target >= 0) & (target <= (width - 1, height - 1))).all(-1)
        returned = cv2.remap(back, target, None, cv2.INTER_LINEAR)
        share, constant = FORWARD_BACKWARD
        lengths = (forth**2).sum(-1) + (returned**2).sum(-1)
        agreed = inside & (((forth + returned) ** 2).sum(-1) <= share * lengths + constant)
        drawn = cv2.remap(following, target, None, cv2.INTER_LINEAR)
        difference = (drawn[agreed].astype(np.float64) - frame[agreed]) / 255.0
        error.append((difference**2).mean() if len(difference) else float("nan"))
        motion.append(np.linalg.norm(forth, axis=-1).mean())
    return {"motion": np.array(motion, np.float64), "warping error": np.array(error, np.float64)}


def sharpness(frames: Frames) -> Values:
    """Variance of the Laplacian of each frame's gray levels, (T,); noise counts as sharp too."""
    cv2 = _extra("cv2")
    grays = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in check_frames(frames))
    return np.array([cv2.Laplacian(gray, cv2.CV_64F).var() for gray in grays])


def colourfulness(frames: Frames) -> Values:
    """Colourfulness of each frame by Hasler and Suesstrunk, 2003, (T,); 0 for gray.

    Example:
        >>> colourfulness(np.full((2, 16, 16, 3), 90, np.uint8))
        array([0., 0.])
    """
    values = []
    for frame in check_frames(frames):
        red, green, blue = frame.astype(np.float64).transpose(2, 0, 1)
        opponents = np.stack([red - green, (red + green) / 2 - blue])
        spread = np.hypot(*opponents.std((1, 2)))
        values.append(spread + 0.3 * np.hypot(*opponents.mean((1, 2))))
    return np.array(values)
