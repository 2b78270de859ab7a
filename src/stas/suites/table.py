"""The table of VBench: scores, totals, and paired differences by prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import torch

from stas.studies.differences import (
    DRAWS,
    NO_DIFFERENCE,
    Difference,
    PairedDifference,
    difference,
)
from stas.studies.plan import Setting
from stas.suites.rows import Row
from stas.suites.run import BenchmarkRun
from stas.suites.score import Score, frames_of, run_entries, score_path
from stas.suites.vbench import (
    DIMENSIONS,
    FILTERED_FROM,
    FLICKERING,
    QUALITY_WEIGHT,
    SEMANTIC_WEIGHT,
    VIDEOS,
    Dimension,
    Totals,
    totals,
    videos_of,
)

DECIDING = (
    "vbench",
    "torch",
    "torchvision",
    "numpy",
    "transformers",
    "timm",
    "pyiqa",
    "detectron2",
)


@dataclass(frozen=True)
class Cell:
    """What is known of one dimension under one setting.

    Args:
        score: VBench's score file; None where there is none of these videos.
        gap: What keeps it from being VBench's own score, in words; empty where nothing does.
        left_out: How many videos VBench left out.
    """

    score: Score | None
    gap: str = ""
    left_out: int = 0

    @property
    def text(self) -> str:
        """Score and gap in short."""
        if self.score is None:
            return self.gap
        notes = [self.gap] if self.gap else []
        if self.left_out:
            notes.append(f"{self.left_out} videos without the object left out")
        return f"{self.score.score:.4f}" + (f" ({', '.join(notes)})" if notes else "")


class VBenchTable:
    """The scores of a run.

    Args:
        run: A run of VBench that was read.

    Raises:
        ValueError: It is of another benchmark, or its scores were made by different versions.
    """

    def __init__(self, run: BenchmarkRun) -> None:
        self.run, self.entries = run, run_entries(run)
        self._names = {each.name for each in run.samples}
        self.cells = {
            (name, setting.name): self._cell(dimension, setting)
            for name, dimension in DIMENSIONS.items()
            for setting in run.settings
        }
        self.static = {
            each.name: self._cell(DIMENSIONS[FLICKERING], each, static=True)
            for each in run.settings
        }
        self._check_versions()

    def rows(self) -> list[Row]:
        """Every dimension; then, where all are whole, the totals."""
        rows = []
        for name, dimension in DIMENSIONS.items():
            rows.append(self._dimension(dimension))
            if name == FLICKERING and any(cell.score for cell in self.static.values()):
                # The filter chooses other videos for each setting, so they are no pairs.
                rows.append(_row(f"{name}, by its filter", self.static))
        for static in (False, True):
            found = {each.name: self.totals(each, static=static) for each in self.run.settings}
            for name in ("quality", "semantic", "total"):
                rows += self._total(name, found, static=static)
        return rows

    def gaps(self, setting: Setting) -> list[str]:
        """Why a setting has no total, in words; empty when it has one."""
        return [
            f"{name}: {cell.gap}"
            for name in DIMENSIONS
            if (cell := self.cells[name, setting.name]).gap
        ]

    def totals(self, setting: Setting, *, static: bool = False) -> Totals | None:
        """VBench's totals of a setting; None unless all 16 dimensions are whole.

        Args:
            setting: The setting.
            static: Whether temporal_flickering is that by VBench's filter, as on its leaderboard.
        """
        cells = {name: self.cells[name, setting.name] for name in DIMENSIONS}
        if static:
            cells[FLICKERING] = self.static[setting.name]
        if any(cell.gap for cell in cells.values()):
            return None
        return totals({name: cell.score.score for name, cell in cells.items() if cell.score})

    def _dimension(self, dimension: Dimension) -> Row:
        base, *others = self.run.settings
        samples = {each.name: each for each in self.run.samples}
        before = self._videos(dimension, base)
        found = []
        for setting in others:
            after = self._videos(dimension, setting)
            pairs = {name: (before[name], after[name]) for name in before if name in after}
            found.append(
                difference(
                    dimension.name,
                    setting.name,
                    [samples[name] for name in pairs],
                    pairs,
                    steered=self.run.steered(setting),
                )
            )
        cells = {each.name: self.cells[dimension.name, each.name] for each in self.run.settings}
        row = _row(dimension.name, cells)
        return Row(row.name, row.cells, row.values, found)

    def _total(self, name: str, found: Mapping[str, Totals | None], *, static: bool) -> list[Row]:
        if static and (name == "semantic" or not any(c.score for c in self.static.values())):
            return []
        values = {setting: float(getattr(each, name)) for setting, each in found.items() if each}
        cells = {
            setting: f"{values[setting]:.4f}" if setting in values else "-" for setting in found
        }
        if static:
            return [Row(f"{name}, by the filter", cells, values)]
        base, *others = self.run.settings
        differences = [
            total_difference(
                name,
                setting.name,
                self._pairs(base, setting),
                values[base.name],
                values[setting.name],
                steered=self.run.steered(setting),
            )
            if base.name in values and setting.name in values
            else Difference(name, setting.name, float("nan"), float("nan"), None)
            for setting in others
        ]
        return [Row(name, cells, values, differences)]

    def _pairs(self, base: Setting, setting: Setting) -> dict[str, dict[int, float]]:
        """By dimension and row, the mean difference of its videos."""
        found = {}
        for name, dimension in DIMENSIONS.items():
            before, after = self._videos(dimension, base), self._videos(dimension, setting)
            rows = videos_of(self.entries, name, self._names)
            means = {}
            for row, names in rows.items():
                both = [
                    after[each] - before[each] for each in names if each in before and each in after
                ]
                if both:
                    means[row] = fmean(both)
            found[name] = means
        return found

    def _videos(self, dimension: Dimension, setting: Setting) -> dict[str, float]:
        score = self.cells[dimension.name, setting.name].score
        return {} if score is None else {k: v for k, v in score.videos.items() if v is not None}

    def _cell(self, dimension: Dimension, setting: Setting, *, static: bool = False) -> Cell:
        path = score_path(self.run, setting, dimension.name, static=static)
        if not path.is_file():
            return Cell(None, "not scored")
        score = Score.load(path)
        if (score.dimension, score.setting, score.static) != (dimension.name, setting.name, static):
            raise ValueError(
                f"{path} holds the score of {score.dimension} of {score.setting}. Remove it."
            )
        if dict(score.frames) != frames_of(self.run, setting, list(score.frames)):
            return Cell(None, "scored on other videos: score them again")
        return Cell(
            score,
            self._gap(dimension, score),
            sum(value is None for value in score.videos.values()),
        )

    def _gap(self, dimension: Dimension, score: Score) -> str:
        wanted = FILTERED_FROM if score.static else VIDEOS
        rows = videos_of(self.entries, dimension.name, self._names, wanted)
        rows = {row: names for row, names in rows.items() if names}
        if len(rows) < dimension.prompts:
            return f"{len(rows)} of {dimension.prompts} prompts"
        if (fewest := min(map(len, rows.values()))) < wanted:
            return f"{fewest} of {wanted} videos a prompt"
        if not score.static and any(
            name not in score.videos for names in rows.values() for name in names
        ):
            return "not all videos scored"
        return ""

    def _check_versions(self) -> None:
        first: Score | None = None
        for cell in [*self.cells.values(), *self.static.values()]:
            if (score := cell.score) is None:
                continue
            first = first or score
            for name in DECIDING:
                if score.versions.get(name) != first.versions.get(name):
                    raise ValueError(
                        f"{first.dimension} of {first.setting} was scored with {name} "
                        f"{first.versions.get(name)}, and {score.dimension} of {score.setting} "
                        f"with {score.versions.get(name)}: remove one's file, and score it again."
                    )


def _row(name: str, cells: Mapping[str, Cell]) -> Row:
    return Row(
        name,
        {setting: cell.text for setting, cell in cells.items()},
        {setting: cell.score.score for setting, cell in cells.items() if cell.score},
    )


def total_difference(
    name: str,
    setting: str,
    pairs: Mapping[str, Mapping[int, float]],
    before: float,
    after: float,
    *,
    steered: bool = True,
) -> Difference:
    """What a total says of a setting against the first, with its interval by prompt.

    The bootstrap draws prompts with all dimensions that are scored on their videos, within the
    groups of prompts that share their dimensions, as many as there are [our choice].

    Args:
        name: "quality", "semantic" or "total".
        setting: Its name.
        pairs: By dimension and row of VBench's list, the mean difference of its videos.
        before: The total of the first setting.
        after: The total of this one.
        steered: False where nothing was steered.
    """
    of_row: dict[int, list[str]] = {}
    for dimension, rows in pairs.items():
        for row in rows:
            of_row.setdefault(row, []).append(dimension)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, names in of_row.items():
        groups.setdefault(tuple(names), []).append(row)
    generator = torch.Generator().manual_seed(0)
    sums = {dimension: torch.zeros(DRAWS + 1, dtype=torch.float64) for dimension in pairs}
    counts = dict.fromkeys(pairs, 0)
    for dimensions, listed in groups.items():
        # The first draw is the sample itself.
        draws = torch.randint(len(listed), (DRAWS + 1, len(listed)), generator=generator)
        draws[0] = torch.arange(len(listed))
        for dimension in dimensions:
            values = torch.tensor([pairs[dimension][row] for row in listed], dtype=torch.float64)
            sums[dimension] += values[draws].sum(1)
            counts[dimension] += len(listed)
    drawn = torch.zeros(DRAWS + 1, dtype=torch.float64)
    for dimension, summed in sums.items():
        drawn += _share(DIMENSIONS[dimension], name) * summed / counts[dimension]
    low, high = drawn[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    words = NO_DIFFERENCE if low <= 0 <= high else ("lower", "higher")[low > 0]
    found = PairedDifference(drawn[0].item(), low, high, len(of_row), words)
    return Difference(name, setting, before, after, found, steered)


def _share(dimension: Dimension, total: str) -> float:
    """How much a total rises with the score of a dimension."""
    group = [each for each in DIMENSIONS.values() if each.group == dimension.group]
    share = dimension.weight / sum(each.weight for each in group)
    share /= dimension.high - dimension.low
    if total == "total":
        weights = {"quality": QUALITY_WEIGHT, "semantic": SEMANTIC_WEIGHT}
        return share * weights[dimension.group] / sum(weights.values())
    return share if total == dimension.group else 0.0
