"""Pictures and videos that a pipeline is given, as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from stas.checks import FRAMES, IMAGES, VIDEOS, expect
from stas.files import identity
from stas.media.video import read_video

# What stands for whichever of these a pipeline takes.
NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "cond_image"),
    "control": ("control_video", "controls"),
}


def with_records(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with a record in place of the path of each picture or video.

    Args:
        arguments: By the pipeline's own names. Of those in IMAGES and VIDEOS a value may be a
            path, a record of an earlier call, or a list of these; pictures in memory stay.

    Returns:
        The same with records: the absolute path as `file`, and `sha256`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not the file that was recorded.
    """
    return {
        name: _record(name, value) if name in (*IMAGES, *VIDEOS, *NAMES) else value
        for name, value in arguments.items()
    }


def _record(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_record(name, each) for each in value]
    recorded = _is_record(value)
    if not recorded and not isinstance(value, str | os.PathLike):
        return value
    path = Path(value["file"] if recorded else value).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}, which is to be the {name}.")
    digest = _digest(path.resolve(), identity(path))
    if recorded and value["sha256"] != digest:
        raise ValueError(
            f"{str(path)!r} is another file than the {name} that was used then: its SHA-256 begins "
            f"with {digest[:8]} and not with {value['sha256'][:8]}."
        )
    return {"file": str(path.resolve()), "sha256": digest}


@lru_cache(maxsize=64)
def _digest(path: Path, _: object) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _is_record(value: object) -> bool:
    return isinstance(value, Mapping) and {"file", "sha256"} <= set(value)


def opened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with pixels in place of records, as pipelines take them.

    Returns:
        The same, with a PIL picture for each of IMAGES, and for each of VIDEOS a list of them: as
        many as the frames that are asked for, or all.

    Raises:
        ValueError: A file can't be read as a picture or a video, or a video has too few frames.
    """
    count = next((arguments[name] for name in FRAMES if name in arguments), None)
    return {name: _pixels(name, value, count) for name, value in arguments.items()}


def _pixels(name: str, value: Any, count: int | None) -> Any:
    if isinstance(value, list) and any(map(_is_record, value)):
        return [_pixels(name, each, count) for each in value]
    if not _is_record(value):
        return value
    path = Path(value["file"])
    return read_image(path) if name in IMAGES else _read_frames(path, name, count)


def read_image(path: Path) -> Image.Image:
    """A picture in RGB, turned as its camera says; 16 bits become 8.

    Raises:
        ValueError: It can't be read as one.
    """
    try:
        with Image.open(path) as picture:
            return _eight_bits(ImageOps.exif_transpose(picture)).convert("RGB")
    except Exception as error:  # of broken files Pillow raises SyntaxError and much else
        raise ValueError(f"{path} can't be read as a picture: {error}") from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of at most 8 bits a channel: `convert` would cut what is above 255."""
    mode = picture.mode
    if mode != "F" and not mode.startswith("I"):
        return picture
    pixels = np.asarray(picture)
    low, high = pixels.min(), pixels.max()
    expect(
        mode != "F" and low >= 0 and high < 2**16,
        f"its pixels go from {low:g} to {high:g}, and which are black and white it does not say. "
        "Expected are 8 or 16 bits: save it as a PNG",
    )
    if mode == "I" and high < 2**8:
        return picture
    return Image.fromarray(np.rint(pixels / 257).astype(np.uint8))


def _read_frames(path: Path, name: str, count: int | None) -> list[Image.Image]:
    try:
        frames = read_video(path)
    except (OSError, ValueError, IndexError, EOFError) as error:
        raise ValueError(f"{path} can't be read as a video: {error}") from error
    found = len(frames)
    expect(count is None or found >= count, f"{path}, the {name}, has {found} of {count} frames")
    return [Image.fromarray(frame) for frame in frames[:count]]


def shape_warning(arguments: Mapping[str, Any], width: Any, height: Any) -> str:
    """What to say of a picture whose shape is not the video's; "" of one that fits.

    Args:
        arguments: With records.
        width: Of the video, in pixels; anything else where it isn't known.
        height: The same.
    """
    record: Any = arguments.get("image")
    if not (_is_record(record) and isinstance(width, int) and isinstance(height, int)):
        return ""
    found = read_image(Path(record["file"])).size
    if abs(found[0] * height / (found[1] * width) - 1) < 0.05:  # less is not seen
        return ""
    return (
        f"The picture is {found[0]}x{found[1]} and the video {width}x{height}: it will be "
        "stretched or cut. Crop it, or choose another size."
    )
