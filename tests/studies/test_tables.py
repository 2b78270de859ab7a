"""A study's tables, from numbers that are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stas.measures.result import VideoMetrics
from stas.pipelines.sample import Finished
from stas.studies.figures import draw_axis
from stas.studies.page import write_study_report
from stas.studies.study import StudyRun
from stas.studies.tables import axis_table
from tests.studies.test_run import make


def unmade(study):
    """A run that has no folder."""
    return StudyRun(Path(), study.settings(), study.samples(), {}, (), study=study)


def planted(study, value):
    """A run whose numbers are those of `value(sample, cell)`."""
    run = unmade(study)
    for sample in run.samples:
        for cell in run.settings:
            metrics = VideoMetrics({}, {}, np.zeros(0, bool), {"x": value(sample, cell)})
            run.finished[sample.name, cell.name] = Finished(SimpleNamespace(steered=True), metrics)
    return run


def test_a_prompt_counts_once_however_many_seeds_it_has():
    study = make(prompts=tuple("abcdefgh"), samples_per_prompt=5)
    run = planted(study, lambda sample, cell: cell.values.get("scale", 0.0) + sample.seed % 5)
    found = axis_table(run, "scale")
    assert [row.found.pairs for row in found.differences[0]] == [8, 8]
    assert [row.found.difference for row in found.differences[0]] == [1.0, 2.0]
    assert [row.words for row in found.differences[0]] == ["higher", "higher"]
    assert found.before == [2.0]
    alone = planted(make(prompts=("a",), samples_per_prompt=7), lambda s, c: float(s.seed))
    assert axis_table(alone, "scale").differences[0][0].found.pairs == 7


def test_all_combinations_are_averaged_over_the_other_axes():
    study = make(
        prompts=tuple("abcdef"), vary="all", axes={"scale": (1.5, 3.0), "stop": (0.1, 0.2)}
    )
    run = planted(study, lambda s, c: c.values.get("scale", 0.0) * 10 * c.values.get("stop", 0.0))
    rows = axis_table(run, "scale").differences[0]
    assert [row.found.difference for row in rows] == pytest.approx([2.25, 4.5])
    # A sample counts once all cells of its value are there.
    del run.finished[run.samples[0].name, "scale=3,stop=0.2"]
    rows = axis_table(run, "scale").differences[0]
    assert [row.found.pairs for row in rows] == [6, 5]


def test_a_missing_number_is_no_zero():
    study = make(prompts=tuple("abcdefgh"))
    run = planted(study, lambda s, c: float("nan") if s.prompt == "a" else 1.0)
    row = axis_table(run, "scale").differences[0][0]
    assert row.found.pairs == 7 and row.found.difference == 0
    empty = axis_table(planted(study, lambda s, c: float("nan")), "scale")
    assert empty.differences[0][0].found is None
    assert len(draw_axis(axis_table(run, "scale")).axes[0].lines) == 5  # zero, two of each value
    assert len(draw_axis(empty).axes[0].lines) == 0
    with pytest.raises(ValueError, match="No video of the study"):
        write_study_report(unmade(study))
