"""whole_file: a file appears whole or not at all."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from stas.files import whole_file


def test_the_file_appears_at_the_end_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    with whole_file(target) as temporary:
        assert temporary.suffix == ".json"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_file_is_as_it_was(tmp_path, error):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(error), whole_file(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_others_may_read_it_as_they_may_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "whole"):
        pass
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_missing_folder_is_an_error(tmp_path):
    place = tmp_path / "no" / "a.json"
    with pytest.raises(FileNotFoundError) as caught, whole_file(place):
        pass
    assert caught.value.filename == str(place)


def test_what_a_killed_process_left_is_known_by_its_file(tmp_path):
    for name in ("a.json", "b.json", "a" * 250 + ".json"):
        with whole_file(tmp_path / name) as temporary:
            temporary.with_name(temporary.name + "x").touch()  # as after a kill
    assert len(list(tmp_path.glob(".part-*"))) == 3
    for name in ("a.json", "a" * 250 + ".json"):
        with whole_file(tmp_path / name, alone=True):
            pass
    (left,) = tmp_path.glob(".part-*")
    with whole_file(tmp_path / "b.json"):
        assert left.exists()  # somebody else's, perhaps
    with whole_file(tmp_path / "b.json", alone=True):
        assert not left.exists()


def test_a_temporary_path_is_written_to_as_it_is(tmp_path):
    with whole_file(tmp_path / "a.json") as outer, whole_file(outer) as inner:
        assert inner == outer
        inner.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_many_threads_give_files_the_mode_that_open_would(tmp_path):
    (tmp_path / "plain").touch()

    def write(number):
        with whole_file(tmp_path / f"{number}.txt"):
            pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(400)))
    (tmp_path / "after").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
