"""stas record, stas profile and stas plot, on the bundled model and few steps."""

from __future__ import annotations

import json
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest

from stas.activations.profiles import FOLDER_PROFILE, cached_profile
from stas.activations.stats import ActivationStats
from stas.assets import BUNDLED_MODEL
from tests.command import BUNDLED_DIMS, files

FEW = ["--steps", "2", "--frames", "5", "-n", "1"]


def test_record_then_plot(run, tmp_path):
    code, out, _ = run("record", "-o", "out/s.safetensors", *FEW)
    assert code == 0
    assert re.search(rf"{BUNDLED_DIMS[0]} +\d+\.\d +massive", out)
    stats = ActivationStats.load(tmp_path / "out/s.safetensors")
    assert stats.samples == dict.fromkeys(
        [(step, branch) for step in range(2) for branch in ("cond", "uncond")], 1
    )
    assert stats.map_dims[0] == BUNDLED_DIMS[0]
    assert stats.metadata["transformer"] == "WanTransformer3DModel"
    code, out, _ = run("plot", "out/s.safetensors", "-o", "plots")
    assert code == 0
    assert "plots/steps.png" in out
    assert (tmp_path / "plots/map.csv").exists()
    code, _, _ = run("plot", "out/s.safetensors", "-o", "two", "--figure", "2")
    assert code == 0 and {path.name for path in (tmp_path / "two").iterdir()} == {
        "steps.png",
        "steps.csv",
    }
    code, _, err = run("record", "-o", "out/s.safetensors", *FEW)
    assert code == 1 and "--resume" in err


def test_profile_is_found_by_generate(run, tmp_path):
    model = ("--model", "copy")
    shutil.copytree(BUNDLED_MODEL, "copy", ignore=shutil.ignore_patterns("stas_profile.json"))
    small = ("--steps", "2", "--frames", "5", "--size", "32x32")
    code, out, _ = run("profile", *model, *FEW)
    assert code == 0 and f"dimension {BUNDLED_DIMS[0]}" in out
    (place,) = tmp_path.glob("cache/profiles/*.json")
    assert json.loads(place.read_text())["dims"][0] == BUNDLED_DIMS[0]
    code, _, err = run("generate", "a red circle", *model, *small, "-o", "v.mp4")
    assert code == 0 and "copy (measured)" in err
    code, _, err = run("profile", *model, *FEW)
    assert code == 1 and "(measured, 1 video). Use --force to measure anew" in err


def test_profiles_are_listed_shown_and_deleted(run, tmp_path, monkeypatch):
    code, out, err = run("profile", *FEW)
    assert code == 0
    # A quick look does not displace what was measured on 256 videos.
    assert "It is not used: profile stas bundled model" in err and "256 videos) says more" in err
    code, out, _ = run("profile", "list")
    assert (
        code == 0
        and out.count("measured, 256 videos") == 1
        and out.count("measured, 1 video ") == 1
    )
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in out and "1188" in out
    code, _, err = run("profile", "--model", "x", "list")
    assert code == 2 and "model belongs behind list" in err
    code, out, _ = run("profile", "show", "bundled")
    assert code == 0 and json.loads(out)["videos"] == 256
    code, _, err = run("profile", "delete", "bundled")
    assert code == 2 and "give --yes" in err
    code, _, err = run("profile", "delete", "bundled", "--yes")
    assert code == 0 and not list((tmp_path / "cache/profiles").iterdir())
    code, _, err = run("profile", "delete", "bundled", "--yes")
    assert code == 1 and "No profile of 'bundled' was measured" in err
    code, _, err = run("profile", "show", "some/model")
    assert code == 1 and "Measure it: stas profile --model some/model" in err


def test_no_answer_to_a_question_stops_and_deletes_nothing(run, tmp_path, monkeypatch):
    place = cached_profile(str(BUNDLED_MODEL))
    place.parent.mkdir(parents=True)
    shutil.copy(BUNDLED_MODEL / FOLDER_PROFILE, place)
    monkeypatch.setattr("sys.stdin", StringIO())  # Ctrl-D
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    code, _, err = run("profile", "delete", "bundled")
    assert code == 130 and "Stopped" in err and "Error" not in err
    assert place.is_file()


def test_a_profile_that_can_not_be_kept_is_said_before_anything_is_measured(run, monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("STAS_CACHE", "file")
    code, _, err = run("profile", *FEW)
    assert code == 1 and "can't be written to" in err and "-o" in err and "step" not in err
    code, _, err = run("profile", *FEW, "-o", "p.json")
    assert code == 0 and Path("p.json").is_file()


BAD = [
    (["record", "-o", "s.json"], r"\.safetensors file"),
    (["record", "-o", "new/sub/s.safetensors", "--prompts", "none.txt"], "no prompt file"),
    (
        ["record", "-o", "s.safetensors", "-n", "129"],
        "129 videos were asked for",
    ),
    (["record", "-o", "s.safetensors", "--blocks", "99", *FEW], "8 blocks"),
    (["record", "-o", "s.safetensors", "--boundary", "0.9", *FEW], r"0 to 0\.5"),
    (["record", "-o", "s.safetensors", "--map-dims", "x", *FEW], "whole numbers"),
    (["record", "-o", "s.safetensors", "--map-dims", "999", *FEW], "below 256"),
    (["record", "-o", "s.safetensors", "--frames", "6", "-n", "1"], "The nearest are 5 and 9"),
    (["profile", "-o", "p.txt"], r"\.json file"),
    (["plot", "none.safetensors"], "no file"),
    (["plot", "cut.safetensors"], "cut short"),
    (["plot", "cut.safetensors", "-o", "cut.safetensors"], "is a file"),
    (["plot", "cut.safetensors", "other/cut.safetensors"], "the same name"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_gets_a_clear_error(run, tmp_path, arguments, message):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    before = files(tmp_path)
    code, _, err = run(*arguments)
    assert code == (2 if message == "whole numbers" else 1)
    assert re.search(rf"Error: [\s\S]*{message}", err)
    assert "Traceback" not in err
    assert files(tmp_path) == before and not (tmp_path / "new").exists()


def test_raster_by_prompt(run, tmp_path):
    small = ("--steps", "1", "--frames", "5", "--size", "64x64")
    code, _, err = run("record", "-o", "r.safetensors", "-n", "6", *small)
    assert code == 0, err
    code, out, err = run("plot", "r.safetensors", "--raster", "-o", "p")
    assert code == 0 and "dimension 254, block 4: " in out, err
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "raster-254.png",
        "raster.csv",
    ]
    code, _, err = run("record", "-o", "n.safetensors", "-n", "1", "--map-blocks", "none", *small)
    assert code == 0, err
    code, _, err = run("plot", "n.safetensors", "--raster", "-o", "q")
    assert code == 1 and "hold no maps by prompt" in err and not (tmp_path / "q").exists()
