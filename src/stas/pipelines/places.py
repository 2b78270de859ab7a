"""Where videos are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile


def _places(output: Path | None, samples: Sequence[tuple[str, int]]) -> list[Path]:
    """Where the video of each (prompt, seed) goes."""
    if output is not None and output.suffix and not output.is_dir():
        if output.suffix != ".mp4":
            raise ValueError(f"The output is an .mp4 file or a folder, but got {str(output)!r}.")
        if len(samples) > 1:
            raise ValueError(
                f"{len(samples)} videos can't go into one file {str(output)!r}: give a folder."
            )
        return [output]
    folder = output or Path("outputs")
    names = [f"{_slug(prompt)}-seed{seed}" for prompt, seed in samples]
    if len(set(names)) < len(names):
        names = [f"{number:04d}-{name}" for number, name in enumerate(names, 1)]
    return [folder / f"{name}.mp4" for name in names]


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:60].rstrip("-") or "video"


def _lora_files(loras: Iterable[str]) -> list[tuple[str, Path]]:
    return [("LoRA", Path(source).expanduser()) for source in loras]


def _keep_inputs(places: Sequence[Path], *inputs: tuple[str, Path | None]) -> None:
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
    return [place.with_suffix(kind) for place in places for kind in (".mp4", ".png", ".json")]


def _check_places(places: Sequence[Path], *, force: bool) -> None:
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
    if existing and not force:
        others = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{str(existing[0])!r} exists already{others}. Give another -o, or --force to "
            "overwrite."
        )
