"""Files that appear whole or not at all."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from zlib import crc32

Rows = Iterable[Sequence[object]]  # of a table
_PART = ".part-"
_UMASK = Lock()  # it is read by setting it, for all threads


@contextmanager
def whole_file(path: str | os.PathLike[str], *, alone: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, and move it to `path` when the block ends.

    After an error or Ctrl-C in the block nothing of it is left, and an older file at `path` is as
    it was. A temporary path of another `whole_file` is given as it is.

    Args:
        path: Where the file is to appear; its folder must exist.
        alone: Nobody else writes this file now: what a process that was killed left of it goes.

    Raises:
        OSError: The folder is missing or can't be written to.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "note.txt") as temporary:
        ...     _ = temporary.write_text("done")
        >>> [path.name for path in folder.iterdir()]
        ['note.txt']
    """
    path = Path(path)
    if path.name.startswith(_PART):
        yield path
        return
    # The file's own name may leave no room for more.
    prefix = f"{_PART}{crc32(path.name.encode(errors='surrogateescape')):08x}-"
    for left in path.parent.glob(f"{prefix}*") if alone else ():
        left.unlink(missing_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix[:16])
    except OSError as error:
        error.filename = str(path)  # nobody asked for the temporary one
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's mode shuts others out; the file gets the mode that open() would give it.
        with _UMASK:
            mask = os.umask(0)
            os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, rows: Rows, *, alone: bool = True) -> None:
    """Write rows as CSV; the file appears whole or not at all.

    Args:
        path: The file.
        rows: The first has the headings.
        alone: As of `whole_file`.

    Example:
        >>> path = Path(tempfile.mkdtemp(), "table.csv")
        >>> write_table(path, [["name", "value"], ["a, b", 1]])
        >>> print(path.read_text(), end="")
        name,value
        "a, b",1
    """
    with (
        whole_file(path, alone=alone) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(rows)


def identity(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """What tells a file from one that takes its place later; None where there is none."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def made_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder and those above it; what is still empty when the block ends goes again.

    Example:
        >>> folder = Path(tempfile.mkdtemp()) / "a/b"
        >>> with made_folder(folder):
        ...     folder.is_dir()
        True
        >>> folder.parent.exists()
        False
    """
    path = Path(path)
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        with suppress(OSError):  # not empty
            for each in missing:
                each.rmdir()
