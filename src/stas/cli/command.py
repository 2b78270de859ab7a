"""What every command has: a word on Ctrl-C, --quiet and --verbose."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from stas.cli.say import notes, speak

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        metavar="",
        help="Say results, warnings and errors alone.",
        rich_help_panel="What is said",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        metavar="",
        help="Say what the libraries say too, and where errors come from.",
        rich_help_panel="What is said",
    ),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command that Ctrl-C ends with a word and the shell's exit code for it."""

    @wraps(function)
    def whole(*args: Any, quiet: bool, verbose: bool, **kwargs: Any) -> None:
        speak(quiet=quiet, verbose=verbose)
        try:
            function(*args, **kwargs)
        except (KeyboardInterrupt, typer.Abort):  # the latter at a question, by Ctrl-D too
            notes.print("Stopped. What was finished is kept, and nothing is half-written.")
            raise typer.Exit(130) from None

    # The lines of a paragraph are the source's, and not those of a terminal.
    whole.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(function) or "")
    # typer reads the options from the signature.
    signature = inspect.signature(function, eval_str=True)
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    parameters = [*signature.parameters.values(), *own]
    whole.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return whole
