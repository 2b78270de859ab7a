"""The command line: a thin shell over the library, one file a command group.

torch and diffusers are imported inside the commands, so that `stas --help` answers at once, and
after all that can be checked without them.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from stas import __version__
from stas.checks import StasWarning
from stas.cli.app import app as browser_app
from stas.cli.bench import bench
from stas.cli.command import command
from stas.cli.config import config
from stas.cli.generate import generate
from stas.cli.models import models
from stas.cli.profile import profile
from stas.cli.rate import rate
from stas.cli.record import plot, record
from stas.cli.reproduce import reproduce
from stas.cli.say import RepeatError, console, errors, fail, is_verbose, sentence, warn
from stas.cli.studies import compare, study
from stas.cli.tune import tune

# The base of all usage errors: click's, which newer versions of typer carry inside.
_UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Steer the massive activations of video diffusion transformers (STAS).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; what the user can mend is told in a sentence, not a traceback."""
    warnings.showwarning = _show_warning
    try:
        # Not standalone, so that usage errors are told like all others.
        sys.exit(app(prog_name="stas", standalone_mode=False) or 0)
    except _UsageError as error:
        if message := error.format_message():  # there is none when all that was missing is help
            if "extra argument" in message:
                message += ". Put a prompt of several words in quotes"
            fail(message)
        sys.exit(2)
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        if is_verbose():
            traceback.print_exc()
        fail(sentence(error))
        cause = error.__cause__ if isinstance(error, RepeatError) else error
        names_a_file = isinstance(cause, OSError) and cause.filename is not None
        origin = Path(traceback.extract_tb(cause.__traceback__)[-1].filename) if cause else None
        if not names_a_file and origin and not origin.is_relative_to(Path(__file__).parent.parent):
            errors.print("(--verbose shows where this comes from.)")
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Say what stas warns of; what the libraries beneath warn of is not for users of a command."""
    if issubclass(category, StasWarning) or is_verbose():
        warn(str(message))


def _version(asked: bool) -> None:
    if asked:
        console.print(f"stas {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Say the version."
        ),
    ] = False,
) -> None:
    pass


COMMANDS = (
    generate,
    record,
    plot,
    compare,
    study,
    tune,
    rate,
    browser_app,
    reproduce,
    config,
    models,
)
for function in COMMANDS:
    app.command()(command(function))
app.add_typer(profile, name="profile")
app.add_typer(bench, name="bench")
