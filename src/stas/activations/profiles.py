"""Measured massive dimensions per checkpoint: data that travels as JSON."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

from stas.activations.intervals import FEWEST
from stas.assets import BUNDLED, BUNDLED_MODEL, shipped
from stas.checks import StasWarning, is_whole
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
        videos: How many videos were recorded for it; None where that isn't known.
        steering: How the model is steered where nothing else is said, as a tune found it: fields of
            STASConfig, the others at their defaults; empty for the defaults.

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
    videos: int | None = None
    steering: Mapping[str, Any] = field(default_factory=dict)

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
        if not isinstance(self.steering, Mapping):
            raise ValueError(f"steering must be an object, but got {self.steering!r}")
        STASConfig.from_dict(self.steering)
        if self.videos is not None and not is_whole(self.videos, 1):
            raise ValueError(f"videos must be a whole number above 0, but got {self.videos!r}")

    def fits(self, transformer: str, config: Mapping[str, Any]) -> bool:
        """Whether a transformer of that class and config is the one that was measured."""
        return transformer == self.transformer and all(
            config.get(key) == value for key, value in self.config.items()
        )

    def describe(self) -> str:
        """Name, source and strength in words, for `SteeringHandle.summary`."""
        strengths = describe_ratios(self.dims, self.ratios)
        tuned = ", tuned" if self.steering else ""
        return f"profile {self.model} ({self.source}{tuned}): {strengths}"

    @property
    def origin(self) -> str:
        """Where the figures come from, in words."""
        count = "" if self.videos is None else f", {self.videos} video{'s' * (self.videos != 1)}"
        return f"{self.source}{count}{', tuned' if self.steering else ''}"

    @property
    def tuned(self) -> STASConfig:
        """How its model is steered where nothing else is said."""
        return STASConfig.from_dict(self.steering)

    @property
    def described(self) -> str:
        """Dimensions and origin in words, for messages."""
        return f"profile {self.model} with dims {', '.join(map(str, self.dims))} ({self.origin})"

    def to_dict(self) -> dict[str, Any]:
        """What its file holds; what isn't known is left out."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        if not self.steering:
            del fields["steering"]
        return {"format": FORMAT} | fields

    def save(self, path: Path) -> None:
        """Write the profile as JSON; the file appears whole or not at all."""
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

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
    """The profile for a checkpoint: of those in `profiles_of` the first that fits.

    Args:
        name_or_path: What the model was loaded from, a hub id or a folder; None when unknown.
        transformer: Name of the transformer class.
        config: The transformer's config.

    Returns:
        The profile, or None when there is none or it does not fit that class and config.
    """
    every = [profile for _, profile in profiles_of(name_or_path)] if name_or_path else []
    return next((profile for profile in every if profile.fits(transformer, config)), None)


def profiles_of(name_or_path: str) -> list[tuple[Path, Profile]]:
    """The profiles of a checkpoint with their files: measured here, in its folder, or shipped.

    The first is the one of most videos, so that a quick look does not displace a measurement; of
    as many, that which was measured here. One that doesn't say counts as much as the fewest videos
    that can tell [our choice].

    Args:
        name_or_path: A hub id or a folder; a transformer's own folder stands for its model's.

    Raises:
        ValueError: The profile in the folder is none.
    """
    folder = Path(name_or_path)
    found = _measured(name_or_path)
    if folder.is_dir():
        # A transformer loaded by itself names its subfolder; the profile lies beside it.
        places = (folder / FOLDER_PROFILE, folder.parent / FOLDER_PROFILE)
        found += [(place, Profile.load(place)) for place in places if place.is_file()]
    else:
        found += [(path, each) for path, each in _shipped() if each.model == name_or_path]
    return sorted(found, key=lambda each: -(each[1].videos or FEWEST))


def filed_under(model: str) -> str:
    """What a model's profile is filed under: the bundled model's under its folder."""
    return str(BUNDLED_MODEL) if model == BUNDLED else model


def default_steering(model: str) -> STASConfig:
    """How a model is steered where nothing else is said: as its profile says, else the defaults.

    Args:
        model: "bundled", a folder, or a hub id.

    Example:
        >>> default_steering("bundled") == STASConfig()
        True
    """
    found = profiles_of(filed_under(model))
    return found[0][1].tuned if found else STASConfig()


def keep_steering(model: str, config: STASConfig) -> Path:
    """Have a model steered so from now on: `steer` and `stas generate` take it of its profile.

    Args:
        model: "bundled", a folder, or a hub id.
        config: How.

    Returns:
        The file of the profile, among those that were measured on this machine.

    Raises:
        FileNotFoundError: The model has no profile to keep it in.
        OSError: It can't be written.
    """
    name = filed_under(model)
    found = profiles_of(name)
    if not found:
        raise FileNotFoundError(
            f"{model!r} has no profile to keep its steering in. Measure it first: stas profile "
            f"--model {model}"
        )
    default, path = STASConfig().to_dict(), cached_profile(name)
    steering = {key: each for key, each in config.to_dict().items() if each != default[key]}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(found[0][1], steering=steering).save(path)
    return path


def all_profiles() -> list[tuple[Path, Profile]]:
    """All that ship and all that were measured on this machine, with their files."""
    bundled = BUNDLED_MODEL / FOLDER_PROFILE
    measured = sorted(cache_folder().glob("*.json"))
    found = [(path, each) for path in measured if (each := _load_or_warn(path)) is not None]
    return [(bundled, Profile.load(bundled)), *_shipped(), *found]


def _shipped() -> list[tuple[Path, Profile]]:
    return [(path, Profile.load(path)) for path in shipped("profiles", ".json").values()]


def _measured(name_or_path: str) -> list[tuple[Path, Profile]]:
    try:
        path = cached_profile(name_or_path)
        there = path.is_file()
    except (OSError, RuntimeError) as error:  # a folder that is closed to us; nobody's home
        warnings.warn(
            f"The folder of measured profiles can't be read: {error}.", StasWarning, stacklevel=4
        )
        return []
    profile = _load_or_warn(path) if there else None
    return [] if profile is None else [(path, profile)]


def _load_or_warn(path: Path) -> Profile | None:
    try:
        return Profile.load(path)
    except (OSError, ValueError) as error:
        warnings.warn(f"It is ignored: {error}", StasWarning, stacklevel=5)
        return None
