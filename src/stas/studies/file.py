"""Reading a study from its TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from stas.assets import BUNDLED, prompt_list, shipped
from stas.checks import expect, is_whole
from stas.pipelines.prompts import read_prompts, texts_alone
from stas.studies.plan import Study, frozen


def load_study(source: str | os.PathLike[str], **changes: Any) -> Study:
    """Read a study from its TOML file.

    Args:
        source: A file, or the name of a study that ships, such as "ablation-scale".
        **changes: Keys of the file in place of what it says; of `arguments` those that are named,
            and `own_measures` beside the file's. None changes nothing.

    Returns:
        The study, its prompts read.

    Raises:
        FileNotFoundError: There is no such file or study, or no such list of prompts.
        ValueError: Not TOML, an unknown key, or what `Study` refuses; the message names the file.

    Example:
        >>> load_study("ablation-scale").axes["scale"][0]
        0.5
    """
    path, data = read_toml(source, "studies", "study")
    try:
        return study_of(path, data, **changes)
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a study: {error}") from error


def read_toml(source: str | os.PathLike[str], kind: str, noun: str) -> tuple[Path, dict[str, Any]]:
    """A TOML file, or one that ships, and what it says.

    Args:
        source: The file, or the name of one that ships, with or without ".toml".
        kind: What those that ship lie under, see `stas.assets.shipped`.
        noun: What the file is called in messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not TOML; the message names it.
    """
    path = Path(source)
    known = shipped(kind, ".toml")
    if not path.is_file():
        path = known.get(str(source).removesuffix(".toml"), path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {noun} {str(source)!r}: expected a TOML file or one of "
            f"{', '.join(known)}."
        )
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not a {noun}: {error}") from error


def study_of(path: Path, data: dict[str, Any], **changes: Any) -> Study:
    """A study from what its file says.

    Args:
        path: The file, which names the study, and beside which its prompts lie.
        data: What `read_toml` gave.
        **changes: As of `load_study`.

    Raises:
        FileNotFoundError, TypeError, ValueError: As `load_study` says, without the file's name.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if "model" in changes and not isinstance(data.get("base", {}).get("dims", ""), str):
        raise ValueError(
            "its dims are those of its own model. Copy the file and give dims of yours"
        )
    for name in ("arguments", "own_measures"):
        if name in changes:
            new = changes[name]
            old = data.get(name, type(new)())
            expect(isinstance(old, type(new)), f"{name} must be a {type(new).__name__}")
            changes[name] = {**old, **new} if isinstance(new, dict) else [*old, *new]
    return _study(path, data | changes)


def _study(path: Path, data: dict[str, Any]) -> Study:
    known = {each.name for each in fields(Study)} - {"prompt_file", "name"} | {"count"}
    if unknown := sorted(set(data) - known):
        raise ValueError(
            f"unknown keys {', '.join(map(repr, unknown))}. Known: {', '.join(sorted(known))}."
        )
    for name in ("arguments", "base", "axes"):
        expect(isinstance(data.get(name, {}), dict), f"{name} must be a table")
    prompts, origin = read_prompt_list(
        path, data.pop("prompts", "list"), data.get("model", BUNDLED)
    )
    if (count := data.pop("count", None)) is not None:
        fits = is_whole(count, 1, len(prompts) + 1)
        expect(fits, f"count must be 1 to {len(prompts)}, the number of prompts, but got {count}")
        prompts = prompts[:count]
    data["axes"] = {
        axis: tuple(frozen(value) for value in _list(axis, values))
        for axis, values in data.get("axes", {}).items()
    }
    data["base"] = {name: frozen(value) for name, value in data.get("base", {}).items()}
    for name in ("measures", "own_measures", "encoders"):
        if name in data:
            data[name] = tuple(_list(name, data[name]))
    return Study(name=path.stem, prompts=tuple(prompts), prompt_file=origin, **data)


def read_prompt_list(
    path: Path, listed: Any, model: Any
) -> tuple[list[str], dict[str, Any] | None]:
    """The prompts that a TOML file gives, and where they are from.

    Args:
        path: The TOML file.
        listed: The prompts themselves; "list" for those that ship for the model; or the name of a
            text file beside the TOML file.
        model: Id or folder of the model.

    Returns:
        The prompts, and the name and SHA-256 of their file; None where the TOML file holds them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: `listed` is none of these.
    """
    if isinstance(listed, list):
        return listed, None
    expect(isinstance(listed, str), f"prompts must be a list or a file, but got {listed!r}")
    # The list that ships for the model, or a file beside the study's.
    file = prompt_list(model) if listed == "list" else path.parent / listed
    if not file.is_file():
        raise FileNotFoundError(f"There is no prompt file {str(file)!r}, which {path} names.")
    prompts = read_prompts(None, file)
    origin = {key: (prompts[0].origin or {})[key] for key in ("name", "sha256")}
    return texts_alone(prompts, "A study"), origin


def _list(name: str, values: Any) -> Sequence[Any]:
    expect(isinstance(values, list), f"{name} must be a list, but got {values!r}")
    return list(values)
