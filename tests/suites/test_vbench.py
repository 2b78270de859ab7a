"""VBench's list, its videos and its formula."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from stas.suites.vbench import (
    DIMENSIONS,
    INFO,
    make_samples_of,
    read_dimensions,
    read_entries,
    totals,
    videos_of,
)
from tests.suites.made import rows, write_info

# CogVideoX-5B on VBench's leaderboard, in percent and in the order of DIMENSIONS; it has 82.75 or
# 82.76 for quality (rounded down or to the nearest), 77.04 for semantic and 81.61 for total.
PUBLISHED = (
    *(96.23, 96.52, 98.66, 96.92, 70.97, 61.98, 62.90),
    *(85.23, 62.11, 99.40, 82.81, 66.35, 53.20, 24.91, 25.38, 27.59),
)


def published():
    return {name: value / 100 for name, value in zip(DIMENSIONS, PUBLISHED, strict=True)}


def test_the_formula_gives_a_published_row():
    found = totals(published())
    rounded = [round(100 * value, 2) for value in (found.quality, found.semantic, found.total)]
    assert rounded == [82.76, 77.04, 81.61]


@pytest.mark.parametrize("name", DIMENSIONS)
def test_no_total_without_a_dimension(name):
    scores = published()
    del scores[name]
    with pytest.raises(ValueError, match=f"no total without {name}"):
        totals(scores)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1.01, -1.01])
def test_no_total_of_what_is_no_score(wrong):
    with pytest.raises(ValueError, match="scene has the score"):
        totals(published() | {"scene": wrong})


def test_a_similarity_may_be_negative_and_a_share_may_not():
    assert DIMENSIONS["temporal_style"].check(-0.1) == -0.1
    with pytest.raises(ValueError, match="expected 0 to 1"):
        DIMENSIONS["scene"].check(-0.1)


def test_the_table_has_as_many_prompts_as_vbench(tmp_path):
    entries = read_entries(write_info(tmp_path, rows()))
    assert len(entries) == 946
    counts = Counter(name for entry in entries for name in entry.dimensions)
    assert counts == {each.name: each.prompts for each in DIMENSIONS.values()}
    samples = make_samples_of(entries)
    assert len(samples) == len({each.name for each in samples}) == 75 * 25 + 871 * 5
    assert len({each.seed for each in samples}) == len(samples)


TWICE = [
    {"prompt_en": "a fantasy landscape", "dimension": ["scene"]},
    {"prompt_en": "A fantasy landscape", "dimension": ["scene"]},
    {"prompt_en": "the same", "dimension": ["appearance_style"]},
    {"prompt_en": "the same", "dimension": ["overall_consistency"]},
]


def test_prompts_of_one_text_share_videos_and_those_of_another_case_do_not(tmp_path):
    entries = read_entries(write_info(tmp_path, TWICE))
    names = [each.name for each in make_samples_of(entries, videos=1)]
    assert names == ["0000-0", "0001-0", "0002-0"]
    assert videos_of(entries, "overall_consistency", set(names)) == {3: ["0002-0"]}
    # Made from other longer texts they are other videos.
    (tmp_path / "long.txt").write_text("a\nb\nc\nd\n")
    names = [each.name for each in make_samples_of(entries, tmp_path / "long.txt", videos=1)]
    assert names == ["0000-0", "0001-0", "0002-0", "0003-0"]
    assert videos_of(entries, "overall_consistency", set(names)) == {3: ["0003-0"]}
    only = make_samples_of(entries, dimensions=["overall_consistency"], videos=2)
    assert [each.name for each in only] == ["0003-0", "0003-1"]


def test_a_longer_text_is_made_and_the_short_one_scored(tmp_path):
    entries = read_entries(write_info(tmp_path, TWICE))
    (tmp_path / "long.txt").write_text("one, in detail\n2\n3\n4\n")
    sample = make_samples_of(entries, tmp_path / "long.txt")[0]
    assert sample.prompt == "one, in detail" and sample.prompt_file["line"] == 1
    (tmp_path / "long.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="2 lines, but VBench's list has 4 rows"):
        make_samples_of(entries, tmp_path / "long.txt")


def test_unknown_dimensions():
    with pytest.raises(ValueError, match="no dimension 'colour'"):
        read_dimensions(["color", "colour"])
    assert [each.name for each in read_dimensions(["color"])] == ["color"]


@pytest.mark.parametrize(
    "data",
    [
        "[",
        "{}",
        "[]",
        '[{"prompt_en": "a"}]',
        '[{"prompt_en": "", "dimension": ["scene"]}]',
        '[{"prompt_en": "a", "dimension": ["sceen"]}]',
        '[{"prompt_en": "a", "dimension": []}]',
        json.dumps([{"prompt_en": "a", "dimension": ["scene"], "auxiliary_info": 3}]),
    ],
)
def test_another_file_is_no_list(tmp_path, data):
    (tmp_path / INFO).write_text(data)
    with pytest.raises(ValueError, match="is no VBench_full_info"):
        read_entries(tmp_path / INFO)
    with pytest.raises(FileNotFoundError, match="stas bench setup"):
        read_entries(tmp_path / "none.json")
