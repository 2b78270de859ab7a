"""Pictures of videos: strips of frames, and videos side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stas.media.video import Frames

SHOWN_SIDE = 192  # pixels: smaller videos are enlarged in pictures that people look at


def labelled(frames: Frames, text: str) -> Frames:
    """Frames under a bar with a text that can be read when the whole is scaled to a page."""
    width = frames.shape[2]
    bar = Image.new("RGB", (width, bar_height(width)), "black")
    draw = ImageDraw.Draw(bar)
    font = ImageFont.load_default(_text_size(width))
    draw.text((6, bar.height // 2), text, fill="white", font=font, anchor="lm")
    bars = np.broadcast_to(np.asarray(bar), (len(frames), *np.asarray(bar).shape))
    return np.concatenate([bars, frames], axis=1)


def bar_height(width: int) -> int:
    """How high the bar of `labelled` is, in pixels: even, for yuv420p."""
    return 2 * (_text_size(width) // 2 + 5)


def _text_size(width: int) -> int:
    return max(14, width // 70)


def pane(height: int, width: int) -> tuple[int, int]:
    """How `side_by_side` shows a video of that size.

    Returns:
        By how much it is enlarged, and the height of the bar above it, in pixels.
    """
    factor = max(1, -(-SHOWN_SIDE // min(height, width)))
    return factor, bar_height(width * factor)


def side_by_side(videos: Mapping[str, Frames]) -> Frames:
    """Videos of one size beside one another under their names, small ones enlarged.

    Args:
        videos: By name, (T, H, W, 3).

    Returns:
        (T, H', W', 3): each is enlarged by a whole number, below a bar with its name.
    """
    panes = []
    for name, frames in videos.items():
        factor, _ = pane(*frames.shape[1:3])
        panes.append(labelled(frames.repeat(factor, axis=1).repeat(factor, axis=2), name))
    return np.concatenate(panes, axis=2)


def strips(videos: Mapping[str, Frames]) -> Image.Image:
    """A strip of frames for each video, one below the other under their names."""
    rows = [labelled(np.asarray(strip(frames))[None], name)[0] for name, frames in videos.items()]
    return Image.fromarray(np.concatenate(rows, axis=0))


GAP = 4  # pixels between the frames of a strip
NUMBERED = 48


def strip(frames: Frames, *, count: int = 8) -> Image.Image:
    """A row of at most `count` evenly spaced frames with their numbers, first and last included.

    A white gap of GAP pixels between them keeps them from looking like one picture, so n frames of
    width W make n * W + (n - 1) * GAP pixels. Frames lower than NUMBERED pixels have no room for a
    number.

    Example:
        >>> strip(np.zeros((17, 128, 128, 3), dtype=np.uint8)).size
        (1052, 128)
    """
    numbers = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    n, (height, width) = len(numbers), frames.shape[1:3]
    row = np.full((height, n * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for place, number in enumerate(numbers):
        left = place * (width + GAP)
        row[:, left : left + width] = frames[number]
    picture = Image.fromarray(row)
    if height >= NUMBERED:
        draw, size = ImageDraw.Draw(picture), max(10, height // 12)
        font = ImageFont.load_default(size)
        for place, number in enumerate(numbers):
            at = place * (width + GAP) + size // 3, size // 4
            draw.text(at, str(number), "white", font, stroke_width=1, stroke_fill="black")
    return picture
