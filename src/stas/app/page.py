"""The page: a form of settings, the pair that was made of them, and the gallery."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import gradio as gr

from stas.activations.profiles import default_steering
from stas.app.jobs import POLL, CancelledError, Report, Studio
from stas.app.rating import RatingPage
from stas.app.settings import Make, Settings
from stas.checks import DType, read_blocks, read_integers
from stas.method.config import BRANCHES, OPS, REFERENCES, REGIONS, STASConfig
from stas.pipelines.manifest import Manifest
from stas.pipelines.sample import MANIFEST, STRIP, VideoFiles
from stas.studies.compare import ON

T = TypeVar("T")

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
FIELDS += ("fps", "model", "dtype", "make")
STEERING: tuple[str, ...] = ("dims", "blocks", "op", "regions", "boundary", "scale", "reference")
STEERING += ("start", "stop", "branches")
# Nothing of a picture is cut off: axes stand at its edges.
WHOLE_PICTURES: dict[str, Any] = {"interactive": False, "columns": 2, "object_fit": "contain"}
WHOLE_PICTURES |= {"height": "auto"}
EXPECTED = (OSError, TypeError, ValueError)
PROMPT = "a red circle moving right on a blue background"
WHOLE = ("seed", "steps", "width", "height", "frames")


def read_form(values: tuple[Any, ...]) -> Settings:
    """The settings of the form's values, in the order of FIELDS and STEERING.

    Raises:
        ValueError: One is out of its range, or no number.
    """
    given = dict(zip(FIELDS + STEERING, values, strict=True))
    call = {name: given[name] for name in FIELDS if given[name] not in (None, "")}
    call |= {name: _read(name, _whole, call[name]) for name in WHOLE if name in call}
    steering = {name: given[name] for name in STEERING}
    steering["dims"] = _read("dims", read_integers, steering["dims"] or None)
    steering["blocks"] = _read("blocks", read_blocks, steering["blocks"])
    for name in ("regions", "branches"):
        steering[name] = tuple(steering[name])
    return Settings(**{"prompt": ""} | call, steering=STASConfig(**steering))


def _read(name: str, read: Callable[[Any], T], value: Any) -> T | None:
    """A field of the form; None stays None."""
    try:
        return None if value is None else read(value)
    except ValueError as error:
        raise ValueError(f"{name.title()}: {error}") from None


def _whole(value: Any) -> int:
    """A whole number, which a browser may give as text or with a point."""
    number = float(value)
    if not number.is_integer():
        raise ValueError(f"expected a whole number, but got {value}.")
    return int(value)


def fill_form(settings: Settings) -> list[Any]:
    """The form's values of settings: the other way."""
    steering = settings.steering.to_dict()
    for name in ("dims", "blocks"):
        if isinstance(steering[name], list):
            steering[name] = ",".join(map(str, steering[name]))
    first = [getattr(settings, name) for name in FIELDS]
    first[FIELDS.index("seed")] = str(settings.seed)  # a browser's numbers end at 2 ** 53
    return first + [steering[name] for name in STEERING]


def _form(model: str) -> list[Any]:
    default = STASConfig()
    with gr.Row():
        first: list[Any] = [
            gr.Textbox(PROMPT, label="Prompt", scale=3),
            gr.Textbox(label="Negative prompt", scale=2),
        ]
    with gr.Row():
        first += [gr.Textbox("0", label="Seed", min_width=90)]
        for label in ("Steps", "Guidance", "Width", "Height", "Frames", "Fps"):
            first.append(gr.Number(None, label=label, min_width=90, placeholder="auto"))
    with gr.Row():
        label = "Model: bundled, a folder, or a hub id"
        first.append(gr.Textbox(model, label=label, scale=3))
        first.append(gr.Dropdown(list(get_args(DType)), value="auto", label="Dtype", scale=1))
        first.append(gr.Radio(list(get_args(Make)), value="both", label="Steering", scale=1))
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
                gr.Number(default.scale, label="Scale", min_width=90),
                gr.Dropdown(list(REFERENCES), value=default.reference, label="Reference"),
                gr.Slider(0, 1, default.start, step=0.01, label="Window start"),
                gr.Slider(0, 1, default.stop, step=0.01, label="Window stop"),
            ]
        branches = list(default.branches)
        second.append(gr.CheckboxGroup(list(BRANCHES), value=branches, label="Branches"))
    return first + second


