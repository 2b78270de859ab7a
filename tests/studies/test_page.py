"""The report of a comparison, in a real browser where one is installed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stas.measures.measure import Measures, available_names
from stas.media.pictures import side_by_side, strips
from stas.media.video import write_mp4
from stas.method.frames import FrameMap
from stas.pipelines.manifest import frames_record
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import Finished
from stas.studies.compare import Comparison, read_setting
from stas.studies.page import MOST_SHOWN, write_report
from tests.measures.test_measure import shifted


def written(folder, count):
    """A comparison of `count` samples from frames that no model made."""
    samples = [Sample(f"s{number}", f"prompt {number}", number) for number in range(count)]
    result = Comparison(
        folder,
        [read_setting("off"), read_setting("on")],
        samples,
        {"num_frames": 9},
        available_names(),
        model="m",
        measures=Measures(),
    )
    for sample in samples:
        off = shifted(9)
        videos = {"off": off, "on": np.ascontiguousarray(off[::-1])}
        write_mp4(folder / f"{sample.name}.mp4", side_by_side(videos), 8)
        strips(videos).save(folder / f"{sample.name}.png")
        for name, video in videos.items():
            manifest = SimpleNamespace(
                steered=True,
                fps=8,
                dims_text=list,
                frames=frames_record(video),
                device="cpu",
                arguments={},
            )
            metrics = Measures().of(video, FrameMap(4))
            result.finished[sample.name, name] = Finished(manifest, metrics)
    write_report(result)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_many_samples_are_not_all_put_into_the_file(tmp_path):
    page = written(tmp_path, MOST_SHOWN + 2)
    assert page.count("<video") == MOST_SHOWN
    assert "The other 2 are files beside this one." in page
    assert "The pairs, n, are prompts" in page and f"<td>{MOST_SHOWN + 2}</td>" in page


@pytest.mark.parametrize("width", [1200, 390])
def test_the_videos_play_in_a_browser_without_a_network(browser, tmp_path, width):
    written(tmp_path, 2)
    (tmp_path / "alone").mkdir()
    report = (tmp_path / "report.html").rename(tmp_path / "alone/report.html")
    page = browser.new_page(viewport={"width": width, "height": 900})
    heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    asked = []
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.goto(report.as_uri())
    page.click("#play")
    page.wait_for_function("[...document.querySelectorAll('video')].every(v => v.currentTime > 0)")
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#play")
    assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.paused)")
    assert heard == [] and set(asked) <= {"file", "data"}
