"""The command line, end to end on the bundled model, and what bad input leaves behind."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import stas
from stas.activations.profiles import FOLDER_PROFILE
from stas.assets import BUNDLED_MODEL
from stas.cli import main as cli
from stas.cli import say
from stas.media.pictures import GAP
from stas.media.video import read_video, to_frames
from stas.pipelines.manifest import frames_record
from tests.command import BUNDLED_DIMS, DIMS, files, interrupt
from tests.tiny import tiny_wan

PROMPT = "a red circle moving right on a blue background"
SMALL = ("--size", "64x64", "--frames", "5", "--steps", "5")


def test_help_fits_80_columns_and_says_what_each_option_is(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("generate", "--help")
    assert code == 0
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert re.search("--size +WIDTHxHEIGHT +In pixels", out)
    assert not re.search("--(no-steer|force) +<bool>", out)


def test_generate_makes_video_strip_and_manifest(run, tmp_path):
    code, out, err = run("generate", PROMPT, *SMALL, "-o", "new/folder/fox.mp4")
    assert code == 0, err
    assert files(tmp_path) == [f"new/folder/fox.{kind}" for kind in ("json", "mp4", "png")]
    assert "new/folder/fox.mp4 (5 frames, 64x64, 8 fps) made in" in out
    assert out.rstrip().endswith("steered") and "not steered" not in out
    assert re.search(rf"1 of 8 blocks, dims {DIMS}: profile .* \(massive\)", err)
    assert "step 5 of 5" in err
    assert read_video("new/folder/fox.mp4").shape == (5, 64, 64, 3)
    assert Image.open("new/folder/fox.png").size == (5 * 64 + 4 * GAP, 64)
    manifest = json.loads((tmp_path / "new/folder/fox.json").read_text())
    assert manifest["arguments"]["prompt"] == PROMPT
    assert manifest["dims"]["transformer"]["dims"] == list(BUNDLED_DIMS)
    assert manifest["steering"]["stop"] == 0.4


def test_the_bar_says_which_steps_are_steered(run, monkeypatch):
    states = []

    class Progress(say.Progress):
        def update(self, task, **values):
            if (found := re.search(r"step (\d) of 5 (\w+)", values["description"])) is not None:
                states.append((int(found[1]), found[2]))
            super().update(task, **values)

    monkeypatch.setattr(say, "Progress", Progress)
    run("generate", PROMPT, *SMALL)
    assert states == [
        (0, "steered"),
        (1, "steered"),
        (2, "plain"),
        (3, "plain"),
        (4, "plain"),
        (5, "decoding"),
    ]
    states.clear()
    run("generate", PROMPT, *SMALL, "--no-steer", "-o", "plain.mp4")
    assert {state for _, state in states} == {"plain", "decoding"}


def test_no_steer_is_diffusers_alone_and_steering_changes_the_video(run, tmp_path):
    import torch
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    video = pipeline(
        PROMPT,
        height=64,
        width=64,
        num_frames=5,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
    ).frames[0]
    digests = {}
    for name, options in (("off", ("--no-steer",)), ("on", ()), ("strong", ("--scale", "3"))):
        code, _, err = run("generate", PROMPT, *SMALL, *options, "-o", f"{name}.mp4")
        assert code == 0, err
        digests[name] = json.loads((tmp_path / f"{name}.json").read_text())["frames"]["sha256"]
    assert frames_record(to_frames(video))["sha256"] == digests["off"]
    assert len(set(digests.values())) == 3


def test_a_manifest_repeats_the_run_bit_for_bit(run, tmp_path):
    options = ("--scale", "1.5", "--blocks", "all", "--negative-prompt", "a white ring")
    assert run("generate", PROMPT, *SMALL, *options, "--seed", "5", "-o", "a.mp4")[0] == 0
    code, out, err = run("generate", "--manifest", "a.json")
    assert code == 0, err
    assert "Identical: every pixel" in out
    assert np.array_equal(read_video("a.mp4"), read_video("a-repeated.mp4"))
    code, out, _ = run("generate", "--manifest", "a-repeated.json", "-o", "again")
    assert "Identical" in out
    assert "again/a-repeated.mp4" in files(tmp_path)


def test_a_repeat_that_differs_says_so_and_fails(run, tmp_path):
    assert run("generate", PROMPT, *SMALL, "-o", "a.mp4")[0] == 0
    manifest = json.loads((tmp_path / "a.json").read_text())
    manifest["frames"]["sha256"] = "0" * 64
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / "a.json").write_text(json.dumps(manifest))
    code, _, err = run("generate", "--manifest", "a.json")
    assert code == 1
    assert re.search(
        r"not those of the manifest's video. Changed since: torch 1.0 -> [^,]*. Or a.json was "
        r"edited.$",
        err,
    )


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("arguments", {"num_inference_steps": "x"}, "num_inference_steps must be an integer"),
        ("arguments", {"guidance_scale": "big"}, "guidance_scale|str"),
        ("arguments", {"num_frames": 6}, "The nearest are 5 and 9"),
        ("arguments", {"image": {"name": "x.png"}}, "image must be a path, or an object with its"),
        ("pipeline", {"loras": 3}, "loras must be an object"),
        ("pipeline", {"device": "toaster"}, "device 'toaster' can't be used"),
        ("pipeline", {"model": "./moved"}, "no folder './moved'"),
        ("pipeline", {"colour": 1}, "colour"),
        ("steering", {"dims": [4000]}, "dims must be below 256"),
        ("steering", {"scale": -1}, "scale must be a finite number, 0 or more"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_told_with_its_name(run, tmp_path, part, values, message):
    manifest = small_manifest()
    manifest[part] |= values
    (tmp_path / "a.json").write_text(json.dumps(manifest))
    code, _, err = run("generate", "--manifest", "a.json")
    assert code == 1
    assert re.search(f"Error: .*a.json.*({message})", err)
    assert files(tmp_path) == ["a.json"]


def small_manifest():
    return {
        "format": "stas.manifest/1",
        "pipeline": {"model": "bundled"},
        "model": {"class": "WanPipeline", "commit": None},
        "arguments": {"prompt": PROMPT, "num_frames": 5, "num_inference_steps": 5}
        | {"width": 64, "height": 64},
        "prompt_file": None,
        "seed": 0,
        "fps": 8,
        "steering": stas.STASConfig().to_dict(),
        "dims": {"transformer": {"dims": [242], "origin": "given", "source": "given"}},
        "frames": {"sha256": "0" * 64},
        "versions": {},
        "device": "cpu",
        "seconds": 1.0,
        "created": "2026-01-01T00:00:00+00:00",
    }


def test_a_run_with_detected_dims_is_repeated_bit_for_bit(run, tmp_path):
    """The forward that detects is steered differently from one that knows, so it detects again."""
    folder = tmp_path / "unprofiled"
    shutil.copytree(BUNDLED_MODEL, folder)
    (folder / FOLDER_PROFILE).unlink()
    options = ("--model", "unprofiled", "--blocks", "all")
    code, _, err = run("generate", PROMPT, *SMALL, *options, "-o", "a.mp4")
    assert code == 0
    assert (
        f"detected on an extra forward, as the window has few steps: dimension {BUNDLED_DIMS[0]} at"
        in err
    )
    assert "Identical" in run("generate", "--manifest", "a.json")[1]
    folder.rename(tmp_path / "moved")
    repeated = run("generate", "--manifest", "a.json", "--model", "moved", "-o", "b.mp4")
    assert "Identical" in repeated[1]


@pytest.mark.filterwarnings("default::stas.checks.StasWarning")
def test_a_profile_that_does_not_hold_is_said_and_not_steered(run, tmp_path):
    tiny_wan().save_pretrained(tmp_path / "tiny")
    profile = json.loads((BUNDLED_MODEL / FOLDER_PROFILE).read_text())
    profile |= {"config": {"num_layers": 3}, "dims": [3], "ratios": [6.0]}
    (tmp_path / "tiny" / FOLDER_PROFILE).write_text(json.dumps(profile))
    code, _, err = run("generate", "a red circle", *SMALL, "--model", "tiny")
    assert code == 0, err
    assert "are not massive in these weights: dimension 3 at 0.9x the mean (ordinary)" in err
    assert "nothing is steered: no dimension reaches 20 times" in err


@pytest.mark.filterwarnings("default::stas.checks.StasWarning")
def test_a_model_without_massive_activations_is_not_steered_and_says_so(run, tmp_path):
    tiny_wan().save_pretrained(tmp_path / "tiny")
    code, out, err = run("generate", "a red circle", *SMALL, "--model", "tiny")
    assert code == 0, err
    assert "Warning: transformer: nothing is steered: no dimension reaches 20 times" in err
    assert out.rstrip().endswith("not steered")


@pytest.mark.filterwarnings("default::stas.checks.StasWarning")
@pytest.mark.parametrize(
    "options",
    [
        ("--guidance", "1", "--branches", "uncond"),
        ("--frames", "1", "--regions", "boundary, interior"),
        ("--start", "0.9", "--stop", "0.95"),
    ],
)
def test_it_says_so_when_nothing_was_steered_after_all(run, options):
    code, out, err = run("generate", PROMPT, *SMALL, *options)
    assert code == 0, err
    assert out.rstrip().endswith("not steered")
    assert ("(1 frame, " in out) == ("--frames" in options)


def test_the_options_know_every_op_and_reference():
    from typing import get_args, get_type_hints

    from stas.method.config import OPS, REFERENCES

    hints = get_type_hints(cli.generate)
    assert get_args(get_args(hints["op"])[0]) == OPS
    assert get_args(get_args(hints["reference"])[0]) == REFERENCES


def test_several_prompts_and_seeds(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    code, out, err = run(
        "generate", "--prompts", "prompts.txt", "--seed", "0,7-8", *SMALL, "-o", "videos"
    )
    assert code == 0, err
    names = [f"{slug}-seed{n}" for slug in ("a-blue-square", "a-red-circle") for n in (0, 7, 8)]
    assert [name for name in files(tmp_path / "videos") if name.endswith("mp4")] == [
        f"{name}.mp4" for name in names
    ]
    assert "6 videos in" in out
    manifest = json.loads((tmp_path / "videos/a-blue-square-seed7.json").read_text())
    assert (manifest["seed"], manifest["prompt_file"]["line"]) == (7, 2)
    assert manifest["prompt_file"]["name"] == "prompts.txt"
    # A sample does not depend on those before it.
    alone = run("generate", "a blue square", "--seed", "7", *SMALL, "-o", "alone.mp4")
    assert alone[0] == 0
    assert np.array_equal(read_video("alone.mp4"), read_video("videos/a-blue-square-seed7.mp4"))


def test_prompts_that_would_share_a_name_are_numbered(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na red, circle!\n")
    assert run("generate", "--prompts", "prompts.txt", *SMALL)[0] == 0
    assert files(tmp_path / "outputs")[0].startswith("0001-a-red-circle-seed0")


def test_many_videos_go_on_where_they_were_stopped(run, tmp_path):
    arguments = ("generate", PROMPT, *SMALL, "--seed", "0-2", "-o", "many")
    assert run(*arguments)[0] == 0
    videos = sorted((tmp_path / "many").glob("*.mp4"))
    videos[0].with_suffix(".json").unlink()  # its manifest had not appeared yet
    videos[1].write_bytes(b"cut short")
    before = videos[2].stat().st_mtime_ns
    assert run(*arguments)[0] == 1  # without --resume nothing is overwritten
    code, out, err = run(*arguments, "--resume")
    assert code == 0, err
    assert out.count("made in") == 2 and out.count("is finished") == 1
    assert videos[2].stat().st_mtime_ns == before
    code, _, err = run(*arguments, "--resume", "--no-steer")
    assert code == 1 and "was made otherwise: steering" in err


def test_nothing_is_overwritten_without_force(run, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    code, _, err = run("generate", PROMPT, *SMALL, "-o", "a.mp4")
    assert code == 1
    assert "'a.png' exists already. Go on with --resume, give another -o" in err
    assert files(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "mine"
    assert run("generate", PROMPT, *SMALL, "-o", "a.mp4", "--force")[0] == 0
    assert Image.open("a.png").size == (5 * 64 + 4 * GAP, 64)


def test_going_on_overwrites_nothing_of_others(run, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    (tmp_path / "b.json").write_text('{"mine": true}')
    other = small_manifest() | {"seed": 7}
    (tmp_path / "c.json").write_text(json.dumps(other))
    for name, message in (
        ("a", "'a.png' exists already and is of no video that this command made. Give another -o"),
        ("b", "'b.json' exists already and is no manifest: b.json is not a manifest of stas"),
        ("c", "'c.json' exists already and was made otherwise: .*seed 7 -> 0"),
    ):
        before = {path: path.read_text() for path in tmp_path.iterdir()}
        code, _, err = run("generate", PROMPT, *SMALL, "-o", f"{name}.mp4", "--resume")
        assert code == 1 and re.search(message, err), err
        assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_going_on_with_another_profile_is_refused(run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, folder)
    arguments = ("generate", PROMPT, *SMALL, "--model", "model", "-o", "a.mp4")
    assert run(*arguments)[0] == 0
    data = json.loads((folder / FOLDER_PROFILE).read_text())
    (folder / FOLDER_PROFILE).write_text(json.dumps(data | {"dims": [3], "ratios": [30.0]}))
    code, _, err = run(*arguments, "--resume")
    assert code == 1 and re.search(rf"otherwise: dims transformer \[{DIMS}\] -> \[3\]", err), err


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PROMPT, "--config", "a.json"), "it is the config that"),
        (("--prompts", "a.json"), "it is the prompt file that"),
        ((PROMPT, "--lora", "a.json=0.5"), "it is the LoRA that"),
        (("--manifest", "a.json"), "it is the manifest that"),
    ],
    ids=lambda value: value[-2].strip("-") if isinstance(value, tuple) else "",
)
def test_what_is_read_is_never_overwritten(run, tmp_path, arguments, message, force):
    text = json.dumps(small_manifest() if "--manifest" in arguments else {"scale": 1.0})
    (tmp_path / "a.json").write_text(text)
    code, _, err = run("generate", *arguments, "-o", tmp_path / "a.mp4", *force)
    assert code == 1
    assert re.search(f"a.json' would be overwritten, and {message} is read. Give another -o", err)
    assert (tmp_path / "a.json").read_text() == text
    assert files(tmp_path) == ["a.json"]


def test_config_file_and_options(run, tmp_path):
    stas.STASConfig(scale=2.0, blocks="all").save(tmp_path / "config.json")
    code, _, err = run(
        *("generate", PROMPT, *SMALL, "--config", "config.json", "-o", "a.mp4"),
        *("--scale", "1.2", "--dims", "5,242", "--regions", "first_frame", "--branches", "cond"),
    )
    assert code == 0, err
    steering = json.loads((tmp_path / "a.json").read_text())["steering"]
    assert (steering["scale"], steering["blocks"], steering["dims"]) == (1.2, "all", [5, 242])
    assert (steering["regions"], steering["branches"]) == (["first_frame"], ["cond"])


# What is wrong with the command line itself, whatever there is on this machine.
USAGE = re.compile(
    r"^'--|Give a prompt|not both|numbers below|ranges of at|steers nothing|SOURCE=|remove|twice|"
    "quotes"
)
BAD = [
    ((), "Give a prompt or --prompts FILE"),
    (("",), "The prompt is empty"),
    (("x", "--prompts", "good.txt"), "and not both"),
    (("--prompts", "nowhere.txt"), "no prompt file 'nowhere.txt'"),
    (("--prompts", "empty.txt"), "empty.txt can't be read as a list of prompts: it has no prompt"),
    (("--prompts", "binary.txt"), "binary.txt is not a text file in UTF-8"),
    (("x", "--seed", "-1"), "'--seed': expected numbers from 0 and ranges"),
    (("x", "--seed", "7-3"), "'--seed': expected"),
    (("x", "--seed", str(2**63)), r"numbers below 2\*\*63"),
    (("x", "--seed", "0-999999999"), "ranges of at most 100000"),
    (("x", "--revision", "main"), "revision is for hub ids"),
    (("x", "-o", "taken.mp4", "--force"), r"'taken\.png' is a folder"),
    (("x", "-o", "a" * 254 + ".mp4"), "File name too long"),
    (("x", "--model", "defaults"), r"defaults\.json does not hold a model's defaults"),
    (("x", "--size", "64"), "'--size': expected WIDTHxHEIGHT"),
    (("x", "--size", "64x100"), "height must be a multiple of 16"),
    (("x", "--frames", "6"), "The nearest are 5 and 9"),
    (("a", "red", "circle"), r"\(red circle\)\. Put a prompt of several words in quotes"),
    (("x", "--steps", "0"), "num_inference_steps must be an integer, at least 1"),
    (("x", "--dims", "3,x"), "'--dims': expected whole numbers"),
    (("x", "--dims", "256"), "dims must be below 256"),
    (("x", "--blocks", "some"), "'--blocks': expected whole numbers"),
    (("x", "--blocks", "8"), "8 blocks, numbered 0 to 7"),
    (("x", "--regions", "middle"), "'--regions': expected some of first_frame"),
    (("x", "--boundary", "0.6"), r"expected 0 to 0\.5"),
    (("x", "--scale", "nan"), "scale must be a finite number"),
    (("x", "--scale", "inf"), "scale must be a finite number"),
    (("x", "--start", "0.5"), "window of steered steps is empty"),
    (("x", "--no-steer", "--scale", "2"), "--no-steer steers nothing"),
    (("x", "--config", "nowhere.json"), "No such file or directory: nowhere.json"),
    (("x", "--config", "good.txt"), "good.txt is not a steering config"),
    (("x", "--config", "alpha.json"), "Unknown key in the steering config: 'alpha'"),
    (("x", "--model", "./nowhere"), "no folder './nowhere'"),
    (("x", "--model", "corrupt"), "corrupt"),
    (("x", "--lora", "a.safetensors=strong"), "SOURCE=WEIGHT"),
    (("x", "--device", "toaster"), "device 'toaster' can't be used"),
    (("x", "-o", "good.txt"), ".mp4, .gif, .webp, .apng file or a folder"),
    (("x", "-o", "good.txt/video.mp4"), "'good.txt' is a file, not a folder"),
    (("x", "-o", "good.txt/deep/er"), "'good.txt' is a file, not a folder"),
    (("x", "--seed", "0-1", "-o", "a.mp4"), "2 videos can't go into one file"),
    (("--manifest", "nowhere.json"), "No such file or directory: nowhere.json"),
    (("--manifest", "alpha.json"), "alpha.json is not a manifest"),
    (
        ("x", "--lora", "a", "--lora", "a=0.5"),
        "--lora a is given twice, .* 1 and 0.5: give it once",
    ),
    (("--manifest", "alpha.json", "--format", "gif", "--steps", "3"), "remove --steps, --format"),
    (("x", "--manifest", "alpha.json", "--no-steer"), "remove prompt, --steer/--no-steer"),
    (("--manifest", "small.json", "-o", "x.avi"), ".mp4, .gif, .webp, .apng file or a folder"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) or "-" for a, _ in BAD])
def test_bad_input_gets_a_sentence_and_leaves_nothing(run, tmp_path, arguments, message):
    (tmp_path / "good.txt").write_text("a red circle\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "alpha.json").write_text('{"alpha": 1}')
    (tmp_path / "small.json").write_text(json.dumps(small_manifest()))
    (tmp_path / "taken.png").mkdir()
    shutil.copytree(BUNDLED_MODEL, tmp_path / "defaults")
    (tmp_path / "defaults/defaults.json").write_text('{"fps": "fast"}')
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt/model_index.json").write_text("{")
    before = files(tmp_path)
    code, out, err = run("generate", *arguments)
    assert code == (2 if USAGE.search(message) else 1)
    assert re.search(rf"Error: [\s\S]*{message}", err)
    assert "Traceback" not in err
    assert out == ""
    assert files(tmp_path) == before
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", "--scale", "nan"),
        ("x", "--size", "0x0"),
        ("x", "--frames", "0"),
        ("x", "--config", "bad.json"),
        ("x", "-o", "bad.json/video.mp4"),
        ("--manifest", "bad.json"),
        ("--manifest", "nowhere.json"),
    ],
    ids=" ".join,
)
def test_a_slip_is_told_before_torch_is_loaded(tmp_path, arguments):
    (tmp_path / "bad.json").write_text("{")
    probe = (
        "import sys; from stas.cli import main as cli\n"
        "try: cli.main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", probe, "generate", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("Error:"), result.stderr


def test_ctrl_c_leaves_nothing_half_written(tmp_path):
    interrupt(tmp_path, "generate", PROMPT, "--seed", "0-1", "--steps", "400", "-o", "videos")
    assert files(tmp_path) == []
