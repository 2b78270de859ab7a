"""Prompts and seeds."""

from __future__ import annotations

from hashlib import sha256

from stas.pipelines.prompts import Prompt, read_prompts, samples_of


def test_a_file_of_prompts_says_where_each_comes_from(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a red circle\na blue square \n", encoding="utf-8")
    first, second = read_prompts(None, path)
    assert (first.text, second.text) == ("a red circle", "a blue square")
    digest = sha256(path.read_bytes()).hexdigest()
    assert second.origin == {"name": "list.txt", "sha256": digest, "line": 2}


def test_every_prompt_has_every_seed_and_names_differ():
    samples = samples_of([Prompt("A red, circle!"), Prompt("a red circle")], [0, 7])
    assert [sample.name for sample in samples] == [
        "0001-a-red-circle-seed0",
        "0002-a-red-circle-seed7",
        "0003-a-red-circle-seed0",
        "0004-a-red-circle-seed7",
    ]
    assert samples_of([Prompt("!?")], [3])[0].name == "video-seed3"
    assert len(samples_of([Prompt("x" * 300)], [3])[0].name) == 60 + len("-seed3")
