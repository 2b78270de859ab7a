"""Names of files that other tools want."""

from __future__ import annotations

import errno
import os

import pytest

from stas.suites.names import check_name, lay_out


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("a/b.mp4", "reserved"),
        ("who?.mp4", "reserved"),
        ("a:b.mp4", "reserved"),
        ("tab\t.mp4", "reserved"),
        ("con.mp4", "device"),
        ("end. ", "ends with"),
        ("", "empty"),
        ("ä" * 128, "256 bytes"),
    ],
)
def test_names_that_not_every_system_has(name, wrong):
    with pytest.raises(ValueError, match=wrong):
        check_name(name)


def test_a_long_name_with_accents_is_composed():
    name = check_name("fac\u0327ades " + "x" * 190 + "-24.mp4")
    assert name.startswith("fa\u00e7ades") and len(name.encode()) == 206


@pytest.mark.parametrize(
    ("first", "second"), [("a fantasy.mp4", "A fantasy.mp4"), ("\u00e7.mp4", "c\u0327.mp4")]
)
def test_names_that_are_one_on_some_disks(tmp_path, first, second):
    (tmp_path / "v").touch()
    with pytest.raises(ValueError, match="one file on a disk"):
        lay_out(tmp_path / "out", {first: tmp_path / "v", second: tmp_path / "v"})
    assert not (tmp_path / "out").exists()
    # In folders of their own they are two.
    lay_out(tmp_path / "out", {f"0/{first}": tmp_path / "v", f"1/{second}": tmp_path / "v"})
    assert len(list((tmp_path / "out").glob("*/*"))) == 2


@pytest.mark.parametrize("links", [True, False])
def test_links_or_copies(tmp_path, monkeypatch, links):
    source = tmp_path / "0001-0.mp4"
    source.write_bytes(b"video")
    if not links:

        def refuse(*_):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):  # what is there is replaced
        laid = lay_out(tmp_path / "out", {"1/a person-0.mp4": source})
    path = laid["1/a person-0.mp4"]
    assert path.read_bytes() == b"video" and path.samefile(source) == links
    with pytest.raises(FileNotFoundError):
        lay_out(tmp_path / "out", {"b.mp4": tmp_path / "none"})
