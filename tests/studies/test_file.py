"""Studies from TOML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stas.studies.file import load_study

SHIPPED = sorted(Path("src/stas/assets/studies").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_studies_that_ship(path):
    study = load_study(path.stem)
    assert study.model == "bundled" and len(study.prompts) >= 32
    assert len(study.settings()) > 2
    assert path.stem in path.read_text()  # the command that it names


FILES = [
    ("scale = [", "is not a study: "),
    ('axis = "scale"', "unknown keys 'axis'. Known: aesthetic, aesthetic_clip, arguments"),
    ('prompts = ["a", " "]\n[axes]\nscale = [1.0]', "a prompt is empty"),
    ('prompts = ["a"]\ncount = 2\n[axes]\nscale = [1.0]', "count must be 1 to 1"),
    ('prompts = ["a"]\ncount = true\n[axes]\nscale = [1.0]', "count must be 1 to 1"),
    ("[prompts]\na = 1\n[axes]\nscale = [1.0]", "prompts must be a list or a file"),
    ("prompts = 3\n[axes]\nscale = [1.0]", "prompts must be a list or a file, but got 3"),
    ("[axes]\nscale = 1.0", "scale must be a list, but got 1.0"),
    ("axes = 3", "axes must be a table"),
]


@pytest.mark.parametrize(("text", "message"), FILES)
def test_what_is_no_study_file(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_study(tmp_path / "s.toml")
    assert "s.toml is not a study" in str(error.value)


def test_a_study_file_with_changes(tmp_path):
    (tmp_path / "mine.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "s.toml").write_text(
        'prompts = "mine.txt"\nown_measures = ["a:b"]\n'
        "[arguments]\nwidth = 64\nnum_inference_steps = 9\n[axes]\nscale = [1.5]"
    )
    study = load_study(tmp_path / "s.toml")
    assert study.prompts == ("one", "two", "three") and study.name == "s"
    assert study.samples()[2].prompt_file["prompt"] == 3
    changed = load_study(
        tmp_path / "s.toml",
        count=2,
        seed=7,
        model=None,
        arguments={"num_inference_steps": 3},
        own_measures=["c:d"],
    )
    assert changed.prompts == ("one", "two") and changed.model == "bundled"
    assert changed.arguments == {"width": 64, "num_inference_steps": 3}
    assert changed.own_measures == ("a:b", "c:d") and changed.samples()[0].seed == 7
    (tmp_path / "s.toml").write_text('own_measures = "a:b"\n[axes]\nscale = [1.5]')
    with pytest.raises(ValueError, match="own_measures must be a list"):
        load_study(tmp_path / "s.toml", own_measures=["c:d"])
    (tmp_path / "s.toml").write_text('prompts = "none.txt"\n[axes]\nscale = [1.5]')
    with pytest.raises(FileNotFoundError, match=r"no prompt file .*none.txt"):
        load_study(tmp_path / "s.toml")
    with pytest.raises(ValueError, match="Copy the file and give dims of yours"):
        load_study("ablation-reference", model="org/model")
    with pytest.raises(FileNotFoundError, match=r"no study 'ablation-skale': .* ablation-scale"):
        load_study("ablation-skale")
