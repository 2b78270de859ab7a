"""Videos written and read back, and the strip of frames."""

from __future__ import annotations

import av
import numpy as np
import pytest

from stas.media.video import read_video, to_frames, write_mp4


def clip(count=6, height=32, width=48):
    """A bright square that moves over a smooth background."""
    frames = np.tile(np.linspace(0, 200, width, dtype=np.uint8), (count, height, 1))
    frames = np.stack([frames, frames // 2, frames // 3], axis=-1)
    for index in range(count):
        frames[index, 8:20, 4 * index : 4 * index + 12] = (250, 240, 30)
    return frames


@pytest.mark.parametrize("fps", [8, 16, 29.97])
def test_mp4_is_what_players_open_and_keeps_every_frame(tmp_path, fps):
    path = tmp_path / "a.mp4"
    write_mp4(path, clip(), fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(fps, abs=1e-3)
    back = read_video(path)
    assert back.shape == clip().shape
    assert np.abs(back.astype(int) - clip()).mean() < 5
    # The index lies before the data, so that a browser can start before it has all.
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


@pytest.mark.parametrize("shape", [(5, 31, 32, 3), (5, 32, 31, 3), (0, 32, 32, 3)])
def test_what_h264_cannot_hold_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="even height and width, but got"):
        write_mp4(tmp_path / "a.mp4", np.zeros(shape, dtype=np.uint8), 8)
    assert not list(tmp_path.iterdir())


def test_pixels_are_rounded_to_the_nearest_and_clipped():
    video = np.array([-0.1, 0.0, 0.2491, 1.0, 1.7]).reshape(5, 1, 1, 1).repeat(3, axis=-1)
    assert to_frames(video.astype(np.float32))[:, 0, 0, 0].tolist() == [0, 0, 64, 255, 255]


def test_eight_bit_frames_stay_as_they_are():
    assert to_frames(clip()) is not None
    assert np.array_equal(to_frames(clip()), clip())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_no_number_are_refused(bad):
    with pytest.raises(ValueError, match=r"NaN or infinite.*bfloat16 or float32"):
        to_frames(np.full((1, 2, 2, 3), bad))


def test_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"\(frames, height, width, 3\), but got shape \(2, 2, 3\)"
    ):
        to_frames(np.zeros((2, 2, 3)))
