"""The stages of a reproduction: each can be gone on with, and says what it found."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import nan
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any, ClassVar

import torch
from diffusers import UniPCMultistepScheduler
from matplotlib.figure import Figure

from stas.activations.massive import RecordedMassiveActivations, find_massive_activations
from stas.activations.plots import plot
from stas.activations.stats import ActivationStats
from stas.assets import BUNDLED, BUNDLED_MODEL
from stas.checks import expect, is_whole
from stas.files import whole_file
from stas.measures.measure import Measures, available_names
from stas.method.config import STASConfig
from stas.method.presets import preset
from stas.pipelines.load import load_pipeline
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Prompt, Sample, samples_of
from stas.pipelines.recorder import record_videos
from stas.preference.items import read_rated
from stas.preference.report import PreferenceReport, write_preference
from stas.preference.votes import Votes, kept_rating
from stas.reproduction.plan import ReproducedModel, Reproduction
from stas.studies.compare import Comparison
from stas.studies.differences import Difference, paired_difference
from stas.studies.figures import draw_first_frames, draw_frames, draw_transitions
from stas.studies.page import write_report, write_study_report
from stas.studies.plan import INTERVENTION, OFF, PRESET_FIELDS, Setting, Study, frozen
from stas.studies.run import Run, carry_out
from stas.studies.study import StudyRun, load_measures, open_study
from stas.studies.tables import axis_table
from stas.suites.compbench import CATEGORIES, PROMPTS, compbench_rows, read_samples
from stas.suites.environment import Environment
from stas.suites.rows import Row
from stas.suites.run import BenchmarkRun, load_json
from stas.suites.score import score_run
from stas.suites.table import VBenchTable
from stas.suites.vbench import (
    ALL_VIDEOS,
    make_samples_of,
    read_dimensions,
    read_entries,
    source_record,
)
from stas.workers.executors import HERE, Workers
from stas.workers.job import Progress, Report

BOUNDARY, STAS = "boundary", "stas"


@dataclass(frozen=True)
class Finding:
    """One number or fact that a stage found.

    Args:
        name: By which the paper's is found.
        value: What it is: a number, or words.
        low: Lower end of its 95 % interval; NaN where it has none.
        high: Upper end.
        n: How many prompts, videos or rounds it rests on.
        words: What that says.
    """

    name: str
    value: float | str
    low: float = nan
    high: float = nan
    n: int | None = None
    words: str = ""

    @classmethod
    def of(cls, name: str, difference: Difference) -> Finding:
        """A paired difference."""
        found, words = difference.found, difference.words
        if found is None:
            return cls(name, nan, words=words)
        ends = (found.low, found.high) if found.pairs > 1 else (nan, nan)
        return cls(name, found.difference, *ends, n=found.pairs, words=words)


@dataclass
class Crew:
    """Who carries out stages: where pipelines are loaded, and how many processes there are.

    Args:
        device: See `stas.pipelines.options.PipelineOptions`.
        offload: See there.
        workers: How many processes make videos, and where.
        batch: How many samples are made in one call of the pipeline.
        loader: What loads a pipeline in this process.
    """

    device: str = "auto"
    offload: Any = "none"
    workers: Workers = HERE
    batch: int = 1
    loader: Callable[[PipelineOptions], LoadedPipeline] = load_pipeline
    _loaded: tuple[PipelineOptions, LoadedPipeline] | None = field(default=None, repr=False)

    def pipeline(self, model: ReproducedModel) -> LoadedPipeline | PipelineOptions:
        """A model's pipeline for this process; how to load it, where workers do.

        Raises:
            ValueError: Its scheduler is not the one that the reproduction names.
        """
        if self.workers.here:
            return self.load(model)
        check_scheduler(model)
        return self._options(model)

    def load(self, model: ReproducedModel) -> LoadedPipeline:
        """A model's pipeline in this process, which keeps the last one."""
        check_scheduler(model)
        options = self._options(model)
        if self._loaded is None or self._loaded[0] != options:
            self._loaded = None  # before the next one is there
            self._loaded = options, self.loader(options)
        return self._loaded[1]

    def _options(self, model: ReproducedModel) -> PipelineOptions:
        return model.options(device=self.device, offload=self.offload).resolved()


