"""The page of a comparison in Chromium, from disk: its views, by keyboard, in both schemes."""

from __future__ import annotations

import pytest

import stas
from stas.measures.measure import Measures

pytestmark = pytest.mark.slow
# The mean of each canvas' pixels, left and right of the middle.
MEANS = """() => [...document.querySelectorAll("canvas")].map(canvas => {
  const {width, height} = canvas;
  return [0, width / 2].map(from => {
    const data = canvas.getContext("2d").getImageData(from, 0, width / 2, height).data;
    const colours = data.filter((_, place) => place % 4 < 3);
    return colours.reduce((sum, each) => sum + each, 0) / colours.length;
  });
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "c"
    stas.compare(
        "bundled",
        "a red circle moving right on a blue background",
        folder,
        settings=["off", "on", "zero"],
        arguments={"num_frames": 5, "num_inference_steps": 8},
        measures=Measures(names=("pixel difference",)),
    )
    return folder


def test_views_by_keyboard(browser, folder):
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{folder}/report.html")
    page.wait_for_function("() => videos.every(each => each.readyState > 1)")
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert page.locator("canvas").first.is_hidden()
    page.focus("#other")
    page.select_option("#other", "2")  # zero, which spoils the video
    page.select_option("#view", "difference")
    page.wait_for_function(f"() => ({MEANS})()[0][0] > 20")
    page.select_option("#other", "1")  # on, which is much alike
    page.wait_for_function(f"() => ({MEANS})()[0][0] < 20")
    page.select_option("#other", "2")
    page.select_option("#view", "slide")
    means = {}
    for end, key in (("off", "End"), ("zero", "Home")):
        page.focus("#slide input")
        page.keyboard.press(key)
        page.evaluate("() => new Promise(requestAnimationFrame)")
        page.evaluate("() => new Promise(requestAnimationFrame)")
        means[end] = page.evaluate(MEANS)[0]
    assert max(abs(a - b) for a, b in zip(means["off"], means["zero"], strict=True)) > 5
    # A plot is read in either scheme: its text has the page's colour.
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        colours = page.evaluate(
            "() => [document.querySelector('svg.curves'), document.body].map(each =>"
            " getComputedStyle(each)[each.nodeName === 'svg' ? 'fill' : 'color'])"
        )
        assert colours[0] == colours[1]
    page.select_option("#view", "side")
    page.wait_for_function("() => document.querySelector('canvas').hidden")
    assert errors == []