class Runs:
    """The run of each open page: it goes on when its page is reloaded, and can be cancelled."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._running: dict[str | None, threading.Event] = {}

    def cancel(self, request: gr.Request) -> None:
        """End the run of a page at its next step; for a page without one, what is being made: a
        page that is reloaded is another one."""
        if request.session_hash in self._running:
            self._running[request.session_hash].set()
        else:
            self._studio.cancel_first()

    def follow(
        self, page: str | None, work: Callable[[Report, threading.Event], T]
    ) -> Iterator[str | T]:
        """Do work in a thread of its own, and say how far it is until it is done.

        Args:
            page: Whose run it is.
            work: Called with what is told of each step, and what is set to end it.

        Yields:
            How far it is, in words; at last what it made.

        Raises:
            gr.Error: What went wrong, which the page shows.
        """
        cancelled = self._running[page] = threading.Event()
        now = [""]
        ended: list[T | BaseException] = []
        begun: list[float] = []

        def report(step: int, steps: int, words: str) -> None:
            if steps:  # loading and waiting say nothing of steps
                begun[:] = begun or [time.monotonic()]
            left = (time.monotonic() - begun[0]) / step * (steps - step) if step else None
            now[0] = words + ("" if left is None else f", about {left:.0f} s left")

        def carry_out() -> None:
            try:
                ended.append(work(report, cancelled))
            except BaseException as error:  # told in the page, whatever it is
                if not isinstance(error, (CancelledError, *EXPECTED)):
                    traceback.print_exception(error)
                ended.append(error)
            finally:
                if self._running.get(page) is cancelled:
                    del self._running[page]

        threading.Thread(target=carry_out, daemon=True).start()
        while not ended:
            yield now[0]
            time.sleep(POLL)
        found = ended[0]
        if isinstance(found, CancelledError):
            yield str(found)
        elif isinstance(found, BaseException):
            yield f"Failed: {_text(found)}"  # it stays when the message over the page is gone
            raise _told(found) from found
        else:
            yield found


def _told(error: BaseException) -> gr.Error:
    """An error as the page shows it."""
    return gr.Error(_text(error), print_exception=False)


def _text(error: BaseException) -> str:
    """Of an error that nobody expects its kind says more."""
    return str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"


def _settings(values: tuple[Any, ...]) -> Settings:
    try:
        return read_form(values)
    except (TypeError, ValueError) as error:
        raise _told(error) from error


def read_scales(text: str) -> list[float]:
    """Scales with commas between, in order.

    Raises:
        ValueError: They are no numbers from 0, or fewer than two.
    """
    try:
        scales = sorted(
            {float(f"{float(word):g}") for word in text.split(",")}
        )  # as they are named
    except ValueError:
        scales = []
    if len(scales) < 2 or not all(0 <= scale < 100 for scale in scales):
        raise ValueError(
            f"Expected two scales or more from 0 to 100, as in 0.5, 1, 1.5, but got {text!r}."
        )
    return scales


def build(studio: Studio, model: str) -> gr.Blocks:
    """The page over a studio; `model` is what its form begins with."""
    runs, rating = Runs(studio), RatingPage(studio.folder)

    def run(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        settings = _settings(values)
        work = partial(studio.make, settings)
        for said in runs.follow(request.session_hash, work):
            if isinstance(said, str):
                yield said, gr.skip(), gr.skip(), gr.skip(), gr.skip()
                continue
            maps = [str(path) for path in said.maps]
            files = said.files.get(ON) or next(iter(said.files.values()))
            yield "Finished.", str(said.video), str(files.path(MANIFEST)), maps, shown()

    def run_scales(request: gr.Request, text: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        settings = _settings(values)
        try:
            scales = read_scales(text)
        except ValueError as error:
            raise _told(error) from error

        def work(report: Report, cancelled: threading.Event) -> dict[float, VideoFiles]:
            return studio.make_scales(settings, scales, report, cancelled)

        for said in runs.follow(request.session_hash, work):
            if isinstance(said, str):
                yield said, gr.skip(), gr.skip(), gr.skip()
                continue
            strips = {scale: str(files.path(STRIP)) for scale, files in said.items()}
            slider = gr.Slider(0, len(scales) - 1, 0, step=1, interactive=True, visible=True)
            yield "Finished.", list(strips.items()), slider, _frames(list(strips.items()), 0)

    def shown() -> list[str]:
        return [str(path) for path in studio.gallery()]

    def forms(request: gr.Request, *values: Any) -> tuple[str, str, str]:
        settings = _settings(values)
        link = f"http://{request.headers['host']}/?{settings.to_query()}"
        return link, settings.to_python(studio.device), settings.to_command(studio.device)

    def from_manifest(path: str) -> list[Any]:
        try:
            return fill_form(Settings.from_manifest(Manifest.load(Path(path))))
        except (OSError, ValueError) as error:
            raise _told(error) from error

    def from_link(request: gr.Request) -> list[Any]:
        query = {name: value for name, value in request.query_params.items() if name[:2] != "__"}
        if "prompt" not in query:
            # Said outright, for gradio shows an empty number as 0.
            first = Settings(prompt=PROMPT, model=model, steering=default_steering(model))
            return fill_form(first)
        try:
            return fill_form(Settings.from_query(query))
        except (TypeError, ValueError) as error:
            raise _told(error) from error

    def rate() -> str:
        try:
            return f"Rate them blind at [{(url := rating.open())}]({url})."
        except (OSError, ValueError) as error:
            raise _told(error) from error

    page: gr.Blocks
    with gr.Blocks(title="stas", analytics_enabled=False) as page:
        gr.Markdown("# stas\nOne caption and seed, steering off and on, side by side.")
        form = _form(model)
        with gr.Row():
            make = gr.Button("Make", variant="primary")
            stop = gr.Button("Cancel")
        status = gr.Textbox(label="Progress", interactive=False)
        video = gr.Video(label="What was made", show_label=False, interactive=False)
        manifest = gr.File(label="Manifest; of both, of the steered video", interactive=False)
        with gr.Accordion("Massive activations, without steering", open=False):
            maps = gr.Gallery(label="Over blocks, steps and tokens", **WHOLE_PICTURES)
        with gr.Accordion("Over the scale", open=False):
            scales = gr.Textbox("0.5, 1, 1.5, 2", label="Scales: one video each")
            try_scales = gr.Button("Make them")
            strips = gr.State([])
            which = gr.Slider(0, 3, 0, step=1, label="Which of them", visible=False)
            frames = gr.Image(label="Frames", interactive=False)
        with gr.Accordion("These settings elsewhere", open=False):
            say = gr.Button("Link, Python, command")
            told = [gr.Textbox(label="Link"), gr.Code(language="python", label="Python")]
            told.append(gr.Code(language="shell", label="Command; of both, of the steered video"))
            dropped = gr.File(label="Drop a manifest", file_types=[".json"], type="filepath")
        gallery = gr.Gallery(shown, label="Made before", **WHOLE_PICTURES)
        with gr.Row():
            ask = gr.Button("Rate what was made, blind")
            where = gr.Markdown("Which is better? It asks you, not saying which is which.")
        one: dict[str, Any] = {"concurrency_limit": None}  # the studio makes one at a time
        make.click(run, form, [status, video, manifest, maps, gallery], **one)
        try_scales.click(run_scales, [scales, *form], [status, strips, which, frames], **one)
        which.change(_frames, [strips, which], frames)
        stop.click(runs.cancel, queue=False)
        say.click(forms, form, told)
        ask.click(rate, None, where)
        dropped.upload(from_manifest, dropped, form)
        page.load(from_link, None, form)
    return page


def _frames(strips: list[tuple[float, str]], which: int) -> Any:
    """The strip of one of the scales, under its name."""
    scale, path = strips[int(which)]
    return gr.Image(path, label=f"Frames at scale {scale:g}")
