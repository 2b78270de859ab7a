"""What can be rated, what is refused, and the order and sides in which raters see it."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stas.preference.items import GAP, Item, read_rated, showings
from stas.studies.compare import compare
from stas.studies.plan import Study
from stas.studies.study import run_study
from tests.preference.made import OFF, ON, PROMPTS, STRONG, make

SIZE = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
ITEMS = [Item(f"sample-{number}", "off", "on") for number in range(40)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("items") / "c", (OFF, ON, STRONG))


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "c")


def test_every_two_settings_of_every_sample_are_a_pair(finished):
    rated = read_rated(finished.folder)
    assert rated.settings == ("off", "on", "strong") and rated.left_out == ()
    assert [sample.prompt for sample in rated.samples] == list(PROMPTS)
    assert len(rated.items) == 3 * 3
    for (sample, setting), path in rated.videos.items():
        assert path.name == f"{sample}-{setting}.mp4" and path.is_file()
    two = read_rated(finished.folder, ["strong", "off"])
    assert two.settings == ("off", "strong") and len(two.items) == 3


def test_real_comparisons_and_studies_are_read(tmp_path):
    # Steps of one in two are steered: dims of a class are numbers in the manifests.
    compare("bundled", "a red circle", tmp_path / "c", arguments=SIZE)
    rated = read_rated(tmp_path / "c")
    assert rated.settings == ("off", "on") and len(rated.items) == 1
    study = Study(
        name="s",
        prompts=("a red circle", "a blue square"),
        axes={"scale": (2.0,), "dims": ("weak",)},
        arguments=SIZE,
        measures=("pixel difference",),
        recorded=1,
    )
    run_study(study, tmp_path / "s")
    rated = read_rated(tmp_path / "s")
    assert len(rated.settings) == 3 and [s.seed for s in rated.samples] == [0, 1]


def test_what_is_not_finished_is_left_out_and_said(folder):
    videos = folder / "videos"
    (videos / "a-red-circle-b-seed0-on.json").unlink()  # not finished
    broken = videos / "a-green-square-seed0-off.mp4"
    broken.write_bytes(broken.read_bytes()[:700])
    (videos / "holiday.mp4").write_bytes(b"")
    rated = read_rated(folder)
    assert [sample.prompt for sample in rated.samples] == ["a blue triangle"]
    assert rated.left_out == (
        "a-red-circle-b-seed0: not finished, or broken: a-red-circle-b-seed0-on.mp4",
        "a-green-square-seed0: not finished, or broken: a-green-square-seed0-off.mp4",
        "not of this comparison: holiday.mp4 in videos",
    )
    for path in videos.glob("*.json"):
        path.unlink()
    with pytest.raises(ValueError, match=r"No sample .* has a whole video of each of off, on"):
        read_rated(folder)


def swap(folder, one, other, kinds):
    for kind in kinds:
        paths = [folder / f"{name}{kind}" for name in (one, other)]
        paths[0].rename(folder / "third")
        paths[1].rename(paths[0])
        (folder / "third").rename(paths[1])


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("a-green-square-seed0-off", "a-green-square-seed0-on", "another steering"),
        ("a-green-square-seed0-on", "a-green-square-seed0-strong", "another steering"),
        ("a-green-square-seed0-off", "a-blue-triangle-seed0-off", "another prompt"),
    ],
)
def test_renamed_videos_are_refused(folder, one, other, message):
    swap(folder / "videos", one, other, (".mp4", ".mkv", ".json", ".metrics.json"))
    with pytest.raises(ValueError, match=f"{message}.*renamed or come from another run"):
        read_rated(folder)


def test_an_mp4_that_shows_another_setting_is_refused(folder):
    swap(folder / "videos", "a-green-square-seed0-off", "a-green-square-seed0-on", (".mp4",))
    with pytest.raises(ValueError, match="does not show off, but on: files were renamed"):
        read_rated(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(["nothing"], "no run 'nothing'"), (["on"], "Two runs at least are compared")],
)
def test_settings_that_are_not_there_or_too_few(finished, settings, message):
    with pytest.raises(ValueError, match=message):
        read_rated(finished.folder, settings)


def test_pairs_that_are_equal_in_every_pixel_are_no_pairs(tmp_path):
    run = make(tmp_path / "c", (OFF, ON))
    for sample in run.samples:
        off, on = run.files(0, sample), run.files(1, sample)
        record = json.loads(on.path(".json").read_text())
        record["frames"] = json.loads(off.path(".json").read_text())["frames"]
        on.path(".json").write_text(json.dumps(record))
        for kind in (".mp4", ".mkv"):
            shutil.copy(off.path(kind), on.path(kind))
    with pytest.raises(ValueError, match=r"No two videos of a sample .* differ in any pixel"):
        read_rated(tmp_path / "c")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "stas.comparison/2"}', "[" * 9999])
def test_a_broken_record_is_named(folder, text):
    (folder / "comparison.json").write_text(text)
    with pytest.raises(ValueError, match=r"comparison\.json is no record of a comparison"):
        read_rated(folder)


def test_no_run_at_all(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="holds no comparison, no study and no pair"):
        read_rated(tmp_path)


@given(
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 50)),
    st.floats(0, 1),
    st.text(max_size=5),
)
def test_each_pair_is_shown_once_and_repeats_come_later_swapped(number, count, repeats, rater):
    items = ITEMS[:number]
    shown = showings(items, rater, "secret", count=count, repeats=repeats)
    first = [each for each in shown if not each.repeat]
    again = [each for each in shown if each.repeat]
    assert len({each.item for each in first}) == len(first) == min(number, count or number)
    assert len({each.key for each in shown}) == len(shown)
    assert len(again) == (max(1, round(repeats * len(first))) if repeats else 0)
    places = {(each.item, each.repeat): place for place, each in enumerate(shown)}
    sides = {each.item: (each.left, each.right) for each in first}
    for each in again:
        assert (each.right, each.left) == sides[each.item]
        apart = places[each.item, 1] - places[each.item, 0]
        assert apart > min(GAP, len(first) - len(again))


def test_sides_and_order_are_random_and_each_raters_own():
    sides, firsts = [], set()
    for rater in range(100):
        shown = showings(ITEMS, str(rater), "secret", count=None, repeats=0)
        sides += [each.left == "on" for each in shown]
        firsts.add(shown[0].item)
    # Of 4,000 coins: five standard deviations.
    assert abs(sum(sides) - 2000) < 5 * 31.7
    assert len(firsts) > 30


def test_pairs_that_are_finished_later_change_nothing_of_the_others():
    def sides(items):
        shown = showings(items, "ann", "secret", count=None, repeats=0)
        return {each.item: (each.left, each.key) for each in shown}

    before, after = sides(ITEMS[:10]), sides(ITEMS)
    assert before.items() <= after.items()
