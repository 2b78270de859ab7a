"""Recording many videos into one file, which can be stopped and gone on with; and profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from stas.activations.certainty import is_sure
from stas.activations.massive import RecordedMassiveActivations, find_massive_activations
from stas.activations.profiles import Profile
from stas.activations.stats import ActivationStats
from stas.files import identity, whole_file
from stas.hooks.record import record
from stas.method.config import Blocks
from stas.models.registry import find_spec
from stas.pipelines.job import PipelineJob, carry_out, is_out_of_memory
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.workers.executors import HERE, Workers
from stas.workers.job import Report, TaskError, Tell
from stas.workers.leases import Leases

# Fields of a transformer's config that tell one size of a model from another.
ARCHITECTURE = ("num_layers", "num_attention_heads", "attention_head_dim", "hidden_size", "dim")


class RecordJob(PipelineJob):
    """Recording as work for many processes: a task is a video, whose statistics are a file.

    The files are merged in the order of the videos, each as soon as those before it are, so that
    the statistics are the same whoever records what.

    Args:
        loaded: The pipeline; or how to load it, as other processes must.
        prompts: One video each, with seeds `seed`, `seed` + 1, ...
        arguments: Further arguments of the pipeline's call.
        path: The file of the statistics.
        seed: Of the first video.
        resume: Go on with the file; else one that is there is replaced.
        until_sure: Whether to end when it is sure which dimensions are massive.
        options: Of `stas.record`.
    """

    def __init__(
        self,
        loaded: LoadedPipeline | PipelineOptions,
        prompts: Sequence[str],
        arguments: Mapping[str, Any],
        path: Path,
        *,
        seed: int,
        resume: bool,
        until_sure: bool,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(loaded)
        self._prompts, self._arguments, self._path = prompts, arguments, path
        self._seed, self._options = seed, dict(options)
        self.folder = path.with_name(f".{path.name}.parts")
        self.videos = len(prompts)
        # The file to replace, which is not the one that another process has begun since.
        self._old = None if resume else identity(path)
        self._until_sure = until_sure
        self._known: tuple[Any, int, bool] = (None, 0, False)

    @property
    def tasks(self) -> Sequence[str]:
        return [f"{number:04d}" for number in range(len(self._prompts))]

    def open(self) -> None:
        super().open()
        self._calls = [
            self.loaded.arguments({**self._arguments, "prompt": prompt}) for prompt in self._prompts
        ]
        if self._options["map_dims"] is None:
            profile = self.loaded.profile()
            self._options["map_dims"] = () if profile is None else profile.dims
        call = {k: v for k, v in sorted(self._calls[0].items()) if k != "prompt"}
        self._options["metadata"] = {
            "prompts": sha256("\n".join(self._prompts).encode()).hexdigest()[:16],
            "seed": str(self._seed),
            "arguments": str(call),
            "videos": str(len(self._prompts)),
            "revision": self.loaded.options.revision or "",
        }
        with record(self.loaded.pipeline, **self._options) as empty:
            self._empty = empty.stats

    def begin(self, tell: Tell) -> None:
        """See that the files are of this recording.

        Raises:
            ValueError: They were recorded otherwise.
        """
        if self._old is not None and self._old == identity(self._path):
            self._path.unlink()
        for path in (self._path, *sorted(self.folder.glob("*.safetensors"))):
            if path.exists():
                _check_same(ActivationStats.load(path), self._empty, path)

    def is_finished(self, task: str) -> bool:
        merged, enough = self._merged()
        return enough or int(task) < merged or self._part(int(task)).exists()

    def make(self, task: str, tell: Tell) -> None:
        number = int(task)
        try:
            # A video that is broken off must leave nothing behind, so each has its own.
            with record(self.loaded.pipeline, **self._options) as recording:
                self.loaded.generate(self._calls[number], self._seed + number, report=tell)
        except Exception as error:
            message = f"video {number} ({self._prompts[number]!r}) failed: {error}"
            raise TaskError(message, again=is_out_of_memory(error)) from error
        recording.stats.keep_video_map()
        with suppress(ValueError):  # a model whose activations are all zero has no ratios
            ratios = find_massive_activations(recording.stats).all_ratios
            recording.stats.video_ratios = torch.tensor([ratios])
        with whole_file(self._part(number), alone=True) as temporary:
            recording.stats.save(temporary)
        self.merge()

    def merge(self) -> None:
        """Put what is recorded into the file, as far as no video is missing."""
        with Leases(self.folder, "").wait("merging"):
            # What others recorded beyond enough is left out, so that all make the same statistics.
            while not (merged := self._merged())[1] and self._part(number := merged[0]).exists():
                part = self._part(number)
                total = ActivationStats.load(part)
                if number:
                    total, one = ActivationStats.load(self._path), total
                    total.merge(one)
                total.metadata["finished"] = str(number + 1)
                with whole_file(self._path, alone=True) as temporary:
                    total.save(temporary)
                part.unlink()

    def finished_videos(self) -> int:
        return self._merged()[0] + len(list(self.folder.glob("*.safetensors")))

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:04d}.safetensors"

    def _merged(self) -> tuple[int, bool]:
        """How many videos the file holds, and whether they are enough; read when it has changed."""
        now = identity(self._path)
        if now is None:
            return 0, False
        if self._known[0] != now:
            stats = ActivationStats.load(self._path)
            enough = self._until_sure and is_sure(stats)
            self._known = now, int(stats.metadata.get("finished", "0")), enough
        return self._known[1:]


def record_videos(
    loaded: LoadedPipeline | PipelineOptions,
    prompts: Sequence[str],
    arguments: Mapping[str, Any],
    path: Path,
    *,
    seed: int = 0,
    blocks: Blocks = "all",
    boundary: float = 0.08,
    map_blocks: Blocks | None = None,
    map_dims: Sequence[int] | None = (),
    resume: bool = False,
    until_sure: bool = False,
    workers: Workers = HERE,
    report: Report | None = None,
) -> ActivationStats:
    """Record one video per prompt; after each, the file at `path` holds what is finished.

    Args:
        loaded: A pipeline with one supported transformer; or how to load it, which several workers
            need.
        prompts: One video each, with seeds `seed`, `seed` + 1, ...
        arguments: Further arguments of the pipeline's call.
        path: The file of the statistics.
        seed: Of the first video.
        blocks: See `stas.record`, like those that follow.
        boundary: r.
        map_blocks: Blocks of which maps are kept.
        map_dims: Dimensions of the maps; None for those of the model's profile.
        resume: Go on with the file at `path`, which was recorded with the same of everything.
        until_sure: End when it is sure which dimensions are massive, by `is_sure`.
        workers: How many processes record, and where: the statistics are the same.
        report: Called with how far all is.

    Returns:
        The statistics of all videos.

    Raises:
        TypeError: Several workers, and a pipeline that is loaded.
        ValueError: No prompts, or the file to go on with was recorded otherwise.
        OSError: The file can't be read or written.
        stas.workers.executors.TasksFailedError: Some videos can't be made.
    """
    if not prompts:
        raise ValueError("There are no prompts to record.")
    options: dict[str, Any] = {
        "blocks": blocks,
        "boundary": boundary,
        "map_blocks": map_blocks,
        "map_dims": map_dims,
    }
    job = RecordJob(
        loaded,
        prompts,
        arguments,
        path,
        seed=seed,
        resume=resume,
        until_sure=until_sure,
        options=options,
    )
    carry_out(job, workers, report)
    if until_sure and is_sure(ActivationStats.load(path)):
        for part in job.folder.glob("*.safetensors"):
            part.unlink(missing_ok=True)
    with suppress(OSError):  # others are at work in it
        job.folder.rmdir()
    return ActivationStats.load(path)


def _check_same(old: ActivationStats, wanted: ActivationStats, path: Path) -> None:
    """See that statistics are of the same recording."""
    asked, found = dict(wanted.metadata), dict(old.metadata)
    found.pop("finished", None)
    for name in sorted(set(asked) | set(found)):
        if asked.get(name) != found.get(name):
            raise ValueError(
                f"{path} can't be gone on with: its {name} is {found.get(name)}, but now it is "
                f"{asked.get(name)}. Record into another file."
            )
    old.merge(wanted)  # refuses other blocks, boundary or maps


def make_profile(
    stats: ActivationStats, transformer: Any, model: str
) -> tuple[Profile | None, RecordedMassiveActivations]:
    """The profile of a recorded model, None when no dimension of it is massive.

    Args:
        stats: What was recorded.
        transformer: The recorded transformer.
        model: Hub id, or the name that the profile is to give.
    """
    found = find_massive_activations(stats)
    spec = find_spec(transformer)
    if not found.dims or spec is None:
        return None, found
    config = transformer.config
    return (
        Profile(
            model=model,
            transformer=spec.transformer,
            config={name: config[name] for name in ARCHITECTURE if config.get(name) is not None},
            dims=found.dims,
            ratios=tuple(round(found.all_ratios[dim], 2) for dim in found.dims),
            source="measured",
            videos=int(stats.metadata.get("finished", 0)) or None,
            note=f"median over blocks and steps of mean |h| over its mean over dimensions; "
            f"{stats.metadata.get('finished', '?')} videos, prompts "
            f"{stats.metadata.get('prompts', '?')}",
        ),
        found,
    )
