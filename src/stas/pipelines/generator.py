"""Making the videos of many prompts and seeds, which can be stopped and gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stas.checks import what_differs
from stas.files import identity
from stas.media.animation import check_fps_of
from stas.method.config import STASConfig
from stas.pipelines.job import PipelineJob, is_out_of_memory
from stas.pipelines.manifest import Manifest, known_dims
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import MANIFEST, STRIP, VideoFiles, make_samples, write_all
from stas.workers.job import TaskError, Tell
from stas.workers.leases import Leases


class GenerateJob(PipelineJob):
    """Videos as work for many processes: a task is a video, or as many as are made in one call.

    Args:
        loaded: The pipeline; or how to load it, as other processes must.
        samples: What to make.
        places: The file of each, of `stas.checks.FORMATS`, all in one folder.
        arguments: Further arguments of the pipeline's call.
        steering: How to steer; None for not at all.
        fps: Of the files; the model's own by default.
        force: Replace what is there. Else what is finished of this very request is kept, and
            anything else is refused, whenever it appears.
        batch: How many videos are made in one call.
    """

    def __init__(
        self,
        loaded: LoadedPipeline | PipelineOptions,
        samples: Sequence[Sample],
        places: Sequence[Path],
        arguments: Mapping[str, Any],
        steering: STASConfig | None = None,
        *,
        fps: float | None = None,
        force: bool = False,
        batch: int = 1,
    ) -> None:
        super().__init__(loaded, batch)
        self.folder, self.videos = places[0].parent, len(samples)
        self._arguments, self._steering, self._fps = dict(arguments), steering, fps
        self._files = {
            sample.name: VideoFiles(place.with_suffix(""), (place.suffix, STRIP, MANIFEST))
            for sample, place in zip(samples, places, strict=True)
        }
        # By file, so that whoever is about to write the same one waits, and then refuses to: by
        # the first of each group, since all take them in that order, and none waits in a ring.
        groups = [list(samples[i : i + batch]) for i in range(0, len(samples), batch)]
        self._groups = {self._stems(group)[0]: group for group in groups}
        # The manifests to replace, which are not those that another process writes now.
        self._old = {name: self._now(name) for name in self._files} if force else {}
        self._force = force

    @property
    def tasks(self) -> Sequence[str]:
        return list(self._groups)

    def open(self) -> None:
        super().open()
        samples = [sample for group in self._groups.values() for sample in group]
        for texts in {tuple(sample.arguments.items()) for sample in samples}:
            self.loaded.check(self._arguments | dict(texts), self._steering)
        fps = self.loaded.fps if self._fps is None else self._fps
        for suffix in {files.kinds[0] for files in self._files.values()}:
            check_fps_of(suffix, fps)
        with self.loaded.steered(self._steering) as handle:
            self._dims = None if handle is None else known_dims(handle)

    def begin(self, tell: Tell) -> None:
        """See that what is there already is of this very request.

        Raises:
            FileExistsError: It is of another one.
        """
        for group in self._groups.values():
            for sample in group:
                self._is_made(sample)

    def is_finished(self, task: str) -> bool:
        return all(self._is_made(sample) for sample in self._groups[task])

    def make(self, task: str, tell: Tell) -> None:
        with ExitStack() as others:
            for stem in self._stems(self._groups[task])[1:]:
                others.enter_context(Leases(self.folder, "").wait(stem))
            self._make(self._groups[task], tell)

    def _make(self, samples: Sequence[Sample], tell: Tell) -> None:
        lacking = [not self._is_made(sample) for sample in samples]
        if not any(lacking):
            return
        calls = [self._call(sample) for sample in samples]
        try:
            with self.loaded.steered(self._steering) as handle:

                def report(step: int, steps: int) -> None:
                    plain = "plain" if step < steps else "decoding"
                    tell(step, steps, plain if handle is None else handle.state(step, steps))

                made = make_samples(
                    self.loaded, samples, calls, handle, fps=self._fps, report=report
                )
        except Exception as error:
            of = ", ".join(repr(sample.prompt) for sample in samples)
            raise TaskError(f"{of} failed: {error}", again=is_out_of_memory(error)) from error
        write_all(
            [
                (self._files[sample.name], (frames, manifest, None))
                for sample, lacks, (frames, manifest) in zip(samples, lacking, made, strict=True)
                if lacks
            ]
        )

    def finished_videos(self) -> int:
        return sum(self._now(name) not in (None, self._old.get(name)) for name in self._files)

    def made(self, sample: Sample) -> Manifest | None:
        """The manifest of a finished video."""
        if self._now(sample.name) in (None, self._old.get(sample.name)):
            return None
        found = self._files[sample.name].read()
        return None if found is None else found.manifest

    def _stems(self, samples: Sequence[Sample]) -> list[str]:
        return sorted(self._files[sample.name].stem.name for sample in samples)

    def _now(self, name: str) -> Any:
        return identity(self._files[name].path(MANIFEST))

    def _call(self, sample: Sample) -> dict[str, Any]:
        return self.loaded.arguments(self._arguments | sample.arguments)

    def _is_made(self, sample: Sample) -> bool:
        """Whether a video is there, whole and of this very request.

        Raises:
            FileExistsError: It is of another request.
        """
        files = self._files[sample.name]
        now = self._now(sample.name)
        if now is None:
            # What this command writes first is the video, and what it leaves half-written lies
            # elsewhere: beside no video the others are somebody else's.
            others = [path for path in files.paths if path.exists()]
            if others and not self._force and not files.paths[0].exists():
                raise self._refusal(others[0], "is of no video that this command made")
            return False
        if now == self._old.get(sample.name):
            return False
        asked = {
            "pipeline": asdict(self.loaded.options),
            "arguments": self._call(sample),
            "seed": sample.seed,
            "fps": self.loaded.fps if self._fps is None else self._fps,
            "steering": None if self._steering is None else self._steering.to_dict(),
        }
        path = files.path(MANIFEST)
        try:
            manifest = Manifest.load(path)
        except ValueError as error:
            raise self._refusal(path, f"is no manifest: {error}") from error
        found = {name: getattr(manifest, name) for name in asked}
        # Beside another steering its dimensions are no news.
        if differing := what_differs(found, asked) or what_differs(
            {"dims": manifest.known_dims}, {"dims": self._dims}
        ):
            there = files.paths[0] if files.paths[0].exists() else path
            raise self._refusal(there, f"was made otherwise: {differing}")
        return files.read() is not None

    def _refusal(self, path: Path, why: str) -> FileExistsError:
        return FileExistsError(
            f"{str(path)!r} exists already and {why.rstrip('.')}. Give another -o, or --force to "
            "overwrite."
        )
