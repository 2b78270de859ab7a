"""What the command line says, and its bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from stas.activations.stats import ActivationStats
    from stas.hooks.steer import SteeringHandle
    from stas.pipelines.model import LoadedPipeline
    from stas.pipelines.options import PipelineOptions
    from stas.studies.compare import Comparison
    from stas.studies.study import StudyRun


console = Console(highlight=False, soft_wrap=True)


notes = Console(highlight=False, soft_wrap=True, stderr=True)


class RepeatError(ValueError):
    """A run that a manifest describes could not be repeated."""


def sentence(error: Exception) -> str:
    """What an error says, in one sentence."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


LOADING = "Loading torch and diffusers"  # which takes seconds


@contextmanager
def step_bar(label: str, handle: SteeringHandle | None) -> Iterator[Any]:
    """A bar of denoising steps that says whether the step in work is steered."""
    columns = (
        *([TextColumn(label)] if label else []),
        BarColumn(),
        TextColumn("step {task.completed:.0f} of {task.total:.0f} {task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes) as progress:
        task = progress.add_task("", total=1, state="")

        def report(done: int, total: int) -> None:
            if done >= total:
                state = "decoding"
            elif handle is None or not handle.config.window.contains(done, total):
                state = "plain"
            elif None in handle.dims.values():
                state = "detecting"
            else:
                state = "[green]steered[/]" if any(handle.dims.values()) else "plain"
            progress.update(task, completed=done, total=total or 1, state=state)

        yield report


@contextmanager
def video_bars(**videos: int) -> Iterator[list[Callable[[int, int, int], None]]]:
    """A bar over many videos for each name, all in one display; it shows when it is first told.

    Args:
        **videos: By what they are called, how many.

    Yields:
        For each, what is told (finished videos, finished steps, steps).
    """
    columns = (
        BarColumn(),
        TextColumn("{task.description} {task.fields[video]} of {task.fields[videos]}"),
        TextColumn("step {task.fields[step]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=notes)

    def reporter(what: str, count: int) -> Callable[[int, int, int], None]:
        task = progress.add_task(
            what, start=False, total=None, video=1, videos=count, step=0, visible=False
        )

        def report(number: int, done: int, steps: int) -> None:
            progress.start_task(task)
            progress.update(
                task,
                visible=True,
                total=count * max(1, steps),
                completed=number * steps + done,
                video=number + 1,
                step=f"{done} of {steps}",
            )

        return report

    with progress:
        yield [reporter(what, count) for what, count in videos.items()]


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

        for logging in (diffusers_logging, transformers_logging):
            logging.disable_progress_bar()
            logging.set_verbosity_error()
        resolved = options.resolved()
    if threads and resolved.device == "cpu":
        torch.set_num_threads(threads)
    with notes.status(f"Loading {resolved.model}"):
        return load_pipeline(resolved)


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
        notes.print(
            f"[yellow]Warning:[/] {found.nonfinite} values belong to samples with a NaN or an "
            "infinity and were left out."
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
    """Say what differs, as a table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("measure", "run", "difference", "95 % interval", "n", "in words"):
        table.add_column(heading, justify="right" if heading in ("difference", "n") else "left")
    for row in result.differences():
        difference, pairs = (
            ("-", "0")
            if row.found is None
            else (f"{row.found.difference:+.3g}", str(row.found.pairs))
        )
        cells = (difference, row.interval, pairs)
        table.add_row(row.measure, escape(row.run), *cells, row.words)
    (console if console.is_terminal else Console(width=200)).print(table)
    if result.missing:
        notes.print(
            f"Not measured: {', '.join(result.missing)}. They need pip install 'stas\\[metrics]'."
        )
