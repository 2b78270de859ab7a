"""The paper's benchmarks as stages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stas.measures.measure import Measures
from stas.pipelines.prompts import Sample
from stas.reproduction.crew import Crew
from stas.reproduction.stage import STAS, Finding, Stage
from stas.studies.plan import OFF
from stas.suites.compbench import (
    CATEGORIES,
    PROMPTS,
    compbench_rows,
    read_samples,
    write_commands,
    write_layout,
)
from stas.suites.environment import Environment
from stas.suites.rows import Row
from stas.suites.run import BenchmarkRun, Suite
from stas.suites.score import score_run
from stas.suites.table import VBenchTable
from stas.suites.vbench import (
    ALL_VIDEOS,
    make_samples_of,
    read_dimensions,
    read_entries,
    source_record,
)
from stas.workers.job import Report


@dataclass(kw_only=True, repr=False)
class BenchmarkStage(Stage):
    """The videos of a benchmark, and its scores."""

    settings: ClassVar[Sequence[str]] = (OFF, STAS)
    suite: ClassVar[Suite]

    @abstractmethod
    def listed(self) -> tuple[Sequence[Sample], Mapping[str, Any]]:
        """The samples, and what they were read from.

        Raises:
            FileNotFoundError: That is not there.
        """

    @property
    def info(self) -> Path | None:
        """The list of prompts that goes into the folder, where the benchmark has one."""
        return None

    def open(self) -> BenchmarkRun:
        """The run in its folder.

        Raises:
            FileNotFoundError: What the prompts are read from is not there.
        """
        samples, source = self.listed()
        run = BenchmarkRun(
            folder=self.folder,
            settings=[self.setting(name) for name in self.settings],
            samples=samples,
            arguments=dict(self.model.arguments),
            measured=(),
            fps=self.model.fps,
            suite=self.suite,
            model=self.model.model,
            revision=self.model.revision,
            source=source,
            info=self.info,
        )
        run.read()
        return run

    @abstractmethod
    def rows(self, run: BenchmarkRun) -> Sequence[Row]:
        """The table of its scores."""

    @property
    @abstractmethod
    def all_videos(self) -> int | None:
        """How many videos a setting has, where that is known without the list of prompts."""

    def lacks(self) -> str:
        try:
            self.listed()
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
        if not self.begun:
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
    suite: ClassVar[Suite] = "vbench"
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

    @property
    def info(self) -> Path:
        return self.environment.info

    def listed(self) -> tuple[Sequence[Sample], Mapping[str, Any]]:
        samples = make_samples_of(
            read_entries(self.info),
            self.prompts,
            dimensions=self.dimensions,
            videos=self.samples_per_prompt,
            seed=self.plan.seed,
        )
        return samples, source_record(self.info, self.prompts)

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        run = self.open()
        crew.carry_out(run, self.model, Measures(names=()), report)
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
    suite: ClassVar[Suite] = "compbench"
    prompts: str = "T2V-CompBench/prompts"

    def listed(self) -> tuple[Sequence[Sample], Mapping[str, Any]]:
        return read_samples(Path(self.prompts), self.plan.seed)

    def carry_out(self, crew: Crew, report: Report | None = None) -> None:
        run = self.open()
        crew.carry_out(run, self.model, Measures(names=()), report)
        for setting in run.settings:
            write_layout(run, setting)

    def rows(self, run: BenchmarkRun) -> Sequence[Row]:
        return compbench_rows(run)

    def to_do(self) -> str:
        run = self.open()
        if any(row.values for row in self.rows(run)):
            return ""
        scripts = [str(write_commands(run, setting)) for setting in run.settings]
        return (
            f"its scorers run in environments of yours: {' and '.join(scripts)} have the commands"
        )

    @property
    def all_videos(self) -> int | None:
        return PROMPTS * len(CATEGORIES)
