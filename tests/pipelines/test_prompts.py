"""Prompts and seeds."""

from __future__ import annotations

import json
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stas.checks import StasWarning
from stas.files import write_table
from stas.media.video import read_video
from stas.pipelines.generator import GenerateJob
from stas.pipelines.job import carry_out
from stas.pipelines.load import load_pipeline
from stas.pipelines.prompts import Prompt, read_prompts, samples_of, texts_alone
from stas.pipelines.texts import unread
from stas.workers.executors import HERE, TasksFailedError
from stas.workers.leases import Leases
from tests.zoo import all_tinies

RUNS = {run.name: run for tiny in all_tinies().values() for run in tiny.pipelines}


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


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_blank_lines_and_comments_are_skipped(tmp_path):
    path = written(
        tmp_path, "list.txt", "# circles\n\na red circle\n   \n  # squares\na #1 square\n"
    )
    found = read_prompts(None, path)
    assert [prompt.text for prompt in found] == ["a red circle", "a #1 square"]
    assert [prompt.origin["line"] for prompt in found] == [3, 6]


def test_named_values_of_jsonl_and_csv(tmp_path):
    line = {"prompt": "a cat, running", "negative_prompt": "blur", "seeds": [3, 4]}
    as_json = written(
        tmp_path, "a.jsonl", json.dumps(line) + '\n\n{"prompt": "a dog", "seed": 7}\n'
    )
    as_csv = written(
        tmp_path, "a.csv", 'prompt,negative_prompt,seed\n"a cat, running",blur,3-4\na dog,,7\n'
    )
    for path in (as_json, as_csv):
        first, second = read_prompts(None, path)
        assert (first.text, first.negative_prompt, first.seeds) == (
            "a cat, running",
            "blur",
            (3, 4),
        )
        assert (second.text, second.negative_prompt, second.seeds) == ("a dog", None, (7,))
    samples = samples_of(read_prompts(None, as_csv), [0])
    assert [(each.seed, each.negative_prompt) for each in samples] == [
        (3, "blur"),
        (4, "blur"),
        (7, None),
    ]
    assert samples[2].arguments == {"prompt": "a dog"}


