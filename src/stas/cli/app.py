"""`stas app`: the browser app."""

from __future__ import annotations

import os
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from stas.cli.options import Device, Model
from stas.cli.say import LOADING, console, notes


def app(
    model: Model = "bundled",
    device: Device = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of what is made.")] = Path(
        "outputs/app"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the page; 0 for any that is free.")
    ] = 7860,
    show: Annotated[
        bool, typer.Option("--open/--no-open", metavar="", help="Open it in the browser.")
    ] = True,
) -> None:
    """Make videos in the browser, with steering off and on side by side.

    Serves a page to this machine's browsers until Ctrl-C.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{str(output)!r} is a file, but a folder was expected.")
    if find_spec("gradio") is None:
        raise RuntimeError("The app needs the package gradio: pip install 'stas[app]'.")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    with notes.status(LOADING):
        from stas.app.jobs import Studio
        from stas.app.server import application, listen, serve
    # gradio serves all of the folder of its copies, which by default other programs share.
    with listen(port) as at, TemporaryDirectory(prefix="stas-app-") as copies:
        os.environ["GRADIO_TEMP_DIR"] = copies
        url = f"http://127.0.0.1:{at.getsockname()[1]}"
        console.print(f"Open {url} in a browser; Ctrl-C ends it.")
        made = application(Studio(output.resolve(), device), model)
        if show:
            webbrowser.open(url)
        serve(made, at)
