"""What can be measured on the exact frames of one video, and which transitions it is split by.

All but the similarities and the aesthetic score needs no weights. `scikit-image` and
`opencv-python-headless` (the extra `metrics`) do SSIM, PSNR, optical flow and sharpness and are
imported where they are used. The similarities need weights of an image encoder, which transformers
downloads or finds in its cache; the aesthetic score needs CLIP's and a linear head from a file.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec as find_module
from itertools import pairwise
from math import isinf, isnan, nan
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from stas.tokens import FrameMap
from stas.video import Frames

Values = npt.NDArray[np.float64]
Flow = npt.NDArray[np.float32]
Measure = Callable[[Frames, str], Mapping[str, float]]  # of frames and their prompt

SMALLEST = 16  # pixels a side: below, neither SSIM's window nor optical flow has room
FORWARD_BACKWARD = (0.01, 0.5)  # of Sundaram, Brox and Keutzer, 2010, as Lai et al., 2018 use them

AESTHETIC_CLIP = "openai/clip-vit-large-patch14"
AESTHETIC_HEAD = (
    "sa_0_4_vit_l_14_linear.pth of https://github.com/LAION-AI/aesthetic-predictor, fitted on "
    f"{AESTHETIC_CLIP}"
)


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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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


def check_frames(frames: Any) -> Frames:
    """The frames as they are, if they can be measured.

    Raises:
        TypeError: Not 8-bit: measured are the exact frames of a video, from
            `stas.video.to_frames` or a lossless file.
        ValueError: NaN or infinite pixels, another shape than (T, H, W, 3), fewer than two
            frames, or sides below 16 pixels.
    """
    array = np.asarray(frames)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("The frames hold NaN or infinite pixels, so nothing can be measured.")
    if array.dtype != np.uint8:
        raise TypeError(
            f"Frames are measured as uint8, but got {array.dtype}. stas.video.to_frames makes "
            "them from what a pipeline returns."
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


def measure(
    frames: Frames,
    frame_map: FrameMap,
    names: Sequence[str] = NAMES,
    encoders: Sequence[ImageEncoder] = (),
    own: Sequence[Measure] = (),
    prompt: str = "",
    aesthetic: AestheticScorer | None = None,
) -> VideoMetrics:
    """Measure one video.

    Args:
        frames: (T, H, W, 3), uint8, exact (not read back from a compressed file).
        frame_map: Which pixel frames share a latent frame.
        names: Of `NAMES`; all that need no weights by default.
        encoders: Each adds "NAME similarity" of consecutive frames and "NAME similarity to the
            first frame".
        own: Measures of your own, see `load_measure`; each is given the frames and the prompt.
        prompt: What the video is to show.
        aesthetic: Adds "aesthetic", a value per frame.

    Returns:
        Curves, values per frame, and which transitions cross latent frames.

    Raises:
        ImportError: The extra `metrics` is missing; `WITHOUT_EXTRA` are the names that do without.
        TypeError: See `check_frames`.
        ValueError: See `check_frames`, or there is no such measure.

    Example:
        >>> video = np.zeros((5, 16, 16, 3), np.uint8)
        >>> video[1:] = 9
        >>> measured = measure(video, FrameMap(4), WITHOUT_EXTRA)
        >>> measured.summary()["pixel difference, across chunks"]
        9.0
        >>> measured.summary()["pixel difference, within chunks"]
        0.0
    """
    frames = check_frames(frames)
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(
            f"There is no measure {', '.join(map(repr, unknown))}. Known: {', '.join(NAMES)}."
        )
    curves: dict[str, Values] = {}
    for given, function in CURVES.items():
        if any(name in names for name in given):
            curves |= {k: v for k, v in function(frames).items() if k in names}
    for encoder in encoders:
        features = encoder.features(frames)
        curves[f"{encoder.name} similarity"] = consecutive_similarity(features)
        curves[f"{encoder.name} similarity to the first frame"] = first_frame_similarity(features)
    values = {name: function(frames) for name, function in FRAMES.items() if name in names}
    if aesthetic is not None:
        values["aesthetic"] = aesthetic.scores(frames)
    return VideoMetrics(
        curves=curves,
        frames=values,
        cross=cross_chunk(len(frames), frame_map),
        numbers={key: value for each in own for key, value in _own(each, frames, prompt).items()},
    )


def _own(function: Measure, frames: Frames, prompt: str) -> dict[str, float]:
    found = function(frames, prompt)
    try:
        return {str(name): float(value) for name, value in found.items()}
    except (AttributeError, TypeError, ValueError):
        name = getattr(function, "__qualname__", repr(function))
        raise ValueError(
            f"The measure {name} must return numbers by name, as in {{'brightness': 0.4}}, but "
            f"returned {found!r:.80}."
        ) from None


def load_measure(source: str) -> Measure:
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
    return cast(Measure, function)


def consecutive_similarity(features: Any) -> Values:
    """Cosine similarity of consecutive frames' features (T, D): (T - 1,), the paper's Fig. 4."""
    unit = _unit(features, fewest=2)
    return cast(Values, (unit[:-1] * unit[1:]).sum(1))


def first_frame_similarity(features: Any) -> Values:
    """Cosine similarity of frames 1, 2, ... to frame 0, from features (T, D): (T - 1,)."""
    unit = _unit(features, fewest=2)
    return cast(Values, unit[1:] @ unit[0])


def aesthetic_score(features: Any, weight: Any, bias: float) -> Values:
    """LAION's aesthetic score over 10, as VBench has it: linear in features of unit length.

    Args:
        features: (T, D), CLIP's projected embedding of each frame.
        weight: (D,), the head's.
        bias: The head's.

    Returns:
        (T,), higher is more pleasing: predicted are people's ratings of 1 to 10, over 10; not
        clipped to that range.

    Example:
        >>> aesthetic_score([[3, 4], [0, 2]], weight=[5, 5], bias=1)
        array([0.8, 0.6])
    """
    return cast(Values, (_unit(features, fewest=1) @ np.asarray(weight) + bias) / 10)


def _unit(features: Any, *, fewest: int) -> Values:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < fewest:
        raise ValueError(f"Features are (frames >= {fewest}, width), but got shape {values.shape}.")
    return cast(Values, values / np.linalg.norm(values, axis=1, keepdims=True))


@dataclass(frozen=True)
class ImageEncoder:
    """A pretrained image encoder that gives each frame one feature vector.

    Made by `load_encoder`. Features are the projected embedding for CLIP, and the last layer's
    class token for all others (DINO, DINOv2).
    """

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    def features(self, frames: Frames, *, batch: int = 16) -> Values:
        """Features of frames (T, H, W, 3), uint8: (T, D), not normalised."""
        import torch
        from PIL import Image

        rows = []
        for start in range(0, len(frames), batch):
            pictures = [Image.fromarray(frame) for frame in frames[start : start + batch]]
            pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self.model.device, self.model.dtype)
            with torch.no_grad():
                if hasattr(self.model, "get_image_features"):
                    found = self.model.get_image_features(pixel_values=pixels)
                    # transformers 5 returns an output object, 4 the tensor.
                    found = getattr(found, "pooler_output", found)
                else:
                    found = self.model(pixel_values=pixels).last_hidden_state[:, 0]
            rows.append(found.double().cpu().numpy())
        return np.concatenate(rows)


def load_encoder(source: str, *, device: str = "cpu") -> ImageEncoder:
    """Load an image encoder, from a folder, transformers' cache or the hub.

    The paper shows DINO and CLIP similarities and its text does not name checkpoints; VBench uses
    DINO ViT-B/16 (`facebook/dino-vitb16`) and CLIP ViT-B/32 (`openai/clip-vit-base-patch32`).
    Frames are resized and cropped as the checkpoint's own preprocessor says, so numbers are near
    VBench's and not equal to them.

    Args:
        source: Hub id or folder of a ViT (DINO), DINOv2 or CLIP model, with its
            `preprocessor_config.json`.
        device: Where it runs.

    Raises:
        OSError: It is not here and can't be downloaded; the message says how to get it.
        ValueError: It is no image encoder, or its weights are cut short.
    """
    from transformers import AutoImageProcessor, AutoModel

    try:
        model = AutoModel.from_pretrained(source).to(device).eval()
        if not hasattr(model.config, "vision_config") and not hasattr(model.config, "patch_size"):
            raise ValueError(
                f"{source!r} is a {type(model).__name__}, and no image encoder: expected a DINO, "
                "DINOv2 or CLIP model."
            )
        processor = AutoImageProcessor.from_pretrained(source)
    except OSError as error:
        raise OSError(
            f"The image encoder {source!r} is not on this machine and can't be downloaded: "
            f"{str(error).splitlines()[0]} Download it where there is a network, by `hf download "
            f"{source}`, and copy the cache (HF_HOME), or give a folder that holds it."
        ) from error
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {source!r} are cut short or damaged ({error}): download them again."
        ) from error
    return ImageEncoder(source.rstrip("/").rpartition("/")[2], model, processor)


@dataclass(frozen=True)
class AestheticScorer:
    """LAION's aesthetic predictor: a CLIP and a linear head. Made by `load_aesthetic`.

    Args:
        encoder: The CLIP.
        weight: (D,), the head's; D is the width of CLIP's projected embedding.
        bias: The head's.
    """

    encoder: ImageEncoder
    weight: Values = field(repr=False)
    bias: float

    def scores(self, frames: Frames, *, batch: int = 16) -> Values:
        """`aesthetic_score` of frames (T, H, W, 3), uint8: (T,)."""
        return aesthetic_score(self.encoder.features(frames, batch=batch), self.weight, self.bias)


def load_aesthetic(
    head: str | os.PathLike[str], clip: str = AESTHETIC_CLIP, *, device: str = "cpu"
) -> AestheticScorer:
    """Load LAION's aesthetic predictor, from the file of its linear head and a CLIP model.

    VBench's "aesthetic quality" of a video is the mean over its frames. VBench resizes without
    antialiasing and, on a GPU, runs CLIP in half precision; here frames are resized and cropped as
    the checkpoint's own preprocessor says [our choice], which is how the predictor's authors use
    it, so numbers are near VBench's and not equal to them.

    Args:
        head: `sa_0_4_vit_l_14_linear.pth`, to be downloaded from
            https://github.com/LAION-AI/aesthetic-predictor; that or a .safetensors file holds
            `weight` (1, D) and `bias` (1,).
        clip: Hub id or folder of the CLIP that the head was fitted on, as for `load_encoder`.
        device: Where CLIP runs.

    Raises:
        OSError: The head is not there, or CLIP is not and can't be downloaded; the message says
            how to get it.
        ValueError: The head is no such head, cut short, or of another width than CLIP's
            embedding; or `clip` is no CLIP model, or its weights are cut short.
    """
    weight, bias = _read_head(Path(head))
    encoder = load_encoder(clip, device=device)
    config = encoder.model.config
    if config.model_type != "clip":
        raise ValueError(
            f"{clip!r} is a {type(encoder.model).__name__}, and no CLIP model: expected the one "
            f"that the aesthetic head was fitted on, as in {AESTHETIC_HEAD}."
        )
    if len(weight) != config.projection_dim:
        raise ValueError(
            f"The aesthetic head {str(head)!r} takes {len(weight)} features, but {clip!r} gives "
            f"{config.projection_dim}: expected the CLIP that the head was fitted on, as in "
            f"{AESTHETIC_HEAD}."
        )
    return AestheticScorer(encoder, weight, bias)


def _read_head(path: Path) -> tuple[Values, float]:
    """Weight (D,) and bias of a linear head."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(
            f"There is no file {str(path)!r}. Download an aesthetic head: {AESTHETIC_HEAD}."
        )
    try:
        if path.suffix == ".safetensors":
            saved = load_file(path)
        else:
            saved = torch.load(path, map_location="cpu", weights_only=True)
    # Of torch, pickle, struct and safetensors: they share no other class.
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} does not hold weights, or is cut short. Download the file itself, and "
            f"not GitHub's page about it: {AESTHETIC_HEAD}."
        ) from error
    found = saved if isinstance(saved, dict) else {}
    shapes = {name: tuple(getattr(value, "shape", ())) for name, value in found.items()}
    if shapes != {"weight": (1, *shapes.get("weight", ())[-1:]), "bias": (1,)}:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{str(path)!r} is no aesthetic head: expected weight (1, D) and bias (1,), as in "
            f"{AESTHETIC_HEAD}, but got "
            f"{shorten(listed, 200, placeholder='...') or f'a {type(saved).__name__}'}."
        )
    weight, bias = found["weight"][0].double().numpy(), found["bias"].item()
    if not np.isfinite([*weight, bias]).all():
        raise ValueError(
            f"The aesthetic head {str(path)!r} holds NaN or infinite numbers. Download it anew: "
            f"{AESTHETIC_HEAD}."
        )
    return weight, bias
