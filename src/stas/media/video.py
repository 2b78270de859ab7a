"""Writing and reading videos: mp4 for people, and files without loss."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from stas.checks import check_fps, expect, number
from stas.files import whole_file

Frames = npt.NDArray[np.uint8]

# BT.709 at every size, and said so: of a file that says nothing, a player guesses by its height.
_BT709 = {
    "pix_fmt": "yuv420p",
    "colorspace": Colorspace.ITU709,
    "color_primaries": ColorPrimaries.BT709,
    "color_trc": ColorTrc.BT709,
    "color_range": ColorRange.MPEG,
}


def to_frames(video: Any) -> Frames:
    """One video as a diffusers pipeline returns it, as 8-bit frames.

    Args:
        video: `pipe(...).frames[0]` of any `output_type` but "latent": an array or a tensor, on
            any device, (T, H, W, 3) or (T, 3, H, W), of any float type in [0, 1] or already
            8-bit; or a list of T pictures (PIL, arrays or tensors).

    Returns:
        (T, H, W, 3), uint8, rounded to the nearest.

    Raises:
        TypeError: Pixels that are neither floats nor 8-bit.
        ValueError: Another shape, a NaN or an infinity in the video, or pixels outside [0, 1] by
            more than rounding explains (0.01); less is clipped.

    Example:
        >>> to_frames(np.full((1, 2, 2, 3), 0.5)).max()
        np.uint8(128)
    """
    if isinstance(video, list | tuple):
        frames: npt.NDArray[Any] = np.stack([_array(frame) for frame in video])
    else:
        frames = _array(video)
    if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
        frames = np.moveaxis(frames, 1, -1)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        batch = frames.ndim == 5
        raise ValueError(
            f"A video is (frames, height, width, 3), but got shape {frames.shape}. "
            + ("Take one of the batch, as " if batch else "Give one video as it comes from ")
            + "`pipe(...).frames[0]`."
        )
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise TypeError(f"Pixels are floats in [0, 1] or uint8, but got {frames.dtype}.")
    # In float64, so that half-way cases are rounded alike for every float type.
    frames = frames.astype(np.float64)
    if not np.isfinite(frames).all():
        raise ValueError(
            "The video holds NaN or infinite pixels, so it can't be written. float16 overflows "
            "in some models: try bfloat16 or float32."
        )
    low, high = frames.min(initial=0), frames.max(initial=1)
    if low < -0.01 or high > 1.01:
        raise ValueError(
            f"A video of floats is in [0, 1], but got pixels from {low:.4g} to {high:.4g}. "
            "Map [-1, 1] with (video + 1) / 2, and [0, 255] with video / 255."
        )
    return cast(Frames, np.rint(frames.clip(0, 1) * 255).astype(np.uint8))


def _array(pixels: Any) -> npt.NDArray[Any]:
    """Pixels as an array: numpy knows no bfloat16, and nothing of other devices."""
    if hasattr(pixels, "detach"):  # a torch.Tensor, without importing torch
        pixels = pixels.detach().cpu()
        if pixels.is_floating_point():
            pixels = pixels.double()
    return np.asarray(pixels)


def write_mp4(path: str | os.PathLike[str], video: Any, fps: float, *, crf: int = 15) -> None:
    """Write a video that browsers and players open: H.264, yuv420p, BT.709 and tagged so, MP4.

    The pixels are compressed, so what is read back is close and not equal.

    Args:
        path: The file, of any name and suffix; it appears whole or not at all, and its folder must
            exist.
        video: What `to_frames` takes, most simply `pipe(...).frames[0]`; height and width even.
        fps: Frames per second, 0.001 to 1000. The file says the nearest fraction with a denominator
            of at most 1001, which is within 0.1 %; 30000/1001 and its like are exact.
        crf: x264's constant rate factor, 0 to 51; lower is better. Few players open 0, which is
            lossless.

    Raises:
        OSError: The folder is missing or can't be written to.
        TypeError, ValueError: An odd height or width, no frame, another `fps` or `crf`, or what
            `to_frames` refuses.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/gray.mp4"
        >>> write_mp4(path, np.full((5, 32, 32, 3), 128, dtype=np.uint8), fps=8)
        >>> read_video(path).shape
        (5, 32, 32, 3)
    """
    frames = to_frames(video)
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"H.264 in yuv420p needs an even height and width, but got {width}x{height}. "
            "Crop or pad the video by a pixel."
        )
    expect(0 <= crf <= 51, f"crf must be from 0 to 51, but got {crf!r}")
    _write(
        path,
        frames,
        fps,
        container="mp4",
        container_options={"movflags": "+faststart"},
        codec="libx264",
        codec_options={"crf": str(crf)},
        pixels=_BT709,
    )


def write_exact(path: str | os.PathLike[str], frames: Frames, fps: float) -> None:
    """Write 8-bit frames without loss: H.264 in RGB, quantiser 0, Matroska.

    `stas.media.video.read_video` gives back the same pixels. Few players know the format.

    Args:
        path: As of `write_mp4`.
        frames: (T, H, W, 3), uint8, of any height and width.
        fps: As of `write_mp4`; the file says its inverse in nanoseconds.

    Raises:
        OSError: The folder is missing or can't be written to.
        TypeError, ValueError: No frame, another `fps`, or what `to_frames` refuses.

    Example:
        >>> frames = np.arange(2 * 16 * 16 * 3, dtype=np.uint8).reshape(2, 16, 16, 3)
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/exact.mkv"
        >>> write_exact(path, frames, fps=8)
        >>> bool((read_video(path) == frames).all())
        True
    """
    _write(
        path,
        to_frames(frames),
        fps,
        container="matroska",
        container_options={},
        codec="libx264rgb",
        codec_options={"qp": "0"},
        pixels={"pix_fmt": "rgb24"},
    )


def _write(
    path: str | os.PathLike[str],
    frames: Frames,
    fps: float,
    *,
    container: str,
    container_options: dict[str, str],
    codec: str,
    codec_options: dict[str, str],
    pixels: Mapping[str, Any],
) -> None:
    """Encode frames into a file that appears whole or not at all."""
    rate = _rate(fps)
    count, height, width = frames.shape[:3]
    expect(count > 0, f"A video file needs at least one frame, but got {count}")
    with (
        whole_file(path) as part,
        av.open(_url(part), "w", format=container, options=container_options) as file,
    ):
        stream: Any = file.add_stream(
            codec, rate=rate, options=codec_options, height=height, width=width, **pixels
        )
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(
                format=pixels["pix_fmt"],
                dst_colorspace=pixels.get("colorspace"),
                dst_color_range=pixels.get("color_range"),
            )
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def _rate(fps: float) -> Fraction:
    """The frames per second that a file says."""
    check_fps(fps)
    return Fraction(number("fps", fps)).limit_denominator(1001)


def _url(path: str | os.PathLike[str]) -> str:
    """A file's name as FFmpeg takes it literally: "a:b" alone would be b by a protocol a."""
    return f"file:{Path(path).absolute()}"


def count_frames(path: str | os.PathLike[str]) -> int:
    """How many whole frames a video file holds, without decoding them."""
    with av.open(_url(path)) as container:
        return sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux(video=0))


def read_video(path: str | os.PathLike[str]) -> Frames:
    """All frames of a video file, (T, H, W, 3), uint8, turned as its camera says.

    The colours are those that the file's tags say; BT.601 in a file that has none.
    """
    with av.open(_url(path)) as container:
        return np.stack(
            [
                # Degrees, counterclockwise like rot90.
                np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                for frame in container.decode(video=0)
            ]
        )
