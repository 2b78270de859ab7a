"""Names of video files where another tool wants its own, on any system."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

LONGEST = 255  # bytes of a name on most file systems
RESERVED = re.compile(r'[<>:"|?*\\\x00-\x1f]')
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows


def check_name(name: str) -> str:
    """A file name that means the same file on every system.

    Args:
        name: Of a file, without folders.

    Returns:
        The same with accents composed (NFC), as VBench's own list has them.

    Raises:
        ValueError: No system, or not every one, has files of that name.

    Example:
        >>> check_name("a cat.mp4")
        'a cat.mp4'
        >>> check_name("who?.mp4")
        Traceback (most recent call last):
        ...
        ValueError: 'who?.mp4' can't be a file name on every system: it has a reserved character.
    """
    name = unicodedata.normalize("NFC", name)
    if "/" in name or RESERVED.search(name):
        wrong = "it has a reserved character"
    elif not name or name != name.rstrip(" .") or DEVICES.fullmatch(name):
        wrong = "it is empty, ends with a dot or a space, or is the name of a device"
    elif (length := len(name.encode())) > LONGEST:
        wrong = f"it has {length} bytes, and {LONGEST} is the most"
    else:
        return name
    raise ValueError(f"{name!r} can't be a file name on every system: {wrong}.")


def lay_out(folder: Path, files: Mapping[str, Path]) -> dict[str, Path]:
    """Have files under other names too: by hard links, or copies where the disk has none.

    Args:
        folder: Where; what is there under these names is replaced.
        files: By the new path within the folder, with "/" between its parts, the file.

    Returns:
        By the new path within the folder, where that is.

    Raises:
        ValueError: A name is no name on every system, or two are one where case or accents don't
            count.
        OSError: A file is missing, or the folder can't be written to.

    Example:
        >>> lay_out(Path("videos"), {"A.mp4": Path("1.mp4"), "a.mp4": Path("2.mp4")})
        Traceback (most recent call last):
        ...
        ValueError: 'A.mp4' and 'a.mp4' would be one file on a disk that ignores case.
    """
    seen: dict[str, str] = {}
    for name in files:
        for part in PurePosixPath(name).parts:
            check_name(part)
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise ValueError(
                f"{other!r} and {name!r} would be one file on a disk that ignores case."
            )
    laid = {}
    for name, source in files.items():
        target = folder / unicodedata.normalize("NFC", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target)
        laid[name] = target
    return laid
