"""What is drawn of comparisons and studies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from stas.measures.measure import Measures
from stas.measures.result import VideoMetrics
from stas.media.video import write_exact
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import EXACT, STRIP, Finished
from stas.studies.compare import Comparison, read_setting
from stas.studies.differences import Difference, paired_difference
from stas.studies.figures import (
    draw_axis,
    draw_curves,
    draw_first_frames,
    draw_frames,
    draw_transitions,
    frames_over,
)
from stas.studies.plan import Study
from stas.studies.study import StudyRun
from stas.studies.tables import AxisTable

CROSS = np.array([False, True, False, True])


def test_curves_are_means_over_the_samples_with_cross_chunk_transitions_marked():
    settings = [read_setting(name) for name in ("off", "on", "zero")]
    samples = [Sample(str(seed), "x", seed) for seed in range(2)]
    run = Comparison(Path(), settings, samples, {}, [], model="m", measures=Measures())
    for sample in samples:
        for number, setting in enumerate(settings):
            curve = np.arange(4.0) + number + 10 * sample.seed
            curves = {"pixel difference": curve, "psnr": curve, "dino similarity": -curve}
            metrics = VideoMetrics(curves, {}, CROSS)
            manifest = SimpleNamespace(steered=True)
            run.finished[sample.name, setting.name] = Finished(manifest, metrics)
    figure = draw_curves(run)
    pixels, similarity = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["pixel difference", "dino similarity"]
    assert [line.get_label() for line in pixels.lines] == ["off", "on", "zero"]
    assert np.array_equal(pixels.lines[2].get_ydata(), np.arange(4.0) + 7)
    assert np.array_equal(similarity.lines[0].get_ydata(), -np.arange(4.0) - 5)
    assert [patch.get_x() for patch in pixels.patches] == [0.5, 2.5]
    assert len({(line.get_color(), line.get_linestyle()) for line in pixels.lines}) == 3


@pytest.fixture
def two_runs(tmp_path):
    """A comparison of one sample: five frames of a level each, 100 brighter under "on"."""
    settings, sample = [read_setting(name) for name in ("off", "on")], Sample("a", "a circle", 0)
    run = Comparison(tmp_path, settings, [sample], {}, [], model="m", measures=Measures())
    for number, setting in enumerate(settings):
        levels = np.arange(5, dtype=np.uint8) * 10 + 100 * number
        frames = np.broadcast_to(levels[:, None, None, None], (5, 32, 32, 3))
        files = run.files(number, sample)
        files.stem.parent.mkdir(exist_ok=True)
        write_exact(files.path(EXACT), frames, 8)
        curves = {name: np.arange(4.0) + number for name in ("ssim", "dino similarity")}
        metrics = VideoMetrics(curves, {"sharpness": np.arange(5.0) + number}, CROSS)
        run.finished[sample.name, setting.name] = Finished(SimpleNamespace(steered=True), metrics)
    return run, sample


def levels(axes):
    return [int(panel.images[0].get_array()[0, 0, 0]) for panel in axes if panel.images]


def test_first_frames_have_their_score_under_them(two_runs):
    figure = draw_first_frames(*two_runs, "sharpness, first frame")
    assert levels(figure.axes) == [0, 100]
    assert [axes.get_title() for axes in figure.axes] == ["off", "on"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["0", "1"]
    with pytest.raises(ValueError, match="'beauty' was not measured; measured were ssim"):
        draw_first_frames(*two_runs, "beauty")


def test_transitions_are_over_the_frames_on_both_sides_of_them(two_runs):
    curves, *strip = draw_transitions(*two_runs).axes
    assert curves.get_ylabel() == "dino similarity"
    assert [line.get_label() for line in curves.lines] == ["off", "on"]
    assert np.array_equal(curves.lines[1].get_ydata(), np.arange(4.0) + 1)
    assert [patch.get_x() for patch in curves.patches] == [0.5, 2.5]
    assert [axes.get_title() for axes in strip] == ["frame 3", "frame 4"] * 2
    assert levels(strip) == [30, 40, 130, 140]


@pytest.mark.parametrize(
    ("measured", "drawn"),
    [(("psnr", "ssim"), "ssim"), (("pixel difference", "psnr"), "pixel difference")],
)
def test_transitions_without_an_encoder_are_drawn_by_what_there_is(two_runs, measured, drawn):
    run, sample = two_runs
    for key, found in run.finished.items():
        curves = {name: np.arange(4.0) for name in measured}
        run.finished[key] = Finished(found.manifest, VideoMetrics(curves, {}, CROSS))
    assert draw_transitions(run, sample).axes[0].get_ylabel() == drawn


def test_frames_are_side_by_side(two_runs):
    run, sample = two_runs
    figure = draw_frames(run, sample, count=3)
    assert levels(figure.axes) == [0, 20, 40, 100, 120, 140]
    assert [axes.get_ylabel() for axes in figure.axes] == ["off", "", "", "on", "", ""]
    del run.finished[sample.name, "on"]
    with pytest.raises(ValueError, match="'a' is not finished under every setting"):
        draw_frames(run, sample)


def row(measure, value, on):
    off = [0.0] * len(on)
    found = paired_difference(off, on) if on else None
    return Difference(measure, value, 0.0, 0.0, found)


def test_an_axis_has_a_panel_a_measure_and_fills_what_is_told():
    measures = ["ssim", "ssim, within chunks", "nothing", "flicker"]
    values = ["1", "first_frame, boundary"]
    by_measure = {
        "ssim": ([1.0] * 8, [-1.0, 1.0] * 4),
        "ssim, within chunks": ([1.0] * 8, [1.0] * 8),
        "nothing": ([], []),
        "flicker": ([1.0] * 5, []),
    }
    differences = [
        [row(measure, value, on) for value, on in zip(values, by_measure[measure], strict=True)]
        for measure in measures
    ]
    figure = draw_axis(AxisTable("regions", values, measures, differences, [0.0] * 4))
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["ssim", "flicker"]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == ["1", "first_frame, …"]
    _, _, told, _, untold = panels[0].lines
    assert (told.get_marker(), untold.get_marker()) == ("o", "D")
    assert told.get_markerfacecolor() != untold.get_markerfacecolor() == "white"
    assert len(panels[1].lines) == 3 and panels[1].lines[2].get_marker() == "D"  # too few pairs
    assert "n up to 8" in figure.get_suptitle()


@pytest.mark.parametrize("whole", [True, False])
def test_frames_over_an_axis_are_those_of_a_whole_sample(tmp_path, whole):
    study = Study(name="s", prompts=("a", "b"), axes={"scale": (1.0, 2.0)})
    run = StudyRun(tmp_path, study.settings(), study.samples(), {}, (), study=study)
    last = run.samples[-1]
    for number, setting in enumerate(run.settings):
        path = run.files(number, last).path(STRIP)
        path.parent.mkdir()
        Image.new("RGB", (60, 20), (80 * number, 0, 0)).save(path)
        run.finished[last.name, setting.name] = Finished(None, None)
    if not whole:
        del run.finished[last.name, "scale=2"]
        assert frames_over(run, "scale") is None
        return
    picture = np.asarray(frames_over(run, "scale"))
    parts = np.split(picture, 3)
    assert picture.shape[1] == 60
    assert [tuple(part[-1, -1]) for part in parts] == [(0, 0, 0), (80, 0, 0), (160, 0, 0)]
