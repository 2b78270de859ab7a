"""Pictures and videos as files: what a pipeline gets of them, and what is recorded."""

from __future__ import annotations

import json
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from stas.checks import StasWarning
from stas.media.video import read_video, write_exact
from stas.method.config import STASConfig
from stas.pipelines.inputs import opened, read_image, with_records
from stas.pipelines.model import LoadedPipeline
from tests.command import files
from tests.zoo.wan import wan_image_to_video_experts, wan_two_images_to_video

SMALL = ("--size", "32x32", "--frames", "5", "--steps", "2", "--device", "cpu")
DIMS = ("--dims", "0")


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture
def moving(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    write_exact(tmp_path / "cat.mkv", frames, 8)
    return tmp_path / "cat.mkv", frames


def test_a_path_becomes_a_record_and_the_record_pixels(picture, moving):
    path, frames = moving
    given = {"image": str(picture), "video": path, "num_frames": 5, "prompt": str(picture)}
    recorded = with_records(given)
    assert recorded["image"] == {
        "file": str(picture),
        "sha256": sha256(picture.read_bytes()).hexdigest(),
    }
    assert recorded["prompt"] == str(picture)  # a text, whatever it says
    assert with_records(json.loads(json.dumps(recorded))) == recorded
    found = opened(recorded)
    assert np.array_equal(found["image"], Image.open(picture))
    assert np.array_equal(np.stack(found["video"]), frames[:5])
    assert np.array_equal(np.stack(opened(with_records({"mask": path}))["mask"]), frames)
    several = opened(with_records({"reference_images": [picture, picture]}))
    assert [each.size for each in several["reference_images"]] == [(32, 32)] * 2


def test_pixels_in_memory_stay(picture):
    image = Image.open(picture)
    assert opened(with_records({"image": image}))["image"] is image


def test_what_is_not_the_file_of_then_is_refused(picture, tmp_path):
    recorded = with_records({"image": picture})
    Image.new("RGB", (8, 8)).save(picture)
    with pytest.raises(ValueError, match="another file than the image that was used then"):
        with_records(recorded)
    picture.unlink()
    with pytest.raises(FileNotFoundError, match="which is to be the image"):
        with_records(recorded)


def test_what_cannot_be_read_is_told(picture, moving, tmp_path):
    (tmp_path / "no.png").write_text("no")
    with pytest.raises(ValueError, match=r"no.png can't be read as a picture"):
        opened(with_records({"image": tmp_path / "no.png"}))
    with pytest.raises(ValueError, match=r"no.png can't be read as a video"):
        opened(with_records({"video": tmp_path / "no.png"}))
    with pytest.raises(ValueError, match="has 9 of 13 frames"):
        opened(with_records({"video": moving[0], "num_frames": 13}))


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (20, 40)


@pytest.mark.parametrize(
    ("pixels", "kind", "seen"),
    [
        (np.uint16([[0, 257, 65535]]), "png", [0, 1, 255]),
        (np.int32([[0, 257, 65535]]), "tiff", [0, 1, 255]),
        (np.int32([[0, 7, 255]]), "tiff", [0, 7, 255]),
        (np.int32([[0, 7, 70000]]), "tiff", "from 0 to 70000, .* Expected are 8 or 16 bits"),
        (np.float32([[0, 0.5, 1]]), "tiff", "from 0 to 1, .* save it as a PNG"),
    ],
)
def test_grey_of_many_bits_is_scaled_or_refused(tmp_path, pixels, kind, seen):
    path = tmp_path / f"grey.{kind}"
    Image.fromarray(pixels).save(path)
    if isinstance(seen, str):
        with pytest.raises(ValueError, match=f"can't be read as a picture: its pixels go {seen}"):
            read_image(path)
    else:
        assert np.array_equal(np.asarray(read_image(path))[0, :, 0], seen)


def test_a_broken_or_enormous_picture_is_told(picture, monkeypatch):
    data = picture.read_bytes()
    picture.write_bytes(data[:40])  # Pillow's SyntaxError
    with pytest.raises(ValueError, match=r"cat.png can't be read as a picture"):
        read_image(picture)
    picture.write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="exceeds limit of 200 pixels"):
        read_image(picture)


