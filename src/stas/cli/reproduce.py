"""`stas reproduce`: the paper's evaluation from one file to one page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from stas.cli.options import Batch, Device, OffloadName, RayAddress, WorkerCount, read_workers
from stas.cli.say import LOADING, bars, console, fail, loading, notes, show, warn

if TYPE_CHECKING:
    from stas.reproduction.crew import Crew
    from stas.reproduction.stage import Stage
    from stas.workers.job import Report


def reproduce(
    file: Annotated[
        str,
        typer.Argument(
            help="The reproduction's TOML file, or one that ships: paper.toml, bundled.toml."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Its folder. By default reproductions/NAME."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Only this stage; may be repeated."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only the model of this name.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", metavar="", help="Its small form, which shows that all runs."),
    ] = False,
    device: Device = "auto",
    offload: OffloadName = "none",
    workers: WorkerCount = None,
    ray: RayAddress = None,
    batch: Batch = 1,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", metavar="", help="Say how much each stage is, and make nothing."),
    ] = False,
) -> None:
    """Repeat the paper's evaluation, and show it beside the paper's numbers.

    Stages are done one after the other, and the same command goes on where it was stopped. A stage
    that lacks something is left out, and the others go on. The folder gets a report.html.
    """
    shared = read_workers(workers, ray)
    with notes.status(LOADING):
        from stas.reproduction.crew import Crew
        from stas.reproduction.file import load_reproduction
        from stas.reproduction.page import PAGE
        from stas.reproduction.run import choose_stages
        from stas.reproduction.run import reproduce as carry_out
    plan = load_reproduction(file, quick=quick, model=model)
    folder = output or Path("reproductions") / (Path(file).stem + ("-quick" if quick else ""))
    crew = Crew(device=device, offload=offload, workers=shared, batch=batch, loader=loading)
    if dry_run:
        _say_size(choose_stages(plan, folder, only or ()), crew)
        return

    @contextmanager
    def begin(stage: Stage) -> Iterator[Report]:
        notes.print(f"[bold]{escape(stage.model.name)}[/]: {escape(stage.title)}")
        with bars() as report:
            yield report

    def left_out(stage: Stage, lacks: str) -> None:
        warn(f"{stage.name} of {stage.model.name}: {lacks}", "Left out")

    failures = carry_out(plan, folder, crew=crew, only=only or (), begin=begin, left_out=left_out)
    for (of, name), message in failures.items():
        fail(f"{name} of {of}: {message}")
    console.print(escape(str(folder / PAGE)))
    if failures:
        raise typer.Exit(1)


def _say_size(stages: list[Stage], crew: Crew) -> None:
    """Say of each stage how many videos it still makes, and how long that takes on which GPU."""
    from stas.studies.run import seconds_per_video

    seconds: dict[str, dict[str, float]] = {}
    for stage in stages:
        given = seconds.setdefault(stage.model.name, dict(stage.model.seconds))
        if not given:
            with notes.status(f"Timing short videos of {escape(stage.model.name)}"):
                loaded = crew.load(stage.model)
                call = loaded.arguments({**stage.model.arguments, "prompt": stage.plan.prompts[0]})
                given["here"] = seconds_per_video(loaded, call, stage.plan.seed)
    places = list(dict.fromkeys(place for each in seconds.values() for place in each))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "stage", "videos left", *(f"hours, {p}" for p in places), "lacks"):
        table.add_column(escape(heading), justify="left")
    sums = dict.fromkeys(places, 0.0)
    for stage in stages:
        try:
            left, lacks = stage.left, stage.lacks()
        except (OSError, ValueError) as error:
            left, lacks = None, str(error)
        hours = []
        for place in places:
            one = seconds[stage.model.name].get(place)
            if left is None or one is None:
                hours.append("-")
                continue
            sums[place] += left * one
            hours.append(_hours(left * one))
        cells = (stage.model.name, stage.name, "-" if left is None else f"{left:,}", *hours, lacks)
        table.add_row(*map(escape, cells))
    table.add_row("all", "", "", *map(_hours, sums.values()), "")
    show(table)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
