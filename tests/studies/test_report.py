"""The pages of comparisons and studies, as a browser reads them: no name or prompt becomes HTML."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stas
from stas.measures.measure import Measures
from stas.media.figure import Picture
from stas.method.config import STASConfig
from stas.studies.differences import Difference, paired_difference
from stas.studies.html import TEMPLATES, drawn, write_page
from stas.studies.page import verdict, write_report, write_study_report
from stas.studies.plan import Setting, Study

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # matplotlib's font has no fox
SMALL = {"num_frames": 5, "num_inference_steps": 2, "height": 32, "width": 32}
PROMPT = """a <b>red</b> "circle" & a 'fox' 🦊 {{ 7 * 7 }} --> </script>"""
NAME = """<i title="x">&amp; it's 🦊"""


class Page(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag, attribute):
        return [values[attribute] for name, values in self.tags if name == tag]


@pytest.fixture(scope="module")
def loaded():
    return stas.load_pipeline(device="cpu")


@pytest.fixture(scope="module")
def comparison(loaded, tmp_path_factory):
    return stas.compare(
        loaded,
        [PROMPT, "a blue square"],
        tmp_path_factory.mktemp("comparison") / "c",
        settings=["off", Setting(NAME, STASConfig(scale=2.0).to_dict())],
        arguments=SMALL,
        measures=Measures(names=("pixel difference",)),
    )


@pytest.fixture(scope="module")
def study(loaded, tmp_path_factory):
    wanted = Study(
        name=NAME,
        prompts=(PROMPT,),
        axes={"regions": (("first_frame",), ("first_frame", "boundary"))},
        arguments=SMALL,
        measures=("pixel difference",),
    )
    return stas.run_study(wanted, tmp_path_factory.mktemp("study") / "s", pipeline=loaded)


def read(run):
    return Page((run.folder / "report.html").read_text(encoding="utf-8"))


def test_names_and_prompts_of_a_comparison_are_text(comparison):
    page = read(comparison)
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert page.all("video", "aria-label") == [f"{PROMPT}, seed 0", "a blue square, seed 0"]
    assert page.all("img", "alt")[0] == f"Frames of each run: {PROMPT}, seed 0"
    assert f"{PROMPT} and 1 more" in page.texts  # its title
    assert f"off | {NAME} of bundled, 2 steps." in page.text and f"{PROMPT}, seed 0" in page.text
    assert page.texts.count(NAME) == 1 + len(comparison.differences())  # settings, and each row
    assert "2 pairs can't tell whether steering changes anything" in page.text
    assert "--" not in verdict(comparison.differences())  # it is read in Python too


def test_names_and_values_of_a_study_are_text(study):
    page = read(study)
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert page.texts.count(NAME) == 2  # its title and its heading
    write_study_report(replace(study, finished=dict(list(study.finished.items())[:1])))
    assert "Not finished: 2 videos are missing." in read(study).text
    write_study_report(study)


def test_a_page_needs_no_other_file(comparison, study):
    for run, videos, pictures, plots in ((comparison, 2, 2, 1), (study, 3, 1, 1)):
        page = read(run)
        sources = page.all("img", "src") + page.all("video", "src")
        assert len(sources) == videos + pictures
        assert all(source.startswith(("data:image/png;", "data:video/mp4;")) for source in sources)
        assert not {"link", "a", "iframe"} & {tag for tag, _ in page.tags}
        assert [tag for tag, _ in page.tags].count("svg") == plots
        addresses = [v for _, values in page.tags for k, v in values.items() if k.endswith("href")]
        assert addresses and all(address.startswith("#") for address in addresses)


def test_a_large_video_lies_beside_the_page(study, monkeypatch):
    monkeypatch.setattr("stas.studies.html.SMALL", 100)
    write_study_report(study)
    sources = read(study).all("video", "src")
    assert len(sources) == 3 and all((study.folder / unquote(each)).is_file() for each in sources)
    monkeypatch.undo()
    write_study_report(study)


def test_a_table_that_can_tell_is_no_sentence():
    found = paired_difference([0.0] * 6, [1, 2, 1, 2, 1, 2])
    rows = [Difference("motion", "on", 0.0, 1.5, found), Difference("ssim", "on", 0, 0, None)]
    assert verdict(rows) == ""
    assert verdict(rows[1:]).startswith("0 pairs can't tell")


def test_plots_follow_the_colours_of_the_page():
    figure = Picture(2)
    figure.subplots().set_title("--> <script>")
    svg = drawn(figure, '"quoted" & <b>')
    assert "currentColor" in svg and "#000000" not in svg and "#ffffff" not in svg
    page = Page(f"<main>{svg}</main>")
    assert page.all("svg", "aria-label") == ['"quoted" & <b>']
    assert not {"script", "b", "metadata"} & {tag for tag, _ in page.tags}


@settings(max_examples=20)
@given(first=st.integers(-50, 50), span=st.integers(1, 200))
def test_ticks_are_round_numbers(first, span):
    figure = Picture(2)
    axes = figure.subplots()
    axes.plot([first, first + span], [0.0, 0.175])
    figure.draw_without_rendering()
    for axis in (axes.xaxis, axes.yaxis):
        places = axis.get_majorticklocs()
        step = float(f"{places[1] - places[0]:.3g}")
        assert float(f"{step:e}".partition("e")[0]) in (1, 2, 5)


def test_the_table_of_a_comparison_is_the_csv(comparison):
    rows = comparison.differences()
    page = read(comparison)
    for row in rows:
        cells = (f"{row.before:.4g}", f"{row.after:.4g}", f"{row.found.difference:+.3g}")
        assert " ".join([row.measure, NAME, *cells, row.interval, "2", row.words]) in page.text
    assert len(rows) == len((comparison.folder / "differences.csv").read_text().splitlines()) - 1


def test_an_early_stop_is_said(comparison):
    first = comparison.samples[0].name
    part = {key: found for key, found in comparison.finished.items() if key[0] == first}
    write_report(replace(comparison, finished=part))
    assert "Stopped early: 1 of 2 samples are here." in read(comparison).text
    write_report(comparison)
    assert "Stopped early" not in read(comparison).text


def test_a_template_that_lacks_a_value_writes_nothing(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="title"):
        write_page(tmp_path / "report.html", TEMPLATES / "base.html")
    assert list(tmp_path.iterdir()) == []
