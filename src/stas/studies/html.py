"""Pages from templates, by jinja2, which escapes all that is put into them."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from stas.files import whole_file

TEMPLATES = Path(__file__).with_name("templates")  # with the base that all pages have
SMALL = 500_000  # bytes of a video within a page that shows many
TYPES = {".mp4": "video/mp4", ".png": "image/png"}


@cache
def _environment(templates: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([templates, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"inside": inside, "beside": beside}
    return environment


def render(template: Path, **values: Any) -> str:
    """A page as text.

    Args:
        template: The file; those beside it and the base of all pages are known to it.
        **values: What it shows.
    """
    return _environment(template.parent).get_template(template.name).render(values)


def write_page(path: Path, template: Path, **values: Any) -> Path:
    """Write a page; the file appears whole or not at all.

    Args:
        path: The file.
        template: See `render`.
        **values: What it shows.
    """
    text = render(template, **values)
    with whole_file(path, alone=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def inside(path: Path) -> str:
    """A file as a data URI."""
    return f"data:{TYPES[path.suffix]};base64,{b64encode(path.read_bytes()).decode()}"


def beside(path: Path, page: Path) -> str:
    """A file as an address in a page: within it if it is small, else relative to its folder."""
    if path.stat().st_size <= SMALL:
        return inside(path)
    return quote(os.path.relpath(path, page.parent).replace(os.sep, "/"))


def drawn(figure: Figure, text: str) -> Markup:
    """A figure as SVG within a page, whose black follows the page's own colour of text.

    Args:
        figure: The figure.
        text: What it shows, for those who don't see it.
    """
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    buffer = StringIO()
    with rc_context({"svg.hashsalt": "stas"}):  # the same figure makes the same page
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor").replace("#ffffff", "none")
    head = Markup('<svg class="curves" role="img" fill="currentColor" aria-label="{}"').format(text)
    return Markup(svg.replace("<svg", head, 1))
