"""Writing and reading videos, and the strip of frames that shows one at a glance."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt


def write_exact(path: str | os.PathLike[str], frames: Frames, fps: float) -> None:
    """Write frames (T, H, W, 3), uint8, without loss: H.264 in RGB, quantiser 0, Matroska.

    `stas.media.video.read_video` gives back the same pixels. Few players know the format.

    Example:
        >>> import tempfile
        >>> from stas.media.video import read_video
        >>> frames = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)
        >>> path = tempfile.mkdtemp() + "/exact.mkv"
        >>> write_exact(path, frames, fps=8)
        >>> bool((read_video(path) == frames).all())
        True
    """
    with av.open(str(path), "w", format="matroska") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream: Any = container.add_stream("libx264rgb", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "rgb24", {"qp": "0"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


Frames = npt.NDArray[np.uint8]


def to_frames(video: Any) -> Frames:
    """What a diffusers pipeline returns for one video, as 8-bit frames.

    Args:
        video: (T, H, W, 3) in [0, 1], any float type, as numpy array (`output_type="np"`), or
            already 8-bit.

    Returns:
        (T, H, W, 3), uint8, rounded to the nearest.

    Raises:
        ValueError: Another shape, or a NaN or an infinity in the video.

    Example:
        >>> to_frames(np.full((1, 2, 2, 3), 0.5)).max()
        np.uint8(128)
    """
    frames = np.asarray(video)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"A video is (frames, height, width, 3), but got shape {frames.shape}.")
    if frames.dtype != np.uint8:
        if not np.isfinite(frames).all():
            raise ValueError(
                "The video holds NaN or infinite pixels, so it can't be written. float16 overflows "
                "in some models: try bfloat16 or float32."
            )
        # In float64, so that half-way cases are rounded alike for every float type.
        frames = np.rint(frames.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)
    return cast(Frames, frames)


def write_mp4(path: str | os.PathLike[str], video: Any, fps: float, *, crf: int = 15) -> None:
    """Write a video that browsers and players open: H.264, yuv420p, MP4.

    The pixels are compressed, so what is read back is close and not equal.

    Args:
        path: The file; written directly (see `stas.files.whole_file` for a file that appears
            whole or not at all).
        video: (T, H, W, 3), 8-bit or floats in [0, 1]; height and width even.
        fps: Frames per second, above 0.
        crf: x264's constant rate factor, 0 to 51; lower is better.

    Raises:
        ValueError: An odd height or width, no frame, or what `to_frames` refuses.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/gray.mp4"
        >>> write_mp4(path, np.full((5, 32, 32, 3), 128, dtype=np.uint8), fps=8)
        >>> read_video(path).shape
        (5, 32, 32, 3)
    """
    frames = to_frames(video)
    count, height, width = frames.shape[:3]
    if count == 0 or height % 2 or width % 2:
        raise ValueError(
            "H.264 in yuv420p needs at least one frame and an even height and width, but got "
            f"{count} frame{'' if count == 1 else 's'} of {width}x{height}."
        )
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(crf)}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def count_frames(path: str | os.PathLike[str]) -> int:
    """How many frames a video file holds, without decoding them."""
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def read_video(path: str | os.PathLike[str]) -> Frames:
    """All frames of a video file, (T, H, W, 3), uint8."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
