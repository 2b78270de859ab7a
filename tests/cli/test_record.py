"""stas record, stas profile and stas plot, on the bundled model and few steps."""

from __future__ import annotations

import json
import re

import pytest

from stas.activations.stats import ActivationStats
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
    code, out, _ = run("profile", *FEW)
    assert code == 0 and f"dimension {BUNDLED_DIMS[0]}" in out
    (place,) = tmp_path.glob("cache/profiles/*.json")
    assert json.loads(place.read_text())["dims"][0] == BUNDLED_DIMS[0]
    code, _, err = run("generate", "a red circle", "--steps", "2", "--frames", "5", "-o", "v.mp4")
    assert code == 0 and "bundled_model (measured)" in err
    code, _, err = run("profile", *FEW)
    assert code == 1 and "--force" in err


BAD = [
    (["record", "-o", "s.json"], r"\.safetensors file"),
    (["record", "-o", "s.safetensors", "--prompts", "none.txt"], "no prompt file"),
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
    assert files(tmp_path) == before


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