@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(
            str.strip
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_comes_back_from_jsonl_and_csv(texts):
    with tempfile.TemporaryDirectory() as folder:
        lines = "\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in texts)
        as_json, as_csv = written(Path(folder), "a.jsonl", lines), Path(folder, "a.csv")
        write_table(as_csv, [["prompt"], *([text] for text in texts)])
        for path in (as_json, as_csv):
            assert [each.text for each in read_prompts(None, path)] == [t.strip() for t in texts]


def test_what_parts_lines_for_unicode_alone_parts_no_prompts(tmp_path):
    text = "a\u2028b\u0085c\x0bd"
    path = written(tmp_path, "a.txt", f"{text}\r\n{text}\n")
    assert [each.text for each in read_prompts(None, path)] == [text, text]


def test_no_seed_in_words_is_none(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"prompt": "a cat", "seed": null, "seeds": [2]}')
    assert read_prompts(None, path)[0].seeds == (2,)


def test_only_names_that_collide_are_numbered():
    texts = ["a cat", "a dog", "a cat", "0001 a cat"]
    assert [each.name for each in samples_of([Prompt(text) for text in texts], [0])] == [
        "0001-0001-a-cat-seed0",
        "a-dog-seed0",
        "0003-a-cat-seed0",
        "0004-0001-a-cat-seed0",
    ]


def test_seeds_that_would_not_be_used_are_refused():
    prompts = [Prompt("a cat", seeds=(3,)), Prompt("a dog")]
    assert [each.seed for each in samples_of(prompts, [7, 8])] == [3, 7, 8]
    with pytest.raises(ValueError, match=r"a seed to every prompt, so \[7, 8\] would not be used"):
        samples_of(prompts[:1], [7, 8])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# nothing\n\n", "it has no prompt"),
        ("a.csv", "text\na cat\n", "its first line must name the column prompt"),
        ("a.csv", "prompt\na cat,1\n", "line 2 has more cells"),
        ("a.csv", "prompt,seed\na cat,x\n", "line 2: expected numbers from 0"),
        ("a.csv", "prompt,seed\n,1\n", "line 2 has no prompt"),
        ("a.jsonl", "a cat", "line 1 is not JSON"),
        ("a.jsonl", '["a cat"]', "line 1 must be an object"),
        ("a.jsonl", '{"prompt": "a cat", "sed": 1}', "line 1 has sed. Known are prompt"),
        ("a.jsonl", '{"prompt": "a cat", "seed": -1}', "line 1: expected"),
        ("a.jsonl", '{"prompt": "a cat", "seed": 1, "seeds": [1]}', "seed and seeds: give one"),
        ("a.jsonl", '{"prompt": "a cat", "negative_prompt": 3}', "negative_prompt is a text"),
    ],
)
def test_what_is_wrong_in_a_list_is_told(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(None, written(tmp_path, name, text))


def test_seeds_and_negative_prompts_are_not_lost(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"prompt": "a cat", "seed": 7}')
    with pytest.raises(ValueError, match="A study takes prompts alone"):
        texts_alone(read_prompts(None, path), "A study")


def test_generate_follows_a_list(run, tmp_path):
    written(
        tmp_path, "a.csv", "prompt,negative_prompt,seed\na red circle,blue,3\na blue square,,\n"
    )
    small = ("--size", "32x32", "--frames", "5", "--steps", "2")
    code, _, err = run("generate", "--prompts", "a.csv", *small, "-o", "made", "--seed", "5")
    assert code == 0, err
    made = [json.loads(path.read_text()) for path in sorted((tmp_path / "made").glob("*.json"))]
    assert [(each["seed"], each["arguments"].get("negative_prompt")) for each in made] == [
        (5, None),
        (3, "blue"),
    ]
    code, _, err = run("generate", "--prompts", "a.csv", *small, "-o", "b", "--batch", "2")
    assert code == 1 and "Some of the prompts have a negative prompt and others have none" in err
    written(tmp_path, "b.csv", "prompt,negative_prompt\na red circle,blue\na red circle,red\n")
    code, _, err = run("generate", "--prompts", "b.csv", *small, "-o", "b", "--batch", "2")
    assert code == 0, err
    videos = [read_video(path).astype(int) for path in sorted((tmp_path / "b").glob("*.mp4"))]
    assert abs(videos[0] - videos[1]).max() > 2  # each follows its own


def test_what_is_there_is_skipped(run, tmp_path):
    small = ("generate", "a red circle", "--size", "32x32", "--frames", "5", "--steps", "2")
    assert run(*small, "--seed", "1", "-o", "made")[0] == 0
    before = (tmp_path / "made/a-red-circle-seed1.json").read_text()
    code, _, err = run(*small, "--seed", "0-1", "--scale", "2", "-o", "made", "--skip-existing")
    assert code == 0 and "1 of 2 videos are there and are skipped" in err
    assert len(list((tmp_path / "made").glob("*.mp4"))) == 2
    assert (tmp_path / "made/a-red-circle-seed1.json").read_text() == before


def test_the_rest_is_said_once_and_in_short():
    loaded = load_pipeline("bundled", device="cpu")
    with pytest.warns(StasWarning) as said:
        for _ in range(2):
            loaded.arguments({"prompt": "a red circle " * 99, "max_sequence_length": 4})
    assert len(said) == 1 and len(str(said[0].message)) < 180


def test_the_end_that_no_encoder_reads_is_said():
    loaded = load_pipeline("bundled", device="cpu")
    short = "a red circle moving right"
    assert unread(loaded.pipeline, short, 512) == ""
    with pytest.warns(StasWarning, match=r"longer than .* Not read is: 'moving right'"):
        loaded.arguments({"prompt": short, "max_sequence_length": 4})
    pipeline = RUNS["hunyuan video t2v"].build()
    words = "a " * 3 * pipeline.tokenizer_2.model_max_length
    assert unread(pipeline, words, None) != ""
    pipeline.tokenizer.model_max_length = 10**6
    assert unread(pipeline, words, None) == ""  # one of the two encoders reads all


def test_two_that_write_one_file_do_not_lose_a_video(tmp_path):
    """The second began before the first had written."""
    loaded = load_pipeline("bundled", device="cpu")
    call = {"num_frames": 5, "width": 32, "height": 32, "num_inference_steps": 2}

    def job(text, **options):
        samples = samples_of([Prompt(text)], [0])
        return GenerateJob(loaded, samples, [tmp_path / "x.mp4"], call, **options)

    early = job("a blue square")
    carry_out(job("a red circle"), HERE)
    before = (tmp_path / "x.mp4").read_bytes()
    for other in (early, job("a blue square")):
        assert other.tasks == job("a red circle").tasks  # so that one waits for the other
        with pytest.raises(FileExistsError, match="made otherwise: arguments prompt"):
            carry_out(other, HERE)
        assert (tmp_path / "x.mp4").read_bytes() == before
    carry_out(job("a blue square", force=True), HERE)
    assert (tmp_path / "x.mp4").read_bytes() != before


def test_a_batch_keeps_others_from_all_of_its_files(tmp_path, monkeypatch):
    loaded = load_pipeline("bundled", device="cpu")
    samples = samples_of([Prompt("a cat")], [1, 0])
    places = [tmp_path / f"{sample.name}.mp4" for sample in samples]
    taken = []

    def make(*arguments, **options):
        taken.extend(Leases(tmp_path, "other").take(place.stem) for place in places)
        raise ValueError("enough")

    monkeypatch.setattr("stas.pipelines.generator.make_samples", make)
    with pytest.raises(TasksFailedError, match="enough"):
        carry_out(GenerateJob(loaded, samples, places, {"num_frames": 5}, batch=2), HERE)
    assert taken == [None, None]
