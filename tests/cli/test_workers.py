"""--workers, --ray and --batch of the commands."""

from __future__ import annotations

import json
import re

import pytest

from stas.activations.stats import ActivationStats
from stas.workers import executors
from tests.command import files

SMALL = ("--steps", "2", "--frames", "5", "--size", "64x64", "--device", "cpu")


def pixels(folder):
    return {
        path.name: json.loads(path.read_text())["frames"]["sha256"]
        for path in folder.glob("*.json")
    }


def test_videos_by_two_workers_are_those_of_one(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "p.txt").write_text("a red circle\na blue square\n")
    command = ("generate", "--prompts", "p.txt", "--seed", "0-1", *SMALL)
    assert run(*command, "-o", "one")[0] == 0
    code, out, err = run(*command, "-o", "two", "--workers", "2")
    assert code == 0, err
    assert (
        pixels(tmp_path / "one") == pixels(tmp_path / "two") and len(pixels(tmp_path / "two")) == 4
    )
    assert out.count("made in") == 4 and "4 videos in" in out
    assert "4 of 4 videos" in err and "1 of 8 blocks" in err
    assert not [name for name in files(tmp_path) if "/." in name]
    code, out, err = run(*command, "-o", "two", "--workers", "2", "--resume")
    assert code == 0 and out.count("is finished") == 4 and "made in" not in out
    code, _, err = run(*command, "-o", "two", "--workers", "2", "--resume", "--no-steer")
    assert code == 1 and "was made otherwise: steering" in err


def test_a_batch_is_in_the_manifests(run, tmp_path):
    code, out, err = run(
        "generate", "a red circle", "--seed", "0-2", *SMALL, "-o", "b", "--batch", "2"
    )
    assert code == 0, err
    batches = [
        json.loads(path.read_text())["batch"] for path in sorted((tmp_path / "b").glob("*.json"))
    ]
    assert batches == [{"size": 2, "index": 0}, {"size": 2, "index": 1}, None]
    code, out, err = run("generate", "--manifest", "b/a-red-circle-seed2.json")
    assert code == 0 and "Identical" in out


def test_recording_by_two_workers(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "p.txt").write_text("a red circle\na blue square\n")
    command = ("record", "--prompts", "p.txt", "-n", "2", *SMALL)
    code, out, err = run(*command, "-o", "s.safetensors", "--workers", "2")
    assert code == 0, err
    assert "2 of 2 videos" in err and re.search("254 .*massive", out)
    found = ActivationStats.load(tmp_path / "s.safetensors")
    assert found.metadata["finished"] == "2" and found.map_dims
    assert files(tmp_path) == ["p.txt", "s.safetensors"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--workers", "0"), 2, "greater than or equal to 1"),
        (("--workers", "2", "--device", "cuda:1"), 1, "cuda"),
        (("--ray", "auto"), 1, r"pip install 'stas\[cluster\]'"),
        (("--batch", "0"), 2, "greater than or equal to 1"),
    ],
)
def test_what_can_not_be_is_refused(run, tmp_path, monkeypatch, options, code, message):
    monkeypatch.setattr(executors, "find_module", lambda name: None)
    found, _, err = run("generate", "a red circle", *SMALL, *options)
    assert found == code and re.search(message, err), err
    assert files(tmp_path) == []
