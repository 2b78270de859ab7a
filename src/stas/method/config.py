"""STASConfig: everything that decides how a model is steered."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from stas.checks import integers, number, one_of, some_of
from stas.files import whole_file
from stas.method.window import Window

# The options' words stand here and not beside the maths, so that a config is checked without torch.
Op = Literal["max", "scale", "zero", "mean"]


OPS: tuple[Op, ...] = get_args(Op)


Reference = Literal["dim", "global"]


REFERENCES: tuple[Reference, ...] = get_args(Reference)


Region = Literal["first_frame", "boundary", "interior"]


REGIONS: tuple[Region, ...] = get_args(Region)


Branch = Literal["cond", "uncond"]


BRANCHES: tuple[Branch, ...] = get_args(Branch)
RowBranch = Literal["cond", "uncond", "other"]  # what a row of a batch may be
ROW_BRANCHES: tuple[RowBranch, ...] = get_args(RowBranch)


Blocks = Literal["all", "middle"] | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class STASConfig:
    """How to steer. Checked when built, frozen, and the same after a round trip through JSON.

    Args:
        dims: Massive dimensions (feature indices from 0), or None: those of the model's profile,
            else detected on the first forward and then kept.
        blocks: "all", "middle" (block num_blocks // 2, the one that the paper shows), or block
            numbers counted from 0 over all stacks in forward order; negative counts from the end.
            The default is [our choice]: the paper's text does not say which blocks it steers.
        op: "max" is STAS; "scale", "zero" and "mean" are the paper's other interventions.
        regions: Any of "first_frame", "boundary", "interior"; all three is every visual token.
        boundary: r, the head and tail share of each latent frame, 0 to 0.5. The paper uses 0.08.
        scale: Multiplier of the reference magnitude (the paper's alpha), or of the value itself
            for op "scale". Finite and not negative. The default is [our choice].
        reference: "dim" takes the maximum per dimension, "global" over all massive dimensions;
            per sample either way [our choice].
        start: First steered fraction of the denoising steps.
        stop: Fraction at which steering ends: steps i of N with start <= i / N < stop. The paper
            steers 20 of 50 steps.
        branches: Which branches of classifier-free guidance are steered: "cond", "uncond" or
            both. The default is [our choice].

    Raises:
        TypeError: A field has the wrong type.
        ValueError: A field is out of its range; the message says what was expected.

    Example:
        >>> config = STASConfig(dims=(1188,), scale=1.2)
        >>> STASConfig.from_dict(config.to_dict()) == config
        True
    """

    dims: tuple[int, ...] | None = None
    blocks: Blocks = "middle"
    op: Op = "max"
    regions: tuple[Region, ...] = ("first_frame", "boundary")
    boundary: float = 0.08
    scale: float = 1.0
    reference: Reference = "dim"
    start: float = 0.0
    stop: float = 0.4
    branches: tuple[Branch, ...] = ("cond", "uncond")

    def __post_init__(self) -> None:
        if self.dims is not None:
            self._set("dims", integers("dims", self.dims))
            if not self.dims:
                raise ValueError(
                    "dims is empty: name at least one dimension, or leave it None to use the "
                    "model's profile or detection."
                )
            if min(self.dims) < 0:
                raise ValueError(f"dims are counted from 0, but got {min(self.dims)}.")
        if isinstance(self.blocks, str):
            if self.blocks not in ("all", "middle"):
                raise ValueError(
                    f'blocks must be "all", "middle" or block numbers, but got {self.blocks!r}.'
                )
        else:
            self._set("blocks", integers("blocks", self.blocks))
            if not self.blocks:
                raise ValueError('blocks is empty: name at least one block, or "all" or "middle".')
        one_of("op", self.op, OPS)
        self._set("regions", some_of("regions", self.regions, REGIONS))
        self._set("boundary", number("boundary", self.boundary))
        if not 0.0 <= self.boundary <= 0.5:
            raise ValueError(
                "boundary is the share of each latent frame at its head and at its tail: expected "
                f"0 to 0.5, but got {self.boundary}."
            )
        self._set("scale", number("scale", self.scale))
        if not (math.isfinite(self.scale) and self.scale >= 0.0):
            raise ValueError(f"scale must be a finite number, 0 or more, but got {self.scale}.")
        one_of("reference", self.reference, REFERENCES)
        self._set("start", number("start", self.start))
        self._set("stop", number("stop", self.stop))
        self._set("branches", some_of("branches", self.branches, BRANCHES))
        _ = self.window  # checks start and stop

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def window(self) -> Window:
        """The steered steps."""
        return Window(self.start, self.stop)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON's own types."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> STASConfig:
        """The config that `to_dict` wrote; fields that are left out get their defaults.

        Raises:
            ValueError: Not a mapping, or a key that STASConfig does not have.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(data, Mapping):
            raise ValueError(
                f"A steering config is an object with the keys {', '.join(names)}, but got "
                f"{type(data).__name__}."
            )
        unknown = sorted(set(data) - set(names))
        if unknown:
            raise ValueError(
                f"Unknown key{'s' if len(unknown) > 1 else ''} in the steering config: "
                f"{', '.join(map(repr, unknown))}. Known: {', '.join(names)}."
            )
        return cls(**data)

    def to_json(self) -> str:
        """The fields as the text of a file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the config as JSON; the file appears whole or not at all."""
        with whole_file(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> STASConfig:
        """Read a config that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Not JSON, or not a steering config; the message names the file.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a steering config: {error}") from error
