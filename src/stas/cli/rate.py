"""`stas rate`: blind preference between the videos of a comparison or study."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from stas.cli.options import UsageError
from stas.cli.say import LOADING, console, notes, show, warn

if TYPE_CHECKING:
    from stas.preference.report import PreferenceReport

PORT = 8765


def rate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of `stas compare`, `stas study` or `stas app`."),
    ],
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN", help="A setting to compare; may be repeated. By default all of them."
        ),
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUESTION",
            help="quality, motion or alignment; may be repeated. By default all three.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", min=1, help="Pairs that each rater is shown. By default all."
        ),
    ] = None,
    repeats: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of them that is shown again, sides swapped; 0.1 by default."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the page; 0 for any that is free.")
    ] = PORT,
    report: Annotated[
        bool, typer.Option("--report", metavar="", help="Say what the votes say.")
    ] = False,
) -> None:
    """Ask people which of two videos they prefer, not saying which is which.

    Serves a page to this machine's browsers until Ctrl-C; votes are kept in the folder, and the
    same command goes on with them. --report writes what they say.
    """
    given = {"settings": run, "questions": question, "count": count, "repeats": repeats}
    given = {name: value for name, value in given.items() if value is not None}
    if report and given:
        raise UsageError("--report is of the votes that are there, so it takes none of the others.")
    with notes.status(LOADING):
        from stas.preference.items import read_rated
        from stas.preference.report import PreferenceReport, write_preference
        from stas.preference.server import RatingServer
        from stas.preference.votes import Rating, Vote, Votes, kept_rating
    kept = kept_rating(folder)
    if run is None and kept is not None:
        run = list(kept.settings)
    with notes.status("Looking at the videos"):
        rated = read_rated(folder, run or ())
    for line in rated.left_out:
        warn(line, "Left out")
    rating = Rating(**({} if kept is None else vars(kept)) | given | {"settings": rated.settings})
    if report:
        answers: list[Vote] = []
        if kept is not None:
            with closing(Votes(rated, rating)) as votes:
                answers = votes.all()
        found = PreferenceReport(rated, rating.questions, answers)
        _say(found)
        console.print(escape(str(write_preference(found))))
        return
    with closing(Votes(rated, rating)) as votes, RatingServer(votes, port) as server:
        pairs = f"Pairs to compare: {len(rated.items)}"
        console.print(f"{pairs}. Open {server.url} in a browser; Ctrl-C ends it.")
        server.serve_forever()


def _say(report: PreferenceReport) -> None:
    """Say what is preferred, as tables."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("question", "first", "second", "for first", "tie", "for second"):
        table.add_column(heading)
    for heading in ("share of second", "sign test p", "difference", "95 % interval", "in words"):
        table.add_column(heading)
    for row in report.preferences:
        counts, found = row.counts, row.difference.found
        table.add_row(
            row.question,
            escape(row.first),
            escape(row.second),
            *map(str, (counts.first, counts.ties, counts.second, row.decided)),
            f"{row.sign_test:.3g}",
            f"{found.difference:+.3g}" if found else "-",
            row.difference.interval,
            escape(row.words),
        )
    show(table)
    for place in report.strengths:
        console.print(
            f"{place.question}: {escape(place.setting)} has the log strength {place.short} "
            f"({place.interval})"
        )
    for each in report.agreements:
        alpha = "-" if each.alpha != each.alpha else f"{each.alpha:.2f}"
        console.print(
            f"{each.question}: raters {each.raters}, alpha {alpha}, agree with each other "
            f"{each.others}, with themselves {each.own}, left {each.left}"
        )
