"""Studio: making an off and on pair, one at a time, with progress and cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stas.app.settings import Settings
from stas.files import whole_file
from stas.media.pictures import side_by_side
from stas.media.video import write_mp4
from stas.pipelines.load import load_pipeline
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import VideoFiles, make_samples, write_all

Report = Callable[[int, int, str], None]  # finished steps, all steps, of what


class CancelledError(Exception):
    """The run was cancelled; nothing of it was written."""


@dataclass(frozen=True)
class Pair:
    """The files of one seed with steering off and on; `both` shows them in one video."""

    off: VideoFiles
    on: VideoFiles
    both: Path


class Studio:
    """Makes pairs in a folder, with the model that was asked for last.

    Args:
        folder: Where the files go.
        device: As of `stas.load_pipeline`.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.folder, self._device = folder, device
        self._loaded: tuple[str, LoadedPipeline] | None = None
        self._turn = threading.Lock()

    def _pipeline(self, model: str) -> LoadedPipeline:
        if self._loaded is None or self._loaded[0] != model:
            # A model that can't be loaded leaves the one before in place.
            self._loaded = model, load_pipeline(model, device=self._device)
        return self._loaded[1]

    def make(self, settings: Settings, report: Report, cancelled: threading.Event) -> Pair:
        """Make the pair of a seed, both or none.

        Raises:
            CancelledError: `cancelled` was set.
            ValueError: What the model refuses, before anything is computed.
        """
        with self._turn:
            loaded = self._pipeline(settings.model)
            arguments = loaded.check(
                settings.arguments | {"prompt": settings.prompt}, settings.steering
            )
            name = time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() % 10**9:09d}"
            made = []
            for word, steering in (("off", None), ("on", settings.steering)):

                def tell(step: int, steps: int, word: str = word) -> None:
                    if cancelled.is_set():
                        raise CancelledError("Cancelled. Nothing was written.")
                    report(step, steps, word)

                sample = Sample(f"{name}-{word}", settings.prompt, settings.seed)
                with loaded.steered(steering) as handle:
                    made += make_samples(
                        loaded, [sample], [arguments], handle, fps=settings.fps, report=tell
                    )
            if cancelled.is_set():
                raise CancelledError("Cancelled. Nothing was written.")
            self.folder.mkdir(parents=True, exist_ok=True)
            off, on = (VideoFiles(self.folder / f"{name}-{word}") for word in ("off", "on"))
            pair = Pair(off, on, self.folder / f"{name}-both.mp4")
            (plain, of_plain), (steered, of_steered) = made
            write_all([(off, (plain, of_plain, None)), (on, (steered, of_steered, None))])
            with whole_file(pair.both) as temporary:
                both = side_by_side({"steering off": plain, "steering on": steered})
                write_mp4(temporary, both, of_steered.fps)
            return pair

    def gallery(self) -> list[Path]:
        """The videos of finished pairs, newest first."""
        return sorted(self.folder.glob("*-both.mp4"), reverse=True)
