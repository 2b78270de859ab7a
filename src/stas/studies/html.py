"""Pages from templates, by jinja2, which escapes all that is put into them."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from stas.files import whole_file

TEMPLATES = Path(__file__).with_name("templates")  # with the base that all pages have
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
    environment.globals["inside"] = inside
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
