"""`stas config`: how to steer, as a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from stas.cli.options import (
    OUTPUT,
    STEERING,
    Blocks,
    Branches,
    ConfigFile,
    Dims,
    Force,
    OpName,
    ReferenceName,
    Regions,
    Scale,
    Start,
    SteeredBoundary,
    Stop,
    UsageError,
    given_fields,
    steering_of,
)
from stas.cli.say import console
from stas.files import made_folder
from stas.method.presets import INTERVENTIONS, preset


def config(
    context: typer.Context,
    config: ConfigFile = None,
    intervention: Annotated[
        str | None,
        typer.Option(
            help="In place of a file, one of the paper's interventions: "
            f"{', '.join(INTERVENTIONS)}.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    dims: Dims = None,
    blocks: Blocks = None,
    op: OpName = None,
    regions: Regions = None,
    boundary: SteeredBoundary = None,
    scale: Scale = None,
    reference: ReferenceName = None,
    start: Start = None,
    stop: Stop = None,
    branches: Branches = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .json file.", rich_help_panel=OUTPUT),
    ] = None,
    force: Force = False,
) -> None:
    """Print how to steer as a STASConfig in JSON, or write it to a file.

    `stas generate --config` and `stas compare --run` read the file, and in Python
    `stas.STASConfig.load`.
    """
    if config is not None and intervention is not None:
        raise UsageError("Give --config or --intervention, and not both.")
    values = given_fields(context)
    made = replace(preset(intervention), **values) if intervention else steering_of(config, values)
    if output is None:
        console.print(made.to_json(), markup=False, end="")
        return
    if output.suffix != ".json":
        raise ValueError(f"A config is a .json file, but got {str(output)!r}.")
    if output.exists() and not force:
        raise FileExistsError(f"{str(output)!r} exists already. Give another -o, or --force.")
    with made_folder(output.parent):
        made.save(output)
    console.print(escape(str(output)))
