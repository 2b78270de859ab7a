"""Prompts and seeds."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from stas.checks import expect, is_whole

MOST_SEEDS = 100_000
SEEDS = ("seed", "seeds")  # either word, in files with named values
KEYS = ("prompt", "negative_prompt", *SEEDS)


@dataclass(frozen=True)
class Prompt:
    """One prompt, and what its list says of it.

    Args:
        text: What the video is to show.
        origin: Name and SHA-256 of the list, and as `line` where in it this is, from 1.
        negative_prompt: What it is not to show; None where the list doesn't say.
        seeds: Its own; None where the list doesn't say.
    """

    text: str
    origin: dict[str, Any] | None = None
    negative_prompt: str | None = None
    seeds: tuple[int, ...] | None = None


def read_prompts(prompt: str | None, path: Path | None) -> list[Prompt]:
    """One prompt, or those of a file in UTF-8.

    A .jsonl file has an object a line and a .csv file columns, by the names prompt, negative_prompt
    and seed or seeds, of which prompt alone is needed. Any other file has one prompt a line; lines
    that are blank or begin with # are skipped.

    Raises:
        ValueError: Both or neither is given, a prompt is empty, or the file can't be read so.
        FileNotFoundError: There is no such file.
    """
    if (prompt is None) == (path is None):
        raise ValueError("Give a prompt or a file of prompts, and not both.")
    if path is None:
        if not (prompt or "").strip():
            raise ValueError("The prompt is empty.")
        return [Prompt(str(prompt))]
    if path.is_dir() or not path.exists():  # it may be a pipe
        raise FileNotFoundError(f"There is no prompt file {str(path)!r}.")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
    digest = sha256(data).hexdigest()
    rows = {".jsonl": _json_rows, ".csv": _csv_rows}.get(path.suffix.lower(), _text_rows)
    prompts: list[Prompt] = []
    try:
        for place, values in rows(text):
            origin = {"name": path.name, "sha256": digest, "line": place}
            prompts.append(_prompt(place, values, origin))
        expect(bool(prompts), "it has no prompt")
    except (csv.Error, RecursionError, ValueError) as error:
        raise ValueError(f"{path} can't be read as a list of prompts: {error}") from error
    return prompts


def _text_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(StringIO(text, newline=None), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, {"prompt": line}


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 may stand within a text of JSON
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
        known = isinstance(values, dict)
        expect(known, f'line {number} must be an object, as in {{"prompt": "a cat"}}')
        yield number, values


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    names = reader.fieldnames or ()
    expect("prompt" in names, f"its first line must name the columns {', '.join(KEYS)}")
    for values in reader:
        expect(None not in values, f"line {reader.line_num} has more cells than there are columns")
        # An empty cell says nothing.
        yield reader.line_num, {name: value for name, value in values.items() if value}


def _prompt(place: int, values: Mapping[str, Any], origin: dict[str, Any]) -> Prompt:
    unknown = sorted(str(name) for name in set(values) - set(KEYS))
    expect(not unknown, f"line {place} has {', '.join(unknown)}. Known are {', '.join(KEYS)}")
    text, negative = values.get("prompt"), values.get("negative_prompt")
    expect(isinstance(text, str) and bool(text.strip()), f"line {place} has no prompt")
    expect(
        negative is None or isinstance(negative, str), f"line {place}: negative_prompt is a text"
    )
    given = [values[name] for name in SEEDS if values.get(name) is not None]
    expect(len(given) < 2, f"line {place} has seed and seeds: give one")
    try:
        seeds = tuple(parse_seeds(given[0])) if given else None
    except ValueError as error:
        raise ValueError(f"line {place}: {error}") from error
    return Prompt(str(text).strip(), origin, negative, seeds)


def parse_seeds(given: object) -> list[int]:
    """Seeds from a number, a list of them, or a text of numbers and ranges.

    Raises:
        ValueError: They are not whole numbers from 0 and below 2**63, or too many.

    Example:
        >>> parse_seeds("0,7,10-13"), parse_seeds([3, 4])
        ([0, 7, 10, 11, 12, 13], [3, 4])
    """
    numbers = given if isinstance(given, list) else [given]
    if numbers and all(is_whole(number, 0, 2**63) for number in numbers):
        return list(dict.fromkeys(numbers))
    expect(isinstance(given, str), f"expected seeds, whole numbers from 0, but got {given!r}")
    seeds: list[int] = []
    for part in str(given).split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        expect(
            first <= last, f"expected numbers from 0 and ranges, as in 0,7,10-13, but got {given!r}"
        )
        fits = last < 2**63 and last - first < MOST_SEEDS
        expect(
            fits,
            f"expected numbers below 2**63 and ranges of at most {MOST_SEEDS} of them, but got "
            f"{part!r}",
        )
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def texts_alone(prompts: Sequence[Prompt], what: str) -> list[str]:
    """The texts of prompts, for what has seeds and a negative prompt of its own.

    Raises:
        ValueError: The list gives seeds or negative prompts, which would be lost.
    """
    if any(prompt.seeds or prompt.negative_prompt is not None for prompt in prompts):
        raise ValueError(f"{what} takes prompts alone: leave out seeds and negative prompts.")
    return [prompt.text for prompt in prompts]


@dataclass(frozen=True)
class Sample:
    """One prompt and seed. `name` is that of its files; `prompt_file` goes into the manifests."""

    name: str
    prompt: str
    seed: int
    prompt_file: Mapping[str, Any] | None = None
    negative_prompt: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What it gives to the pipeline's call."""
        negative = {"negative_prompt": self.negative_prompt}
        return {"prompt": self.prompt} | (negative if self.negative_prompt is not None else {})


def samples_of(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Sample]:
    """Every prompt with its own seeds, or with each of `seeds`, and names for their files.

    Raises:
        ValueError: `seeds` are not the default, 0, and every prompt has its own.
    """
    expect(
        list(seeds) == [0] or not all(prompt.seeds for prompt in prompts),
        f"The list gives a seed to every prompt, so {seeds} would not be used: leave out --seed, "
        "or the seeds of the list",
    )
    pairs = [(prompt, seed) for prompt in prompts for seed in prompt.seeds or seeds]
    names = [f"{_slug(prompt.text)}-seed{seed}" for prompt, seed in pairs]
    while twice := {name for name, count in Counter(names).items() if count > 1}:
        names = [
            f"{number:04d}-{name}" if name in twice else name
            for number, name in enumerate(names, 1)
        ]
    return [
        Sample(name, prompt.text, seed, prompt.origin, prompt.negative_prompt)
        for name, (prompt, seed) in zip(names, pairs, strict=True)
    ]


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:60].rstrip("-") or "video"
