"""Stages that make videos and measure them: the paper's Figures 3 to 5, and its ablations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.figure import Figure

from stas.checks import expect
from stas.files import whole_file
from stas.measures.measure import Measures, available_names
from stas.reproduction.crew import Crew
from stas.reproduction.stage import ACTIVATIONS, RECORD, STAS, Finding, Stage, read_stats
from stas.studies.compare import Comparison
from stas.studies.figures import draw_first_frames, draw_frames, draw_transitions
from stas.studies.page import write_report, write_study_report
from stas.studies.plan import INTERVENTION, OFF, Study, frozen
from stas.studies.study import StudyRun, load_measures, open_study
from stas.studies.tables import axis_table
from stas.workers.job import Report

BOUNDARY = "boundary"


@dataclass(kw_only=True, repr=False)
class MeasuredStage(Stage):
    """Videos under several settings, and what is measured on them.

    Args:
        count: Prompts, each with a seed of its own.
        encoders: DINO or CLIP models, see `stas.measures.features.load_encoder`.
        own_measures: See `stas.measures.measure.load_measure`.
        aesthetic: File of the aesthetic head, see `stas.measures.features.load_aesthetic`.
        shown: The measures that the page shows, by the end of their names; the others are in the
            stage's own report.
    """

    count: int
    encoders: Sequence[str] = ()
    own_measures: Sequence[str] = ()
    aesthetic: str | None = None
    shown: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._check_count("count")
        for name in ("encoders", "own_measures", "shown"):
            values = getattr(self, name)
            texts = isinstance(values, list | tuple) and all(isinstance(v, str) for v in values)
            expect(texts, f"{self.name}.{name} must be a list of texts, but got {values!r}")

    def shows(self, measure: str) -> bool:
        """Whether the page shows a measure."""
        return any(measure.endswith(each) for each in self.shown)


@dataclass(kw_only=True, repr=False)
class StudyStage(MeasuredStage):
    """A study: settings along axes, each against steering off."""

    @property
    @abstractmethod
    def study_axes(self) -> Mapping[str, tuple[Any, ...]]:
        """See `stas.studies.plan.Study`."""

    @cached_property
    def study(self) -> Study:
        """The study; classes of dimensions give way to those that were recorded."""
        return Study(
            name=self.name,
            prompts=tuple(self.plan.prompts[: self.count]),
            prompt_file=self.plan.prompt_file,
            axes=self.study_axes,
            base={**self.plan.steering, "dims": "massive"},
            model=self.model.model,
            revision=self.model.revision,
            dtype=self.model.dtype,
            arguments=self.model.arguments,
            seed=self.plan.seed,
            encoders=tuple(self.encoders),
            own_measures=tuple(self.own_measures),
            aesthetic=self.aesthetic,
        )

    def open(self) -> StudyRun:
        """The study in its folder."""
        run = open_study(self.study, self.folder)
        stats = read_stats(self.home / RECORD / ACTIVATIONS)
        if stats is not None:
            run.replace_classes(stats)
        return run

    @property
    def left(self) -> int:
        if self.folder.exists():
            return self.open().left
        return len(self.study.settings()) * len(self.study.samples())

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        run = self.open()
        try:
            measures = load_measures(self.study)
            crew.carry_out(run, self.model, measures, report)
        finally:
            if run.finished:
                write_study_report(run)

    def findings(self) -> list[Finding]:
        if not self.begun:
            return []
        run = self.open()
        if not run.finished:
            return []
        found = []
        for axis in run.study.axes:
            table = axis_table(run, axis)
            for measure, row in zip(table.measures, table.differences, strict=True):
                if self.shows(measure):
                    found += [Finding.of(f"{measure}: {axis} {each.run}", each) for each in row]
        return found


@dataclass(kw_only=True, repr=False)
class InterventionStage(StudyStage):
    """The paper's Figure 3: what interventions do to the first frame.

    Args:
        interventions: Of `stas.method.presets.INTERVENTIONS`.
    """

    name: ClassVar[str] = "interventions"
    title: ClassVar[str] = "Interventions (Figure 3)"
    count: int = 16
    shown: Sequence[str] = (", first frame",)
    interventions: Sequence[str] = (
        "zero",
        "mean",
        "scale-all",
        "scale-first-frame",
        "max-first-frame",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.study  # which refuses what a study can't have

    @property
    def study_axes(self) -> Mapping[str, tuple[Any, ...]]:
        return {INTERVENTION: tuple(self.interventions)}

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        super().carry_out(crew, report)
        run = self.open()
        sample, *_ = run.whole_samples()
        numbers = run.numbers()[sample.name, OFF]
        scores = ("aesthetic", "sharpness", "colourfulness")
        score = next(s for each in scores if (s := f"{each}, first frame") in numbers)
        _draw(self.folder / "figure-3.png", draw_first_frames(run, sample, score))

    def pictures(self) -> list[Path]:
        return sorted(self.folder.glob("figure-*.png"))


@dataclass(kw_only=True, repr=False)
class ComparisonStage(MeasuredStage):
    """The paper's Figures 4 and 5: off, amplified at boundaries, and steered, side by side."""

    name: ClassVar[str] = "comparison"
    title: ClassVar[str] = "Transitions and frames side by side (Figures 4 and 5)"
    count: int = 64
    shown: Sequence[str] = (", across chunks", ", within chunks")
    settings: ClassVar[Sequence[str]] = (OFF, BOUNDARY, STAS)

    def open(self) -> Comparison:
        """The comparison in its folder; loads the encoders, by whose names it is known."""
        measures = Measures.load(
            available_names(),
            encoders=self.encoders,
            own=self.own_measures,
            aesthetic=self.aesthetic,
        )
        run = Comparison(
            folder=self.folder,
            settings=[self.setting(name) for name in self.settings],
            samples=self.samples(self.count),
            arguments=dict(self.model.arguments),
            measured=measures.names,
            fps=self.model.fps,
            model=self.model.options().model,
            measures=measures,
        )
        run.read()
        return run

    @property
    def left(self) -> int:
        if self.folder.exists():
            return self.open().left
        return len(self.settings) * self.count

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        run = self.open()
        try:
            crew.carry_out(run, self.model, run.measures, report)
        finally:
            if run.whole_samples():
                write_report(run)
        sample, *_ = run.whole_samples()
        _draw(self.folder / "figure-4.png", draw_transitions(run, sample))
        _draw(self.folder / "figure-5.png", draw_frames(run, sample))

    def findings(self) -> list[Finding]:
        if not self.begun:
            return []
        run = self.open()
        if not run.whole_samples():
            return []
        return [
            Finding.of(f"{each.measure}: {each.run}", each)
            for each in run.differences()
            if self.shows(each.measure)
        ]

    def pictures(self) -> list[Path]:
        curves = self.folder / "curves.png"
        return [*sorted(self.folder.glob("figure-*.png")), *([curves] if curves.is_file() else [])]


@dataclass(kw_only=True, repr=False)
class AblationStage(StudyStage):
    """The paper's ablations.

    Args:
        axes: By field of STASConfig, its values, as in a study's file.
    """

    name: ClassVar[str] = "ablations"
    title: ClassVar[str] = "Ablations"
    count: int = 32
    shown: Sequence[str] = ("ssim, across chunks",)
    axes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = isinstance(self.axes, Mapping) and all(
            isinstance(v, list) for v in self.axes.values()
        )
        expect(fits, f"{self.name}.axes must be a table of lists, but got {self.axes!r}")
        _ = self.study  # which refuses what a study can't have

    @property
    def study_axes(self) -> Mapping[str, tuple[Any, ...]]:
        return {axis: tuple(map(frozen, values)) for axis, values in self.axes.items()}


def _draw(path: Path, figure: Figure) -> None:
    with whole_file(path, alone=True) as temporary:
        figure.savefig(temporary)
