"""The page: a form of settings, the pair that was made of them, and the gallery."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from stas.app.jobs import CancelledError, Pair, Studio
from stas.app.settings import Settings
from stas.method.config import BRANCHES, OPS, REFERENCES, REGIONS, STASConfig
from stas.pipelines.manifest import Manifest
from stas.pipelines.sample import MANIFEST

FIELDS: tuple[str, ...] = (
    "prompt",
    "negative_prompt",
    "seed",
    "steps",
    "guidance",
    "width",
    "height",
    "frames",
)
FIELDS += ("fps", "model")
STEERING: tuple[str, ...] = ("dims", "blocks", "op", "regions", "boundary", "scale", "reference")
STEERING += ("start", "stop", "branches")
PROMPT = "a red circle moving right on a blue background"
WHOLE = ("seed", "steps", "width", "height", "frames")
POLL = 0.2  # seconds between looks at a run


def read_form(values: tuple[Any, ...]) -> Settings:
    """The settings of the form's values, in the order of FIELDS and STEERING.

    Raises:
        ValueError: One is out of its range, or no number.
    """
    given = dict(zip(FIELDS + STEERING, values, strict=True))
    call = {name: given[name] for name in FIELDS if given[name] not in (None, "")}
    call |= {name: int(call[name]) for name in WHOLE if name in call}
    steering = {name: given[name] for name in STEERING}
    dims, blocks = str(steering["dims"] or ""), str(steering["blocks"] or "")
    steering["dims"] = tuple(int(word) for word in dims.split(",")) if dims.strip() else None
    if blocks not in ("all", "middle"):
        steering["blocks"] = tuple(int(word) for word in blocks.split(",") if word.strip())
    for name in ("regions", "branches"):
        steering[name] = tuple(steering[name])
    return Settings(**{"prompt": ""} | call, steering=STASConfig(**steering))


def fill_form(settings: Settings) -> list[Any]:
    """The form's values of settings: the other way."""
    steering = settings.steering.to_dict()
    for name in ("dims", "blocks"):
        if isinstance(steering[name], list):
            steering[name] = ",".join(map(str, steering[name]))
    return [getattr(settings, name) for name in FIELDS] + [steering[name] for name in STEERING]


def _form(model: str) -> list[Any]:
    default = STASConfig()
    with gr.Row():
        first: list[Any] = [
            gr.Textbox(PROMPT, label="Prompt", scale=3),
            gr.Textbox(label="Negative prompt", scale=2),
        ]
    with gr.Row():
        first += [gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)]
        for label in ("Steps", "Guidance", "Width", "Height", "Frames", "Fps"):
            first.append(gr.Number(None, label=label, min_width=90, placeholder="auto"))
    first.append(gr.Textbox(model, label="Model: bundled, a folder, or a hub id"))
    with gr.Accordion("Steering", open=False):
        with gr.Row():
            second: list[Any] = [
                gr.Textbox(label="Dims", placeholder="of the profile, else detected"),
                gr.Textbox("middle", label="Blocks: all, middle, or 0,3,-1"),
                gr.Dropdown(list(OPS), value=default.op, label="Op"),
            ]
        second.append(gr.CheckboxGroup(list(REGIONS), value=list(default.regions), label="Regions"))
        with gr.Row():
            second += [
                gr.Slider(0, 0.5, default.boundary, step=0.01, label="Boundary"),
                gr.Slider(0, 3, default.scale, step=0.05, label="Scale"),
                gr.Dropdown(list(REFERENCES), value=default.reference, label="Reference"),
                gr.Slider(0, 1, default.start, step=0.01, label="Window start"),
                gr.Slider(0, 1, default.stop, step=0.01, label="Window stop"),
            ]
        branches = list(default.branches)
        second.append(gr.CheckboxGroup(list(BRANCHES), value=branches, label="Branches"))
    return first + second


def build(studio: Studio, model: str) -> gr.Blocks:
    """The page over a studio; `model` is what its form begins with."""
    running: dict[str | None, threading.Event] = {}

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            settings = read_form(values)
        except (TypeError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        cancelled = running[request.session_hash] = threading.Event()
        now: list[str] = ["Loading the model, or waiting for the video before"]
        ended: list[Pair | BaseException] = []
        begun = time.monotonic()

        def report(step: int, steps: int, word: str) -> None:
            done = step + (steps if word == "on" else 0)
            left = (time.monotonic() - begun) / done * (2 * steps - done) if done else None
            rest = "" if left is None else f", about {left:.0f} s left"
            now[0] = f"Steering {word}: step {step} of {steps}{rest}"

        def work() -> None:
            try:
                ended.append(studio.make(settings, report, cancelled))
            except BaseException as error:  # told in the page, whatever it is
                ended.append(error)

        # A thread of its own: a page that is reloaded doesn't end it, and the gallery has it.
        threading.Thread(target=work, daemon=True).start()
        while not ended:
            yield now[0], gr.skip(), gr.skip(), gr.skip()
            time.sleep(POLL)
        made = ended[0]
        if isinstance(made, CancelledError):
            yield str(made), gr.skip(), gr.skip(), gr.skip()
        elif isinstance(made, BaseException):
            raise gr.Error(str(made), print_exception=False)
        else:
            yield "Finished.", str(made.both), str(made.on.path(MANIFEST)), shown()

    def cancel(request: gr.Request) -> None:
        if request.session_hash in running:
            running[request.session_hash].set()

    def shown() -> list[str]:
        return [str(path) for path in studio.gallery()]

    def forms(request: gr.Request, *values: Any) -> tuple[str, str, str]:
        try:
            settings = read_form(values)
        except (TypeError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        link = f"http://{request.headers['host']}/?{settings.to_query()}"
        return link, settings.to_python(), settings.to_command()

    def from_manifest(path: str) -> list[Any]:
        try:
            return fill_form(Settings.from_manifest(Manifest.load(Path(path))))
        except (OSError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    def from_link(request: gr.Request) -> list[Any]:
        query = {name: value for name, value in request.query_params.items() if name[:2] != "__"}
        if "prompt" not in query:
            # Said outright, for gradio shows an empty number as 0.
            return fill_form(Settings(prompt=PROMPT, model=model))
        try:
            return fill_form(Settings.from_query(query))
        except (TypeError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    page: gr.Blocks
    with gr.Blocks(title="stas", analytics_enabled=False) as page:
        gr.Markdown("# stas\nOne seed, steering off and on, side by side.")
        form = _form(model)
        with gr.Row():
            make = gr.Button("Make", variant="primary")
            stop = gr.Button("Cancel")
        status = gr.Textbox(label="Progress", interactive=False)
        both = gr.Video(label="Off and on, in one video", show_label=False, interactive=False)
        manifest = gr.File(label="Manifest of the steered video", interactive=False)
        with gr.Accordion("These settings elsewhere", open=False):
            say = gr.Button("Link, Python, command")
            told = [gr.Textbox(label="Link"), gr.Code(language="python", label="Python")]
            told.append(gr.Code(language="shell", label="Command, of the steered video"))
            dropped = gr.File(label="Drop a manifest", file_types=[".json"], type="filepath")
        gallery = gr.Gallery(shown, label="Made before", interactive=False, columns=3, height=320)
        make.click(
            run, form, [status, both, manifest, gallery], concurrency_limit=1, concurrency_id="one"
        )
        stop.click(cancel, queue=False)
        say.click(forms, form, told)
        dropped.upload(from_manifest, dropped, form)
        page.load(from_link, None, form)
    return page
