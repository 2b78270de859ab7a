"""Animations that web pages and chats show in place of a video: GIF, WebP and APNG, by Pillow."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from stas.checks import FPS, check_fps, expect
from stas.files import whole_file
from stas.media.video import Frames, count_frames, write_mp4

# Arguments of Pillow for each: all loop for ever; WebP and APNG keep every pixel.
ANIMATIONS: dict[str, dict[str, Any]] = {
    ".gif": {"format": "GIF", "disposal": 1},
    ".webp": {"format": "WEBP", "lossless": True, "method": 4},
    ".apng": {"format": "PNG", "default_image": False},
}


# Frames per second that they can say: a GIF counts hundredths of a second, of which players take
# less than two for ten, and an APNG up to 65535 thousandths.
_FPS = {".gif": (0.02, 50), ".apng": (0.02, 1000)}


def check_fps_of(suffix: str, fps: float) -> None:
    """Raise ValueError unless a file of that suffix can say a number of frames per second.

    Example:
        >>> check_fps_of(".gif", 24)
    """
    check_fps(fps)
    slowest, fastest = _FPS.get(suffix, FPS)
    expect(
        slowest <= fps <= fastest,
        f"A {suffix} shows from {slowest} to {fastest} frames per second, but got {fps!r}. Give "
        "another number, or write a .webp or .mp4",
    )


def write_by_suffix(
    path: str | os.PathLike[str], frames: Frames, fps: float, suffix: str | None = None
) -> None:
    """Write a video in the format that its name says.

    Args:
        path: The file; it appears whole or not at all, and its folder must exist.
        frames: (T, H, W, 3), uint8, one at least.
        fps: Frames per second. A GIF counts hundredths of a second and the others thousandths, so
            theirs is the nearest; a GIF has 256 colours a frame.
        suffix: ".mp4", ".gif", ".webp" or ".apng", in place of the name's own.

    Raises:
        OSError: The folder is missing or can't be written to.
        ValueError: No frame, another `fps` or suffix, or what `write_mp4` refuses.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = tempfile.mkdtemp() + "/gray.webp"
        >>> write_by_suffix(path, np.full((5, 32, 32, 3), 128, dtype=np.uint8), fps=8)
        >>> is_whole_video(path, 5, fps=8)
        True
    """
    kind = Path(path).suffix if suffix is None else suffix
    if kind == ".mp4":
        write_mp4(path, frames, fps)
        return
    expect(kind in ANIMATIONS, f"{kind!r} is no format of videos: .mp4, {', '.join(ANIMATIONS)}")
    check_fps_of(kind, fps)
    expect(len(frames) > 0, "An animation needs at least one frame, but got 0")
    ends = _ends(kind, len(frames), fps)
    first, *others = map(Image.fromarray, frames)
    with whole_file(path) as temporary:
        first.save(
            temporary,
            save_all=True,
            append_images=others,
            duration=[after - before for before, after in pairwise(ends)],
            loop=0,
            **ANIMATIONS[kind],
        )


def is_whole_video(path: str | os.PathLike[str], count: int, fps: float) -> bool:
    """Whether a file that `write_by_suffix` wrote has all of its frames.

    Args:
        path: The file.
        count: How many frames it was given.
        fps: How fast.

    Returns:
        False too of what can't be read.
    """
    kind = Path(path).suffix
    try:
        if kind not in ANIMATIONS:
            return count_frames(path) == count
        shown = _times(path)
    except Exception:  # of cut files decoders raise SyntaxError, struct.error and much else
        return False
    # Frames that are alike are one that is shown longer, and a single one has no time.
    return len(shown) == 1 or sum(shown) == _ends(kind, count, fps)[-1]


def _times(path: str | os.PathLike[str]) -> list[int]:
    """How long each frame of an animation is shown, in milliseconds."""
    shown = []
    with Image.open(path) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()
            shown.append(round(picture.info.get("duration", 0)))
    return shown


def _ends(kind: str, count: int, fps: float) -> list[int]:
    """When each frame begins and the last one ends, in milliseconds."""
    # That is rounded, and not how long each is shown, so that the whole is not longer.
    unit = 10 if kind == ".gif" else 1
    return [round(1000 * number / fps / unit) * unit for number in range(count + 1)]
