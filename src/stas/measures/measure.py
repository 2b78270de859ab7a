"""What can be measured on the exact frames of one video, and which transitions it is split by.

All but the similarities and the aesthetic score needs no weights. `scikit-image` and
`opencv-python-headless` (the extra `metrics`) do SSIM, PSNR, optical flow and sharpness and are
imported where they are used. The similarities need weights of an image encoder, which transformers
downloads or finds in its cache; the aesthetic score needs CLIP's and a linear head from a file.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import cast

from stas.measures.features import (
    AESTHETIC_CLIP,
    AestheticScorer,
    ImageEncoder,
    consecutive_similarity,
    first_frame_similarity,
    load_aesthetic,
    load_encoder,
)
from stas.measures.frames import (
    Values,
    check_frames,
    colourfulness,
    flow_metrics,
    pixel_difference,
    psnr,
    sharpness,
    ssim,
)
from stas.measures.result import VideoMetrics, cross_chunk
from stas.media.video import Frames
from stas.method.frames import FrameMap

OwnMeasure = Callable[[Frames, str], Mapping[str, float]]  # of frames and their prompt


# By the names of the results that each gives.
CURVES: dict[tuple[str, ...], Callable[[Frames], dict[str, Values]]] = {
    ("pixel difference",): lambda frames: {"pixel difference": pixel_difference(frames)},
    ("ssim",): lambda frames: {"ssim": ssim(frames)},
    ("psnr",): lambda frames: {"psnr": psnr(frames)},
    ("warping error", "motion"): flow_metrics,
}


FRAMES: dict[str, Callable[[Frames], Values]] = {
    "sharpness": sharpness,
    "colourfulness": colourfulness,
}


NAMES = tuple(name for names in CURVES for name in names) + tuple(FRAMES)


WITHOUT_EXTRA = ("pixel difference", "colourfulness")


def available_names() -> tuple[str, ...]:
    """The measures that the installed packages allow: `NAMES`, or `WITHOUT_EXTRA`."""
    return NAMES if find_module("cv2") and find_module("skimage") else WITHOUT_EXTRA


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured on a video, loaded once.

    Args:
        names: Of `NAMES`; all that the installed packages allow by default.
        encoders: Each adds "NAME similarity" of consecutive frames and "NAME similarity to the
            first frame".
        own: Measures of your own, see `load_measure`; each is given the frames and the prompt.
        aesthetic: Adds "aesthetic", a value per frame.

    Raises:
        ValueError: There is no such measure, or it needs a package that is not installed.

    Example:
        >>> import numpy as np
        >>> video = np.zeros((5, 16, 16, 3), np.uint8)
        >>> video[1:] = 9
        >>> measured = Measures(names=WITHOUT_EXTRA).of(video, FrameMap(4))
        >>> measured.summary()["pixel difference, across chunks"]
        9.0
        >>> measured.summary()["pixel difference, within chunks"]
        0.0
    """

    names: Sequence[str] = field(default_factory=available_names)
    encoders: Sequence[ImageEncoder] = ()
    own: Sequence[OwnMeasure] = ()
    aesthetic: AestheticScorer | None = None

    def __post_init__(self) -> None:
        check_names(self.names)
        able = available_names()
        if missing := [name for name in self.names if name not in able]:
            raise ValueError(f"{', '.join(missing)}: these need pip install 'stas[metrics]'.")

    @classmethod
    def load(
        cls,
        names: Sequence[str] | None = None,
        *,
        encoders: Sequence[str] = (),
        own: Sequence[str] = (),
        aesthetic: str | os.PathLike[str] | None = None,
        aesthetic_clip: str | None = None,
        device: str = "cpu",
    ) -> Measures:
        """Measures by the names of what they need.

        Args:
            names: Of `NAMES`; None for all that the installed packages allow.
            encoders: See `stas.measures.features.load_encoder`.
            own: See `load_measure`.
            aesthetic: See `stas.measures.features.load_aesthetic`, like `aesthetic_clip`.
            aesthetic_clip: The CLIP model of the aesthetic head.
            device: Where encoders run.

        Raises:
            OSError, ValueError: What those functions refuse.
        """
        scorer = None
        if aesthetic is not None:
            scorer = load_aesthetic(aesthetic, aesthetic_clip or AESTHETIC_CLIP, device=device)
        elif aesthetic_clip:
            raise ValueError("The CLIP of an aesthetic head is given, but not the head's file.")
        return cls(
            names=available_names() if names is None else tuple(names),
            own=tuple(load_measure(source) for source in own),
            encoders=tuple(load_encoder(source, device=device) for source in encoders),
            aesthetic=scorer,
        )

    def on(self, device: str) -> Measures:
        """The same with its encoders on a device."""
        for encoder in [*self.encoders, *([self.aesthetic.encoder] if self.aesthetic else [])]:
            encoder.model.to(device)
        return self

    def of(self, frames: Frames, frame_map: FrameMap, prompt: str = "") -> VideoMetrics:
        """OwnMeasure one video.

        Args:
            frames: (T, H, W, 3), uint8, exact (not read back from a compressed file).
            frame_map: Which pixel frames share a latent frame.
            prompt: What the video is to show.

        Returns:
            Curves, values per frame, and which transitions cross latent frames.

        Raises:
            TypeError, ValueError: See `stas.measures.frames.check_frames`, or a measure of your own
                gives no numbers, or one by the name of another's.
        """
        frames = check_frames(frames)
        curves: dict[str, Values] = {}
        for given, function in CURVES.items():
            if any(name in self.names for name in given):
                curves |= {k: v for k, v in function(frames).items() if k in self.names}
        for encoder in self.encoders:
            features, name = encoder.features(frames), encoder.name
            curves[f"{name} similarity"] = consecutive_similarity(features)
            curves[f"{name} similarity to the first frame"] = first_frame_similarity(features)
        values = {name: take(frames) for name, take in FRAMES.items() if name in self.names}
        if self.aesthetic is not None:
            values["aesthetic"] = self.aesthetic.scores(frames)
        measured = VideoMetrics(curves, values, cross_chunk(len(frames), frame_map))
        taken = set(measured.summary())
        for each in self.own:
            numbers = _own(each, frames, prompt)
            if twice := sorted(taken & set(numbers)):
                raise ValueError(
                    f"The measure {measure_name(each)} returned {twice[0]!r}, which another "
                    "measure gives already: return it by another name."
                )
            taken |= set(numbers)
            measured.numbers.update(numbers)
        return measured


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for a measure that does not exist."""
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(
            f"There is no measure {', '.join(map(repr, unknown))}. Known: {', '.join(NAMES)}."
        )


def _own(function: OwnMeasure, frames: Frames, prompt: str) -> dict[str, float]:
    # A copy: what it writes there would be in the files. Read-only, torch would warn.
    found = function(frames.copy(), prompt)
    try:
        return {str(name): float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"The measure {measure_name(function)} must return numbers by name, as in "
            f"{{'brightness': 0.4}}, but returned {found!r:.80}."
        ) from None


def measure_name(function: OwnMeasure) -> str:
    """A measure's module and name, as `load_measure` takes them; of what has none its repr."""
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{function.__module__}:{name}"


def load_measure(source: str) -> OwnMeasure:
    """A measure of your own, from its name.

    It takes the frames (T, H, W, 3), uint8, and the prompt, and returns numbers by name, NaN where
    it has none. `training.truth:truth` of this repository is one.

    Args:
        source: "module:function"; the module is looked for in the working folder too.

    Raises:
        ValueError: There is no such module or function, or it does not take two arguments.

    Example:
        >>> load_measure("math:no_such_function")
        Traceback (most recent call last):
        ...
        ValueError: The measure 'math:no_such_function' can't be loaded: module 'math' has no \
attribute 'no_such_function'. Expected module:function with a function of frames and prompt, the \
module installed or in the working folder.
    """
    module, _, name = source.partition(":")
    if "" not in sys.path and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        function = getattr(import_module(module), name)
        inspect.signature(function).bind(None, "")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The measure {source!r} can't be loaded: {error}. Expected module:function with a "
            "function of frames and prompt, the module installed or in the working folder."
        ) from error
    return cast(OwnMeasure, function)
