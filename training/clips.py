"""Captioned clips: coloured shapes that move over a plain background, drawn on demand.

A caption reads "a [small|large] COLOUR SHAPE MOTION on a BACKGROUND background", or names two such
things joined by "and". Everything the caption does not say (place, exact size, starting angle) is
drawn at random. A clip is drawn from signed distances, so its edges are antialiased at any size.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch

COLOURS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.10, 0.72, 0.22),
    "blue": (0.14, 0.32, 0.95),
    "yellow": (0.97, 0.87, 0.12),
    "white": (0.96, 0.96, 0.96),
    "purple": (0.62, 0.18, 0.80),
    "orange": (0.98, 0.53, 0.08),
    "cyan": (0.12, 0.84, 0.88),
}
BACKGROUNDS = {
    "black": (0.04, 0.04, 0.05),
    "gray": (0.45, 0.45, 0.46),
    "blue": (0.06, 0.10, 0.40),
    "brown": (0.31, 0.18, 0.09),
}
SHAPES = ("circle", "square", "triangle", "ring", "cross")
MOTIONS = (
    "moving right",
    "moving left",
    "moving up",
    "moving down",
    "rotating",
    "growing",
    "shrinking",
    "standing still",
)
RADIUS = {"small": 0.15, "": 0.19, "large": 0.23}  # as a share of the picture's side
TRAVEL = 0.20  # of the picture's side, to each side of the middle of the path
HELD_OUT = 0.1

Split = Literal["train", "held-out"]


@dataclass(frozen=True)
class Thing:
    """One moving shape, as the caption names it."""

    size: str
    colour: str
    shape: str
    motion: str

    def __str__(self) -> str:
        return " ".join(word for word in ("a", self.size, self.colour, self.shape) if word) + (
            f" {self.motion}"
        )


@dataclass(frozen=True)
class Scene:
    """What a caption says: one or two things and the background."""

    things: tuple[Thing, ...]
    background: str

    @property
    def caption(self) -> str:
        return f"{' and '.join(map(str, self.things))} on a {self.background} background"


def _any_of(words: Iterable[str]) -> str:
    return f"({'|'.join(words)})"


_THING = f"a (?:{_any_of(filter(None, RADIUS))} )?" + " ".join(
    map(_any_of, (COLOURS, SHAPES, MOTIONS))
)
_CAPTION = re.compile(f"{_THING}(?: and {_THING})? on a {_any_of(BACKGROUNDS)} background")


def read_caption(text: str) -> Scene:
    """The scene that a caption says, the inverse of `Scene.caption`.

    Raises:
        ValueError: It is not of the grammar; the message has it.

    Example:
        >>> read_caption("a small red ring growing on a gray background").things
        (Thing(size='small', colour='red', shape='ring', motion='growing'),)
    """
    found = _CAPTION.fullmatch(text)
    if not found:
        raise ValueError(
            "A caption reads 'a [small|large] COLOUR SHAPE MOTION on a BACKGROUND background', or "
            f"has two such things joined by 'and', but got {text!r}. COLOUR: "
            f"{', '.join(COLOURS)}. SHAPE: {', '.join(SHAPES)}. MOTION: {', '.join(MOTIONS)}. "
            f"BACKGROUND: {', '.join(BACKGROUNDS)}."
        )
    *words, background = (word or "" for word in found.groups())
    things = (Thing(*words[:4]), Thing(*words[4:]))
    return Scene(things if things[1].shape else things[:1], background)


def _is_held_out(thing: Thing, background: str) -> bool:
    """By a hash of everything but the size, so that no held-out caption differs by size alone."""
    key = f"{thing.colour} {thing.shape} {thing.motion} {background}"
    return hashlib.sha256(key.encode()).digest()[0] < 256 * HELD_OUT


@cache
def scenes(split: Split) -> tuple[Scene, ...]:
    """Every scene with one thing in a split. No circle or ring rotates: nobody could see it."""
    return tuple(
        Scene((thing,), background)
        for size, colour, shape, motion in itertools.product(RADIUS, COLOURS, SHAPES, MOTIONS)
        for background in BACKGROUNDS
        if colour != background and not (motion == "rotating" and shape in ("circle", "ring"))
        for thing in (Thing(size, colour, shape, motion),)
        if _is_held_out(thing, background) == (split == "held-out")
    )


@cache
def _by_background(split: Split) -> dict[str, list[Scene]]:
    """The small scenes, which leave room for a second thing."""
    groups: dict[str, list[Scene]] = {name: [] for name in BACKGROUNDS}
    for scene in scenes(split):
        if scene.things[0].size == "small":
            groups[scene.background].append(scene)
    return groups


def draw_scenes(count: int, split: Split, rng: random.Random, *, two: float = 0.0) -> list[Scene]:
    """Random scenes of a split; the share `two` of them has two small things.

    Both things of such a scene come from the same split, so a held-out caption with two things
    holds nothing that was trained.
    """
    drawn = []
    for _ in range(count):
        scene = rng.choice(scenes(split))
        if rng.random() < two:
            group = _by_background(split)[scene.background]
            first, second = rng.choice(group).things[0], rng.choice(group).things[0]
            while second.colour == first.colour:
                second = rng.choice(group).things[0]
            scene = Scene((first, second), scene.background)
        drawn.append(scene)
    return drawn


class Placed(NamedTuple):
    """The numbers that `draw` needs: clips of B scenes with up to two things."""

    things: torch.Tensor  # (B, 2, 14); a thing that is missing is transparent
    background: torch.Tensor  # (B, 3)
    corner: torch.Tensor  # (B, 2), of what is drawn, in shares of the picture's side


def place(scenes: Sequence[Scene], rng: random.Random, *, share: float = 1.0) -> Placed:
    """Decide all that the captions leave open.

    Args:
        scenes: What will be drawn.
        rng: Decides place, exact radius and starting angle.
        share: Side of the square that will be drawn, as a share of the picture's side; below 1 it
            lies around a place that a thing passes.
    """
    things, corners = [], []
    for scene in scenes:
        rows = _place_things(scene, rng)
        passing, time = rng.choice(rows), rng.uniform(-1, 1)
        corners.append(
            [
                min(max(0.0, passing[i] + passing[3 + i] * time - share * rng.random()), 1 - share)
                for i in (0, 1)
            ]
        )
        things.append(rows + [[0.5, 0.5, 0.1] + [0.0] * 4 + [1.0] + [0.0] * 6] * (2 - len(rows)))
    return Placed(
        torch.tensor(things),
        torch.tensor([BACKGROUNDS[scene.background] for scene in scenes]),
        torch.tensor(corners),
    )


def _place_things(scene: Scene, rng: random.Random) -> list[list[float]]:
    pair = len(scene.things) == 2
    rows = []
    for index, thing in enumerate(scene.things):
        radius = RADIUS[thing.size] * rng.uniform(0.93, 1.07)
        if pair:
            x = rng.uniform(0.21, 0.36) if index == 0 else rng.uniform(0.64, 0.79)
            y = rng.uniform(0.3, 0.7)
        else:
            x, y = rng.uniform(0.37, 0.63), rng.uniform(0.37, 0.63)
        travel = TRAVEL * (0.7 if pair else 1.0)
        right = {"moving right": travel, "moving left": -travel}.get(thing.motion, 0.0)
        down = {"moving down": travel, "moving up": -travel}.get(thing.motion, 0.0)
        rotates = thing.motion == "rotating"
        start_scale, change = {"growing": (0.5, 0.65), "shrinking": (1.15, -0.65)}.get(
            thing.motion, (1.0, 0.0)
        )
        rows.append(
            [
                *(x, y, radius, right, down),
                *((rng.uniform(0, 2 * math.pi), 0.8) if rotates else (0.0, 0.0)),
                *(start_scale, change, float(SHAPES.index(thing.shape)), 1.0),
                *COLOURS[thing.colour],
            ]
        )
    return rows


def draw(
    placed: Placed, *, size: int = 128, frames: int = 17, side: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw clips, on the device of their numbers.

    Args:
        placed: What `place` decided.
        size: Side of the whole picture in pixels.
        frames: Pixel frames.
        side: Side of the square to draw, from `placed.corner` on; the whole picture by default.

    Returns:
        The clips (B, 3, frames, side, side) in [-1, 1], and how much of each pixel the things
        cover (B, 1, frames, side, side) in [0, 1], both float32.
    """
    side = side or size
    device, batch = placed.things.device, len(placed.things)
    time = torch.linspace(-1, 1, frames, device=device)
    axis = (torch.arange(side, device=device) + 0.5) / size
    left, top = (placed.corner[:, i, None] + axis for i in (0, 1))  # (B, side)
    clip = placed.background[:, :, None, None, None].expand(-1, -1, frames, side, side)
    cover = torch.zeros(batch, 1, frames, side, side, device=device)
    for thing in placed.things.unbind(1):
        v = thing[:, :, None]  # (B, 14, 1), to be broadcast over time
        x = left[:, None, None, :] - (v[:, 0] + v[:, 3] * time)[:, :, None, None]
        y = top[:, None, :, None] - (v[:, 1] + v[:, 4] * time)[:, :, None, None]
        angle = (v[:, 5] + v[:, 6] * (time + 1))[:, :, None, None]
        radius = (v[:, 2] * (v[:, 7] + v[:, 8] * (time + 1) / 2))[:, :, None, None]
        turned = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        distances = torch.stack(_distances(*turned, radius), 1)  # (B, shapes, frames, side, side)
        shape = thing[:, 9].long().view(-1, 1, 1, 1, 1).expand(-1, 1, *distances.shape[2:])
        alpha = (0.5 - distances.gather(1, shape) * size).clamp(0, 1)
        alpha = alpha * thing[:, 10].view(-1, 1, 1, 1, 1)
        clip = clip * (1 - alpha) + alpha * thing[:, 11:14].view(-1, 3, 1, 1, 1)
        cover = torch.maximum(cover, alpha)
    return clip * 2 - 1, cover


def render(
    scenes: Sequence[Scene],
    rng: random.Random,
    *,
    size: int = 128,
    frames: int = 17,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Place and draw one whole clip per scene: the clips and their cover, as `draw` gives them."""
    placed = Placed(*(tensor.to(device) for tensor in place(scenes, rng)))
    return draw(placed, size=size, frames=frames)


def _distances(x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Signed distance to each of SHAPES, in their order; negative inside."""
    from_centre = torch.hypot(x, y)
    across, along = x.abs(), y.abs()
    slope = math.sqrt(3.0)
    return (
        from_centre - r,
        torch.maximum(across, along) - 0.84 * r,
        torch.stack([y, (slope * x - y) / 2, (-slope * x - y) / 2]).amax(0) - 0.56 * r,
        (from_centre - 0.76 * r).abs() - 0.24 * r,
        torch.minimum(
            torch.maximum(across - r, along - 0.33 * r), torch.maximum(across - 0.33 * r, along - r)
        ),
    )
