"""Prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class _Prompt:
    text: str
    origin: dict[str, Any] | None = None  # name, SHA-256 and line of the prompt list


def _prompts(prompt: str | None, path: Path | None) -> list[_Prompt]:
    if (prompt is None) == (path is None):
        raise ValueError(
            "Give a prompt or --prompts FILE, and not both. Example: stas generate "
            '"a red circle moving right on a blue background"'
        )
    if path is None:
        if not (prompt or "").strip():
            raise ValueError("The prompt is empty.")
        return [_Prompt(str(prompt))]
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
        _Prompt(line.strip(), {"name": path.name, "sha256": digest, "line": number})
        for number, line in enumerate(lines, 1)
    ]


@dataclass(frozen=True)
class Sample:
    """One prompt and seed. `name` is that of its files; `prompt_file` goes into the manifests."""

    name: str
    prompt: str
    seed: int
    prompt_file: Mapping[str, Any] | None = None
