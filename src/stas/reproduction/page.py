"""The page of a reproduction: what the paper says beside what was found here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path

from stas import __version__
from stas.activations import plots
from stas.files import Rows, whole_file, write_table
from stas.pipelines.manifest import package_versions
from stas.reproduction.plan import ReproducedModel, Reproduction, Statement
from stas.reproduction.record import RecordStage
from stas.reproduction.stage import ACTIVATIONS, Finding, Stage, read_stats
from stas.reproduction.stages import make_stages
from stas.studies.html import write_page

TEMPLATE = Path(__file__).parent / "templates" / "reproduction.html"
PAGE, TABLE, MODELS = "report.html", "findings.csv", "models.png"
MOST_SHOWN = 40  # findings of a stage: more are in the table beside the page

Failures = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Line:
    """A finding beside what the paper says of it, either of which may be missing."""

    name: str
    ours: Finding | None
    paper: Statement | None

    @property
    def value(self) -> str:
        """What was found here, in short."""
        if self.ours is None:
            return "-"
        value = self.ours.value
        return value if isinstance(value, str) else "-" if isnan(value) else f"{value:.4g}"

    @property
    def interval(self) -> str:
        """Its 95 % interval, in short."""
        if self.ours is None or not (isfinite(self.ours.low) and isfinite(self.ours.high)):
            return "-"
        return f"{self.ours.low:.3g} to {self.ours.high:.3g}"


@dataclass(frozen=True)
class Section:
    """A stage on the page.

    Args:
        stage: The stage.
        lines: What was found.
        problem: What it lacks, or why it isn't finished, in words.
    """

    stage: Stage
    lines: Sequence[Line]
    problem: str


def write_reproduction(plan: Reproduction, folder: Path, failures: Failures | None = None) -> Path:
    """Write `report.html` and `findings.csv` of what is finished.

    Args:
        plan: The reproduction.
        folder: Where its files are.
        failures: By model and stage, why it failed, in words.

    Returns:
        The page: pictures are inside it; the reports of its stages lie beside it.
    """
    stages = make_stages(plan, folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        model.name: [
            _section(plan, stage, (failures or {}).get(stage.key, ""))
            for stage in stages
            if stage.model is model
        ]
        for model in plan.models
    }
    missing = {model.name: _not_found(plan, model, parts[model.name]) for model in plan.models}
    write_table(folder / TABLE, _rows(parts))
    return write_page(
        folder / PAGE,
        TEMPLATE,
        title=plan.title,
        plan=plan,
        parts=parts,
        missing=missing,
        models=_draw_models(stages, folder),
        folder=folder,
        most_shown=MOST_SHOWN,
        versions={"stas": __version__, **package_versions()},
    )


def _section(plan: Reproduction, stage: Stage, problem: str) -> Section:
    said = plan.statements(stage.model.name)
    try:
        found = stage.findings()
        problem = problem or stage.waits_for() or stage.lacks()
        if not problem:
            left = stage.left
            problem = f"{left:,} videos are missing" if left else stage.to_do()
    except (OSError, ValueError) as error:
        found, problem = [], problem or str(error)
    return Section(stage, [Line(each.name, each, said.get(each.name)) for each in found], problem)


def _not_found(
    plan: Reproduction, model: ReproducedModel, sections: Sequence[Section]
) -> list[Statement]:
    """What the paper says and nothing here does, or not yet."""
    found = {line.name for section in sections for line in section.lines}
    return [each for name, each in plan.statements(model.name).items() if name not in found]


def _draw_models(stages: Sequence[Stage], folder: Path) -> Path | None:
    """Figure 1 of all models that were recorded, if several were."""
    stats = {
        stage.model.name: found
        for stage in stages
        if isinstance(stage, RecordStage) and (found := read_stats(stage.folder / ACTIVATIONS))
    }
    if len(stats) < 2:
        return None
    path = folder / MODELS
    with whole_file(path, alone=True) as temporary:
        plots.models(stats).savefig(temporary)
    return path


def _rows(parts: dict[str, list[Section]]) -> Rows:
    """The table of all findings."""
    yield ["model", "stage", "finding", "value", "low", "high", "n", "words", "paper", "source"]
    for model, sections in parts.items():
        for section in sections:
            for line in section.lines:
                assert line.ours is not None
                ours, paper = line.ours, line.paper
                yield [
                    model,
                    section.stage.name,
                    line.name,
                    ours.value,
                    *("" if isnan(end) else end for end in (ours.low, ours.high)),
                    "" if ours.n is None else ours.n,
                    ours.words,
                    *(("", "") if paper is None else (paper.value, paper.source)),
                ]
