"""Videos of prompts and seeds: making them, and the files of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from stas.files import whole_file
from stas.hooks.steer import SteeringHandle
from stas.measures.result import VideoMetrics
from stas.media.animation import is_whole_video, write_by_suffix
from stas.media.pictures import strip
from stas.media.video import Frames, read_video, write_exact
from stas.pipelines.manifest import (
    Manifest,
    device_name,
    dims_record,
    frames_record,
    model_record,
    versions_record,
)
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.prompts import Sample

VIDEO, EXACT, STRIP, METRICS, MANIFEST = ".mp4", ".mkv", ".png", ".metrics.json", ".json"


@dataclass(frozen=True)
class Finished:
    """A finished video: its manifest, and what was measured on it."""

    manifest: Manifest
    metrics: VideoMetrics | None = None


@dataclass(frozen=True)
class VideoFiles:
    """The files of one video. The manifest is the last to appear and makes it finished.

    Args:
        stem: Their path without suffix, whatever dots it has.
        kinds: Which there are: VIDEO or one of `stas.media.animation.ANIMATIONS` first, any of
            EXACT, STRIP and METRICS, and MANIFEST.
        strip_frames: How many frames the strip shows.
    """

    stem: Path
    kinds: tuple[str, ...] = (VIDEO, STRIP, MANIFEST)
    strip_frames: int = 8

    def path(self, kind: str) -> Path:
        """The file of a kind."""
        return self.stem.with_name(self.stem.name + kind)

    @property
    def paths(self) -> list[Path]:
        """All of them, the video first and the manifest last."""
        return [self.path(kind) for kind in self.kinds]

    def write(
        self, frames: Frames, manifest: Manifest, metrics: VideoMetrics | None = None
    ) -> None:
        """Write all files, or none that counts as finished; what a killed process left goes.

        Raises:
            OSError: One can't be written.
        """
        with ExitStack() as stack:
            # What is opened last appears first.
            temporary = {
                kind: stack.enter_context(whole_file(self.path(kind), alone=True))
                for kind in reversed(self.kinds)
            }
            video = self.kinds[0]
            write_by_suffix(temporary[video], frames, manifest.fps, video)
            if EXACT in temporary:
                write_exact(temporary[EXACT], frames, manifest.fps)
            if STRIP in temporary:
                strip(frames, count=self.strip_frames).save(temporary[STRIP])
            if METRICS in temporary and metrics is not None:
                temporary[METRICS].write_text(metrics.to_json(), encoding="utf-8")
            temporary[MANIFEST].write_text(manifest.to_json(), encoding="utf-8")

    def read(self) -> Finished | None:
        """What is finished; None when any of the files is missing or broken."""
        if not all(path.is_file() for path in self.paths):
            return None
        try:
            manifest = Manifest.load(self.path(MANIFEST))
            count = int(manifest.frames.get("count", 0))
            if not is_whole_video(self.paths[0], count, manifest.fps):
                return None
            if METRICS not in self.kinds:
                return Finished(manifest)
            text = self.path(METRICS).read_text(encoding="utf-8")
            return Finished(manifest, VideoMetrics.from_json(text))
        except (OSError, ValueError):
            return None

    def read_exact(self) -> Frames:
        """The exact frames (T, H, W, 3), uint8, of a finished video that has them."""
        return read_video(self.path(EXACT))


def write_all(
    made: Sequence[tuple[VideoFiles, tuple[Frames, Manifest, VideoMetrics | None]]],
) -> None:
    """Write the files of several videos, side by side: encoding takes longer than a small model.

    Raises:
        OSError: One can't be written.
    """
    with ThreadPoolExecutor(min(len(made), os.cpu_count() or 1)) as pool:
        writing = [pool.submit(files.write, *what) for files, what in made]
        for each in writing:
            each.result()


def make_samples(
    loaded: LoadedPipeline,
    samples: Sequence[Sample],
    calls: Sequence[Mapping[str, Any]],
    handle: SteeringHandle | None,
    *,
    fps: float | None = None,
    report: Callable[[int, int], None] | None = None,
) -> list[tuple[Frames, Manifest]]:
    """Make the videos of some samples in one call of the pipeline.

    Args:
        loaded: The pipeline.
        samples: What to make.
        calls: For each what `LoadedPipeline.arguments` returned, its prompt among them.
        handle: What steers the pipeline, None for nothing.
        fps: Of the files; the model's own by default.
        report: Called with (finished steps, all steps) as denoising goes on.

    Returns:
        For each its frames (T, H, W, 3), uint8, and their manifest.
    """
    started = monotonic()
    videos = loaded.generate_batch(calls, [sample.seed for sample in samples], report=report)
    seconds = (monotonic() - started) / len(samples)
    of_all: dict[str, Any] = {
        "pipeline": asdict(loaded.options),
        "model": model_record(loaded.pipeline, loaded.options.revision),
        "fps": loaded.fps if fps is None else fps,
        "steering": None if handle is None else handle.config.to_dict(),
        "dims": None if handle is None else dims_record(handle),
        "versions": versions_record(),
        "device": device_name(loaded.options.device),
        "seconds": round(seconds, 2),
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    return [
        (
            frames,
            Manifest(
                arguments=call,
                prompt_file=sample.prompt_file,
                seed=sample.seed,
                frames=frames_record(frames),
                batch={"size": len(samples), "index": index} if len(samples) > 1 else None,
                **of_all,
            ),
        )
        for index, (sample, call, frames) in enumerate(zip(samples, calls, videos, strict=True))
    ]
