"""The site: it builds without a warning, loads nothing from elsewhere, has every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

import stas
from docs.site_hook import relinked
from tests.docs.test_notebooks import NOTEBOOKS, pictures

ROOT = Path(__file__).parent.parent.parent
# Of the menu, beside those that other tests look at.
PAGES = (
    "gallery.html",
    "own-loop.html",
    "recipes.html",
    *(f"notebooks/{path.stem}.html" for path in NOTEBOOKS),
)
LOADS = {"src", "data", "poster", "srcset"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    subprocess.run(
        command, cwd=ROOT, check=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, timeout=300
    )
    return folder


class Loaded(HTMLParser):
    """What a browser fetches by itself to show a page, as tag and address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            link = tag == "link" and name == "href"
            if value and (name in LOADS or link):
                self.found.append((tag, value))


def elsewhere(address: str) -> bool:
    return re.match(r"(https?:)?//", address) is not None


def test_what_a_page_loads_is_seen():
    text = '<link href="//a.b/c.css"><a href="https://a.b">x</a><img src="d.png"><script src="e">'
    found = Loaded(text).found
    assert found == [("link", "//a.b/c.css"), ("img", "d.png"), ("script", "e")]
    assert [address for _, address in found if elsewhere(address)] == ["//a.b/c.css"]


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for tag, address in Loaded(page.read_text(encoding="utf-8")).found:
            assert not elsewhere(address), f"{page.name}: <{tag}> {address}"
    for sheet in site.rglob("*.css"):
        for address in re.findall(r"url\(([^)]+)\)|@import ([^;]+)", sheet.read_text("utf-8")):
            assert not elsewhere("".join(address).strip("\"' ")), sheet


def test_the_api_has_every_public_name_and_nothing_undocumented(site):
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: stas\.(\w+)$", page, re.MULTILINE)) == sorted(stas.__all__)
    html = (site / "api.html").read_text(encoding="utf-8")
    for name in stas.__all__:
        start = html.index(f'id="stas.{name}"')
        heading, following = re.split(r"</h3>", html[start:], maxsplit=1)
        contents = following.split('<h3 id="stas.')[0]
        assert re.search(r"<p>\w", contents), f"{name} has no docstring"
        assert heading


def test_links_out_of_the_folder_are_mended(site):
    html = (site / "bundled-model.html").read_text(encoding="utf-8")
    assert 'href="training.html"' in html
    assert "../benchmarks" not in re.sub(r"<code>.*?</code>", "", html)
    assert 'src="images/off-on.png"' in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[a](docs/app.md#x "say")', '[a](app.md#x "say")'),
        ("[`a`](docs/app.md)", "[`a`](app.md)"),
        ("[a](src/stas/files.py)", "a (`src/stas/files.py`)"),
        ("[a](https://a.b)", "[a](https://a.b)"),
        ("so `[a](docs/app.md)` is it", "so `[a](docs/app.md)` is it"),
        ("```\n[a](docs/app.md)\n```\n[a](docs/app.md)", "```\n[a](docs/app.md)\n```\n[a](app.md)"),
    ],
)
def test_links_are_rewritten_but_not_in_code(text, expected):
    assert relinked(text, "README.md", "index.md") == expected


def test_every_link_leads_to_a_file(site):
    for page in site.rglob("*.html"):
        for address in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|/", address):
                assert (page.parent / address).exists(), f"{page.name}: {address}"


@pytest.mark.parametrize("name", PAGES)
def test_it_has_the_page(site, name):
    assert (site / name).is_file()
    assert f'href="{name}"' in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_shown_as_it_is_kept(site, path):
    html = (site / f"notebooks/{path.stem}.html").read_text(encoding="utf-8")
    for picture in pictures(nbformat.read(path, as_version=4)):
        assert "".join(picture["data"]["image/png"].split()) in "".join(html.split())
