"""Reading a reproduction from its TOML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from stas.checks import expect, is_whole
from stas.method.config import STASConfig
from stas.reproduction.plan import ReproducedModel, Reproduction, Statement
from stas.reproduction.stages import STAGES, make_stages
from stas.studies.file import read_prompt_list, read_toml


def load_reproduction(
    source: str | os.PathLike[str], *, quick: bool = False, model: str | None = None
) -> Reproduction:
    """Read a reproduction from its TOML file.

    Args:
        source: A file, or the name of one that ships: "paper" or "bundled", with or without
            ".toml".
        quick: Take what stands under `quick` in place of the rest.
        model: Only the model of that name.

    Raises:
        FileNotFoundError: There is no such file, or no such list of prompts.
        ValueError: Not TOML, an unknown key, or a value out of range; the message names the file.

    Example:
        >>> [each.name for each in load_reproduction("paper").models]
        ['Wan2.1-1.3B', 'CogVideoX-5B', 'Wan2.2-5B']
    """
    path, data = read_toml(source, "reproductions", "reproduction")
    try:
        changes = data.pop("quick", None)
        if quick:
            expect(isinstance(changes, dict), "it has no table `quick`")
            data = _merged(data, changes)
        found = _reproduction(path, data, quick)
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a reproduction: {error}") from error
    if model is None:
        return found
    chosen = [each for each in found.models if each.name == model]
    if not chosen:
        names = ", ".join(each.name for each in found.models)
        raise ValueError(f"{path} has no model {model!r}. It has {names}.")
    return Reproduction(**{**vars(found), "models": chosen})


def _merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with others within it in place of its own, key by key."""
    return {**data} | {
        key: _merged(data[key], value)
        if isinstance(value, dict) and isinstance(data.get(key), dict)
        else value
        for key, value in changes.items()
    }


def _reproduction(path: Path, data: dict[str, Any], quick: bool) -> Reproduction:
    own = {"title", "models", "prompts", "seed", "steering", "arguments", "stages", "paper"}
    _expect_known(data, own, "the file")
    shared, listed = _table(data, "arguments"), data.get("models", [])
    expect(isinstance(listed, list) and len(listed) > 0, "there is no [[models]]")
    models = []
    for each in listed:
        _expect_known(each, {one.name for one in fields(ReproducedModel)}, "a model")
        own_arguments = _table(each, "arguments")
        models.append(ReproducedModel(**{**each, "arguments": {**shared, **own_arguments}}))
    for what in ("name", "slug"):
        values = [getattr(each, what) for each in models]
        expect(len(set(values)) == len(values), f"two models have the {what} {values[-1]!r}")
    prompts, origin = read_prompt_list(path, data.get("prompts", "list"), models[0].model)
    expect(all(isinstance(each, str) and each.strip() for each in prompts), "a prompt is empty")
    seed, steering = data.get("seed", 0), _table(data, "steering")
    expect(is_whole(seed, 0), f"seed must be a whole number, 0 or more, but got {seed!r}")
    expect("dims" not in steering, "dims are those that are recorded: leave them out of steering")
    STASConfig.from_dict(steering)
    stages = _table(data, "stages")
    _expect_known(stages, set(STAGES), "stages")
    paper = []
    for each in data.get("paper", []):
        _expect_known(each, {one.name for one in fields(Statement)}, "what the paper says")
        paper.append(Statement(**each))
        of_one = paper[-1].model in {model.name for model in models}
        expect(of_one, f"the paper says something of {paper[-1].model!r}, which is no model here")
    found = Reproduction(
        title=str(data.get("title", path.stem)),
        models=models,
        prompts=prompts,
        prompt_file=origin,
        seed=seed,
        steering=steering,
        # In the order in which they are done.
        stages={name: _table(stages, name) for name in STAGES if name in stages},
        paper=paper,
        quick=quick,
    )
    expect(bool(found.stages), f"there is no stage. Known: {', '.join(STAGES)}")
    make_stages(found, Path())  # refuses what a stage can't be given
    return found


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name, {})
    expect(isinstance(value, dict), f"{name} must be a table, but got {value!r}")
    return dict(value)


def _expect_known(data: Any, known: set[str], where: str) -> None:
    expect(isinstance(data, dict), f"{where} must be a table, but got {data!r}")
    if unknown := sorted(set(data) - known):
        raise ValueError(
            f"{where}: unknown keys {', '.join(map(repr, unknown))}. Known: "
            f"{', '.join(sorted(known))}."
        )
