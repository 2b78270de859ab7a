"""`stas bench`: the paper's benchmarks, VBench and T2V-CompBench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from stas.checks import check_fps
from stas.cli.command import command
from stas.cli.options import (
    VIDEO,
    Batch,
    Device,
    DTypeName,
    FirstSeed,
    Fps,
    Frames,
    Guidance,
    Model,
    OffloadName,
    RayAddress,
    Revision,
    Size,
    Steps,
    UsageError,
    WorkerCount,
    call_arguments,
    read_workers,
    refuse_other_options,
)
from stas.cli.say import LOADING, bars, console, fail, load_for, notes, show, warn
from stas.pipelines.options import PipelineOptions
from stas.workers.executors import HERE

if TYPE_CHECKING:
    from stas.studies.differences import Difference

bench = typer.Typer(help="The paper's benchmarks: VBench and T2V-CompBench.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `stas bench make`.")]
Env = Annotated[Path, typer.Option(help="VBench's environment, see `stas bench setup`.")]
Cache = Annotated[
    Path | None,
    typer.Option(help="VBench's models; by default $VBENCH_CACHE_DIR, else ~/.cache/vbench."),
]
Dimensions = Annotated[
    list[str] | None,
    typer.Option(
        "--dimension", metavar="NAME", help="Of VBench; may be repeated. By default all 16."
    ),
]
ENV = Path("vbench-env")


@bench.command()
@command
def setup(
    env: Annotated[Path, typer.Argument(help="The environment's folder.")] = ENV,
    python: Annotated[
        str | None, typer.Option(help="Python 3.10 or 3.11; by default the one that runs stas.")
    ] = None,
    detectron2: Annotated[
        str | None,
        typer.Option(
            metavar="SRC", help="detectron2's source, which four of the dimensions need built."
        ),
    ] = None,
) -> None:
    """Make VBench's environment, about 6 GB, by uv if it is there, else by venv and pip."""
    with notes.status(LOADING):
        from stas.suites.environment import set_up
    set_up(env, python, detectron2)
    console.print(f"{escape(str(env))} is made. stas bench doctor --env {escape(str(env))}")


@bench.command()
@command
def doctor(env: Env = ENV, cache: Cache = None) -> None:
    """Say of each dimension of VBench whether it can be scored, or what is missing.

    Of a file: where it goes, and where it comes from.
    """
    with notes.status(LOADING):
        from stas.suites.environment import Environment
    with notes.status("Asking VBench's environment"):
        found = Environment(env, cache).doctor()
    for name, lacks in found.lacking.items():
        console.print(f"{name}: {'; '.join(lacks) or 'ready'}", markup=False)
    versions = ", ".join(f"{name} {each}" for name, each in found.versions.items() if each)
    console.print(f"{versions}; {'a GPU' if found.cuda else 'no GPU'}", markup=False)
    if not found.ready:
        raise typer.Exit(1)


@bench.command()
@command
def make(
    suite: Annotated[Literal["vbench", "compbench"], typer.Argument(help="vbench or compbench.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the benchmark.")],
    prompts: Annotated[
        str,
        typer.Option(
            help="vbench: plain for its own prompts, or a file with a longer text for each of its "
            "rows; compbench: its folder of prompts.",
            rich_help_panel=VIDEO,
        ),
    ] = "plain",
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="off, on, a named intervention or a STASConfig as JSON; may be repeated, and the "
            "first is what the others are compared with. By default off and on.",
        ),
    ] = None,
    dimension: Dimensions = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Videos of each of VBench's prompts at most; by default as many as it wants.",
            rich_help_panel=VIDEO,
        ),
    ] = None,
    seed: FirstSeed = 0,
    frames: Frames = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    fps: Fps = None,
    env: Env = ENV,
    info: Annotated[
        Path | None,
        typer.Option(help="VBench_full_info.json, where VBench's environment is elsewhere."),
    ] = None,
    model: Model = "bundled",
    revision: Revision = None,
    device: Device = "auto",
    dtype: DTypeName = "auto",
    offload: OffloadName = "none",
    workers: WorkerCount = None,
    ray: RayAddress = None,
    batch: Batch = 1,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", metavar="", help="Say how much it is, and make nothing."),
    ] = False,
) -> None:
    """Make a benchmark's videos, each with a manifest.

    The same command goes on where it was stopped; started on several machines that share the
    folder, it shares the work.
    """
    shared = read_workers(workers, ray)
    arguments = call_arguments(frames, size, steps, guidance)
    if fps is not None:
        check_fps(fps)
    if suite == "compbench" and (dimension or samples or info or prompts == "plain"):
        raise UsageError(
            "compbench takes --prompts DIR, its folder of prompts, and none of --dimension, "
            "--samples and --info."
        )
    with notes.status(LOADING):
        from stas.measures.measure import Measures
        from stas.pipelines.model import LoadedPipeline
        from stas.studies.compare import read_setting
        from stas.studies.run import carry_out
        from stas.suites.compbench import read_samples
        from stas.suites.environment import Environment
        from stas.suites.run import BenchmarkRun, check_settings, size_of
        from stas.suites.vbench import make_samples_of, read_entries, source_record
    settings = check_settings([read_setting(text) for text in run or ("off", "on")])
    if suite == "compbench":
        listed, source = read_samples(Path(prompts), seed)
    else:
        info = info or Environment(env).info
        listed = make_samples_of(
            read_entries(info), prompts, dimensions=dimension, videos=samples, seed=seed
        )
        source = source_record(info, prompts)
    made = BenchmarkRun(
        folder=output,
        settings=settings,
        samples=listed,
        arguments=arguments,
        measured=(),
        fps=fps,
        suite=suite,
        model=model,
        revision=revision,
        source=source,
        info=info,
    )
    made.read()
    notes.print(
        f"{made.videos:,} videos: {len(settings)} settings x {len(listed):,} samples"
        + (f", {len(made.finished):,} of them finished." if made.finished else ".")
    )
    options = PipelineOptions(
        model=model, revision=revision, device=device, dtype=dtype, offload=offload
    )
    if dry_run:
        loaded = load_for(HERE, options)
        assert isinstance(loaded, LoadedPipeline)
        with notes.status("Timing short videos"):
            hours, gigabytes = size_of(made, loaded)
        console.print(
            f"{made.left:,} to make: about {hours:,.2g} hours here, and {gigabytes:,.2g} GB."
        )
        return
    try:
        with bars() as report:
            carry_out(
                made,
                load_for(shared, options),
                Measures(names=()),
                workers=shared,
                batch=batch,
                report=report,
            )
    finally:
        if made.left:
            notes.print(
                f"{len(made.finished):,} of {made.videos:,} videos are finished and kept; the same "
                "command goes on from there."
            )
    console.print(escape(str(output)))


