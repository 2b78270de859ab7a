"""What is said of bad values, once for all; without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, Literal, get_args

DType = Literal["auto", "float32", "bfloat16", "float16"]
Offload = Literal["none", "model", "sequential"]
FPS = (0.001, 1000)  # Matroska counts milliseconds, and 1/1001 is the slowest that mp4 says here
FRAMES = ("num_frames", "frames", "video_length")  # what pipelines call the number of pixel frames
FORMATS = (".mp4", ".gif", ".webp", ".apng")  # of the videos that are made
# What pipelines call the pictures and the videos that they are given.
IMAGES = ("image", "last_image", "cond_image", "reference_images")
VIDEOS = (
    "video",
    "control_video",
    "controls",
    "pose_video",
    "face_video",
    "background_video",
    "mask_video",
    "mask",
)


class StasWarning(UserWarning):
    """What stas warns of, as a category of its own for `warnings.filterwarnings`."""


def expect(condition: bool, message: str) -> None:
    """Raise ValueError with the message, a full stop behind it, unless the condition holds."""
    if not condition:
        raise ValueError(f"{message}.")


def is_whole(value: object, least: int = 0, below: float = inf) -> bool:
    """Whether a value is an integer, and no bool, in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < below


def integers(name: str, values: object) -> tuple[int, ...]:
    """Integers that differ, as plain ones.

    Raises:
        TypeError, ValueError: They are not.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of integers, but got {values!r}.")
    numbers = tuple(values)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, Integral):
            raise TypeError(f"{name} must be integers, but got {number!r}.")
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"{name} names the same number twice: {numbers}.")
    return tuple(int(number) for number in numbers)


def read_integers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between, as people type them.

    Raises:
        ValueError: They are none.

    Example:
        >>> read_integers("3, 7")
        (3, 7)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"expected whole numbers with commas between, as in 3,7, but got {text!r}."
        ) from None


def read_blocks(text: str) -> Literal["all", "middle"] | tuple[int, ...]:
    """ "all", "middle", or block numbers.

    Raises:
        ValueError: None of these.
    """
    words: dict[str, Literal["all", "middle"]] = {"all": "all", "middle": "middle"}
    return words.get(text.strip()) or read_integers(text)


def number(name: str, value: object) -> float:
    """A number as a float.

    Raises:
        TypeError, ValueError: It is none, or too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, but got {value!r}.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large a number: {value!r}.") from None


def one_of(name: str, value: object, known: Iterable[str]) -> None:
    """Raise ValueError unless a value is one of those known."""
    if value not in tuple(known):
        raise ValueError(f"{name} must be one of {', '.join(known)}, but got {value!r}.")


def some_of(name: str, values: object, known: tuple[str, ...]) -> tuple[str, ...]:
    """Some of the values known, at least one, in their order there.

    Raises:
        TypeError, ValueError: They are not.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a tuple of {', '.join(known)}, but got {values!r}.")
    chosen = tuple(values)
    for value in chosen:
        one_of(name, value, known)
    if not chosen:
        raise ValueError(f"{name} is empty: expected at least one of {', '.join(known)}.")
    return tuple(value for value in known if value in chosen)


def dtype_name(given: object) -> DType:
    """A type of numbers as PyTorch calls it, from any of its common names.

    Args:
        given: As in "bf16", "bfloat16" or `torch.bfloat16`.

    Raises:
        ValueError: It is none that models are loaded in.

    Example:
        >>> dtype_name("bf16"), dtype_name("float32")
        ('bfloat16', 'float32')
    """
    text = str(given).removeprefix("torch.")
    known: dict[str, DType] = {name: name for name in get_args(DType)}
    known |= {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
    one_of("dtype", text, known)
    return known[text]


def check_fps(fps: object) -> None:
    """Raise ValueError unless `fps` is a number of frames per second that a video file can say.

    Example:
        >>> check_fps(29.97)
    """
    slowest, fastest = FPS
    real = isinstance(fps, Real) and not isinstance(fps, bool)
    if not real or not slowest <= float(fps) <= fastest:  # type: ignore[arg-type]  # it is Real
        raise ValueError(
            f"fps must be from {slowest} to {fastest}, which a video file can say, but got {fps!r}."
        )


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
        value = arguments.get(key)
        if value is not None and not is_whole(value, 1):
            raise ValueError(f"{key} must be an integer, at least 1, but got {value!r}.")
    for key, value in arguments.items():
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"{key} must be a finite number, but got {value}.")


def what_differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two objects of JSON's types, in words; "" for nothing.

    Example:
        >>> what_differs({"seed": 0, "call": {"size": 32, "n": 1}}, {"seed": 0, "call": {"n": 2}})
        'call n 1 -> 2; call size 32 -> nothing'
    """
    return "; ".join(_differences(old, new))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += [f"{name} {each}" for each in _differences(before, after)]
        elif before != after:
            # The order of lists counts, for folders follow it.
            texts = ["nothing" if v is None else _short(json.dumps(v)) for v in (before, after)]
            found.append(f"{name} {texts[0]} -> {texts[1]}")
    return found


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
