"""The documents: examples run, links lead somewhere, figures are the measured ones."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from docs import make_bundled, make_defaults, make_peers, tables
from stas.media.video import read_video

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "training/*.md") for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Pages whose blocks another test runs in another way: real checkpoints are replaced by tiny ones.
ELSEWHERE = {"docs/recipes.md": "tests/docs/test_recipes.py"}
SCRIPTS = {text for _, text in BLOCK.findall((ROOT / "docs/recipes.md").read_text())}
BLOCKS = [
    pytest.param(language, text, id=f"{path.relative_to(ROOT)}:{number}")
    for path in DOCUMENTS
    for number, (language, text) in enumerate(BLOCK.findall(path.read_text()), 1)
    if str(path.relative_to(ROOT)) not in ELSEWHERE and text not in SCRIPTS
]


def run_python(text: str, folder: Path) -> None:
    command = [sys.executable, "-c", text]
    subprocess.run(command, cwd=folder, check=True, env=environment(), timeout=300)


def run_console(text: str, folder: Path) -> None:
    commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    assert commands, "a console block has lines that begin with '$ '"
    for command in commands:
        words = shlex.split(command)
        if words[0] in ("make", ".ci/run", "git", "cd"):
            # Set-up itself is what runs these tests; that the target exists is seen by a dry run.
            if words[0] == "make":
                subprocess.run([*words, "-n"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            continue
        program = {"stas": ["-m", "stas"], "python": []}[words[0]]
        subprocess.run(
            [sys.executable, *program, *words[1:]],
            cwd=folder,
            check=True,
            env=environment(),
            timeout=600,
        )


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_code_blocks_run(language, text, tmp_path):
    {"python": run_python, "console": run_console}[language](text, tmp_path)


@pytest.mark.slow
def test_the_readmes_example_is_the_commands_video(tmp_path):
    text = (ROOT / "README.md").read_text()
    languages = {}
    for language, block in BLOCK.findall(text):
        languages.setdefault(language, []).append(block)
    run_python(languages["python"][0], tmp_path)
    made = read_video(tmp_path / "circle.mp4")
    commands = next(block for block in languages["console"] if "stas generate" in block)
    first = next(line for line in commands.splitlines() if "stas generate" in line)
    run_console(first.replace("circle.mp4", "command.mp4"), tmp_path)
    assert np.array_equal(made, read_video(tmp_path / "command.mp4"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_are_there(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_tables_of_the_bundled_model_are_those_of_the_results():
    text = make_bundled.PAGE.read_text(encoding="utf-8")
    assert make_bundled.fill(text) == text
    assert sorted(tables.names(text)) == sorted(make_bundled.TABLES)


def test_a_place_that_the_page_lacks_is_an_error():
    text = "a\n<!-- x y -->\nold\n<!-- end -->\nb\n"
    made = tables.table([["k", "v"], ["1", ""]])
    assert tables.filled(text, "x y", made).splitlines()[2:5] == [
        "| k | v |",
        "| --- | --- |",
        "| 1 |  |",
    ]
    with pytest.raises(ValueError, match="unpack"):
        tables.filled(text, "z", made)


def test_the_tables_beside_other_guidance_are_those_of_the_results():
    text = make_peers.PAGE.read_text(encoding="utf-8")
    assert make_peers.page(text, make_peers.load()) == text
    assert "## 10 steps, 512 pairs" in text and "## 30 steps, 512 pairs" in text


def test_the_tables_of_the_defaults_are_those_of_the_studies():
    text = make_defaults.PAGE.read_text(encoding="utf-8")
    assert make_defaults.fill(text) == text
    with (make_defaults.STUDIES / "defaults/differences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for axis in ("blocks", "branches"):
        right = [row for row in rows if (row["axis"], row["measure"]) == (axis, "all right")]
        assert {row["words"] for row in right} == {"no difference shown"}
        assert {row["n"] for row in right} == {"128"}


def test_the_readmes_figures_are_those_of_the_results():
    text = " ".join((ROOT / "README.md").read_text().split())
    folder = ROOT / "benchmarks/results"
    op, overhead = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("steer_op", "overhead")
    )
    for dtype in ("bfloat16", "float32"):
        stated = int(re.search(rf"(\d+) \({dtype}\)", text)[1])
        assert stated == round(op[dtype]["times faster"])
        assert op[dtype]["transient MB"]["steer_"] < 1
    for model, stated in (("width 1536, 4 blocks", 0.03), ("bundled model", 2)):
        measured = overhead[model]["inside percent"]["all blocks"]
        assert float(f"{measured:.1g}") == stated
    plain = make_bundled.read("results")["held-out captions"]["plain"]["generated"]
    assert "in 256 videos of held-out captions" in text
    stated = {
        "shape": int(re.search(r"says in (\d+), colour, motion and background in all", text)[1])
    }
    for label in ("shape", "colour", "motion", "background"):
        assert plain[label]["right"] == stated.get(label, 256) and plain[label]["of"] == 256
    blocks = [row["ratios"][0] for row in make_bundled.read("results")["activations"]]
    assert f"({min(blocks):.0f} to {max(blocks):.0f} times the mean in every block)" in text
