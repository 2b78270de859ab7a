"""T2V-CompBench: its layout, its commands and its CSVs, on invented prompts."""

from __future__ import annotations

import csv
import shutil
import subprocess

import pytest

from stas.pipelines.options import PipelineOptions
from stas.suites.compbench import (
    CATEGORIES,
    commands,
    compbench_rows,
    read_samples,
    read_scores,
    table_folder,
    write_commands,
    write_layout,
)
from stas.suites.run import BenchmarkRun, read_run
from tests.suites.made import OFF, ON, fill, rows, write_info, write_video
from tests.suites.made import a_run as a_run_of_vbench

BY_NAME = {each.name: each for each in CATEGORIES}


def write_prompts(folder, count=100):
    folder.mkdir()
    for category in CATEGORIES:
        lines = [f"{category.name}, number {number}" for number in range(1, count + 1)]
        (folder / category.prompts).write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole run; its 1,400 videos are written once."""
    folder = tmp_path_factory.mktemp("compbench")
    samples, source = read_samples(write_prompts(folder / "prompts"))
    run = BenchmarkRun(
        folder=folder / "run",
        settings=[OFF, ON],
        samples=samples,
        arguments={},
        measured=(),
        suite="compbench",
        model="bundled",
        source=source,
    )
    run.begin(PipelineOptions(device="cpu").resolved())
    fill(run)
    return run


@pytest.fixture
def run(made):
    """The same run as a new reading would find it; what a test adds to its folder goes again."""
    yield made
    for name in ("compbench", "scores"):
        shutil.rmtree(made.folder / name, ignore_errors=True)


def write_tables(run, setting, category, score=lambda number: 1.0, skip=(), last=True):
    """CSVs as the scorers write them, the mean of what they could read in the last line."""
    folder = table_folder(run, setting, category)
    folder.mkdir(parents=True, exist_ok=True)
    model = run.setting_folder(setting)
    prompts = {s.name: s.prompt for s in run.samples}
    for place, ending in enumerate(category.tables):
        lines = [list(category.columns)]
        for number in range(1 + place, 101, len(category.tables)):
            if number in skip:
                continue
            cells = dict.fromkeys(category.columns, "x")
            cells[category.columns[0]] = f"{number:04d}"
            if "prompt" in cells:
                cells["prompt"] = prompts[f"{category.name}-{number:04d}"]
                cells["name"] += ".png"
            cells[category.columns[-1]] = score(number)
            lines.append(list(cells.values()))
        if last:
            lines.append(["score: ", 0.123])
        with (folder / f"{model}_{ending}").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    return folder / f"{model}_{category.tables[0]}"


def test_the_samples(tmp_path):
    samples, source = read_samples(write_prompts(tmp_path / "p"), seed=7)
    assert len(samples) == 700 and len({each.seed for each in samples}) == 700
    assert samples[0].name == "consistent_attr-0001" and samples[0].seed == 7
    assert samples[-1].name == "generative_numeracy-0100" and len(source) == 7


@pytest.mark.parametrize("count", [99, 101, 200])
def test_a_list_of_the_wrong_length(tmp_path, count):
    with pytest.raises(ValueError, match=f"has {count} prompts, expected 100"):
        read_samples(write_prompts(tmp_path / "p", count))
    with pytest.raises(FileNotFoundError, match="no prompt file"):
        read_samples(tmp_path)


def test_the_layout_is_of_every_video_and_nothing_else(run):
    for _ in range(2):
        folder = write_layout(run, OFF)
        for category in CATEGORIES:
            names = sorted(path.name for path in (folder / category.name).iterdir())
            assert names == [f"{number:04d}.mp4" for number in range(1, 101)]
    # In the order of the prompts: the scorers go by it.
    sample = next(each for each in run.samples if each.name == "interaction-0042")
    laid = (folder / "interaction" / "0042.mp4").read_bytes()
    assert laid == run.files(0, sample).path(".mp4").read_bytes()


def test_a_stray_file_in_the_layout_is_an_error(run):
    (write_layout(run, OFF) / "interaction" / "0101.mp4").touch()
    with pytest.raises(ValueError, match=r"holds 'interaction/0101\.mp4', which the scorers"):
        write_layout(run, OFF)


def test_one_missing_video_is_an_error_before_anything_is_laid_out(run):
    sample = run.samples[150]
    run.files(1, sample).path(".mp4").unlink()
    run.read()
    try:
        with pytest.raises(ValueError, match=r"1 of 700 videos are missing.*dynamic_attr-0051"):
            write_layout(run, ON)
        assert not (run.folder / "compbench").exists()
    finally:
        write_video(run, 1, sample, ON, 1150)
        run.read()


def test_the_commands_are_a_shells(run):
    write_layout(run, OFF)
    text = "\n".join(commands(run, OFF))
    for category in CATEGORIES:
        assert str(run.folder / "compbench" / "00-off" / category.name) in text
        assert str(table_folder(run, OFF, category)) in text
    assert "--total_frame 4 --fps 8" in text and "{" not in text
    script = write_commands(run, OFF)
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0


def test_scores_are_those_of_the_rows(run):
    for category in CATEGORIES:
        write_tables(run, OFF, category, lambda number: 1 if number % 2 else 0.0 + 1)
        found = read_scores(run, OFF, category)
        assert len(found.videos) == 100 and not found.bad and not found.missing
    # As the scorers themselves average them.
    expected = {"consistent_attr": 0, "interaction": 0, "action_binding": 0.2}
    for name, category in BY_NAME.items():
        assert read_scores(run, OFF, category).score == pytest.approx(expected.get(name, 1.0))


@pytest.mark.parametrize(
    ("name", "score", "expected"),
    [
        ("consistent_attr", 4.5, 3.5 / 4),
        ("action_binding", 5, 1.0),
        ("interaction", 2, 0.25),
        ("dynamic_attr", 0.64, 0.64),
        ("motion_binding", -1, 0.0),
        ("motion_binding", 0, 0.2),
        ("motion_binding", 0.5, 0.6),
        ("generative_numeracy", 0.5, 0.5),
    ],
)
def test_each_category_has_its_own_scale(run, name, score, expected):
    write_tables(run, OFF, BY_NAME[name], lambda _: score)
    assert read_scores(run, OFF, BY_NAME[name]).score == pytest.approx(expected)


def test_bad_replies_and_missing_rows_are_counted(run):
    category = BY_NAME["dynamic_attr"]
    replies = {3: "bad reply", 4: "bad reply 4", 5: ""}
    write_tables(run, OFF, category, lambda number: replies.get(number, 0.5), skip=(9,))
    found = read_scores(run, OFF, category)
    assert [name[-4:] for name in found.bad] == ["0003", "0004", "0005"]
    assert found.missing == ["dynamic_attr-0009"] and len(found.videos) == 96
    assert found.text == "0.5000 (3 bad replies, 1 missing)"


def test_what_is_not_scored_is_told(run):
    (row,) = [each for each in compbench_rows(run) if each.name == "interaction"]
    assert row.cells == {"off": "not scored", "on": "not scored"} and not row.values
    assert row.differences[0].words == "no number"


def test_paired_differences(run):
    category = BY_NAME["dynamic_attr"]
    write_tables(run, OFF, category, lambda number: number / 200)
    write_tables(run, ON, category, lambda number: number / 200 + 0.1, skip=(1, 2))
    (row,) = [each for each in compbench_rows(run) if each.name == "dynamic_attr"]
    found = row.differences[0].found
    assert found.difference == pytest.approx(0.1) and found.pairs == 98 and found.words == "higher"
    assert row.cells["on"].endswith("(2 missing)")


def test_a_table_of_another_category_or_benchmark(run):
    category = BY_NAME["interaction"]
    path = write_tables(run, OFF, category, lambda _: 3)
    path.write_text("prompt,quality\na,1\n")
    with pytest.raises(ValueError, match="is no table of interaction: expected the columns name"):
        read_scores(run, OFF, category)
    other = write_tables(run, OFF, BY_NAME["action_binding"], lambda _: 3)
    path.write_bytes(other.read_bytes())  # the same columns, other prompts
    with pytest.raises(ValueError, match="has the prompt 'action_binding, number 1', but the run"):
        read_scores(run, OFF, category)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",3\n", ",9\n"), "the score 9 is not within 1 to 5"),
        (lambda text: text.replace(",3\n", ",nan\n"), "the score nan is not within"),
        (lambda text: text.replace("0002.png", "0001.png"), r"'0001\.png' is there twice"),
        (lambda text: text.replace("0002.png", "0201.png"), r"no video '0201\.png'"),
        (lambda text: text.replace("0002.png", "cat.png"), r"no video 'cat\.png'"),
        (lambda text: text.replace("0002.png", '0002.png","'), "line 3: expected 4 cells"),
        (lambda text: "", "is no table of interaction: expected .*, but got none"),
    ],
)
def test_rows_that_are_none(run, change, message):
    path = write_tables(run, OFF, BY_NAME["interaction"], lambda _: 3)
    path.write_text(change(path.read_text().replace("\r\n", "\n")))
    with pytest.raises(ValueError, match=message):
        read_scores(run, OFF, BY_NAME["interaction"])


def test_a_run_is_read_from_its_folder(made):
    found = read_run(made.folder)
    assert found.suite == "compbench" and len(found.finished) == 1400
    assert found.settings == made.settings and found.samples == made.samples


def test_a_run_of_the_other_benchmark(tmp_path):
    run = a_run_of_vbench(tmp_path / "run", write_info(tmp_path, rows(1)), videos=1)
    with pytest.raises(ValueError, match="holds a run of vbench, not of compbench"):
        compbench_rows(run)
    with pytest.raises(ValueError, match="holds a run of vbench, not of compbench"):
        write_layout(run, OFF)
