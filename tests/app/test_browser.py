"""The app in Chromium, against the command in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from stas.app.settings import Settings

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
QUICK = Settings(prompt="a red circle", steps=2, frames=5, width=64, height=64)
SLOW = Settings(prompt="a blue square", steps=900, frames=5, width=64, height=64)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The process, its address and its folder."""
    folder = tmp_path_factory.mktemp("app") / "made"
    command = [sys.executable, "-m", "stas", "app", "--no-open", "--port", "0", "-o", str(folder)]
    process = subprocess.Popen(
        [*command, "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        url = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        yield process, url, folder
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def opened(browser, url, settings, **options):
    """A page filled by a link, and what it asked for and what went wrong."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(30_000)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{url}/?{settings.to_query()}")
    shows(page, settings.prompt)
    return page, asked, errors


def shows(page, prompt):
    field = page.get_by_label("Prompt", exact=True)
    sync_api.expect(field).to_have_value(prompt, timeout=90_000)


def says(page, pattern):
    field = page.get_by_label("Progress")
    sync_api.expect(field).to_have_value(re.compile(pattern), timeout=120_000)


def told(page, text):
    sync_api.expect(page.locator("body")).to_contain_text(text, timeout=60_000)


def press(page, name):
    page.get_by_role("button", name=name, exact=True).press("Enter")


def test_a_pair_its_maps_and_its_forms(app, browser):
    process, url, folder = app
    phone = {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}}
    page, asked, errors = opened(browser, url, QUICK, **phone)
    press(page, "Make")
    says(page, "^Finished")
    page.wait_for_function("() => document.querySelector('video')?.readyState > 1")
    assert {path.name for path in folder.glob("*-maps/*.png")} >= {"steps.png", "ratios.png"}
    page.get_by_role("button", name=re.compile("^Massive activations")).click()
    sync_api.expect(page.locator("img[src*='steps']").first).to_be_visible(timeout=60_000)
    page.get_by_role("button", name=re.compile("^These settings")).click()
    press(page, "Link, Python, command")
    link = page.get_by_label("Link", exact=True)
    sync_api.expect(link).to_have_value(re.compile("steps=2"), timeout=60_000)
    # A manifest fills the form of a fresh page.
    other, *_ = opened(browser, url, SLOW)
    other.get_by_role("button", name=re.compile("^These settings")).click()
    other.set_input_files("input[type=file]", next(folder.glob("*-on.json")))
    shows(other, QUICK.prompt)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert errors == []
    # Nothing of the page and nothing of the process goes anywhere but here.
    assert all(each.startswith((url, "data:", "blob:")) for each in asked), asked
    served = [each for each in asked if "/file=" in each]
    assert served and all("/stas-app-" in each for each in served), served
    connected = psutil.Process(process.pid).net_connections()
    assert connected and all(each.laddr.ip == "127.0.0.1" for each in connected)


def test_a_cancel_leaves_nothing_and_two_tabs_take_turns(app, browser):
    _, url, folder = app
    before = set(folder.rglob("*"))
    slow, *_ = opened(browser, url, SLOW)
    quick, *_ = opened(browser, url, QUICK)
    press(slow, "Make")
    says(slow, "off: step [1-9]")
    press(quick, "Make")
    says(quick, "^Waiting for 1 before this one")
    press(slow, "Cancel")
    says(slow, "^Cancelled. Nothing was written")
    says(quick, "^Finished")
    made = {path.name for path in set(folder.rglob("*")) - before}
    assert sum(name.endswith("-both.mp4") for name in made) == 1


def test_a_reload_loses_nothing(app, browser):
    _, url, folder = app
    page, *_ = opened(browser, url, replace(QUICK, steps=100))
    before = len(list(folder.glob("*-both.mp4")))
    press(page, "Make")
    says(page, "step")
    page.reload()
    shows(page, QUICK.prompt)
    for _ in range(600):
        if len(list(folder.glob("*-both.mp4"))) > before:
            break
        page.wait_for_timeout(100)
    assert len(list(folder.glob("*-both.mp4"))) == before + 1


def test_what_was_made_is_rated_blind(app, browser):
    _, url, folder = app
    page, *_ = opened(browser, url, QUICK, color_scheme="light")
    press(page, "Make")
    says(page, "^Finished")
    press(page, "Rate what was made, blind")
    link = page.get_by_role("link", name=re.compile("127.0.0.1"))
    page.goto(link.get_attribute("href"))
    page.get_by_role("textbox").fill("ann")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('video').length == 2")
    assert (folder / "votes.sqlite").exists()


def test_a_bad_model_is_said_and_the_old_one_stays(app, browser, tmp_path):
    _, url, _ = app
    page, *_ = opened(browser, url, QUICK)
    page.get_by_label(re.compile("Model: bundled")).fill(str(tmp_path / "none"))
    press(page, "Make")
    told(page, "There is no folder")
    says(page, "^Failed: There is no folder")
    page.get_by_label(re.compile("Model: bundled")).fill("bundled")
    press(page, "Make")
    says(page, "^Finished")


def test_scales_beneath_a_slider(app, browser):
    _, url, _ = app
    page, *_ = opened(browser, url, QUICK)
    page.get_by_role("button", name=re.compile("^Over the scale")).click()
    scales = page.get_by_label(re.compile("Scales: one"))
    for _ in range(20):  # what was folded is drawn anew when it opens, and forgets
        scales.fill("1, 3")
        page.wait_for_timeout(1000)
        if scales.input_value() == "1, 3":
            break
    press(page, "Make them")
    says(page, "^Finished")
    told(page, "Frames at scale 1")
    first = page.locator("img[src*='scale-1']")
    sync_api.expect(first).to_be_visible(timeout=60_000)
    page.get_by_label(re.compile("Which of them")).last.press("ArrowRight")
    told(page, "Frames at scale 3")
    page.get_by_label(re.compile("Scales: one")).fill("1, x")
    press(page, "Make them")
    told(page, "Expected two scales or more")