@bench.command()
@command
def score(
    context: typer.Context,
    folder: Folder,
    env: Env = ENV,
    cache: Cache = None,
    dimension: Dimensions = None,
    run: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="A setting; may be repeated. By default all of them."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where VBench's models run.")] = "cuda",
    static: Annotated[
        bool,
        typer.Option(
            help="Whether temporal_flickering is scored by VBench's filter of static videos too."
        ),
    ] = True,
) -> None:
    """Score a benchmark's videos.

    VBench's dimensions are scored one after the other, and what is scored is not scored again. For
    T2V-CompBench the videos are laid out as its scorers want them, and the commands printed.
    """
    with notes.status(LOADING):
        from stas.suites.compbench import commands, write_commands, write_layout
        from stas.suites.environment import Environment
        from stas.suites.run import read_run
        from stas.suites.score import score_run
        from stas.suites.vbench import read_dimensions
    dimensions = read_dimensions(dimension) if dimension else None
    with notes.status("Looking at the videos"):
        made = read_run(folder)
    if made.suite == "compbench":
        refuse_other_options(context, "T2V-CompBench has scorers of its own", "folder", "run")
    settings = [made.setting(name) for name in run] if run else list(made.settings)
    for setting in settings:
        if strays := made.strays(setting):
            warn(
                f"{len(strays)} files in {made.setting_folder(setting)} that are none of the "
                f"benchmark's, as {strays[0]}",
                "Left out",
            )
    if made.suite == "compbench":
        for setting in settings:
            write_layout(made, setting)
            for line in commands(made, setting):
                console.print(line, markup=False)
            notes.print(f"The same as a script: {escape(str(write_commands(made, setting)))}")
        return
    with notes.status("Scoring") as status:
        failed = score_run(
            made,
            Environment(env, cache),
            dimensions=dimensions,
            settings=settings,
            device=device,
            static=static,
            report=lambda what: status.update(f"Scoring {escape(what)}"),
        )
    for line in failed:
        fail(line)
    if failed:
        raise typer.Exit(1)


@bench.command()
@command
def table(folder: Folder) -> None:
    """Say what a benchmark's scores are, and how the settings differ.

    Scores are VBench's own; differences are of videos of the same prompt and seed, with intervals
    by prompt. Without all 16 dimensions there is no total. The folder gets a table.csv.
    """
    with notes.status(LOADING):
        from stas.files import write_table
        from stas.suites.compbench import compbench_rows
        from stas.suites.rows import table_rows
        from stas.suites.run import read_run
        from stas.suites.table import VBenchTable
    with notes.status("Looking at the videos"):
        made = read_run(folder)
    names = [each.name for each in made.settings]
    if made.suite == "compbench":
        rows = compbench_rows(made)
    else:
        found = VBenchTable(made)
        rows = found.rows()
        for setting in made.settings:
            if gaps := found.gaps(setting):
                warn(f"{len(gaps)} of 16 dimensions are not whole.", f"No total of {setting.name}")
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", *names):
        shown.add_column(escape(heading))
    for heading in ("difference", "95 % interval", "n", "in words"):
        shown.add_column(heading)
    for row in rows:
        cells = [escape(row.cells[name]) for name in names]
        for number, each in enumerate(row.differences or [None]):
            head = [row.name, *cells] if number == 0 else ["", *([""] * len(names))]
            shown.add_row(*head, *_difference(each, named=len(names) > 2))
    show(shown)
    path = folder / "table.csv"
    write_table(path, table_rows(rows, names))
    console.print(escape(str(path)))


def _difference(each: Difference | None, *, named: bool) -> list[str]:
    if each is None or each.found is None:
        return ["-", "-", "0", "" if each is None else each.words]
    words = f"{escape(each.run)}: {each.words}" if named else each.words
    return [f"{each.found.difference:+.3g}", each.interval, str(each.found.pairs), words]
