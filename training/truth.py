"""The truth of the bundled model's task: how near a video is to what its caption says.

    stas compare --measure training.truth:truth

A caption of `clips.py` says all of a video but place, exact size and starting angle. The judge
names what it sees, and the object is measured against its colour, a smooth path and a smooth
change of size.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_model

from stas.measures.frames import check_frames
from stas.media.video import Frames
from training.classifier import JUDGE, LABELS, Classifier, labels_of
from training.clips import BACKGROUNDS, COLOURS, Scene, read_caption

Values = npt.NDArray[np.float64]

FOUND = (0.002, 0.5)  # share of the picture; what is rendered has 0.008 to 0.25


def truth(frames: Frames, prompt: str) -> dict[str, float]:
    """Compare a video with its caption.

    - "shape, log-probability", and so for colour, motion, background and drift: the log-probability
      in nats that the judge gives to the caption's word; 0 is certain.
    - "all right": 1 if the judge names all of them as the caption does, else 0.
    - "path roughness": root mean square of the second difference of the object's centre over
      frames, as a share of the picture's shorter side.
    - "size roughness": the same of the square root of the object's area, as a share of its mean:
      what grows or shrinks here has a radius that is linear in time. 0 for the renderer's motions,
      all of them, as is the path's.
    - "colour error": mean absolute difference of the object's median colour in each frame from
      the caption's, in levels of 0 to 255. By the median, its soft edge does not count.
    - "background error": the same of every pixel that is not within two pixels of the object.

    The last four are NaN when the object, what is nearer to its colour than to the background's, is
    not found in some frame. Roughness leaves out frames in which the picture's border
    cuts the object, and is NaN when no three in a row are left.

    Args:
        frames: (T, H, W, 3), uint8, exact.
        prompt: A caption with one object.

    Returns:
        By name, in the order above.

    Raises:
        TypeError: See `stas.measures.frames.check_frames`.
        ValueError: See `stas.measures.frames.check_frames`, or the prompt is no caption, has two
            objects, or a pattern on the background.

    Example:
        >>> black = np.zeros((5, 64, 64, 3), np.uint8)
        >>> found = truth(black, "a red ring growing on a black background")
        >>> found["all right"], found["path roughness"]
        (0.0, nan)
    """
    frames = check_frames(frames)
    scene = read_caption(prompt)
    if len(scene.things) != 1 or scene.pattern:
        raise ValueError(
            "The truth is measured for captions with one object on a background without a pattern, "
            f"but got {prompt!r}."
        )
    return _judged(frames, scene) | _measured(frames, scene)


@cache
def _judge() -> Classifier:
    judge = Classifier().eval()
    load_model(judge, JUDGE)
    return judge


@torch.no_grad()
def _judged(frames: Frames, scene: Scene) -> dict[str, float]:
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    said = {label: LABELS[label].index(word) for label, word in labels_of(scene).items()}
    logits = {label: row[0] for label, row in _judge()(clip).items()}
    numbers = {
        f"{label}, log-probability": logits[label].log_softmax(0)[index].item()
        for label, index in said.items()
    }
    right = all(logits[label].argmax() == index for label, index in said.items())
    return numbers | {"all right": float(right)}


def cover_of(frames: Frames, scene: Scene) -> Values:
    """How much of each pixel the object covers, by its colour, in a scene that `truth` takes.

    Args:
        frames: (T, H, W, 3), uint8.
        scene: What the caption says.

    Returns:
        (T, H, W), 0 for the caption's background to 1 for the object's colour.
    """
    ground = _levels(BACKGROUNDS[scene.background])
    line = _levels(COLOURS[scene.things[0].colour]) - ground
    return np.asarray(((frames - ground) @ line / (line @ line)).clip(0, 1))


def _measured(frames: Frames, scene: Scene) -> dict[str, float]:
    ground = _levels(BACKGROUNDS[scene.background])
    colour = _levels(COLOURS[scene.things[0].colour])
    cover = cover_of(frames, scene)
    names = ("path roughness", "size roughness", "colour error", "background error")
    inside = cover > 0.5
    shares = inside.mean((1, 2))
    if not FOUND[0] <= shares.min() <= shares.max() <= FOUND[1]:
        return dict.fromkeys(names, float("nan"))
    area = cover.sum((1, 2))
    rows, columns = (np.arange(n) + 0.5 for n in cover.shape[1:])
    centre = np.stack([cover.sum(1) @ columns, cover.sum(2) @ rows], 1) / area[:, None]
    cut = inside[:, [0, -1]].any((1, 2)) | inside[:, :, [0, -1]].any((1, 2))
    size = np.sqrt(area)[:, None]
    medians = np.stack([np.median(f[i], axis=0) for f, i in zip(frames, inside, strict=True)])
    near = F.max_pool2d(torch.from_numpy(inside).float(), 5, stride=1, padding=2).bool().numpy()
    return {
        "path roughness": _roughness(np.where(cut[:, None], np.nan, centre)) / min(cover.shape[1:]),
        "size roughness": _roughness(np.where(cut[:, None], np.nan, size)) / float(size.mean()),
        "colour error": _mean(np.abs(medians - colour)),
        "background error": _mean(np.abs(frames[~near] - ground)),
    }


def _levels(colour: tuple[float, float, float]) -> Values:
    # Rounded as pixels are: a fraction of a level over the whole background is an object's weight.
    return np.rint(255 * np.array(colour))


def _roughness(curve: Values) -> float:
    """Root mean square length of the second differences of (T, D), NaN rows left out."""
    squares = (np.diff(curve, n=2, axis=0) ** 2).sum(1)
    return float(np.sqrt(_mean(squares[~np.isnan(squares)])))


def _mean(values: Values) -> float:
    return float(values.mean()) if values.size else float("nan")