def test_a_picture_of_another_shape_is_said(tmp_path):
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    loaded = LoadedPipeline(wan_image_to_video_experts())
    call = {"prompt": "a cat", "image": tmp_path / "wide.png", "num_frames": 5, "height": 32}
    with pytest.warns(StasWarning, match="64x32 and the video 32x32: it will be stretched"):
        loaded.arguments(call | {"width": 32})
    loaded.arguments(call | {"width": 64})


def test_generate_takes_a_picture_and_its_manifest_makes_the_same_video(run, picture, tmp_path):
    wan_image_to_video_experts().save_pretrained("wan")
    code, _, err = run("generate", "a cat", "--model", "wan", *SMALL, "-o", "a.mp4")
    assert code == 1 and "also needs image. On the command line: --image FILE;" in err
    assert not any("a." in name for name in files(tmp_path))
    call = ("generate", "a cat", "--model", "wan", *SMALL, *DIMS, "--image", "cat.png")
    code, _, err = run(*call, "-o", "a.mp4")
    assert code == 0, err
    manifest = json.loads((tmp_path / "a.json").read_text())
    assert manifest["arguments"]["image"]["sha256"] == sha256(picture.read_bytes()).hexdigest()
    code, out, err = run("generate", "--manifest", "a.json")
    assert code == 0 and "Identical" in out, err
    code, out, err = run(*call, "-o", "a.mp4", "--resume")
    assert code == 0 and "is finished" in out, err
    # Another picture, another video; and the picture itself is never written over.
    Image.new("RGB", (32, 32), "white").save("white.png")
    assert run(*call[:-1], "white.png", "-o", "white.mp4")[0] == 1
    assert Image.open("white.png").getpixel((0, 0)) == (255, 255, 255)
    assert run(*call[:-1], "white.png", "-o", "b.mp4")[0] == 0
    assert not np.array_equal(read_video("a.mp4"), read_video("b.mp4"))
    code, _, err = run("generate", "--manifest", "a.json", "-o", "cat.png")
    picture.write_bytes((tmp_path / "white.png").read_bytes())
    code, _, err = run("generate", "--manifest", "a.json", "-o", "c.mp4")
    assert code == 1 and "another file than the image" in err


def test_compare_record_and_a_last_image(run, picture, tmp_path):
    wan_two_images_to_video().save_pretrained("wan")
    Image.new("RGB", (32, 32)).save("last.png")
    given = ("--model", "wan", *SMALL, "--image", "cat.png", "--last-image", "last.png")
    runs = ("--run", "off", "--run", "strong.json")
    STASConfig(dims=(0,), scale=3).save("strong.json")
    code, _, err = run("compare", "a cat", *given, *runs, "-o", "compared")
    assert code == 0, err
    made = json.loads(next((tmp_path / "compared/videos").glob("*-strong.json")).read_text())
    assert {"image", "last_image"} <= set(made["arguments"])
    code, _, err = run("record", "-n", "1", *given, "-o", "s.safetensors")
    assert code == 0, err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image", "none.png"), "no file 'none.png', which is to be the image"),
        (("--input", "pose=cat.png"), "expected NAME=FILE"),
        (("--input", "image=cat.png", "--image", "cat.png"), "image is given twice"),
    ],
)
def test_a_slip_is_a_usage_error(run, picture, options, message):
    code, _, err = run("generate", "a cat", *options)
    assert code == 2 and message in err


def test_what_a_pipeline_does_not_take_is_told(run, picture, tmp_path):
    code, _, err = run("generate", "a cat", "--image", "cat.png", "-o", "a.mp4")
    assert code == 1 and "WanPipeline takes no image" in err
    assert files(tmp_path) == ["cat.png"]
