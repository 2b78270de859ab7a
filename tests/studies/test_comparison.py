"""Runs by name, and the table of differences from numbers that are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stas.measures.measure import Measures
from stas.measures.result import VideoMetrics
from stas.method.config import STASConfig
from stas.method.presets import INTERVENTIONS, preset
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import Finished
from stas.studies.compare import Comparison, read_setting
from stas.studies.plan import Setting

SETTINGS = [read_setting("off"), read_setting("on")]


def fake(off, on, prompt=lambda number: "x"):
    """A comparison with one measure: one number a sample, off and on."""
    samples = [Sample(str(n), prompt(n), n) for n in range(len(off))]
    cross = np.array([True])
    result = Comparison(Path(), SETTINGS, samples, {}, ["psnr"], model="m", measures=Measures())
    for sample, *values in zip(samples, off, on, strict=True):
        for setting, value in zip(SETTINGS, values, strict=True):
            metrics = VideoMetrics({"psnr": np.array([value])}, {}, cross)
            manifest = SimpleNamespace(steered=True)
            result.finished[sample.name, setting.name] = Finished(manifest, metrics)
    return result


def test_pairs_without_a_number_are_left_out_and_counted():
    off = [30.0, np.inf, 31.0, 32.0, 33.0, 34.0, 35.0]
    on = [31.0, 40.0, 32.0, 33.5, 34.0, 35.0, 36.0]
    mean, within, across = fake(off, on).differences()
    assert (mean.found.pairs, mean.words) == (6, "higher")
    assert mean.before == pytest.approx(32.5) and mean.after == pytest.approx(33.5833, abs=1e-4)
    assert across.found == mean.found
    assert within.found is None and within.words == "no number" and within.interval == "-"
    assert mean.interval == f"{mean.found.low:+.3g} to {mean.found.high:+.3g}"
    assert fake([1.0], [2.0]).differences()[0].interval == "-"
    assert fake([1.0, 2.0, 3.0], [2.0, 1.0, 3.0]).differences()[0].words == "no difference shown"


def test_a_prompt_counts_once_however_many_seeds_it_has():
    result = fake([0.0] * 60, [float(number % 6) for number in range(60)])
    assert {row.found.pairs for row in result.differences() if row.found} == {60}
    on = [float(number % 6) for number in range(60)]
    row = fake([0.0] * 60, on, lambda number: f"prompt {number % 6}").differences()[0]
    assert row.found.pairs == 6 and row.found.difference == 2.5
    wide = row.found.high - row.found.low
    assert wide > 2 * (result.differences()[0].found.high - result.differences()[0].found.low)


def test_a_measure_that_some_videos_lack_is_in_the_table():
    result = fake([0.0] * 8, [1.0] * 8)
    result.finished["3", "on"].metrics.numbers["late"] = 1.0
    result.finished["3", "off"].metrics.numbers["late"] = 0.0
    row = next(row for row in result.differences() if row.measure == "late")
    assert row.found.pairs == 1 and row.found.difference == 1


def test_runs_by_name_and_by_file(tmp_path):
    assert read_setting("off") == Setting("off", None)
    assert read_setting("on") == Setting("on", STASConfig().to_dict())
    for name in INTERVENTIONS:
        assert read_setting(name) == Setting(name, preset(name).to_dict())
    config = STASConfig(scale=1.2, regions=("boundary",))
    config.save(tmp_path / "scale-1.2.json")
    assert read_setting(str(tmp_path / "scale-1.2.json")) == Setting("scale-1.2", config.to_dict())
    with pytest.raises(ValueError, match="no run 'onn': expected off, on, one of zero, mean"):
        read_setting("onn")
