"""Where videos are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from stas.pipelines.places import check_comparison_folder, check_places, keep_inputs, places_of
from stas.pipelines.prompts import Sample

SAMPLES = [Sample("a-seed0", "a", 0), Sample("b-seed0", "b", 0)]


def test_one_file_or_a_folder():
    assert places_of(Path("x/y.mp4"), SAMPLES[:1]) == [Path("x/y.mp4")]
    assert places_of(Path("x"), SAMPLES) == [Path("x/a-seed0.mp4"), Path("x/b-seed0.mp4")]
    assert places_of(Path("run1.5"), SAMPLES[:1]) == [Path("run1.5/a-seed0.mp4")]
    assert places_of(None, SAMPLES[:1]) == [Path("outputs/a-seed0.mp4")]
    with pytest.raises(ValueError, match="2 videos can't go into one file"):
        places_of(Path("x.mp4"), SAMPLES)


def test_home_is_found_behind_quotes(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert places_of(Path("~/x.mp4"), SAMPLES[:1]) == [tmp_path / "x.mp4"]


def test_what_is_there_is_refused_unless_it_is_expected(tmp_path):
    place = tmp_path / "new/a.mp4"
    check_places([place], force=False)
    assert list(tmp_path.iterdir()) == []  # nothing is left of the look
    place.parent.mkdir()
    place.with_suffix(".json").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        check_places([place], force=False)
    check_places([place], force=True)
    check_places([place], force=False, resume=True)
    with pytest.raises(ValueError, match="the config that is read"):
        keep_inputs([place], ("config", place.with_suffix(".json")))


def test_the_folder_of_a_comparison(tmp_path):
    check_comparison_folder(tmp_path, resume=False, force=False)
    (tmp_path / "x").touch()
    with pytest.raises(FileExistsError, match="--resume"):
        check_comparison_folder(tmp_path, resume=False, force=False)
    check_comparison_folder(tmp_path, resume=True, force=False)
    with pytest.raises(NotADirectoryError):
        check_comparison_folder(tmp_path / "x", resume=True, force=True)
