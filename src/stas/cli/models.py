"""`stas models`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def models(
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="The same as JSON, for programs.")
    ] = False,
) -> None:
    """List the transformers that can be steered, and the limits of each."""
    from stas.models.table import MODELS

    rows = [spec.facts() for spec in MODELS.values()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=True)
    # A name must not be cut in two, so class and pipelines share the column that never wraps.
    table.add_column("transformer, pipelines", no_wrap=True)
    table.add_column("verified; limits")
    for row in rows:
        names = [f"[bold]{row['transformer']}[/]", *(f" {name}" for name in row["pipelines"])]
        facts = [", ".join(row["verified"]) or "nothing", *row["limits"]]
        table.add_row("\n".join(names), escape("\n".join(facts)))
    whole_words = Console(highlight=False)
    whole_words.print(table)
    whole_words.print(
        f"{len(rows)} transformer classes. --model takes any checkpoint of these pipelines, as a "
        "folder or a hub id. Verified is what the tests run: the class, a pipeline, with caches, "
        "compiled. To add a class: stas.register_model."
    )
