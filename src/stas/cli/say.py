"""What the command line says, and its bars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from stas.checks import expect
from stas.workers.job import BEGIN

if TYPE_CHECKING:
    from stas.activations.stats import ActivationStats
    from stas.pipelines.model import LoadedPipeline
    from stas.pipelines.options import PipelineOptions
    from stas.studies.compare import Comparison
    from stas.studies.study import StudyRun
    from stas.workers.executors import Workers
    from stas.workers.job import Progress as JobProgress
    from stas.workers.job import Report


console = Console(highlight=False, soft_wrap=True)


notes = Console(highlight=False, soft_wrap=True, stderr=True)
errors = Console(highlight=False, soft_wrap=True, stderr=True)  # never quiet


def speak(*, quiet: bool, verbose: bool) -> None:
    """How much is said; results always are.

    Args:
        quiet: Neither bars nor what goes on.
        verbose: Also what the libraries beneath say, and where errors come from.

    Raises:
        ValueError: Both.
    """
    expect(not (quiet and verbose), "--quiet and --verbose are opposites: give one")
    notes.quiet = quiet
    logging.getLogger("stas").setLevel(logging.INFO if verbose else logging.NOTSET)
    if verbose:
        logging.basicConfig(level=logging.INFO)


def warn(message: str, head: str = "Warning") -> None:
    """Say what is not as was asked, --quiet or not."""
    errors.print(f"[yellow]{escape(head)}:[/] {escape(message)}")


def fail(message: str) -> None:
    """Say what went wrong, --quiet or not; nothing is raised."""
    errors.print(f"[bold red]Error:[/] {escape(message)}")


def is_verbose() -> bool:
    """Whether --verbose was given."""
    return logging.getLogger("stas").level == logging.INFO


def show(table: Table) -> None:
    """Print a table: as wide as it needs where no terminal would break its lines."""
    (console if console.is_terminal else Console(width=200)).print(table)


class RepeatError(ValueError):
    """A run that a manifest describes could not be repeated."""


def sentence(error: Exception) -> str:
    """What an error says, in one sentence."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def shorten(name: str) -> str:
    """A name that leaves room for a bar beside it: its end tells videos of one list apart."""
    return name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME + 1 :]}"


LONGEST_NAME = 16  # characters
LOADING = "Loading torch and diffusers"  # which takes seconds


@contextmanager
def bars() -> Iterator[Report]:
    """A bar over all videos, where there are several, and one for each that is in work.

    Yields:
        What is told how far all is; the bars show when it is first told.
    """
    columns = (
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # The time left follows the last minutes: videos are slow, and workers come and go.
    display = Progress(*columns, console=notes, speed_estimate_period=600)
    overall = display.add_task("", start=False, total=None, visible=False)
    rows: dict[tuple[str, int], tuple[TaskID, str]] = {}  # by worker, with what it makes

    def report(progress: JobProgress) -> None:
        making = [each for each in progress.working if each.task != BEGIN]
        shares = sum(min(1.0, each.step / max(1, each.steps)) for each in making)
        failed = f", [red]{progress.failed} failed[/]" if progress.failed else ""
        display.start_task(overall)
        display.update(
            overall,
            visible=progress.videos > 1,
            total=progress.videos,
            completed=min(progress.videos, progress.finished + shares),
            description=f"{progress.finished} of {progress.videos} videos{failed}",
        )
        names = {each.worker for each in progress.working}
        for each in progress.working:
            key = each.place, each.pid
            row, task = rows.get(key, (None, ""))
            if row is None:
                row = display.add_task("")
            elif task != each.task:
                display.reset(row)
            rows[key] = row, each.task
            name = f"{each.worker}: " if len(names) > 1 else ""
            label = f"{name}{shorten(each.task)}" if progress.videos > 1 else ""
            step = f"step {each.step} of {each.steps}" if each.steps else "begins"
            display.update(
                row,
                total=each.steps or None,
                completed=each.step,
                description=escape(" ".join(filter(None, (label, step, each.state)))),
            )
        working = {(each.place, each.pid) for each in progress.working}
        for key in [key for key in rows if key not in working and progress.videos > 1]:
            display.remove_task(rows.pop(key)[0])

    with display:
        yield report


def loading(options: PipelineOptions, *, threads: int | None = None) -> LoadedPipeline:
    """Load a pipeline, and say so; the libraries beneath are told to be quiet.

    Args:
        options: Which, and how.
        threads: Of torch on the CPU: they decide the order of additions.
    """
    with notes.status(LOADING):
        import torch
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from stas.pipelines.load import load_pipeline

        for library in (diffusers_logging, transformers_logging):
            library.disable_progress_bar()
            # What they call an error is told by the exception that follows.
            library.set_verbosity(logging.INFO if is_verbose() else logging.CRITICAL)
        resolved = options.resolved()
    if threads and resolved.device == "cpu":
        torch.set_num_threads(threads)
    with notes.status(f"Loading {resolved.model}"):
        return load_pipeline(resolved)


def load_for(workers: Workers, options: PipelineOptions) -> LoadedPipeline | PipelineOptions:
    """A pipeline for this process; how to load it, where workers do."""
    return loading(options) if workers.here else options


def say_findings(stats: ActivationStats) -> None:
    """Say what statistics show, as a table."""
    from stas.activations.massive import find_massive_activations

    found = find_massive_activations(stats)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    headings = ("dim", "ratio", "class", "blocks", "sign", "first", "boundary", "interior")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("class", "blocks") else "right")
    for each in found.findings:
        of = f"{len(each.blocks)} of {len(stats.blocks)}"
        groups = (each.first_frame, each.boundary, each.interior)
        values = (f"{value:.3g}" for value in groups)
        table.add_row(
            str(each.dim),
            f"{each.ratio:.1f}",
            each.dimension_class,
            of,
            f"{each.sign:+.2f}",
            *values,
        )
    console.print(table)
    if found.nonfinite:
        warn(
            f"{found.nonfinite} values belong to samples with a NaN or an infinity and were left "
            "out."
        )


def say_time(loaded: LoadedPipeline, run: StudyRun, call: Any) -> None:
    """Say about how long the videos that are left will take."""
    from stas.studies.run import seconds_per_video

    with notes.status("Timing short videos"):
        seconds = seconds_per_video(loaded, call, run.study.seed)
    if seconds == seconds:  # a number
        notes.print(
            f"{run.left:,} to make, about {_duration(run.left * seconds)} here ({seconds:.1f} s "
            "each, measuring not counted)."
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say_differences(result: Comparison) -> None:
    """Say what differs, as a table; in a sentence where none could tell."""
    from stas.studies.differences import FEWEST_PAIRS
    from stas.studies.page import by_chance, verdict

    rows = result.differences()
    if (said := verdict(rows)) and all(row.steered for row in rows):
        console.print(f"{said} --prompts and --seed 0-{FEWEST_PAIRS - 1} give them.")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("measure", "run", "difference", "95 % interval", "n", "in words"):
        table.add_column(heading, justify="right" if heading in ("difference", "n") else "left")
    for row in rows:
        difference, pairs = (
            ("-", "0")
            if row.found is None
            else (f"{row.found.difference:+.3g}", str(row.found.pairs))
        )
        cells = (difference, row.interval, pairs)
        table.add_row(row.measure, escape(row.run), *cells, row.words)
    show(table)
    notes.print(f"Higher or lower is not better or worse by itself.{by_chance(rows)}")
    if result.missing:
        names = ", ".join(result.missing)
        warn(f"{names}. They need pip install 'stas[metrics]'.", "Not measured")
