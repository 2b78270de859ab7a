"""GIF, WebP and APNG: every frame, its time, and what is cut short."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stas.checks import FORMATS
from stas.media.animation import ANIMATIONS, is_whole_video, write_by_suffix

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3), dtype=np.uint8)


def test_the_formats_are_those_that_the_checks_know():
    assert (".mp4", *ANIMATIONS) == FORMATS


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_every_frame_is_there_at_its_time(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    write_by_suffix(path, FRAMES, 24)
    with Image.open(path) as picture:
        assert picture.n_frames == 6 and picture.info.get("loop") == 0
        times, pixels = [], []
        for number in range(6):
            picture.seek(number)
            picture.load()
            times.append(picture.info["duration"])
            pixels.append(np.asarray(picture.convert("RGB")))
    assert sum(times) == 250 and max(times) - min(times) <= (10 if kind == ".gif" else 1)
    if kind != ".gif":  # which has 256 colours
        assert np.array_equal(np.stack(pixels), FRAMES)
    assert is_whole_video(path, 6, 24)
    assert not is_whole_video(path, 7, 24)


@given(count=st.integers(1, 5), alike=st.booleans(), fps=st.sampled_from([1, 7.5, 24, 30]))
@pytest.mark.parametrize("kind", ANIMATIONS)
def test_frames_that_are_alike_are_whole_too(tmp_path_factory, kind, count, alike, fps):
    path = tmp_path_factory.mktemp("a") / f"a{kind}"
    frames = np.repeat(FRAMES[:1], count, axis=0) if alike else FRAMES[:count]
    write_by_suffix(path, frames, fps)
    assert is_whole_video(path, count, fps)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_cut_short_is_not_whole(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    write_by_suffix(path, FRAMES, 8)
    data = path.read_bytes()
    # A file lacks no frame for want of its last bytes.
    for length in [*range(0, len(data) - 32, len(data) // 97), *range(100)]:
        path.write_bytes(data[:length])
        assert not is_whole_video(path, 6, 8), length


@pytest.mark.parametrize(("kind", "fps"), [("gif", 51), ("gif", 0.01), ("apng", 0.01)])
def test_rates_that_a_file_can_not_say_are_refused_first(run, tmp_path, kind, fps):
    with pytest.raises(ValueError, match=f"A .{kind} shows from 0.02 to .* but got {fps}"):
        write_by_suffix(tmp_path / f"a.{kind}", FRAMES, fps)
    code, _, err = run("generate", "a cat", "-o", "a.gif", "--fps", 51, "--frames", "5")
    assert code == 1 and "Give another number, or write a .webp" in err
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_written_leaves_nothing(tmp_path):
    for name, frames, fps in (
        ("a.gif", FRAMES[:0], 8),
        ("a.gif", FRAMES, 0),
        ("a.avi", FRAMES, 8),
    ):
        with pytest.raises(ValueError):
            write_by_suffix(tmp_path / name, frames, fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_generate_writes_them_and_goes_on(run, tmp_path, kind):
    small = ("--size", "64x64", "--frames", "5", "--steps", "2")
    code, _, err = run("generate", "a red circle", *small, "-o", f"a{kind}", "-q")
    assert code == 0, err
    code, out, err = run("generate", "--manifest", "a.json", "-o", "b.mp4", "-q")
    assert code == 0 and "Identical" in out, err
    folder = ("generate", "a red circle", *small, "-o", "many", "--format", kind[1:])
    assert run(*folder)[0] == 0
    code, out, _ = run(*folder, "--resume")
    assert code == 0 and "is finished" in out
    assert (tmp_path / f"many/a-red-circle-seed0{kind}").is_file()


def test_two_formats_are_refused(run):
    code, _, err = run("generate", "a red circle", "-o", "a.gif", "--format", "webp")
    assert code == 1 and "says another format than .webp" in err
    code, _, err = run("generate", "a red circle", "-o", "a.png")
    assert code == 1 and ".mp4, .gif, .webp, .apng file or a folder" in err
