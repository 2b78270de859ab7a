"""The studio: making videos one at a time, with progress and cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from stas.studies.compare import ON
from stas.studies.plan import OFF

Report = Callable[[int, int, str], None]  # finished steps, all steps or 0 while waiting, in words
BOTH, MAPS = "both", "maps"
POLL = 0.2  # seconds between looks at the line


class CancelledError(Exception):
    """The run was cancelled; nothing of it was written."""


@dataclass(frozen=True)
class Made:
    """The files of one seed.

    Args:
        files: By OFF and ON, of the videos that were asked for.
        video: What shows them: one video of the two side by side, or the one.
        maps: Pictures of the massive activations without steering; none where that video was not
            asked for, or they can't be recorded.
    """

    files: Mapping[str, VideoFiles]
    video: Path
    maps: tuple[Path, ...]


class Studio:
    """Makes videos in a folder, with the model that was asked for last.

    Args:
        folder: Where the files go.
        device: As of `stas.load_pipeline`.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.folder, self.device = folder, device
        self._loaded: tuple[tuple[str, str], LoadedPipeline] | None = None
        self._line: list[threading.Event] = []

    def make(self, settings: Settings, report: Report, cancelled: threading.Event) -> Made:
        """Make the videos of a seed, all or none, and maps of what was recorded.

        Args:
            settings: What to make.
            report: Told of each step.
            cancelled: Set from elsewhere to end at the next step.

        Raises:
            CancelledError: `cancelled` was set.
            ValueError: What the model refuses, before anything is computed.
        """
        steered: dict[str, STASConfig | None] = {OFF: None, ON: settings.steering}
        if settings.make != BOTH:
            steered = {settings.make: steered[settings.make]}
        with self._turn(report, cancelled):
            stem = _stem()
            made, recording = self._make(settings, steered, report, cancelled, maps=OFF in steered)
            files = self._write(stem, made)
            video = next(iter(files.values())).paths[0]
            if len(files) > 1:
                video = self.folder / f"{stem}-{BOTH}.mp4"
                shown = {f"steering {name}": frames for name, (frames, _) in made.items()}
                with whole_file(video) as temporary:
                    write_mp4(temporary, side_by_side(shown), made[ON][1].fps)
            maps: list[Path] = []
            if recording is not None:
                maps = plot({settings.model: recording.stats}, self.folder / f"{stem}-{MAPS}")
            return Made(files, video, tuple(path for path in maps if path.suffix == ".png"))

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
        with self._turn(report, cancelled):
            made, _ = self._make(settings, steered, report, cancelled, maps=False)
            files = self._write(_stem(), made)
        return dict(zip(scales, files.values(), strict=True))

    @contextmanager
    def _turn(self, report: Report, cancelled: threading.Event) -> Iterator[None]:
        """Wait for those that came before; a line of our own, since a page that is reloaded leaves
        that of the server while its video is still being made."""
        self._line.append(cancelled)
        try:
            while place := self._line.index(cancelled):
                _end_if(cancelled)
                report(0, 0, f"Waiting for {place} before this one")
                time.sleep(POLL)
            report(0, 0, "Loading the model")
            yield
        finally:
            self._line.remove(cancelled)

    def cancel_first(self) -> None:
        """End the run that is being made, at its next step."""
        for cancelled in self._line[:1]:
            cancelled.set()

    def gallery(self) -> list[Path]:
        """What was made, newest first: of a pair the video of both."""
        made = {path.name: path for path in self.folder.glob("*.mp4")}
        for name in list(made):
            if name.endswith(f"-{BOTH}.mp4"):
                for half in (OFF, ON):
                    made.pop(f"{name.removesuffix(f'{BOTH}.mp4')}{half}.mp4", None)
        return sorted(made.values(), reverse=True)

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
        loaded = self._pipeline(settings)
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

    def _pipeline(self, settings: Settings) -> LoadedPipeline:
        wanted = settings.model, settings.dtype
        if self._loaded is None or self._loaded[0] != wanted:
            # A model that can't be loaded leaves the one before in place.
            self._loaded = wanted, load_pipeline(wanted[0], device=self.device, dtype=wanted[1])
        return self._loaded[1]


def _stem() -> str:
    return time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() % 10**9:09d}"


def _end_if(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise CancelledError("Cancelled. Nothing was written.")
