"""The page in Chromium, by keyboard alone, against the command in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from statistics import median
from threading import Thread

import pytest

from stas.preference.items import read_rated
from stas.preference.report import PreferenceReport
from stas.preference.votes import Votes, kept_rating
from tests.preference.made import make

pytestmark = pytest.mark.slow
# What of a frame that is shown can be told: how bright each side is. While a video seeks, as it
# does when it begins again, it has no picture.
BRIGHT = """async () => {
  while (videos.some(each => each.seeking || each.readyState < each.HAVE_CURRENT_DATA)) {
    await new Promise(requestAnimationFrame);
  }
  return videos.map(video => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.reduce((sum, value) => sum + value, 0) / pixels.length;
  });
}"""
# The times of both videos, at each picture until they have begun again twice.
TIMES = """() => new Promise(done => {
  const seen = [];
  let begun = 0;
  const look = () => {
    seen.push(videos.map(video => video.currentTime));
    if (seen.length > 1 && seen.at(-1)[0] < seen.at(-2)[0]) begun++;
    begun < 2 ? requestAnimationFrame(look) : done(seen);
  };
  requestAnimationFrame(look);
})"""
# One is put ahead by 0.3 s: how far it still is when the other comes to 0.7 s. A busy machine may
# leave the page no picture in between, so the best of some plays counts.
LEVELLED = """async () => {
  const apart = [];
  while (apart.length < 8 && !(Math.min(...apart) < 0.05)) {
    await together(0, true);
    videos[0].currentTime = videos[1].currentTime + 0.3;
    while (videos[1].currentTime < 0.7) await new Promise(requestAnimationFrame);
    apart.push(Math.abs(videos[0].currentTime - videos[1].currentTime));
  }
  return Math.min(...apart);
}"""
STATE = """() => [document.getElementById("question").textContent,
  document.getElementById("left").dataset.key, document.getElementById("progress").value,
  document.getElementById("end").hidden]"""


@contextmanager
def served(folder, port=0):
    """`stas rate`: its process and address."""
    command = [sys.executable, "-m", "stas", "rate", str(folder), "--repeats", "0.5"]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        line = process.stdout.readline()
        yield process, re.search(r"http://\S+/", line)[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def opened(browser, url, name):
    """A page of a rater who has typed a name, and the addresses that it asked for."""
    page = browser.new_context().new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(url)
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    ready(page)
    return page, asked


def ready(page):
    page.wait_for_function(
        "() => !busy && (!document.getElementById('rating').hidden"
        " || !document.getElementById('end').hidden)"
    )


def answer(page, key):
    """Presses a key and waits for what comes next."""
    before = page.evaluate(STATE)
    page.keyboard.press(key)
    page.wait_for_function(
        "before => JSON.stringify((" + STATE + ")()) !== JSON.stringify(before)", arg=before
    )
    ready(page)


def prefer_brighter(page):
    left, right = page.evaluate(BRIGHT)
    assert abs(left - right) > 10
    answer(page, "ArrowLeft" if left > right else "ArrowRight")


def ended(page):
    return page.locator("#end").is_visible()


def said(folder):
    rated, rating = read_rated(folder), kept_rating(folder)
    votes = Votes(rated, rating)
    found = PreferenceReport(rated, rating.questions, votes.all())
    votes.close()
    return found


def test_a_whole_session_of_two_raters_with_a_reload_and_a_kill(browser, tmp_path):
    folder = make(tmp_path / "c").folder
    with served(folder) as (process, url):
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        ann, asked = opened(browser, url, "Ann")
        bob, _ = opened(browser, url, "Bob & co")
        for _ in range(4):
            prefer_brighter(ann)
            answer(bob, "ArrowDown")
        state = ann.evaluate(STATE)
        ann.reload()
        ready(ann)
        assert ann.evaluate(STATE) == state  # the same pair and question
        prefer_brighter(ann)
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        process.wait()
        ann.keyboard.press("ArrowLeft")
        ann.wait_for_function("() => message.textContent.includes('has it been stopped?')")
    with served(folder, port):
        # The page is as it was and goes on by itself.
        for page in (ann, bob):
            while not ended(page):
                prefer_brighter(page) if page is ann else answer(page, "ArrowDown")
        assert not ann.locator("#message").inner_text()
        assert all(address.startswith((url, f"blob:{url}")) for address in asked)
        assert not any(word in " ".join(asked) for word in ("off", "on.", "videos", "mp4", "seed"))
    found = said(folder)
    assert found.raters == ["Ann", "Bob & co"]
    assert len(found.votes) == 2 * 3 * 5  # 3 questions on 3 pairs and 2 repeats
    mine = PreferenceReport(
        found.rated, found.questions, [vote for vote in found.votes if vote.rater == "Ann"]
    )
    for each in mine.preferences:
        assert (each.counts.first, each.counts.ties, each.counts.second) == (0, 0, 3)
    for each in mine.agreements:
        assert (each.own.successes, each.own.trials) == (2, 2)
        # Each repeat is swapped, so two of five at least are on the left, and two on the right.
        assert each.left.trials == 5 and each.left.successes in (2, 3)
    assert all(vote.preferred is None for vote in found.votes if vote.rater != "Ann")


def test_both_videos_play_in_step_and_the_keys_do_what_the_page_says(browser, tmp_path):
    folder = make(tmp_path / "c", seeds=range(3)).folder
    with served(folder) as (_, url):
        page, _ = opened(browser, url, "ann")
        times = page.evaluate(TIMES)
        # Within one of 8 frames a second of each other; 0.3 s is the distance when nothing levels.
        assert median(abs(a - b) for a, b in times) < 1 / 8
        assert page.evaluate(LEVELLED) < 0.05
        page.keyboard.press(" ")
        page.wait_for_function("() => videos.every(each => each.paused)")
        stopped = page.evaluate("() => videos.map(each => each.currentTime)")
        assert abs(stopped[0] - stopped[1]) < 0.01
        page.keyboard.press("r")
        page.wait_for_function("() => videos.every(each => !each.paused)")
        # Back, and another answer in place of the first.
        answer(page, "ArrowLeft")
        answer(page, "Backspace")
        assert "looks better" in page.locator("#question").inner_text()
        answer(page, "ArrowDown")
        for _ in range(2):
            answer(page, "ArrowRight")
        second = page.evaluate(STATE)
        answer(page, "Backspace")
        assert page.evaluate(STATE)[1] != second[1]  # the pair before
        answer(page, "ArrowRight")
        # A key that is held down is one answer.
        for _ in range(3):
            page.keyboard.down("ArrowLeft")
        ready(page)
        page.wait_for_function("() => asked === 1")
        page.keyboard.up("ArrowLeft")
    votes = said(folder).votes
    assert len(votes) == 4
    assert [vote.preferred for vote in votes if vote.question == "quality"].count(None) == 1


def test_no_other_page_can_vote_or_look(browser, tmp_path):
    folder = make(tmp_path / "c").folder

    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_):
            pass

    other = HTTPServer(("127.0.0.1", 0), Foreign)
    Thread(target=other.serve_forever, daemon=True).start()
    with served(folder) as (_, url):
        page, _ = opened(browser, url, "ann")
        key = page.evaluate("() => showings[0].key")
        token = page.evaluate("() => showings[0].videos[0]")
        foreign = browser.new_context().new_page()
        foreign.goto(f"http://127.0.0.1:{other.server_address[1]}/")
        vote = """([url, key, mode, kind]) => fetch(url + "vote", {method: "POST", mode,
          headers: {"Content-Type": kind}, body: JSON.stringify(
            {rater: "ann", key, question: "quality", choice: "left"})}).then(() => 1, () => 0)"""
        foreign.evaluate(vote, [url, key, "no-cors", "text/plain"])
        foreign.evaluate(vote, [url, key, "cors", "application/json"])
        look = "url => fetch(url, {mode: 'no-cors'}).then(() => 1, () => 0)"
        assert foreign.evaluate(look, f"{url}video/{token}?rater=ann") == 0
        # A name elsewhere that was made to lead here.
        port = url.rsplit(":", 1)[1]
        rebound = foreign.goto(f"http://evil.example:{port}")
        assert rebound.status == 403 and "This page is at" in foreign.content()
        assert kept_rating(folder) is None  # there is no vote
        answer(page, "ArrowLeft")  # the page itself can
    assert len(said(folder).votes) == 1
    other.shutdown()
    other.server_close()


def test_a_session_that_can_not_be_loaded_is_said(browser, tmp_path):
    folder = make(tmp_path / "c").folder
    with served(folder) as (_, url):
        page = browser.new_context().new_page()
        page.goto(f"{url}?rater={'x' * 41}")
        page.wait_for_function("() => message.textContent.includes('1 to 40 letters')")
        page.goto(url)
        page.keyboard.type("ann")
        for path in (folder / "videos").glob("*.mp4"):
            path.rename(path.with_suffix(".gone"))
        page.keyboard.press("Enter")
        page.wait_for_function("() => message.textContent.includes('That failed')")
        page.keyboard.press("ArrowLeft")  # of a pair that isn't there
        page.wait_for_function("() => !busy && message.textContent.includes('That failed')")
        for path in (folder / "videos").glob("*.gone"):
            path.rename(path.with_suffix(".mp4"))
        answer(page, "ArrowLeft")  # which loads it
        answer(page, "ArrowLeft")
    assert len(said(folder).votes) == 1
