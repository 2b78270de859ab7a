"""Whether steering helps: the statistics, and the script on a few pairs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from benchmarks import helps
from benchmarks.helps import MEASURES, Answer, answer, holm
from stas.pipelines.prompts import Sample


def numbers(right):
    return {name: right if name == "right" else [2.0, 1.0] * (len(right) // 2) for name in MEASURES}


def test_a_caption_counts_once():
    """Ten captions of two seeds: one is better in both, one in one, one is worse in one."""
    samples = [Sample(f"{n}-{s}", f"caption {n}", 2 * n + s) for n in range(10) for s in (0, 1)]
    off = [0.0] * 6 + [1.0] * 14
    on = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, *([1.0] * 13)]
    found = answer("on", samples, numbers(off), numbers(on))
    assert found.captions == (2, 7, 1)
    assert found.right == pytest.approx(16 / 20)
    assert found.difference["right"][0] == pytest.approx(0.1)
    assert found.p == 1.0  # two of three that differ
    assert found.difference["pixel difference, across chunks"] == (0, 0, 0)
    # Gains of the captions: 1, 0.5, -0.5 and seven times 0.
    assert found.seen == pytest.approx(
        2.8 * (sum((g - 0.1) ** 2 for g in [1, 0.5, -0.5] + [0] * 7) / 9 / 10) ** 0.5
    )


def test_pixel_differences_are_shares_of_those_without_steering():
    samples = [Sample(str(n), f"caption {n}", n) for n in range(8)]
    off, on = numbers([1.0] * 8), numbers([1.0] * 8)
    on["pixel difference, across chunks"] = [1.5 * each for each in off[MEASURES[1]]]
    change, low, high = answer("on", samples, off, on).difference["pixel difference, across chunks"]
    assert change == pytest.approx(0.5) and low < 0.5 < high


def test_holm():
    one = Answer("", 0.5, {}, (0, 0, 0), 1.0, 0.0)
    answers = [replace(one, setting=str(p), p=p) for p in (0.04, 0.01, 0.03, 0.6)]
    assert holm(answers) == pytest.approx({"0.01": 0.04, "0.03": 0.09, "0.04": 0.09, "0.6": 0.6})


def test_the_script_asks_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(helps, "KEPT", tmp_path / "kept")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'first_seed = 7\n[settings]\n"zero" = { op = "zero", blocks = "all" }\n'
        '[[questions]]\nname = "two"\nkind = "two things"\nsteps = 2\ncaptions = 2\nseeds = 1\n'
        "primary = true\n"
    )
    monkeypatch.setattr(helps, "PLAN", plan)
    output = tmp_path / "found.json"
    arguments = ["helps", "--device", "cpu", "--batch", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    helps.main()
    first = json.loads(output.read_text())
    (found,) = first["questions"]["two"]["answers"]
    assert found["setting"] == "zero" and first["questions"]["two"]["pairs"] == 2
    assert found["difference"]["pixel difference, within chunks"][0] != 0  # it was steered
    assert first["confirmation"]["answer"]["setting"] == "zero"
    kept = sorted((tmp_path / "kept").iterdir())
    assert len(kept) == 4  # off and zero, at two sets of seeds
    before = [path.stat().st_mtime_ns for path in kept]
    output.unlink()
    helps.main()
    assert json.loads(output.read_text()) == first
    assert [path.stat().st_mtime_ns for path in kept] == before