def check_scheduler(model: ReproducedModel) -> None:
    """See that a checkpoint's scheduler is as a reproduction says.

    Raises:
        ValueError: A value of its config is another.
        OSError: It can't be read.
    """
    if not model.scheduler:
        return
    where = str(BUNDLED_MODEL) if model.model == BUNDLED else model.model
    # Any scheduler's class reads the config of any other.
    config = UniPCMultistepScheduler.load_config(
        where, subfolder="scheduler", revision=model.revision
    )
    for name, wanted in model.scheduler.items():
        if (found := config.get(name)) != wanted:
            raise ValueError(
                f"The scheduler of {model.model} has {name} = {found!r}, and the reproduction of "
                f"{model.name} is with {wanted!r}: change the checkpoint's scheduler_config.json, "
                "or what the file says."
            )


@dataclass(kw_only=True, repr=False)
class Stage(ABC):
    """One stage on one model.

    Args:
        plan: The reproduction.
        model: The model.
        home: Folder of the model.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    plan: Reproduction
    model: ReproducedModel
    home: Path

    @property
    def key(self) -> tuple[str, str]:
        """Names of the model and of the stage."""
        return self.model.name, self.name

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.home / self.name

    @property
    @abstractmethod
    def left(self) -> int:
        """How many videos are still to be made."""

    @abstractmethod
    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        """Do what is left of it.

        Raises:
            Exception: What its runs raise; what is finished is kept.
        """

    @abstractmethod
    def findings(self) -> list[Finding]:
        """What was found; nothing as long as nothing is finished."""

    def lacks(self) -> str:
        """What is missing that no stage makes, in words; "" when nothing is."""
        return ""

    def waits_for(self) -> str:
        """Which stage must come first and isn't finished, in words; "" when none must."""
        found = self.recorded
        if found is None:
            return f"the stage {RecordStage.name} comes first: it finds the massive dimensions"
        return "" if found.dims else f"no dimension is massive: {found.describe()}"

    def pictures(self) -> list[Path]:
        """What there is to look at."""
        return []

    @property
    def page(self) -> Path | None:
        """The report that it has of its own, if it is written."""
        path = self.folder / "report.html"
        return path if path.is_file() else None

    @property
    def recorded(self) -> RecordedMassiveActivations | None:
        """The massive dimensions; None until all of the recording is finished."""
        stats = read_stats(self.home / RecordStage.name / ACTIVATIONS)
        return None if stats is None else find_massive_activations(stats)

    @property
    def dims(self) -> tuple[int, ...]:
        """What is steered: the dimensions that were recorded as massive."""
        found = self.recorded
        return () if found is None else found.dims

    def samples(self, count: int) -> list[Sample]:
        """The first prompts, each with a seed of its own."""
        origin = self.plan.prompt_file
        return [
            Sample(
                sample.name,
                sample.prompt,
                sample.seed,
                None if origin is None else {**origin, "line": number + 1},
            )
            for number, prompt in enumerate(self.plan.prompts[:count])
            for sample in samples_of([Prompt(prompt)], [self.plan.seed + number])
        ]

    def setting(self, name: str) -> Setting:
        """ "off"; or an intervention of `stas.method.presets`, with the reproduction's steering."""
        if name == OFF:
            return Setting(OFF, None)
        config = STASConfig.from_dict(dict(self.plan.steering)).to_dict()
        chosen = preset(name)
        if name != STAS:
            config |= {each: getattr(chosen, each) for each in PRESET_FIELDS}
        config = STASConfig.from_dict({**config, "dims": list(self.dims)}).to_dict()
        return Setting(name, config)

    def _check_count(self, name: str) -> None:
        value, most = getattr(self, name), len(self.plan.prompts)
        expect(
            is_whole(value, 1, most + 1),
            f"{self.name}.{name} must be 1 to {most}, the number of prompts, but got {value!r}",
        )


ACTIVATIONS = "activations.safetensors"


def read_stats(path: Path) -> ActivationStats | None:
    """Statistics that are finished; None where they aren't.

    Raises:
        ValueError: The file is broken.
    """
    if not path.is_file():
        return None
    stats = ActivationStats.load(path)
    done = stats.metadata.get("finished") == stats.metadata.get("videos")
    return stats if done else None


