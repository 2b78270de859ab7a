"""The files of one video: whole or not finished."""

from __future__ import annotations

import numpy as np
import pytest

from stas.measures.result import VideoMetrics
from stas.pipelines.manifest import frames_record
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import (
    EXACT,
    MANIFEST,
    METRICS,
    STRIP,
    VIDEO,
    VideoFiles,
    make_samples,
)
from tests.tiny import tiny_wan

KINDS = (VIDEO, EXACT, STRIP, METRICS, MANIFEST)
CALL = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "prompt": "a"}


@pytest.fixture(scope="module")
def made():
    loaded = LoadedPipeline(tiny_wan())
    arguments = loaded.arguments(CALL | {"max_sequence_length": 16})
    return make_samples(loaded, [Sample("x", "a", 3)], [arguments], None, fps=9)[0]


@pytest.fixture
def written(made, tmp_path):
    files = VideoFiles(tmp_path / "scale-1.2", KINDS)
    metrics = VideoMetrics({}, {}, np.zeros(4, bool), {"x": 1.5})
    files.write(*made, metrics)
    return files


def test_what_is_written_is_read_back(made, written, tmp_path):
    frames, manifest = made
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"scale-1.2{k}" for k in KINDS)
    found = written.read()
    assert found.manifest == manifest and found.metrics.numbers == {"x": 1.5}
    assert manifest.seed == 3 and manifest.fps == 9 and manifest.steering is None
    assert frames_record(written.read_exact()) == manifest.frames
    assert np.array_equal(written.read_exact(), frames)


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_of_its_files_it_is_not_finished(written, kind):
    written.path(kind).unlink()
    assert written.read() is None


@pytest.mark.parametrize("kind", [VIDEO, METRICS, MANIFEST])
def test_a_broken_file_is_not_finished(written, kind):
    path = written.path(kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert written.read() is None


def test_a_file_that_can_not_be_written_leaves_no_manifest(made, tmp_path):
    files = VideoFiles(tmp_path / "y", (VIDEO, MANIFEST))
    frames, manifest = made
    with pytest.raises(ValueError, match="even height"):
        files.write(frames[:, :-1], manifest)
    assert list(tmp_path.iterdir()) == []
