"""The pages of a rating, by jinja2, which escapes all that is put into them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

import stas.studies


@cache
def _templates() -> jinja2.Environment:
    # The report has the looks of those of studies.
    homes = [Path(__file__).parent, Path(stas.studies.__file__).parent]
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([home / "templates" for home in homes]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """A page as text.

    Args:
        template: Of those in `templates/`.
        **values: What it shows.
    """
    return _templates().get_template(template).render(values)
