"""Make the picture of docs/rating.md: the page of `stas rate` in Chromium, at its last question.

python -m docs.make_rating
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import stas
from stas.preference.items import read_rated
from stas.preference.server import RatingServer
from stas.preference.votes import Rating, Votes

PICTURE = Path(__file__).parent / "images/rating.png"
PROMPT, SEED, STEPS = "a red circle moving right on a blue background", 0, 8
# When both are in the midst of the video and its frame is drawn.
MIDST = "() => videos.every(video => video.currentTime > 0.9 && !video.seeking)"


def photograph(page: Page, url: str) -> None:
    """Answer as a rater until the last question, and take its picture."""
    page.goto(url)
    page.keyboard.type("a rater")
    page.keyboard.press("Enter")
    for question in ("motion", "what the text says"):
        page.wait_for_function("() => !busy && !document.getElementById('rating').hidden")
        page.keyboard.press("ArrowDown")
        page.get_by_text(question).wait_for()
    page.wait_for_function(MIDST)
    page.screenshot(path=PICTURE)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is needed: apt-get install chromium")
    loaded = stas.load_pipeline(device="cpu")
    with TemporaryDirectory() as folder:
        call = {"num_inference_steps": STEPS}
        stas.compare(loaded, PROMPT, folder, settings=("off", "zero"), seeds=[SEED], arguments=call)
        rated = read_rated(Path(folder), ())
        with (
            closing(Votes(rated, Rating(settings=rated.settings, repeats=0))) as votes,
            RatingServer(votes, 0) as server,
            sync_playwright() as driver,
        ):
            Thread(target=server.serve_forever, daemon=True).start()
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            photograph(
                browser.new_page(viewport={"width": 1100, "height": 760}),
                server.url,
            )
            browser.close()
            server.shutdown()
    with Image.open(PICTURE) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(PICTURE, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