@dataclass(kw_only=True, repr=False)
class RecordStage(Stage):
    """Recording: the massive dimensions, the paper's Figures 1 and 2.

    Args:
        count: Videos, each of another prompt.
    """

    name: ClassVar[str] = "record"
    title: ClassVar[str] = "Massive activations (Figures 1 and 2)"
    count: int = 100

    def __post_init__(self) -> None:
        self._check_count("count")

    def waits_for(self) -> str:
        return ""

    @property
    def path(self) -> Path:
        return self.folder / ACTIVATIONS

    @property
    def left(self) -> int:
        if not self.path.is_file():
            return self.count
        return self.count - int(ActivationStats.load(self.path).metadata.get("finished", 0))

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stats = record_videos(
            crew.pipeline(self.model),
            self.plan.prompts[: self.count],
            self.model.arguments,
            self.path,
            seed=self.plan.seed,
            map_blocks="middle",
            resume=self.path.exists(),
            workers=crew.workers,
            report=report,
        )
        plot({self.model.name: stats}, self.folder)

    def findings(self) -> list[Finding]:
        stats = read_stats(self.path)
        if stats is None:
            return []
        found, videos = find_massive_activations(stats), int(stats.metadata["videos"])
        dims = ", ".join(map(str, found.dims)) or "none"
        strongest = found.findings[0]
        weak = [each.ratio for each in found.findings if each.dimension_class == "weak"]
        groups = (strongest.first_frame, strongest.boundary, strongest.interior)
        first, last = (_boundary_ratio(stats, strongest.dim, end) for end in (0, -1))
        order = "yes" if groups[0] > groups[1] > groups[2] else "no"
        falls = "yes" if last < first else "no"
        return [
            Finding("massive dimensions", dims, n=videos),
            Finding("ratio of the strongest dimension", strongest.ratio, n=videos),
            Finding("ratio of the strongest weak dimension", max(weak, default=nan), n=videos),
            Finding(
                "first frame > boundary > interior",
                order,
                n=videos,
                words=", ".join(f"{each:.4g}" for each in groups),
            ),
            Finding("boundary / interior, first step", first, n=videos),
            Finding("boundary / interior, last step", last, n=videos),
            Finding("boundary / interior falls over the steps", falls, n=videos),
        ]

    def pictures(self) -> list[Path]:
        return sorted(self.folder.glob("*.png"))


def _boundary_ratio(stats: ActivationStats, dim: int, end: int) -> float:
    """Mean |h| at boundary tokens over that at interior tokens, over blocks, at the first or last
    step."""
    step = sorted({step for step, _ in stats.cells})[end]
    boundary, interior = (
        float(stats.pooled(steps=[step], regions=[region]).mean_abs[:, dim].mean())
        for region in ("boundary", "interior")
    )
    return boundary / interior


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
        stats = read_stats(self.home / RecordStage.name / ACTIVATIONS)
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
            _make(run, measures, crew, self.model, report)
        finally:
            if run.finished:
                write_study_report(run)

    def findings(self) -> list[Finding]:
        if not self.folder.exists() or self.waits_for() or self.lacks():
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
            _make(run, run.measures, crew, self.model, report)
        finally:
            if run.whole_samples():
                write_report(run)
        sample, *_ = run.whole_samples()
        _draw(self.folder / "figure-4.png", draw_transitions(run, sample))
        _draw(self.folder / "figure-5.png", draw_frames(run, sample))

    def findings(self) -> list[Finding]:
        if not self.folder.exists() or self.waits_for() or self.lacks():
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


@dataclass(kw_only=True, repr=False)
class BenchmarkStage(Stage):
    """The videos of a benchmark, and its scores."""

    settings: ClassVar[Sequence[str]] = (OFF, STAS)

    @abstractmethod
    def open(self) -> BenchmarkRun:
        """The run in its folder.

        Raises:
            FileNotFoundError: What the prompts are read from is not there.
        """

    @abstractmethod
    def rows(self, run: BenchmarkRun) -> Sequence[Row]:
        """The table of its scores."""

    @property
    @abstractmethod
    def all_videos(self) -> int | None:
        """How many videos a setting has, where that is known without the list of prompts."""

    def lacks(self) -> str:
        try:
            self.open()
        except FileNotFoundError as error:
            return str(error)
        return ""

    @property
    def left(self) -> int:
        try:
            return self.open().left
        except FileNotFoundError:
            if self.all_videos is None:
                raise
            return len(self.settings) * self.all_videos

    def findings(self) -> list[Finding]:
        if not self.folder.exists() or self.waits_for() or self.lacks():
            return []
        found = []
        for row in self.rows(self.open()):
            found += [Finding(f"{row.name}: {name}", each) for name, each in row.values.items()]
            found += [
                Finding.of(f"{row.name}: {each.run} - {OFF}", each)
                for each in row.differences
                if each.found is not None
            ]
        return found

    def _run(
        self, samples: Sequence[Sample], source: Mapping[str, Any], **more: Any
    ) -> BenchmarkRun:
        run = BenchmarkRun(
            folder=self.folder,
            settings=[self.setting(name) for name in self.settings],
            samples=samples,
            arguments=dict(self.model.arguments),
            measured=(),
            fps=self.model.fps,
            model=self.model.model,
            revision=self.model.revision,
            source=source,
            **more,
        )
        run.read()
        return run


