"""What was measured on one video."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isinf, isnan, nan

import numpy as np
import numpy.typing as npt

from stas.measures.frames import Values
from stas.method.frames import FrameMap


@dataclass(frozen=True)
class VideoMetrics:
    """What was measured on one video of T frames.

    Args:
        curves: By name, (T - 1,): one value for each transition from frame p to p + 1.
        frames: By name, (T,): one value for each frame.
        cross: (T - 1,), true where a transition leads from one latent frame to the next.
        numbers: By name, one number for the video: what measures of your own gave.
    """

    curves: dict[str, Values]
    frames: dict[str, Values]
    cross: npt.NDArray[np.bool_]
    numbers: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        names = ", ".join([*self.curves, *self.frames, *self.numbers])
        return f"VideoMetrics({len(self.cross) + 1} frames: {names})"

    def summary(self) -> dict[str, float]:
        """One number for each thing measured.

        Curves give their mean, and their means over the transitions within latent frames
        ("NAME, within chunks") and across them ("NAME, across chunks"); values per frame give
        their mean and the first frame's ("NAME, first frame"); numbers of your own measures are
        as they are. NaN where there is no such transition or no value; a transition without a
        value is left out of a mean.
        """
        numbers: dict[str, float] = {}
        for name, curve in self.curves.items():
            numbers[name] = _mean(curve)
            numbers[f"{name}, within chunks"] = _mean(curve[~self.cross])
            numbers[f"{name}, across chunks"] = _mean(curve[self.cross])
        for name, values in self.frames.items():
            numbers[name] = _mean(values)
            numbers[f"{name}, first frame"] = float(values[0])
        return numbers | self.numbers

    def to_json(self) -> str:
        """All values as JSON, NaN as null."""
        record = {
            "curves": {name: _nulls(values) for name, values in self.curves.items()},
            "frames": {name: _nulls(values) for name, values in self.frames.items()},
            "cross": self.cross.tolist(),
            "numbers": dict(zip(self.numbers, _nulls(self.numbers.values()), strict=True)),
        }
        return json.dumps(record, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> VideoMetrics:
        """What `to_json` wrote.

        Raises:
            ValueError: It was not.
        """
        try:
            record = json.loads(text)
            return cls(
                curves={name: _values(values) for name, values in record["curves"].items()},
                frames={name: _values(values) for name, values in record["frames"].items()},
                cross=np.array(record["cross"], dtype=bool),
                numbers={k: nan if v is None else float(v) for k, v in record["numbers"].items()},
            )
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"These are no measured values: {error!r}") from error


def _nulls(values: Iterable[float]) -> list[float | str | None]:
    """Numbers as JSON has them: NaN is null, and infinities (PSNR of equal frames) are words."""
    return [
        None if isnan(value) else str(value) if isinf(value) else value
        for value in map(float, values)
    ]


def _values(values: Iterable[float | str | None]) -> Values:
    return np.array([nan if value is None else float(value) for value in values], np.float64)


def _mean(values: Values) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def cross_chunk(count: int, frame_map: FrameMap) -> npt.NDArray[np.bool_]:
    """Which transitions of a video of `count` frames lead from one latent frame to the next.

    Returns:
        (count - 1,); entry p is the transition from pixel frame p to p + 1.

    Example:
        >>> cross_chunk(6, FrameMap(4)).tolist()
        [True, False, False, False, True]
    """
    return np.array([frame_map.is_cross_chunk(p) for p in range(count - 1)], dtype=bool)
