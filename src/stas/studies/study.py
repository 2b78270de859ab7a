"""Running a study: a grid of steering configs x prompts x seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from stas.activations.massive import find_massive_activations
from stas.activations.stats import ActivationStats
from stas.measures.measure import Measures, available_names
from stas.pipelines.inputs import with_records
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.recorder import record_videos
from stas.pipelines.sample import MANIFEST, METRICS, STRIP, VIDEO, VideoFiles
from stas.studies.file import load_study
from stas.studies.plan import Study, folder_name, with_dims
from stas.studies.run import Run, carry_out
from stas.workers.executors import HERE, Workers
from stas.workers.job import Progress, Report, Tell

ACTIVATIONS = "activations.safetensors"


@dataclass(repr=False)
class StudyRun(Run):
    """A study in its folder. Made by `open_study`.

    Args:
        study: The study.
    """

    noun: ClassVar[str] = "study"
    study: Study = field(kw_only=True)

    def plan(self) -> dict[str, Any]:
        return self.study.to_dict()

    def files(self, number: int, sample: Sample) -> VideoFiles:
        folder = self.folder / folder_name(number, self.settings[number])
        return VideoFiles(folder / sample.name, (VIDEO, STRIP, METRICS, MANIFEST), strip_frames=6)

    def read(self) -> None:
        path = self.folder / ACTIVATIONS
        if self._classes() and path.is_file():
            stats = ActivationStats.load(path)
            if stats.metadata.get("finished") == stats.metadata.get("videos"):
                self.replace_classes(stats)
        super().read()

    def find_dims(self, loaded: LoadedPipeline, tell: Tell) -> None:
        """Put dimensions in place of their classes, by recording videos of the first prompts.

        Raises:
            ValueError: The model has no massive dimension, too few of a class, or two configs have
                become alike.
        """
        if not self._classes():
            return

        def report(progress: Progress) -> None:
            step, steps = next(((each.step, each.steps) for each in progress.working), (0, 1))
            tell(progress.finished * steps + step, progress.videos * steps)

        path = self.folder / ACTIVATIONS
        stats = record_videos(
            loaded,
            list(dict.fromkeys(self.study.prompts))[: self.study.recorded],
            self.arguments,
            path,
            seed=self.study.seed,
            resume=path.exists(),
            report=report,
        )
        self.replace_classes(stats)

    def _classes(self) -> set[str]:
        return {each.dims_class for each in self.settings if each.dims_class is not None}

    def replace_classes(self, stats: ActivationStats) -> None:
        found = find_massive_activations(stats)
        if not found.dims:
            raise ValueError(
                f"No dimension reaches {found.threshold:g} times the mean magnitude, so there are "
                f"no classes to compare. Strongest: {found.describe()}. Give dims as numbers."
            )
        count, wanted = len(found.dims), self._classes()
        dims = {"massive": found.dims}
        if "weak" in wanted:
            dims["weak"] = found.of_class("weak", count)
        if "ordinary" in wanted:
            dims["ordinary"] = found.of_class("ordinary", count, seed=self.study.seed)
        if "random" in wanted:
            taken = {dim for each in dims.values() for dim in each}
            others = [dim for dim in range(stats.width) if dim not in taken]
            dims["random"] = tuple(sorted(Random(self.study.seed).sample(others, count)))
        self.settings = with_dims(self.settings, dims)


def open_study(study: Study, folder: str | os.PathLike[str] | None = None) -> StudyRun:
    """A study and what is finished of it in its folder, which is only read.

    Args:
        study: The study.
        folder: Its run directory; runs/NAME by default.

    Raises:
        NotADirectoryError: The folder is a file.
        ValueError: It is the folder of another study, the message says what differs; or a measure
            needs a package that is not installed.
        FileExistsError: It holds other things.
    """
    able = available_names()
    names: Sequence[str] = able if study.measures is None else study.measures
    if missing := [name for name in names if name not in able]:
        raise ValueError(f"{', '.join(missing)}: these need pip install 'stas[metrics]'.")
    run = StudyRun(
        folder=Path("runs") / study.name if folder is None else Path(folder),
        settings=study.settings(),
        samples=study.samples(),
        arguments=with_records(study.arguments),
        measured=names,
        study=study,
    )
    run.read()
    return run


def load_measures(study: Study) -> Measures:
    """What a study measures, its encoders on the CPU."""
    return Measures.load(
        study.measures,
        encoders=study.encoders,
        own=study.own_measures,
        aesthetic=study.aesthetic,
        aesthetic_clip=study.aesthetic_clip,
    )


def run_study(
    study: Study | str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    pipeline: LoadedPipeline | None = None,
    options: Mapping[str, Any] | None = None,
    workers: Workers = HERE,
    batch: int = 1,
    report: Report | None = None,
) -> StudyRun:
    """Run a study, or go on with it, and write its report: `stas study` as a call.

    The run directory gets a folder for each setting with every video, `report.html`, its tables as
    CSV and Markdown, and a picture for each axis. Called again it goes on where it was stopped: no
    video is made twice.

    Args:
        study: A study, its TOML file, or the name of one that ships, such as "ablation-scale".
        folder: The run directory; runs/NAME by default.
        pipeline: What `stas.load_pipeline` returned, when the study's model is loaded already.
        options: Otherwise further options to load it with, such as device and offload.
        workers: How many processes make it, and where.
        batch: How many samples are made in one call of the pipeline.
        report: Called with how far all is.

    Returns:
        The run with what is finished.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: What `load_study`, `open_study` or the
            pipeline refuses; before the first video.
        stas.workers.executors.TasksFailedError: Some samples failed; the others are finished.

    Example:
        >>> from tempfile import mkdtemp
        >>> size = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
        >>> study = Study(
        ...     name="alpha", prompts=("a red circle",), axes={"scale": (2.0,)},
        ...     arguments=size, measures=("pixel difference",),
        ... )
        >>> run_study(study, mkdtemp() + "/alpha").left
        0
    """
    from stas.studies.page import write_study_report

    wanted = study if isinstance(study, Study) else load_study(study)
    run = open_study(wanted, folder)
    loaded: LoadedPipeline | PipelineOptions = pipeline or PipelineOptions(
        model=wanted.model, revision=wanted.revision, dtype=wanted.dtype, **(options or {})
    )
    try:
        carry_out(run, loaded, load_measures(wanted), workers=workers, batch=batch, report=report)
    finally:
        # After an error or Ctrl-C too: what is finished is worth its report.
        if run.finished:
            write_study_report(run)
    return run
