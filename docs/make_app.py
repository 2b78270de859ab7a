"""Make the picture of docs/app.md: the page of `stas app` in Chromium, with a pair that it made.

python -m docs.make_app
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from PIL import Image
from playwright.sync_api import expect, sync_playwright

PICTURE = Path(__file__).parent / "images/app.png"
SETTINGS = "prompt=a+red+circle+moving+right+on+a+blue+background&steps=12"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--width", type=int, default=1100, help="Of the window, in pixels.")
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is needed: apt-get install chromium")
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
        os.environ["GRADIO_TEMP_DIR"] = f"{folder}/copies"
        from stas.app.jobs import Studio
        from stas.app.server import application, listen, serve

        at = listen(0)
        app = application(Studio(Path(folder) / "made", "cpu"), "bundled")
        Thread(target=serve, args=(app, at), daemon=True).start()
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": options.width, "height": 900}, color_scheme=options.scheme
        )
        page.goto(f"http://127.0.0.1:{at.getsockname()[1]}/?{SETTINGS}")
        expect(page.get_by_label("Steps")).to_have_value("12", timeout=90_000)
        page.get_by_role("button", name="Make", exact=True).press("Enter")
        expect(page.get_by_label("Progress")).to_have_value("Finished.", timeout=300_000)
        page.get_by_role("button", name="Massive activations").click()
        page.locator("img[src*='steps']").first.wait_for()
        page.wait_for_timeout(1500)  # pictures fade in
        page.screenshot(path=options.output, full_page=True)
        browser.close()
    with Image.open(options.output) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(options.output, optimize=True)
    print(options.output)


if __name__ == "__main__":
    main()
