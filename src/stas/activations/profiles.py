"""Measured massive dimensions per checkpoint: data that travels as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

from stas.assets import shipped
from stas.files import whole_file
from stas.method.config import STASConfig
from stas.method.detection import describe_ratios

FORMAT = "stas.profile/1"


FOLDER_PROFILE = "stas_profile.json"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The massive dimensions of one checkpoint's transformer.

    Args:
        model: Hub id, or the name of a model folder that carries this profile.
        transformer: Name of the transformer class.
        config: Fields of the transformer's config that must be equal for the profile to fit.
        dims: Massive dimensions, strongest first.
        ratios: For each of `dims`, its mean magnitude over the mean over dimensions.
        source: Where the figures come from: "paper" or "measured".
        note: How they were measured, in words.

    Raises:
        TypeError, ValueError: A field is not of its kind or out of its range.
    """

    model: str
    transformer: str
    config: Mapping[str, Any] = field(default_factory=dict)
    dims: tuple[int, ...]
    ratios: tuple[float, ...]
    source: str
    note: str = ""

    def __post_init__(self) -> None:
        # A profile's dims are what a user could give: the same is expected of them.
        object.__setattr__(self, "dims", STASConfig(dims=self.dims).dims or ())
        object.__setattr__(self, "ratios", tuple(self.ratios))
        if len(self.dims) != len(self.ratios) or not self.dims:
            raise ValueError("dims and ratios must have the same length, at least 1")
        if not all(isinstance(ratio, int | float) and 0 <= ratio < inf for ratio in self.ratios):
            raise ValueError(f"ratios must be finite numbers, 0 or more, but got {self.ratios}")
        if not isinstance(self.config, Mapping):
            raise ValueError(f"config must be an object, but got {self.config!r}")

    def fits(self, transformer: str, config: Mapping[str, Any]) -> bool:
        """Whether a transformer of that class and config is the one that was measured."""
        return transformer == self.transformer and all(
            config.get(key) == value for key, value in self.config.items()
        )

    def describe(self) -> str:
        """Name, source and strength in words, for `SteeringHandle.summary`."""
        strengths = describe_ratios(self.dims, self.ratios)
        return f"profile {self.model} ({self.source}): {strengths}"

    def save(self, path: Path) -> None:
        """Write the profile as JSON; the file appears whole or not at all."""
        with whole_file(path) as temporary:
            data = {"format": FORMAT} | asdict(self)
            temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile.

        Raises:
            ValueError: The file is not a profile; the message names it and what is wrong.
        """
        names = {f.name for f in fields(cls)}
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
                raise ValueError(f'expected an object with "format": "{FORMAT}"')
            if unknown := sorted(set(data) - names):
                raise ValueError(f"unknown keys {unknown}; known are {sorted(names)}")
            return cls(**data)
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a stas profile: {error}") from error


def cache_folder() -> Path:
    """Where profiles measured on this machine lie: $STAS_CACHE, else the user's cache folder."""
    own = os.environ.get("STAS_CACHE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stas"
    return (Path(own) if own else cache) / "profiles"


def cached_profile(model: str) -> Path:
    """The file of a measured profile in the cache folder, for a hub id or a model's folder."""
    if Path(model).is_dir():
        model = str(Path(model).resolve())
    safe = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in model)
    own = sha256(model.encode()).hexdigest()[:8]  # a/b_c and a_b/c are two models
    return cache_folder() / f"{safe[-80:]}-{own}.json"


def find_profile(
    name_or_path: str | None, transformer: str, config: Mapping[str, Any]
) -> Profile | None:
    """The profile for a checkpoint: one measured here, in its folder, or shipped for its hub id.

    Args:
        name_or_path: What the model was loaded from, a hub id or a folder; None when unknown.
        transformer: Name of the transformer class.
        config: The transformer's config.

    Returns:
        The profile, or None when there is none or it does not fit that class and config.
    """
    if not name_or_path:
        return None
    folder = Path(name_or_path)
    candidates = _measured(name_or_path)
    if folder.is_dir():
        # A transformer loaded by itself names its subfolder; the profile lies beside it.
        places = (folder / FOLDER_PROFILE, folder.parent / FOLDER_PROFILE)
        candidates += [Profile.load(place) for place in places if place.is_file()]
    else:
        every = map(Profile.load, shipped("profiles", ".json").values())
        candidates += [profile for profile in every if profile.model == name_or_path]
    return next((p for p in candidates if p.fits(transformer, config)), None)


def _measured(name_or_path: str) -> list[Profile]:
    path = cached_profile(name_or_path)
    return [Profile.load(path)] if path.is_file() else []
