"""Prompts and seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """One prompt, and where it stands in a list."""

    text: str
    origin: dict[str, Any] | None = None  # name, SHA-256 and line of the prompt list


def read_prompts(prompt: str | None, path: Path | None) -> list[Prompt]:
    """One prompt, or those of a text file in UTF-8, one a line.

    Raises:
        ValueError: Both or neither is given, or a prompt is empty.
        FileNotFoundError: There is no such file.
    """
    if (prompt is None) == (path is None):
        raise ValueError(
            "Give a prompt or --prompts FILE, and not both. Example: stas generate "
            '"a red circle moving right on a blue background"'
        )
    if path is None:
        if not (prompt or "").strip():
            raise ValueError("The prompt is empty.")
        return [Prompt(str(prompt))]
    if not path.is_file():
        raise FileNotFoundError(f"There is no prompt file {str(path)!r}.")
    data = path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty: expected one prompt a line.")
    if empty := [str(number) for number, line in enumerate(lines, 1) if not line.strip()]:
        raise ValueError(
            f"{path} has empty lines ({', '.join(empty)}), which would be videos without a prompt. "
            "Remove them: each line is one prompt."
        )
    digest = sha256(data).hexdigest()
    return [
        Prompt(line.strip(), {"name": path.name, "sha256": digest, "line": number})
        for number, line in enumerate(lines, 1)
    ]


@dataclass(frozen=True)
class Sample:
    """One prompt and seed. `name` is that of its files; `prompt_file` goes into the manifests."""

    name: str
    prompt: str
    seed: int
    prompt_file: Mapping[str, Any] | None = None


def samples_of(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
    """Every prompt with every seed, with names for their files."""
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
    names = [f"{_slug(prompt.text)}-seed{seed}" for prompt, seed in pairs]
    if len(set(names)) < len(names):
        names = [f"{number:04d}-{name}" for number, name in enumerate(names, 1)]
    return [
        Sample(name, prompt.text, seed, prompt.origin)
        for name, (prompt, seed) in zip(names, pairs, strict=True)
    ]


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:60].rstrip("-") or "video"
