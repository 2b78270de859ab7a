"""`stas tune`: whether any setting beats steering off, and which."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from stas.cli.options import (
    MEASURES,
    MODEL,
    STEERING,
    VIDEO,
    Batch,
    Device,
    Frames,
    Guidance,
    OffloadName,
    OwnMeasures,
    RayAddress,
    Revision,
    Size,
    Steps,
    UsageError,
    WorkerCount,
    call_arguments,
    read_dtype,
    read_workers,
)
from stas.cli.say import LOADING, bars, console, load_for, notes, show
from stas.pipelines.options import PipelineOptions


def tune(
    file: Annotated[
        str | None,
        typer.Argument(
            help="The tune's TOML file, or quick, which ships; options replace what it says."
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", metavar="", help="The same as quick: minutes on a CPU."),
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURE:higher|lower",
            help="The measure that decides, and which way is better.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MEASURE:higher|lower:MARGIN",
            help="A measure that must not get worse by more than its margin; may be repeated.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    measure: OwnMeasures = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=[VALUES]",
            help="A field of STASConfig and its values as in TOML: 'scale=[0.8, 1.2]' or "
            "'blocks=[\"middle\", [3, 4]]'; may be repeated, and all combinations are raced.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="The most videos, those without steering among them.")
    ] = None,
    error: Annotated[
        float | None,
        typer.Option(help="Chance of saying that a setting helps which does not; 0.05 by default."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file of prompts, one a line, each used once; by default the list that "
            "ships.",
            rich_help_panel=VIDEO,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first video.", rich_help_panel=VIDEO)
    ] = None,
    frames: Frames = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    model: Annotated[
        str | None,
        typer.Option(help="The bundled model, a folder or a hub id.", rich_help_panel=MODEL),
    ] = None,
    revision: Revision = None,
    dtype: Annotated[
        Any,
        typer.Option(
            metavar="DTYPE", parser=read_dtype, help="Of the weights.", rich_help_panel=MODEL
        ),
    ] = None,
    device: Device = "auto",
    offload: OffloadName = "none",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run directory. By default runs/NAME."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            metavar="",
            help="Keep what beats off in the model's profile: from then on steer and stas generate "
            "take it where nothing else is said.",
        ),
    ] = False,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    batch: Batch = 1,
) -> None:
    """Find whether any steering beats off by a measure, and which, with few videos.

    Settings are raced on the same prompts and seeds, weak ones are dropped early, and the best is
    confirmed on prompts that the race never saw. "Nothing beats off" is an answer, with the
    smallest effect that would have been seen. The same command goes on where it was stopped. The
    run directory gets a report.html, evidence.json and, where a setting wins, tuned.json, which
    `stas generate --config` reads.
    """
    if quick and file is not None:
        raise UsageError("Give a file or --quick, and not both.")
    shared = read_workers(workers, ray)
    arguments = call_arguments(frames, size, steps, guidance)
    axes = dict(pairs := [_read_axis(text) for text in axis]) if axis else None
    if axes is not None and len(axes) < len(pairs):
        raise UsageError("An --axis has all its values at once, as in 'scale=[0.8, 1.2]'.")
    with notes.status(LOADING):
        from stas.activations.profiles import filed_under, keep_steering, profiles_of
        from stas.measures.measure import load_measure
        from stas.tuning.page import interval_text, rows
        from stas.tuning.plan import load_tune, tune_of
        from stas.tuning.run import TUNED, open_tune, run_tune, tuned
    changes: dict[str, Any] = {
        "objective": objective,
        "guards": guard,
        "own_measures": measure,
        "axes": axes,
        "budget": budget,
        "error": error,
        "prompts": None if prompts is None else str(prompts.resolve()),
        "seed": seed,
        "arguments": {key: value for key, value in arguments.items() if value is not None} or None,
        "model": model,
        "revision": revision,
        "dtype": dtype,
    }
    if (source := "quick" if quick else file) is not None:
        wanted = load_tune(source, **changes)
    else:
        # Nothing but options: all combinations, unless a file says otherwise.
        wanted = tune_of(Path("tune"), {"vary": "all"}, **changes)
    study = wanted.study
    if keep and not profiles_of(filed_under(study.model)):
        raise ValueError(
            f"--keep needs a profile of {study.model!r} to keep it in. Measure it first: stas "
            f"profile --model {study.model}"
        )
    for source in study.own_measures:
        load_measure(source)  # a slip is told before the model is loaded
    run = open_tune(wanted, output)
    notes.print(
        f"{len(wanted.names)} settings, at most {wanted.rules.budget:,} videos"
        + (f", {len(run.finished):,} of them finished." if run.finished else ".")
    )
    options = PipelineOptions(
        model=study.model,
        revision=study.revision,
        device=device,
        dtype=study.dtype,
        offload=offload,
    )
    loaded = load_for(shared, options) if run.race().next_round() else options
    with bars() as report:
        race = run_tune(
            wanted, run.folder, pipeline=loaded, workers=shared, batch=batch, report=report
        )
    decides = wanted.rules.objective
    title = f"{decides.measure}, {decides.better} is better"
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("setting", "stage", "better by", "interval", "n", "how it ended"):
        table.add_column(heading, justify="right" if heading in ("better by", "n") else "left")
    for name, stage, found, end in rows(race):
        cells = (f"{found.mean:+.3g}", interval_text(found), str(found.n))
        table.add_row(escape(name), stage, *cells, escape(end))
    show(table)
    if race.outcome is None:
        run = open_tune(wanted, run.folder)
        run.race()
        console.print(
            f"{len(run.unrated)} pairs wait for votes: stas rate {escape(str(run.folder))}\n"
            "Then the same command goes on."
        )
    else:
        console.print(escape(race.outcome.words))
        if (config := tuned(run, race)) is not None:
            console.print(escape(str(run.folder / TUNED)))
            if keep:
                console.print(escape(str(keep_steering(study.model, config))))
    console.print(escape(str(run.folder / "report.html")))


def _read_axis(text: str) -> tuple[str, Any]:
    """One field and its values, as a line of TOML."""
    try:
        ((name, values),) = tomllib.loads(text).items()
    except ValueError as error:
        raise typer.BadParameter(
            f"expected FIELD=[VALUES] as in TOML, as in 'scale=[0.8, 1.2]', but got {text!r}: "
            f"{error}."
        ) from None
    return name, values
