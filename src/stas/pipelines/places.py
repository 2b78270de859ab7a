"""Where videos are written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from stas.checks import FORMATS, IMAGES, VIDEOS, expect
from stas.pipelines.prompts import Sample


def places_of(
    output: Path | None, samples: Sequence[Sample], kind: str | None = None
) -> list[Path]:
    """Where the video of each sample goes.

    Args:
        output: A file of one of FORMATS, or a folder; "outputs" by default. What stands behind a
            dot and begins with a digit is part of a folder's name, as in run1.5.
        samples: What is made.
        kind: Of FORMATS, for a folder; the first by default.

    Raises:
        ValueError: The file is of another kind, or several videos would go into one.
    """
    output = None if output is None else output.expanduser()  # quoted, a shell leaves its "~"
    is_file = output is not None and output.suffix and not output.suffix[1:2].isdigit()
    if output is not None and is_file and not output.is_dir():
        if output.suffix not in FORMATS:
            raise ValueError(
                f"The output is a {', '.join(FORMATS)} file or a folder, but got {str(output)!r}."
            )
        if kind is not None and kind != output.suffix:
            raise ValueError(f"{str(output)!r} says another format than {kind}: give one of them.")
        if len(samples) > 1:
            raise ValueError(
                f"{len(samples)} videos can't go into one file {str(output)!r}: give a folder."
            )
        return [output]
    folder = output or Path("outputs")
    return [folder / f"{sample.name}{kind or FORMATS[0]}" for sample in samples]


def lora_files(loras: Iterable[str]) -> list[tuple[str, Path]]:
    """The files of LoRA weights, as `keep_inputs` takes them."""
    return [("LoRA", Path(source).expanduser()) for source in loras]


def input_files(arguments: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """The pictures and videos among the arguments of a call, as `keep_inputs` takes them.

    Args:
        arguments: With a path for each, the record of one in a manifest, or a list of these.

    Raises:
        ValueError: One is neither.
    """
    found = []
    for name in (*IMAGES, *VIDEOS, "control"):
        value = arguments.get(name, [])
        for each in value if isinstance(value, list) else [value]:
            recorded = isinstance(each, Mapping) and {"file", "sha256"} <= set(each)
            path = each["file"] if recorded else each
            known = isinstance(path, str | os.PathLike)
            expect(known, f"{name} must be a path, or an object with its file and sha256")
            found.append((name, Path(path).expanduser()))
    return found


def keep_inputs(places: Sequence[Path], *inputs: tuple[str, Path | None]) -> None:
    """Refuse to write over a file that is read, --force or not."""
    for file in _files(places):
        for what, path in inputs:
            if path is not None and path.exists() and file.exists() and file.samefile(path):
                raise ValueError(
                    f"{str(file)!r} would be overwritten, and it is the {what} that is read. Give "
                    "another -o."
                )


def _files(places: Sequence[Path]) -> list[Path]:
    """The video, strip and manifest of each place."""
    return [place.with_suffix(kind) for place in places for kind in (place.suffix, ".png", ".json")]


def check_places(places: Sequence[Path], *, force: bool, resume: bool = False) -> None:
    """See that the output can be written, before any work is done for it; nothing is left."""
    folder = places[0].parent
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if files := [path for path in (folder, *folder.parents) if path.is_file()]:
        raise NotADirectoryError(
            f"{str(files[0])!r} is a file, not a folder, so no video can be put there. Give "
            "another -o."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # With the longest name that will be written, so that a name that is too long shows.
        longest = max((place.stem for place in places), key=lambda stem: len(stem.encode()))
        with NamedTemporaryFile(dir=folder, prefix=f".{longest}-", suffix=".json"):
            pass
    except OSError as error:
        raise OSError(f"Can't write to the output folder {str(folder)!r}: {error}") from error
    finally:
        for path in missing:
            if path.exists():
                path.rmdir()
    existing = [path for path in _files(places) if path.exists()]
    if folders := [path for path in existing if path.is_dir()]:
        raise IsADirectoryError(
            f"{str(folders[0])!r} is a folder, and a file is to be written there."
        )
    if existing and not (force or resume):
        others = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{str(existing[0])!r} exists already{others}. Give another -o, or --force to "
            "overwrite."
        )


def check_comparison_folder(folder: Path, *, resume: bool, force: bool) -> None:
    """See that a comparison may write to a folder, before anything is loaded for it.

    Raises:
        NotADirectoryError: It is a file.
        FileExistsError: It is not empty, and that was not expected.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is a file, but a comparison is a folder.")
    if not (force or resume) and folder.exists() and any(folder.iterdir()):
        raise FileExistsError(
            f"{str(folder)!r} is there already and not empty. Give another -o, --resume to go on "
            "with it, or --force to overwrite."
        )
