"""Serving the page to this machine's browsers alone."""

from __future__ import annotations

import socket
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from stas.app.jobs import Studio
from stas.app.page import build
from stas.loopback import ADDRESS, is_own_host, is_own_origin


class OwnRequests:
    """Answers what this machine's browsers ask for, and what the page itself sends."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {
            name.decode(): value.decode("latin-1") for name, value in scope.get("headers", ())
        }
        host, origin = headers.get("host", ""), headers.get("origin")
        sends = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD", None)
        refused = None
        if scope["type"] != "lifespan" and not is_own_host(host):
            refused = PlainTextResponse("Another name than this machine's was asked for.", 421)
        elif (origin is not None or sends) and not is_own_origin(origin, host):
            refused = PlainTextResponse("Requests come from the page itself alone.", 403)
        await (self._app if refused is None else refused)(scope, receive, send)


def application(studio: Studio, model: str) -> FastAPI:
    """The page and what guards it; only files of the studio's folder are served."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(OwnRequests)
    page = build(studio, model).queue()
    # Fonts of the machine: the default theme asks the web for its own.
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    folder = str(studio.folder.resolve())
    gr.mount_gradio_app(
        app, page, path="/", allowed_paths=[folder], theme=theme, ssr_mode=False, footer_links=[]
    )
    return app


def listen(port: int) -> socket.socket:
    """A socket of the loopback address.

    Raises:
        OSError: The port is taken.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise OSError(
            f"Port {port} of {ADDRESS} can't be used: {error.strerror}. Give another --port."
        ) from error


def serve(app: FastAPI, at: socket.socket) -> None:
    """Serve until Ctrl-C."""
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[at])
