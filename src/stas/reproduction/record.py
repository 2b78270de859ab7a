"""Recording: the massive dimensions, and the paper's Figures 1 and 2."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import exp, nan
from pathlib import Path
from typing import ClassVar

from stas.activations.intervals import mean_interval
from stas.activations.massive import find_massive_activations
from stas.activations.plots import plot
from stas.activations.stats import ActivationStats
from stas.method.config import REGIONS
from stas.pipelines.recorder import make_profile, record_videos
from stas.reproduction.crew import Crew
from stas.reproduction.stage import ACTIVATIONS, RECORD, Finding, Stage, read_stats
from stas.workers.job import Report

PROFILE = "profile.json"


@dataclass(kw_only=True, repr=False)
class RecordStage(Stage):
    """Recording: the massive dimensions, the paper's Figures 1 and 2.

    Args:
        count: Videos, each of another prompt.
    """

    name: ClassVar[str] = RECORD
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
        made, _ = make_profile(stats, crew.load(self.model).transformer, self.model.model)
        if made is not None:
            made.save(self.folder / PROFILE)

    def findings(self) -> list[Finding]:
        stats = read_stats(self.path)
        if stats is None:
            return []
        found, videos = find_massive_activations(stats), int(stats.metadata["videos"])
        strongest = found.findings[0]
        weak = [each.ratio for each in found.findings if each.dimension_class == "weak"]
        groups = group_magnitudes(stats, strongest.dim)
        order = _word(groups[0] > groups[1] > groups[2])
        steps = sorted({step for step, _ in stats.cells})
        first, last = (
            boundary / interior
            for step in (steps[0], steps[-1])
            for _, boundary, interior in [group_magnitudes(stats, strongest.dim, [step])]
        )
        said = ", ".join(f"{each:.4g}" for each in groups)
        return [
            Finding("massive dimensions", ", ".join(map(str, found.dims)) or "none", n=videos),
            _ratio(stats, strongest.dim, strongest.ratio, videos),
            Finding("ratio of the strongest weak dimension", max(weak, default=nan), n=videos),
            Finding("first frame > boundary > interior", order, n=videos, words=said),
            Finding("boundary / interior, first step", first, n=videos),
            Finding("boundary / interior, last step", last, n=videos),
            Finding("boundary / interior falls over the steps", _word(first > last), n=videos),
        ]

    def pictures(self) -> list[Path]:
        return sorted(self.folder.glob("*.png"))


def group_magnitudes(
    stats: ActivationStats, dim: int, steps: Collection[int] | None = None
) -> tuple[float, ...]:
    """Mean |h| of a dimension at first-frame, boundary and interior tokens.

    Of the middle one of the recorded blocks, which the paper's Figures 1e and 2 show too.

    Args:
        stats: What was recorded.
        dim: The dimension.
        steps: Only these; all by default.
    """
    row = len(stats.blocks) // 2
    return tuple(
        float(stats.pooled(steps=steps, regions=[region]).mean_abs[row, dim]) for region in REGIONS
    )


def _ratio(stats: ActivationStats, dim: int, ratio: float, videos: int) -> Finding:
    """The ratio of the strongest dimension, with its interval over prompts if there are several."""
    name = "ratio of the strongest dimension"
    if stats.video_ratios is not None and stats.video_ratios.isfinite().all() and videos > 1:
        logs = stats.video_ratios[:, dim].double().log()
        found = mean_interval(logs.tolist())
        return Finding(name, ratio, exp(found.low), exp(found.high), videos)
    return Finding(name, ratio, n=videos)


def _word(yes: bool) -> str:
    return "yes" if yes else "no"