@dataclass(kw_only=True, repr=False)
class VBenchStage(BenchmarkStage):
    """VBench.

    Args:
        env: VBench's environment, see `stas bench setup`.
        cache: Its models.
        prompts: "plain", or a file with a longer text for each row.
        dimensions: Of VBench; all 16 by default.
        samples_per_prompt: At most; as many as VBench wants by default.
        device: Where its models run.
    """

    name: ClassVar[str] = "vbench"
    title: ClassVar[str] = "VBench"
    env: str = "vbench-env"
    cache: str | None = None
    prompts: str = "plain"
    dimensions: Sequence[str] = ()
    samples_per_prompt: int | None = None
    device: str = "cuda"

    def __post_init__(self) -> None:
        read_dimensions(self.dimensions)

    @property
    def environment(self) -> Environment:
        return Environment(Path(self.env), None if self.cache is None else Path(self.cache))

    def open(self) -> BenchmarkRun:
        info = self.environment.info
        samples = make_samples_of(
            read_entries(info),
            self.prompts,
            dimensions=self.dimensions,
            videos=self.samples_per_prompt,
            seed=self.plan.seed,
        )
        return self._run(samples, source_record(info, self.prompts), suite="vbench", info=info)

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        run = self.open()
        _make(run, Measures(names=()), crew, self.model, report)
        chosen = read_dimensions(self.dimensions) if self.dimensions else None
        if failed := score_run(run, self.environment, dimensions=chosen, device=self.device):
            raise RuntimeError("; ".join(failed))

    def rows(self, run: BenchmarkRun) -> Sequence[Row]:
        return VBenchTable(run).rows()

    @property
    def all_videos(self) -> int | None:
        return None if self.dimensions or self.samples_per_prompt else ALL_VIDEOS


@dataclass(kw_only=True, repr=False)
class CompBenchStage(BenchmarkStage):
    """T2V-CompBench, whose scorers run in environments of the user's.

    Args:
        prompts: Its folder of prompts.
    """

    name: ClassVar[str] = "compbench"
    title: ClassVar[str] = "T2V-CompBench"
    prompts: str = "T2V-CompBench/prompts"

    def open(self) -> BenchmarkRun:
        samples, source = read_samples(Path(self.prompts), self.plan.seed)
        return self._run(samples, source, suite="compbench")

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        _make(self.open(), Measures(names=()), crew, self.model, report)

    def rows(self, run: BenchmarkRun) -> Sequence[Row]:
        return compbench_rows(run)

    @property
    def all_videos(self) -> int | None:
        return PROMPTS * len(CATEGORIES)


@dataclass(kw_only=True, repr=False)
class OverheadStage(Stage):
    """What steering costs: videos made off and on in turn, in one process.

    Args:
        rounds: Pairs of videos.
    """

    name: ClassVar[str] = "overhead"
    title: ClassVar[str] = "Overhead"
    rounds: int = 10

    def __post_init__(self) -> None:
        expect(is_whole(self.rounds, 1), f"{self.name}.rounds must be 1 or more")

    @property
    def path(self) -> Path:
        return self.folder / "seconds.json"

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            return {"off": [], "on": []}
        data: dict[str, Any] = load_json(self.path)
        if data.get("arguments") != json.loads(json.dumps(dict(self.model.arguments))):
            raise ValueError(f"{self.path} is of other arguments than the reproduction's.")
        return data

    @property
    def left(self) -> int:
        return 2 * max(0, self.rounds - len(self._read()["on"]))

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        kept = self._read()
        if not self.left:
            return
        loaded = crew.load(self.model)
        device = _device_name(loaded)
        if kept.get("device", device) != device:
            raise ValueError(
                f"{self.path} was measured on {kept['device']}, and this is {device}: seconds of "
                "two machines are no pairs. Remove the file, or go on there."
            )
        call = loaded.arguments({**self.model.arguments, "prompt": self.plan.prompts[0]})
        configs = {"off": None, "on": self.setting(STAS).steering()}

        def seconds(name: str, seed: int) -> float:
            with loaded.steered(configs[name]):
                started = perf_counter()
                loaded.generate(call, seed)  # whose frames are on the host when it returns
                return perf_counter() - started

        self.folder.mkdir(parents=True, exist_ok=True)
        for name in configs:  # the first of each warms up
            seconds(name, self.plan.seed)
        for number in range(len(kept["on"]), self.rounds):
            # Each goes first in every other round, so that neither has the warmer machine.
            names = list(configs)[:: 1 if number % 2 else -1]
            times = {name: seconds(name, self.plan.seed + number) for name in names}
            kept = {
                "device": device,
                "arguments": dict(self.model.arguments),
                **{name: [*kept[name], times[name]] for name in configs},
            }
            with whole_file(self.path, alone=True) as temporary:
                temporary.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
            if report is not None:
                report(Progress(2 * (number + 1), 2 * self.rounds, 0, ()))

    def findings(self) -> list[Finding]:
        kept = self._read()
        off, on = kept["off"], kept["on"]
        if not on:
            return []
        found = paired_difference(off, on, words=("faster", "slower"))
        share = found.difference / fmean(off)
        return [
            Finding("seconds of a video, off", fmean(off), n=len(off), words=kept["device"]),
            Finding(
                "seconds added by steering",
                found.difference,
                found.low,
                found.high,
                found.pairs,
                found.words,
            ),
            Finding("added by steering, share", share, n=found.pairs),
        ]


