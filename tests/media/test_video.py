"""Videos written and read back: colours, names, rates, and what is taken for a video."""

from __future__ import annotations

import os
from decimal import Decimal
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from diffusers.video_processor import VideoProcessor
from PIL import Image

from stas.media.video import count_frames, read_video, to_frames, write_exact, write_mp4

BT709, BT601 = (0.2126, 0.0722), (0.299, 0.114)  # the luma weights of red and blue
PATCHES = [(255, 0, 0), (0, 255, 0), (0, 0, 255), *((g, g, g) for g in (0, 64, 128, 192, 255))]


def clip(count=6, height=32, width=48):
    """A bright square that moves over a smooth background."""
    frames = np.tile(np.linspace(0, 200, width, dtype=np.uint8), (count, height, 1))
    frames = np.stack([frames, frames // 2, frames // 3], axis=-1)
    for index in range(count):
        frames[index, 8:20, 4 * index : 4 * index + 12] = (250, 240, 30)
    return frames


def noise(count=3, height=32, width=32):
    shape = (count, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def bars(height, width):
    """Two frames of upright bars, one for each of PATCHES."""
    edges = np.arange(width) * len(PATCHES) // width
    return np.broadcast_to(np.uint8(PATCHES)[edges], (2, height, width, 3))


def centres(frame):
    """The colours in the middle of the bars."""
    height, width = frame.shape[:2]
    columns = [(2 * i + 1) * width // (2 * len(PATCHES)) for i in range(len(PATCHES))]
    return frame[height // 2, columns]


def shown(path, weights):
    """The bars' colours as a player shows them that takes a file for limited range and a matrix."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    y, u, v = (
        np.frombuffer(plane, np.uint8)
        .reshape(-1, plane.line_size)[:, : plane.width]
        .repeat(frame.height // plane.height, 0)
        .repeat(frame.width // plane.width, 1)
        .astype(float)
        for plane in frame.planes
    )
    red, blue = weights
    y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return centres(np.stack([r, g, b], axis=-1) * 255)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (720, 1280), (1080, 1920)])
def test_the_colours_are_bt709_and_the_file_says_so(tmp_path, height, width):
    path = tmp_path / "bars.mp4"
    write_mp4(path, bars(height, width), 8)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        for tagged in (container.streams.video[0].codec_context, frame):
            # In H.273's table 1 is BT.709; of FFmpeg's ranges 1 is limited ("tv").
            assert tagged.colorspace == tagged.color_primaries == tagged.color_trc == 1
            assert tagged.color_range == 1
    # For players that read the container: primaries, transfer, matrix, and no full range.
    assert b"colrnclx\0\1\0\1\0\1\0" in path.read_bytes()
    assert np.abs(shown(path, BT709) - PATCHES).max() < 4
    assert np.abs(centres(read_video(path)[1]).astype(int) - PATCHES).max() < 4
    # What a player would show that takes the file for BT.601, so that the above can fail.
    assert np.abs(shown(path, BT601) - PATCHES).max() > 20


def test_a_file_without_tags_is_read_as_bt601(tmp_path):
    path = tmp_path / "untagged.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, width=128, height=128)
        for frame in bars(128, 128):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert np.abs(shown(path, BT601) - PATCHES).max() < 4
    assert np.abs(centres(read_video(path)[1]).astype(int) - PATCHES).max() < 4


def test_mp4_is_what_players_open_and_keeps_every_frame(tmp_path):
    path = tmp_path / "a.mp4"
    write_mp4(path, clip(), 8)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.profile == "High"
    back = read_video(path)
    assert back.shape == clip().shape
    assert np.abs(back.astype(int) - clip()).mean() < 5


@pytest.mark.parametrize("size", [(32, 32), (31, 33)])
def test_exact_frames_are_exact_and_tagged_as_rgb(tmp_path, size):
    path = tmp_path / "a.mkv"
    write_exact(path, noise(3, *size), 8)
    assert np.array_equal(read_video(path), noise(3, *size))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.format.name, frame.colorspace, frame.color_range) == ("gbrp", 0, 2)


NAMES = {
    "colon": "a:b.mp4",
    "protocol": "file:x.mp4",
    "time": "2026-11-26T10:00:00.mp4",
    "pattern": "%03d.mp4",
    "dash": "-y.mp4",
    "emoji": "\N{FOX FACE} fox.mp4",
    "lines": "a\nb?*|.mp4",
    "bytes": os.fsdecode(b"\xff\xfe.mp4"),
    "longest": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 125 + "x.mp4",
    "no suffix": "video",
    "another suffix": "a.txt",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_makes_that_very_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_mp4(name, clip(), 8)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert read_video(name).shape == clip().shape
    assert count_frames(name) == len(clip())
    # The index lies before the data, so that a browser can start before it has all.
    data = (tmp_path / name).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    write_exact(name, noise(), 8)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert np.array_equal(read_video(name), noise())


@pytest.mark.parametrize("write", [write_mp4, write_exact])
def test_a_missing_folder_is_an_error(tmp_path, write):
    with pytest.raises(FileNotFoundError, match="missing"):
        write(tmp_path / "missing" / "a.mp4", clip(), 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_mp4, write_exact])
def test_after_an_error_the_old_file_is_as_it_was(tmp_path, write):
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(av.error.FFmpegError):  # x264 refuses more than 16384 pixels in a row
        write(path, np.zeros((1, 2, 16386, 3), dtype=np.uint8), 8)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


RATES = [0.001, 0.0019940, 1, 8, 12.5, 23.976, 29.97, 29.970029, Fraction(60000, 1001), 1000]


@pytest.mark.parametrize("fps", [*RATES, np.float32(29.97), np.int64(24)])
@pytest.mark.parametrize("write", [write_mp4, write_exact])
def test_the_rate_read_back_is_the_one_asked_for(tmp_path, write, fps):
    path = tmp_path / "a"
    write(path, noise(), fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(float(fps), rel=1e-3)
        if write is write_mp4:  # Matroska rounds it to nanoseconds
            assert stream.average_rate == Fraction(float(fps)).limit_denominator(1001)
        times = [packet.pts for packet in container.demux(stream) if packet.size]
    assert len(set(times)) == len(noise())


@pytest.mark.parametrize(
    "fps", [0, -8, 1e-9, 0.00099, 1001, 1e12, float("nan"), float("inf"), "8", True, None]
)
@pytest.mark.parametrize("write", [write_mp4, write_exact])
def test_a_rate_that_a_file_cannot_say_is_refused(tmp_path, write, fps):
    with pytest.raises(ValueError, match=r"^fps must be from 0\.001 to 1000.*, but got "):
        write(tmp_path / "a", noise(), fps)
    assert not list(tmp_path.iterdir())


def test_another_kind_of_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"but got Decimal\('8'\)"):
        write_mp4(tmp_path / "a.mp4", clip(), Decimal(8))


@pytest.mark.parametrize("shape", [(5, 31, 32, 3), (5, 32, 31, 3)])
def test_an_odd_size_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"even height and width, but got 3\dx3\d\. Crop or pad"):
        write_mp4(tmp_path / "a.mp4", np.zeros(shape, dtype=np.uint8), 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_mp4, write_exact])
def test_a_video_without_frames_is_refused(tmp_path, write):
    with pytest.raises(ValueError, match="at least one frame, but got 0"):
        write(tmp_path / "a.mp4", clip()[:0], 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crf", [-1, 52])
def test_another_quality_is_refused(tmp_path, crf):
    with pytest.raises(ValueError, match=f"crf must be from 0 to 51, but got {crf}"):
        write_mp4(tmp_path / "a.mp4", clip(), 8, crf=crf)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output_type", ["np", "pt", "pil"])
def test_what_diffusers_returns_is_a_video(tmp_path, output_type):
    latents = torch.rand(1, 3, 5, 16, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    video = VideoProcessor().postprocess_video(latents, output_type=output_type)[0]
    expected = ((latents[0].permute(1, 2, 3, 0).double() / 2 + 0.5).clamp(0, 1) * 255).round()
    assert np.abs(to_frames(video) - expected.numpy()).max() <= 1  # float32 halves
    write_mp4(tmp_path / "a.mp4", video, 8)
    assert read_video(tmp_path / "a.mp4").shape == (5, 16, 32, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_any_float_type_are_taken(dtype):
    video = torch.rand(2, 4, 6, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = (video.double() * 255).round().numpy()
    assert np.array_equal(to_frames(video.requires_grad_()), expected)
    assert np.array_equal(to_frames(list(video)), expected)
    assert np.array_equal(to_frames(video.permute(0, 3, 1, 2)), expected)


def test_eight_bit_frames_stay_as_they_are():
    assert np.array_equal(to_frames(clip()), clip())
    assert np.array_equal(to_frames(torch.from_numpy(clip())), clip())
    assert np.array_equal(to_frames(tuple(map(Image.fromarray, clip()))), clip())


def test_pixels_are_rounded_to_the_nearest_and_rounding_errors_clipped():
    video = np.array([-0.009, 0.0, 0.2491, 1.0, 1.009]).reshape(5, 1, 1, 1).repeat(3, axis=-1)
    for dtype in (np.float16, np.float32, np.float64):
        assert to_frames(video.astype(dtype))[:, 0, 0, 0].tolist() == [0, 0, 64, 255, 255]


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 255), (-0.02, 1), (0, 1.02)])
def test_pixels_in_another_range_are_refused(low, high):
    with pytest.raises(
        ValueError, match=rf"in \[0, 1\], but got pixels from {low} to {high}\. Map"
    ):
        to_frames(np.linspace(low, high, 24).reshape(2, 2, 2, 3))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool])
def test_pixels_of_another_type_are_refused(dtype):
    with pytest.raises(TypeError, match=f"floats in .* or uint8, but got {np.dtype(dtype)}"):
        to_frames(np.zeros((2, 2, 2, 3), dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_no_number_are_refused(bad):
    with pytest.raises(ValueError, match=r"NaN or infinite.*bfloat16 or float32"):
        to_frames(np.full((1, 2, 2, 3), bad))


@pytest.mark.parametrize(
    ("shape", "way_out"),
    [((2, 2, 3), "Give one"), ((3, 4, 8, 8), "Give one"), ((1, 2, 8, 8, 3), "Take one of the")],
)
def test_another_shape_is_refused(shape, way_out):
    match = (
        rf"\(frames, height, width, 3\), but got shape \({shape[0]}, .*\)\. {way_out}.*frames\[0"
    )
    for video in (np.zeros(shape), torch.zeros(shape), list(np.zeros(shape))):
        with pytest.raises(ValueError, match=match):
            to_frames(video)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_video_is_turned_as_its_camera_says(tmp_path, quarters):
    path = tmp_path / "turned.mp4"
    write_mp4(path, bars(32, 64), 8)
    straight, data = read_video(path), path.read_bytes()
    # The track's matrix, counterclockwise; that of the whole film stands before it.
    cosine, sine = [(0, 1), (-1, 0), (0, -1)][quarters - 1]
    matrices = [
        b"".join(n.to_bytes(4, "big", signed=True) for n in (a, -b, 0, b, a, 0, 0, 0, 1 << 30))
        for a, b in ((1 << 16, 0), (cosine << 16, sine << 16))
    ]
    at = data.index(matrices[0], data.index(b"tkhd"))
    path.write_bytes(data[:at] + matrices[1] + data[at + 36 :])
    assert np.array_equal(read_video(path), np.rot90(straight, quarters, (1, 2)))
