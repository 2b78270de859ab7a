"""The studio: making videos one at a time, with progress and cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from stas.activations.plots import plot
from stas.app.settings import Settings
from stas.files import whole_file
from stas.hooks.record import RecordingHandle, record
from stas.media.pictures import side_by_side
from stas.media.video import Frames, write_mp4
from stas.method.config import STASConfig
from stas.pipelines.load import load_pipeline
from stas.pipelines.manifest import Manifest
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import VideoFiles, make_samples, write_all

Report = Callable[[int, int, str], None]  # finished steps, all steps, in words
OFF, ON, BOTH, MAPS = "off", "on", "both", "maps"


class CancelledError(Exception):
    """The run was cancelled; nothing of it was written."""


@dataclass(frozen=True)
class Pair:
    """The files of one seed with steering off and on.

    Args:
        off: Without steering.
        on: With it.
        both: One video of the two, side by side.
        maps: Pictures of the massive activations without steering; none where they can't be
            recorded.
    """

    off: VideoFiles
    on: VideoFiles
    both: Path
    maps: tuple[Path, ...]


class Studio:
    """Makes videos in a folder, with the model that was asked for last.

    Args:
        folder: Where the files go.
        device: As of `stas.load_pipeline`.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.folder, self._device = folder, device
        self._loaded: tuple[str, LoadedPipeline] | None = None
        self._turn = threading.Lock()

    def make(self, settings: Settings, report: Report, cancelled: threading.Event) -> Pair:
        """Make the pair of a seed, both or none, and maps of what was recorded.

        Args:
            settings: What to make.
            report: Told of each step.
            cancelled: Set from elsewhere to end at the next step.

        Raises:
            CancelledError: `cancelled` was set.
            ValueError: What the model refuses, before anything is computed.
        """
        with self._turn:
            stem = _stem()
            made, recording = self._make(
                settings, {OFF: None, ON: settings.steering}, report, cancelled, maps=True
            )
            files = self._write(stem, made)
            both = self.folder / f"{stem}-{BOTH}.mp4"
            shown = {f"steering {name}": frames for name, (frames, _) in made.items()}
            with whole_file(both) as temporary:
                write_mp4(temporary, side_by_side(shown), made[ON][1].fps)
            maps: list[Path] = []
            if recording is not None:
                maps = plot({settings.model: recording.stats}, self.folder / f"{stem}-{MAPS}")
            pictures = tuple(path for path in maps if path.suffix == ".png")
            return Pair(files[OFF], files[ON], both, pictures)

    def make_scales(
        self,
        settings: Settings,
        scales: Sequence[float],
        report: Report,
        cancelled: threading.Event,
    ) -> dict[float, VideoFiles]:
        """Make one seed under several scales, all or none.

        Raises:
            CancelledError, ValueError: As of `make`.
        """
        steered: dict[str, STASConfig | None] = {
            f"scale {scale:g}": replace(settings.steering, scale=scale) for scale in scales
        }
        with self._turn:
            made, _ = self._make(settings, steered, report, cancelled, maps=False)
            files = self._write(_stem(), made)
        return dict(zip(scales, files.values(), strict=True))

    def gallery(self) -> list[Path]:
        """What was made, newest first: of a pair the video of both."""
        halves = tuple(f"-{name}.mp4" for name in (OFF, ON))
        made = self.folder.glob("*.mp4")
        return sorted((path for path in made if not path.name.endswith(halves)), reverse=True)

    def _make(
        self,
        settings: Settings,
        steered: Mapping[str, STASConfig | None],
        report: Report,
        cancelled: threading.Event,
        *,
        maps: bool,
    ) -> tuple[dict[str, tuple[Frames, Manifest]], RecordingHandle | None]:
        """The frames of a seed under each way to steer; with maps, what the first one shows."""
        _end_if(cancelled)
        loaded = self._pipeline(settings.model)
        wanted = settings.arguments | {"prompt": settings.prompt}
        for steering in steered.values():
            arguments = loaded.check(wanted, steering)
        made, recording = {}, None
        for number, (name, steering) in enumerate(steered.items()):

            def tell(step: int, steps: int, name: str = name, number: int = number) -> None:
                _end_if(cancelled)
                report(
                    number * steps + step, len(steered) * steps, f"{name}: step {step} of {steps}"
                )

            with ExitStack() as stack:
                if maps and number == 0 and "record" not in loaded.spec.refusals:
                    profile = loaded.profile()
                    dims = () if profile is None else profile.dims
                    recording = stack.enter_context(
                        record(loaded.pipeline, map_blocks="middle", map_dims=dims)
                    )
                handle = stack.enter_context(loaded.steered(steering))
                sample = Sample(name, settings.prompt, settings.seed)
                (made[name],) = make_samples(
                    loaded, [sample], [arguments], handle, fps=settings.fps, report=tell
                )
        _end_if(cancelled)
        return made, recording

    def _write(
        self, stem: str, made: Mapping[str, tuple[Frames, Manifest]]
    ) -> dict[str, VideoFiles]:
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {
            name: VideoFiles(self.folder / f"{stem}-{name}".replace(" ", "-")) for name in made
        }
        write_all([(files[name], (*each, None)) for name, each in made.items()])
        return files

    def _pipeline(self, model: str) -> LoadedPipeline:
        if self._loaded is None or self._loaded[0] != model:
            # A model that can't be loaded leaves the one before in place.
            self._loaded = model, load_pipeline(model, device=self._device)
        return self._loaded[1]


def _stem() -> str:
    return time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() % 10**9:09d}"


def _end_if(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise CancelledError("Cancelled. Nothing was written.")