@dataclass(kw_only=True, repr=False)
class RatingStage(Stage):
    """What people prefer, by their votes on the videos of the stage "comparison"."""

    name: ClassVar[str] = "rating"
    title: ClassVar[str] = "Human preference"

    @property
    def rated(self) -> Path:
        return self.home / ComparisonStage.name

    @property
    def left(self) -> int:
        return 0

    def waits_for(self) -> str:
        if not (self.rated / "comparison.json").is_file():
            return f"the stage {ComparisonStage.name} comes first: its videos are rated"
        return ""

    def lacks(self) -> str:
        if self.waits_for():
            return "people's votes"
        if kept_rating(self.rated) is None:
            return (
                f"there are no votes yet: `stas rate {self.rated} --run {OFF} --run {STAS}` serves "
                "the page for them"
            )
        return ""

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        if (found := self._report()) is not None:
            write_preference(found)

    def findings(self) -> list[Finding]:
        if (found := self._report()) is None:
            return []
        rows = []
        for each in found.preferences:
            low, high = each.decided.interval if each.decided.trials else (nan, nan)
            name = f"{each.question}: share of {each.second} against {each.first}"
            share, n = each.decided.share, each.decided.trials
            rows.append(Finding(name, share, low, high, n, each.words))
        return rows

    def _report(self) -> PreferenceReport | None:
        if self.waits_for() or (kept := kept_rating(self.rated)) is None:
            return None
        rated = read_rated(self.rated, kept.settings)
        with closing(Votes(rated, kept)) as votes:
            return PreferenceReport(rated, kept.questions, votes.all())


STAGES: Mapping[str, type[Stage]] = {
    each.name: each
    for each in (
        RecordStage,
        InterventionStage,
        ComparisonStage,
        AblationStage,
        OverheadStage,
        VBenchStage,
        CompBenchStage,
        RatingStage,
    )
}


def make_stages(plan: Reproduction, folder: Path) -> list[Stage]:
    """Every stage of every model of a reproduction, in the order in which they are done.

    Args:
        plan: The reproduction.
        folder: Where its files are; each model has a folder in it.

    Raises:
        ValueError: A stage is given what it doesn't know, or a value that it can't have.
    """
    stages = []
    for model in plan.models:
        for name, options in plan.stages.items():
            stage = STAGES[name]
            own = {each.name for each in fields(stage)} - {each.name for each in fields(Stage)}
            if unknown := sorted(set(options) - own):
                raise ValueError(
                    f"stages.{name}: unknown keys {', '.join(map(repr, unknown))}. Known: "
                    f"{', '.join(sorted(own)) or 'none'}."
                )
            stages.append(stage(plan=plan, model=model, home=folder / model.slug, **options))
    return stages


def _make(
    run: Run, measures: Measures, crew: Crew, model: ReproducedModel, report: Report | None
) -> None:
    if run.left:
        carry_out(
            run,
            crew.pipeline(model),
            measures,
            workers=crew.workers,
            batch=crew.batch,
            report=report,
        )


def _draw(path: Path, figure: Figure) -> None:
    with whole_file(path, alone=True) as temporary:
        figure.savefig(temporary)


def _device_name(loaded: LoadedPipeline) -> str:
    device = torch.device(loaded.options.device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
