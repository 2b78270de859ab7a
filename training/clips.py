"""Captioned clips: coloured shapes that move over a background, drawn on demand.

A caption reads "a [small|large] COLOUR SHAPE MOTION [at the PLACE] on a [PATTERN] BACKGROUND
background [drifting DIRECTION]", or names two things joined by "and". Everything the caption does
not say (place, exact size, starting angle) is drawn at random. A clip is drawn from signed
distances, so its edges are antialiased at any size.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
STAYING = ("rotating", "growing", "shrinking", "standing still")  # what can have a place
# Where the middle of a thing is that sits at the picture's border: x and y, shares of its side.
PLACES = {
    "left": ((0.12, 0.20), (0.25, 0.75)),
    "right": ((0.80, 0.88), (0.25, 0.75)),
    "top": ((0.25, 0.75), (0.12, 0.20)),
    "bottom": ((0.25, 0.75), (0.80, 0.88)),
}
PATTERNS = ("checkered", "dotted")
PATTERN_SIDE = 0.2  # of a check, and between dots; of the picture's side
DOT = 0.055  # radius, of the picture's side
TONE = 0.18  # how far a pattern's second tone is from the background to white
DRIFTS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
DRIFT = 0.3  # how far a background drifts over a clip, of the picture's side
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
    place: str = ""

    def __str__(self) -> str:
        where = f"at the {self.place}" if self.place else ""
        return _words("a", self.size, self.colour, self.shape, self.motion, where)


@dataclass(frozen=True)
class Scene:
    """What a caption says: one or two things, the background and how it drifts."""

    things: tuple[Thing, ...]
    background: str
    pattern: str = ""
    drift: str = ""

    @property
    def caption(self) -> str:
        things = " and ".join(map(str, self.things))
        drift = f"drifting {self.drift}" if self.drift else ""
        return _words(things, "on a", self.pattern, self.background, "background", drift)


@dataclass(frozen=True)
class Mix:
    """What share of drawn scenes is out of the ordinary.

    Args:
        two: Have two small things.
        patterned: Have a pattern on the background; four of five of those drift.
        placed: Of the scenes with one thing that stays where it is: have it at a border of the
            picture.
        rotating: Of the scenes with one thing: have it rotate, the hardest motion to learn.
    """

    two: float = 0.0
    patterned: float = 0.0
    placed: float = 0.0
    rotating: float = 0.0


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def _any_of(words: Iterable[str]) -> str:
    return f"({'|'.join(words)})"


_THING = (
    f"a (?:{_any_of(filter(None, RADIUS))} )?"
    + " ".join(map(_any_of, (COLOURS, SHAPES, MOTIONS)))
    + f"(?: at the {_any_of(PLACES)})?"
)
_CAPTION = re.compile(
    f"{_THING}(?: and {_THING})? on a (?:{_any_of(PATTERNS)} )?{_any_of(BACKGROUNDS)} background"
    f"(?: drifting {_any_of(DRIFTS)})?"
)


def read_caption(text: str) -> Scene:
    """The scene that a caption says, the inverse of `Scene.caption`.

    Raises:
        ValueError: It is not of the grammar; the message has it.

    Example:
        >>> read_caption("a small red ring growing on a gray background").things
        (Thing(size='small', colour='red', shape='ring', motion='growing', place=''),)
    """
    if found := _CAPTION.fullmatch(text):
        *words, pattern, background, drift = (word or "" for word in found.groups())
        both = (Thing(*words[:5]), Thing(*words[5:]))
        things = both if both[1].shape else both[:1]
        staying = all(thing.motion in STAYING for thing in things if thing.place)
        if staying and (pattern or not drift):
            return Scene(things, background, pattern, drift)
    raise ValueError(
        "A caption reads 'a [small|large] COLOUR SHAPE MOTION [at the PLACE] on a [PATTERN] "
        "BACKGROUND background [drifting DIRECTION]', or has two things joined by 'and', but got "
        f"{text!r}. COLOUR: {', '.join(COLOURS)}. SHAPE: {', '.join(SHAPES)}. MOTION: "
        f"{', '.join(MOTIONS)}. PLACE: {', '.join(PLACES)}, and only with {', '.join(STAYING)}. "
        f"PATTERN: {', '.join(PATTERNS)}. BACKGROUND: {', '.join(BACKGROUNDS)}. DIRECTION: "
        f"{', '.join(DRIFTS)}, and only with a pattern."
    )


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
def _groups(split: Split) -> dict[str, list[Scene]]:
    """The small scenes of each background, which leave room for a second thing; what rotates."""
    groups: dict[str, list[Scene]] = {name: [] for name in (*BACKGROUNDS, "rotating")}
    for scene in scenes(split):
        (thing,) = scene.things
        if thing.size == "small":
            groups[scene.background].append(scene)
        if thing.motion == "rotating":
            groups["rotating"].append(scene)
    return groups


def draw_scenes(count: int, split: Split, rng: random.Random, mix: Mix = Mix()) -> list[Scene]:
    """Random scenes of a split.

    Both things of a scene come from the same split, so a held-out caption with two things
    holds nothing that was trained.
    """
    return [_draw_scene(split, rng, mix) for _ in range(count)]


def _draw_scene(split: Split, rng: random.Random, mix: Mix) -> Scene:
    groups = _groups(split)
    chosen = groups["rotating"] if rng.random() < mix.rotating else scenes(split)
    scene = rng.choice(chosen)
    if rng.random() < mix.two:
        group = groups[scene.background]
        first, second = rng.choice(group).things[0], rng.choice(group).things[0]
        while second.colour == first.colour:
            second = rng.choice(group).things[0]
        scene = replace(scene, things=(first, second))
    elif rng.random() < mix.placed and scene.things[0].motion in STAYING:
        thing = replace(scene.things[0], place=rng.choice(list(PLACES)))
        scene = replace(scene, things=(thing,))
    if rng.random() < mix.patterned:
        drift = rng.choice(list(DRIFTS)) if rng.random() < 0.8 else ""
        scene = replace(scene, pattern=rng.choice(PATTERNS), drift=drift)
    return scene


class Placed(NamedTuple):
    """The numbers that `draw` needs: clips of B scenes with up to two things."""

    things: torch.Tensor  # (B, 2, 14); a thing that is missing is transparent
    background: torch.Tensor  # (B, 3)
    pattern: torch.Tensor  # (B, 9): which (2), where (2), drift (2), second tone
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
        torch.tensor([_place_pattern(scene, rng) for scene in scenes]),
        torch.tensor(corners),
    )


def _place_pattern(scene: Scene, rng: random.Random) -> list[float]:
    return [
        *(float(scene.pattern == pattern) for pattern in PATTERNS),
        *(rng.random(), rng.random()),
        *(DRIFT * way for way in DRIFTS.get(scene.drift, (0, 0))),
        *(value + TONE * (1 - value) for value in BACKGROUNDS[scene.background]),
    ]


def _place_things(scene: Scene, rng: random.Random) -> list[list[float]]:
    pair = len(scene.things) == 2
    rows = []
    for index, thing in enumerate(scene.things):
        radius = RADIUS[thing.size] * rng.uniform(0.93, 1.07)
        if pair:
            x = rng.uniform(0.21, 0.36) if index == 0 else rng.uniform(0.64, 0.79)
            y = rng.uniform(0.3, 0.7)
        else:
            middle = ((0.37, 0.63), (0.37, 0.63))
            x, y = (rng.uniform(*ends) for ends in PLACES.get(thing.place, middle))
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
    clip = placed.background[:, :, None, None, None]
    tone = placed.pattern[:, 6:, None, None, None]
    clip = clip + _pattern(placed.pattern, left, top, time, size) * (tone - clip)
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


def _pattern(
    numbers: torch.Tensor, left: torch.Tensor, top: torch.Tensor, time: torch.Tensor, size: int
) -> torch.Tensor:
    """How much of each pixel has the pattern's second tone: (B, 1, frames, side, side)."""
    moved = numbers[:, 2:4, None] + numbers[:, 4:6, None] * (time + 1) / 2  # (B, 2, frames)
    x = left[:, None, None, :] - moved[:, 0, :, None, None]
    y = top[:, None, :, None] - moved[:, 1, :, None, None]

    def from_middle(u: torch.Tensor, period: float) -> torch.Tensor:
        return (u.remainder(period) - period / 2).abs()

    def cover(distance: torch.Tensor) -> torch.Tensor:
        return (0.5 - distance * size).clamp(0, 1)

    across, along = (cover(from_middle(u, 2 * PATTERN_SIDE) - PATTERN_SIDE / 2) for u in (x, y))
    checkered = across + along - 2 * across * along
    from_dot = torch.hypot(from_middle(x, PATTERN_SIDE), from_middle(y, PATTERN_SIDE))
    both = torch.stack([checkered, cover(from_dot - DOT)], 1)  # (B, 2, frames, side, side)
    return (both * numbers[:, :2, None, None, None]).sum(1, keepdim=True)


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
