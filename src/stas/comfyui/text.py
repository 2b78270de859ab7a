"""What the nodes' text fields say: numbers, blocks and dimensions."""

from __future__ import annotations

import re

from stas.method.config import Blocks, STASConfig
from stas.method.steerer import SteeredDims

_RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")
LARGEST = 10**6  # far above any model's: a range may not fill the memory


def numbers(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers and ranges, parted by commas or spaces.

    Raises:
        ValueError: It is something else, or nothing.

    Example:
        >>> numbers("blocks", "7, 20-22")
        (7, 20, 21, 22)
    """
    found: list[int] = []
    for part in text.replace(",", " ").split():
        match = _RANGE.fullmatch(part)
        ends = [int(end) for end in match.groups() if end] if match else []
        if not ends or max(map(abs, ends)) > LARGEST or ends[0] > ends[-1]:
            raise ValueError(
                f"{name}: {part!r} is not a number or a range such as 20-23. Expected numbers with "
                "commas between them."
            )
        found += range(ends[0], ends[-1] + 1)
    if not found:
        raise ValueError(f"{name} is empty: expected numbers with commas between them.")
    return tuple(dict.fromkeys(found))


def blocks_of(name: str, text: str) -> Blocks:
    """The blocks that a field names: "all", "middle" or numbers.

    Example:
        >>> blocks_of("blocks", " Middle"), blocks_of("blocks", "-1")
        ('middle', (-1,))
    """
    word = text.strip().lower()
    if word == "all":
        return "all"
    if word == "middle":
        return "middle"
    try:
        return numbers(name, text)
    except ValueError as error:
        raise ValueError(f"{error} Or say all, or middle.") from None


def dims_of(text: str) -> SteeredDims | None:
    """The dimensions that a field names; None for "profile".

    "none" is what STAS Find Dims says where no dimension is massive.

    Example:
        >>> dims_of("auto").numbers, dims_of("1188").numbers, dims_of("none").numbers
        (None, (1188,), ())
    """
    word = text.strip().lower()
    if word == "profile":
        return None
    if word == "auto":
        source = "to be detected on the first forward"
        return SteeredDims(numbers=None, origin="detected", source=source)
    if word == "none":
        return SteeredDims(numbers=(), origin="given", source="dims is none")
    try:
        found = STASConfig(dims=numbers("dims", text)).dims
    except ValueError as error:
        raise ValueError(f"{error} Or say auto, or profile.") from None
    return SteeredDims(numbers=found, origin="given", source="given")
