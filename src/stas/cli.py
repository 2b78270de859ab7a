"""The command line: `stas generate` and the rest. A thin shell over the library.

torch and diffusers are imported inside the commands, so that `stas --help` answers at once, and
after all that can be checked without them.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from stas import __version__
from stas.checks import check_arguments, check_fps
from stas.config import STASConfig
from stas.manifest import Manifest

if TYPE_CHECKING:
    from stas.api import SteeringHandle
    from stas.comparison import Comparison
    from stas.pipelines import PipelineOptions
    from stas.stats import ActivationStats
    from stas.study_runner import StudyRun

P = ParamSpec("P")
console = Console(highlight=False, soft_wrap=True)
notes = Console(highlight=False, soft_wrap=True, stderr=True)

app = typer.Typer(
    help="Steer the massive activations of video diffusion transformers (STAS).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line; what the user can mend is told in a sentence, not a traceback."""
    warnings.showwarning = _show_warning
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("STAS_TRACEBACK"):
            traceback.print_exc()
        notes.print(f"[bold red]Error:[/] {escape(_sentence(error))}")
        cause = error.__cause__ if isinstance(error, _RepeatError) else error
        names_a_file = isinstance(cause, OSError) and cause.filename is not None
        origin = Path(traceback.extract_tb(cause.__traceback__)[-1].filename) if cause else None
        if not names_a_file and origin and origin.parent != Path(__file__).parent:
            notes.print("(STAS_TRACEBACK=1 shows where this comes from.)")
        sys.exit(1)


class _RepeatError(ValueError):
    """A run that a manifest describes could not be repeated."""


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def _stoppable(command: Callable[P, None]) -> Callable[P, None]:
    """End a command on Ctrl-C with a word and the shell's exit code for it."""

    @wraps(command)
    def stoppable(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            notes.print("Stopped. What was finished is kept, and nothing is half-written.")
            raise typer.Exit(130) from None

    return stoppable


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any
) -> None:
    """Say what stas warns of; what the libraries beneath warn of is not for users of a command."""
    if Path(filename).parent == Path(__file__).parent:
        notes.print(f"[yellow]Warning:[/] {escape(str(message))}")


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


@app.command()
def models(
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="The same as JSON, for programs.")
    ] = False,
) -> None:
    """List the transformers that can be steered, and the limits of each."""
    from stas.models import MODELS

    rows = [spec.facts() for spec in MODELS.values()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=True)
    # A name must not be cut in two, so class and pipelines share the column that never wraps.
    table.add_column("transformer, pipelines", no_wrap=True)
    table.add_column("verified; limits")
    for row in rows:
        names = [f"[bold]{row['transformer']}[/]", *(f" {name}" for name in row["pipelines"])]
        facts = [", ".join(row["verified"]) or "nothing", *row["limits"]]
        table.add_row("\n".join(names), escape("\n".join(facts)))
    whole_words = Console(highlight=False)
    whole_words.print(table)
    whole_words.print(
        f"{len(rows)} transformer classes. --model takes any checkpoint of these pipelines, as a "
        "folder or a hub id. Verified is what the tests run: the class, a pipeline, with caches, "
        "compiled. To add a class: stas.register_model."
    )


MOST_SEEDS = 100_000
MOST_VIDEOS = 1_000  # that a study starts with unasked
LOADING = "Loading torch and diffusers"  # which takes seconds
MODEL = "Model"
VIDEO = "Video"
STEERING = "Steering"
OUTPUT = "Output"


@app.command()
@_stoppable
def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What the video is to show.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Text file of prompts, one a line.", rich_help_panel=VIDEO),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Repeat the run of this manifest, bit for bit.", rich_help_panel=VIDEO),
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What it is not to show.", rich_help_panel=VIDEO)
    ] = None,
    seed: Annotated[
        str,
        typer.Option(help="Seeds: numbers and ranges, as in 0,7,10-13.", rich_help_panel=VIDEO),
    ] = "0",
    frames: Annotated[
        int | None, typer.Option(help="Number of pixel frames.", rich_help_panel=VIDEO)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WIDTHxHEIGHT", help="In pixels, as in 832x480.", rich_help_panel=VIDEO
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.", rich_help_panel=VIDEO)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Scale of classifier-free guidance.", rich_help_panel=VIDEO),
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second of the file.", rich_help_panel=VIDEO)
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="The bundled model, a folder in diffusers' format, or a hub id.",
            rich_help_panel=MODEL,
        ),
    ] = "bundled",
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a hub id.", rich_help_panel=MODEL),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...", rich_help_panel=MODEL)
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(
            metavar="DTYPE",
            help="auto, float32, bfloat16 or float16; auto is bfloat16 on an accelerator, else "
            "float32.",
            rich_help_panel=MODEL,
        ),
    ] = "auto",
    offload: Annotated[
        Literal["none", "model", "sequential"],
        typer.Option(help="What waits on the CPU to save memory.", rich_help_panel=MODEL),
    ] = "none",
    lora: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE[=WEIGHT]",
            help="LoRA weights: a file, folder or hub id; may be repeated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    steer: Annotated[
        bool,
        typer.Option(
            "--steer/--no-steer", metavar="", help="STAS on or off.", rich_help_panel=STEERING
        ),
    ] = True,
    config: Annotated[
        Path | None,
        typer.Option(
            help="STASConfig as JSON; the options below override it.", rich_help_panel=STEERING
        ),
    ] = None,
    dims: Annotated[
        str | None,
        typer.Option(
            help="Massive dimensions, as in 1188,700. By default those of the model's profile, "
            "else detected.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(help="all, middle, or as in 0,3,-1.", rich_help_panel=STEERING)
    ] = None,
    op: Annotated[
        Literal["max", "scale", "zero", "mean"] | None,
        typer.Option(
            help="max is STAS; the others are the paper's other interventions.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            help="Which tokens: of first_frame, boundary, interior, with commas between.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    boundary: Annotated[
        float | None,
        typer.Option(
            help="Head and tail share of each latent frame, 0 to 0.5.", rich_help_panel=STEERING
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Multiplier of the reference magnitude.", rich_help_panel=STEERING),
    ] = None,
    reference: Annotated[
        Literal["dim", "global"] | None,
        typer.Option(help="Maximum per dimension, or over all of them.", rich_help_panel=STEERING),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(help="First steered share of the steps.", rich_help_panel=STEERING),
    ] = None,
    stop: Annotated[
        float | None,
        typer.Option(help="Share of the steps at which steering ends.", rich_help_panel=STEERING),
    ] = None,
    branches: Annotated[
        str | None,
        typer.Option(
            help="Which branches of guidance: of cond, uncond, with commas between.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The .mp4 file, or a folder. By default the folder outputs.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", metavar="", help="Overwrite what exists.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """Make videos from a prompt, steered by default.

    Beside each video lie a strip of its frames and its manifest,
    from which --manifest makes the same video again.
    """
    started = time.monotonic()
    if manifest is not None:
        _refuse_other_options(context, "manifest", "output", "force", "model")
        moved = model if _is_given(context, "model") else None
        _repeat(manifest, output, moved, force=force)
        return
    wanted = _prompts(prompt, prompts)
    seeds = _seeds(seed)
    values: dict[str, Any] = {
        "dims": None if dims is None else _integers("--dims", dims),
        "blocks": blocks if blocks in (None, "all", "middle") else _integers("--blocks", blocks),
        "op": op,
        "regions": None if regions is None else _words(regions),
        "boundary": boundary,
        "scale": scale,
        "reference": reference,
        "start": start,
        "stop": stop,
        "branches": None if branches is None else _words(branches),
    }
    values = {key: value for key, value in values.items() if value is not None}
    if not steer and (config or values):
        raise ValueError(
            "--no-steer steers nothing, so it takes no --config and no steering option."
        )
    width, height = (None, None) if size is None else _size(size)
    arguments = {
        "negative_prompt": negative_prompt,
        "num_frames": frames,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }
    check_arguments(arguments)
    if fps is not None:
        check_fps(fps)
    steering = _steering(config, values) if steer else None
    loras = _loras(lora or [])
    samples = [(entry, number) for entry in wanted for number in seeds]
    places = _places(output, [(entry.text, number) for entry, number in samples])
    _keep_inputs(places, ("config", config), ("prompt file", prompts), *_lora_files(loras))
    _check_places(places, force=force)
    with notes.status(LOADING):
        from stas.pipelines import PipelineOptions
    options = PipelineOptions(
        model=model,
        revision=revision,
        device=device,
        dtype=dtype,
        offload=offload,
        loras=loras,
    )
    maker = _Maker(options)
    for entry, _ in samples[:: len(seeds)]:
        maker.check(arguments | {"prompt": entry.text}, steering)
    for number, ((entry, seed_number), place) in enumerate(zip(samples, places, strict=True), 1):
        label = f"{number}/{len(samples)}" if len(samples) > 1 else ""
        maker.make(
            arguments | {"prompt": entry.text},
            seed_number,
            steering,
            place,
            prompt_file=entry.origin,
            fps=fps,
            label=label,
        )
    if len(samples) > 1:
        console.print(f"{len(samples)} videos in {time.monotonic() - started:.0f} s")


def _repeat(path: Path, output: Path | None, model: str | None, *, force: bool) -> None:
    old = Manifest.load(path)
    place = output or path.with_name(f"{path.stem}-repeated.mp4")
    if place.suffix != ".mp4":
        place = place / f"{path.stem}.mp4"
    _keep_inputs([place], ("manifest", path), *_lora_files(old.pipeline.get("loras", {})))
    _check_places([place], force=force)
    with notes.status(LOADING):
        from stas.pipelines import PipelineOptions
    # Whatever fails from here on does so with the manifest's values, so the message names it.
    try:
        options = PipelineOptions(**old.pipeline)
        # What a branch or tag stood for then is what is repeated.
        options = replace(
            options,
            model=options.model if model is None else model,
            revision=old.model.get("commit") if model is None else None,
        )
        maker = _Maker(options, threads=old.versions.get("threads"))
        new = maker.make(
            dict(old.arguments),
            old.seed,
            old.steering_config(),
            place,
            prompt_file=old.prompt_file,
            fps=old.fps,
            label="",
        )
    except Exception as error:
        raise _RepeatError(f"Can't repeat {path}: {_sentence(error)}") from error
    if new.frames["sha256"] == old.frames["sha256"]:
        console.print("Identical: every pixel is that of the manifest's video.")
        return
    changed = [
        f"{name} {old.versions.get(name)} -> {value}"
        for name, value in new.versions.items()
        if old.versions.get(name) != value
    ]
    dims = [
        {name: entry["dims"] for name, entry in (manifest.dims or {}).items()}
        for manifest in (old, new)
    ]
    changed += [f"dims {dims[0]} -> {dims[1]}"] if dims[0] != dims[1] else []
    raise ValueError(
        "The video was made, but its pixels are not those of the manifest's video. Changed since: "
        + (", ".join(changed) or "nothing that the manifest records; the model's files, perhaps")
        + f". Or {path} was edited."
    )


@dataclass(frozen=True)
class _Prompt:
    text: str
    origin: dict[str, Any] | None = None  # name, SHA-256 and line of the prompt list


class _Maker:
    """Makes videos with one loaded pipeline."""

    def __init__(self, options: PipelineOptions, *, threads: int | None = None) -> None:
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        for logging in (diffusers_logging, transformers_logging):
            logging.disable_progress_bar()
            logging.set_verbosity_error()
        import torch

        from stas.pipelines import load_pipeline

        self._said: list[str] = []
        self.options = options.resolved()
        if threads and self.options.device == "cpu":
            torch.set_num_threads(threads)  # it decides the order of additions
        with notes.status(f"Loading {self.options.model}"):
            self.pipeline = load_pipeline(self.options)

    def _say(self, handle: SteeringHandle | None) -> None:
        """Say what was steered, where that is news."""
        lines = [] if handle is None else handle.summary().splitlines()[1:-1]
        if lines != self._said:
            for line in lines:
                notes.print(escape(line))
        self._said = lines

    @property
    def transformer(self) -> Any:
        """The transformer, the first of two experts."""
        return self.pipeline.transformer or self.pipeline.transformer_2

    def profile_dims(self) -> tuple[int, ...]:
        """The massive dimensions of the model's profile, none without a profile."""
        from stas.profiles import find_profile

        config, name = self.transformer.config, type(self.transformer).__name__
        found = find_profile(getattr(self.pipeline, "name_or_path", None), name, config)
        return found.dims if found else ()

    def record(
        self, prompts: list[str], arguments: dict[str, Any], path: Path, **options: Any
    ) -> ActivationStats:
        """Record videos with a bar of them and their steps."""
        from stas.recorder import record_videos

        with _video_bar(len(prompts)) as report:
            return record_videos(
                self.pipeline,
                prompts,
                arguments,
                path,
                revision=self.options.revision,
                report=report,
                **options,
            )

    def check(self, arguments: dict[str, Any], steering: STASConfig | None) -> None:
        """Raise what is wrong with a request before anything is computed."""
        from stas.api import steer
        from stas.pipelines import call_arguments, frames_per_second

        call_arguments(self.pipeline, arguments)
        frames_per_second(self.pipeline)
        if steering is not None:
            with steer(self.pipeline, steering):
                pass

    def make(
        self,
        arguments: dict[str, Any],
        seed: int,
        steering: STASConfig | None,
        place: Path,
        *,
        prompt_file: Any,
        fps: float | None,
        label: str,
    ) -> Manifest:
        """Make one video, its strip and its manifest."""
        from contextlib import nullcontext

        from stas.api import steer
        from stas.files import whole_file
        from stas.pipelines import call_arguments
        from stas.sample import Sample, make_sample
        from stas.video import strip, write_mp4

        arguments = call_arguments(self.pipeline, arguments)
        sample = Sample(place.stem, arguments["prompt"], seed, prompt_file)
        with (
            nullcontext() if steering is None else steer(self.pipeline, steering) as handle,
            _step_bar(label, handle) as report,
        ):
            frames, record = make_sample(
                self.pipeline,
                sample,
                arguments,
                handle,
                options=self.options,
                fps=fps,
                report=report,
            )
        self._say(handle)
        place.parent.mkdir(parents=True, exist_ok=True)
        # The last to open is the first to appear: a manifest only beside its video and strip.
        with (
            whole_file(place.with_suffix(".json")) as manifest,
            whole_file(place.with_suffix(".png")) as poster,
            whole_file(place) as video,
        ):
            write_mp4(video, frames, record.fps)
            strip(frames).save(poster)
            manifest.write_text(record.to_json(), encoding="utf-8")
        count, height, width = frames.shape[:3]
        length = f"{count} frame{'' if count == 1 else 's'}"
        steered = "steered" if _was_steered(record) else "not steered"
        console.print(
            f"{escape(str(place))} ({length}, {width}x{height}, {record.fps:g} fps) "
            f"made in {record.seconds:.1f} s, {steered}"
        )
        return record


def _was_steered(record: Manifest) -> bool:
    return any(entry["steered_forwards"] for entry in (record.dims or {}).values())


@contextmanager
def _step_bar(label: str, handle: SteeringHandle | None) -> Iterator[Any]:
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
def _video_bar(videos: int, what: str = "video") -> Iterator[Callable[[int, int, int], None]]:
    """A bar over many videos; it is told (finished videos, finished steps, steps)."""
    columns = (
        BarColumn(),
        TextColumn(what + " {task.fields[video]} of {task.fields[videos]}"),
        TextColumn("step {task.fields[step]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes) as progress:
        task = progress.add_task("", total=None, video=1, videos=videos, step=0)

        def report(number: int, done: int, steps: int) -> None:
            progress.update(
                task,
                total=videos * max(1, steps),
                completed=number * steps + done,
                video=number + 1,
                step=f"{done} of {steps}",
            )

        yield report


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_other_options(context: typer.Context, kept: str, *allowed: str) -> None:
    """A manifest decides everything: an option beside it would be ignored, so it is refused."""
    given = [
        name for name in context.params if _is_given(context, name) and name not in (kept, *allowed)
    ]
    if given:
        raise ValueError(
            f"--{kept} repeats a run as it was; remove {', '.join(sorted(given))}. Beside it only "
            f"{', '.join(f'--{name}' for name in allowed)} can be given."
        )


def _prompts(prompt: str | None, path: Path | None) -> list[_Prompt]:
    if (prompt is None) == (path is None):
        raise ValueError(
            "Give a prompt or --prompts FILE, and not both. Example: stas generate "
            '"a red circle moving right on a blue background"'
        )
    if path is None:
        if not (prompt or "").strip():
            raise ValueError("The prompt is empty.")
        return [_Prompt(str(prompt))]
    if not path.is_file():
        raise FileNotFoundError(f"There is no prompt file {str(path)!r}.")
    data = path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty: expected one prompt a line.")
    if empty := [str(number) for number, line in enumerate(lines, 1) if not line.strip()]:
        raise ValueError(
            f"{path} has empty lines ({', '.join(empty)}), which would be videos without a prompt. "
            "Remove them: each line is one prompt."
        )
    digest = sha256(data).hexdigest()
    return [
        _Prompt(line.strip(), {"name": path.name, "sha256": digest, "line": number})
        for number, line in enumerate(lines, 1)
    ]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{option} expects whole numbers with commas between, as in 3,7, but got {text!r}."
        ) from None


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(
                f"--seed expects numbers from 0 and ranges, as in 0,7,10-13, but got {text!r}."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**63 or last - first >= MOST_SEEDS:
            raise ValueError(
                f"--seed takes numbers below 2**63 and ranges of at most {MOST_SEEDS} of them, but "
                f"got {part!r}."
            )
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if match is None:
        raise ValueError(f"--size expects WIDTHxHEIGHT, as in 832x480, but got {text!r}.")
    return int(match[1]), int(match[2])


def _loras(values: Sequence[str]) -> dict[str, float]:
    loras = {}
    for value in values:
        source, equals, weight = value.rpartition("=")
        try:
            loras[source if equals else value] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(
                f"--lora expects SOURCE or SOURCE=WEIGHT, as in style.safetensors=0.8, but got "
                f"{value!r}."
            ) from None
    return loras


def _steering(path: Path | None, values: dict[str, Any]) -> STASConfig:
    return replace(STASConfig() if path is None else STASConfig.load(path), **values)


def _places(output: Path | None, samples: Sequence[tuple[str, int]]) -> list[Path]:
    """Where the video of each (prompt, seed) goes."""
    if output is not None and output.suffix and not output.is_dir():
        if output.suffix != ".mp4":
            raise ValueError(f"The output is an .mp4 file or a folder, but got {str(output)!r}.")
        if len(samples) > 1:
            raise ValueError(
                f"{len(samples)} videos can't go into one file {str(output)!r}: give a folder."
            )
        return [output]
    folder = output or Path("outputs")
    names = [f"{_slug(prompt)}-seed{seed}" for prompt, seed in samples]
    if len(set(names)) < len(names):
        names = [f"{number:04d}-{name}" for number, name in enumerate(names, 1)]
    return [folder / f"{name}.mp4" for name in names]


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")
    return words[:60].rstrip("-") or "video"


def _lora_files(loras: Iterable[str]) -> list[tuple[str, Path]]:
    return [("LoRA", Path(source).expanduser()) for source in loras]


def _keep_inputs(places: Sequence[Path], *inputs: tuple[str, Path | None]) -> None:
    """Refuse to write over a file that is read, --force or not."""
    for file in _files(places):
        for what, path in inputs:
            if path is not None and path.exists() and file.exists() and file.samefile(path):
                raise ValueError(
                    f"{str(file)!r} would be overwritten, and it is the {what} that is read. Give "
                    "another -o."
                )


def _files(places: Sequence[Path]) -> list[Path]:
    """The video, strip and manifest of each place."""
    return [place.with_suffix(kind) for place in places for kind in (".mp4", ".png", ".json")]


def _check_places(places: Sequence[Path], *, force: bool) -> None:
    """See that the output can be written, before any work is done for it; nothing is left."""
    folder = places[0].parent
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if files := [path for path in (folder, *folder.parents) if path.is_file()]:
        raise NotADirectoryError(
            f"{str(files[0])!r} is a file, not a folder, so no video can be put there. Give "
            "another -o."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # With the longest name that will be written, so that a name that is too long shows.
        longest = max((place.stem for place in places), key=lambda stem: len(stem.encode()))
        with NamedTemporaryFile(dir=folder, prefix=f".{longest}-", suffix=".json"):
            pass
    except OSError as error:
        raise OSError(f"Can't write to the output folder {str(folder)!r}: {error}") from error
    finally:
        for path in missing:
            if path.exists():
                path.rmdir()
    existing = [path for path in _files(places) if path.exists()]
    if folders := [path for path in existing if path.is_dir()]:
        raise IsADirectoryError(
            f"{str(folders[0])!r} is a folder, and a file is to be written there."
        )
    if existing and not force:
        others = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise FileExistsError(
            f"{str(existing[0])!r} exists already{others}. Give another -o, or --force to "
            "overwrite."
        )


Model = Annotated[
    str, typer.Option(help="The bundled model, a folder in diffusers' format, or a hub id.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
DTypeName = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        metavar="DTYPE",
        help="auto, float32, bfloat16 or float16; auto is bfloat16 on an accelerator, else "
        "float32.",
    ),
]
OffloadName = Annotated[
    Literal["none", "model", "sequential"],
    typer.Option(help="What waits on the CPU to save memory."),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="Text file of prompts, one a line; by default the list that ships."),
]
Frames = Annotated[int | None, typer.Option(help="Number of pixel frames.")]
Size = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of the video, in pixels.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Scale of classifier-free guidance.")]
FirstSeed = Annotated[int, typer.Option(min=0, help="Seed of the first video.")]
Count = Annotated[int, typer.Option("--count", "-n", min=1, help="How many videos.")]
Boundary = Annotated[
    float, typer.Option(help="Head and tail share of each latent frame that is boundary.")
]
Force = Annotated[bool, typer.Option("--force", metavar="", help="Overwrite what exists.")]
Resume = Annotated[
    bool, typer.Option("--resume", metavar="", help="Go on with an output that was stopped.")
]


@app.command()
@_stoppable
def record(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The .safetensors file of the statistics.")
    ],
    prompts: Prompts = None,
    count: Count = 10,
    model: Model = "bundled",
    revision: Revision = None,
    device: Device = "auto",
    dtype: DTypeName = "auto",
    offload: OffloadName = "none",
    blocks: Annotated[str, typer.Option(help="all, middle, or as in 0,3,-1.")] = "all",
    boundary: Boundary = 0.08,
    map_blocks: Annotated[
        str, typer.Option(help="Blocks of which maps over the tokens are kept, or none.")
    ] = "middle",
    map_dims: Annotated[
        str | None,
        typer.Option(help="Dimensions of the maps; those of the model's profile by default."),
    ] = None,
    frames: Frames = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: FirstSeed = 0,
    plots: Annotated[
        bool,
        typer.Option("--plots", metavar="", help="Draw pictures into a folder beside the output."),
    ] = False,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Record statistics of the hidden states over many videos.

    What is finished is saved after each video: Ctrl-C loses the video in work, and --resume goes
    on. `stas plot` draws the file.
    """
    arguments = _call_options(frames, size, steps, guidance)
    _check_stats_place(output, force=force, resume=resume)
    numbers: dict[str, Any] = {"blocks": _blocks("--blocks", blocks), "boundary": boundary}
    if map_blocks != "none":
        numbers["map_blocks"] = _blocks("--map-blocks", map_blocks)
    if map_dims is not None:
        numbers["map_dims"] = _integers("--map-dims", map_dims)
    chosen = _prompt_texts(prompts, model, count)
    from stas.pipelines import PipelineOptions

    maker = _Maker(
        PipelineOptions(model=model, revision=revision, device=device, dtype=dtype, offload=offload)
    )
    if "map_blocks" in numbers and map_dims is None:
        numbers["map_dims"] = maker.profile_dims()
    stats = maker.record(chosen, arguments, output, seed=seed, resume=resume, **numbers)
    console.print(f"{escape(str(output))}: {stats!r}")
    _say_findings(stats)
    if plots:
        _draw({model: stats}, output.with_suffix(""))


@app.command()
@_stoppable
def profile(
    model: Model = "bundled",
    prompts: Prompts = None,
    count: Count = 100,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The .json file; by default in the cache, where steer finds it."
        ),
    ] = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: DTypeName = "auto",
    offload: OffloadName = "none",
    frames: Frames = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: FirstSeed = 0,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Measure which dimensions of a model are massive, and write its profile.

    From then on `steer` and `stas generate` use that profile for the model. The statistics lie
    beside it.
    """
    arguments = _call_options(frames, size, steps, guidance)
    with notes.status(LOADING):
        from stas.pipelines import BUNDLED_MODEL, PipelineOptions
        from stas.profiles import cached_profile
        from stas.recorder import make_profile
    options = PipelineOptions(
        model=model, revision=revision, device=device, dtype=dtype, offload=offload
    ).resolved()
    name = str(BUNDLED_MODEL) if model == "bundled" else options.model
    place = cached_profile(name) if output is None else output
    if place.suffix != ".json":
        raise ValueError(f"A profile is a .json file, but got {str(place)!r}.")
    recorded = place.with_suffix(".safetensors")
    if output is None:
        place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and not force:
        raise FileExistsError(f"{place} exists already. Use --force to measure anew.")
    _check_stats_place(recorded, force=force, resume=resume)
    chosen = _prompt_texts(prompts, model, count)
    maker = _Maker(options)
    stats = maker.record(chosen, arguments, recorded, seed=seed, resume=resume)
    _say_findings(stats)
    made, found = make_profile(stats, maker.transformer, name)
    if made is None:
        raise ValueError(
            f"No profile is written: no dimension reaches {found.threshold:g} times the mean "
            f"magnitude. Strongest: {found.describe()}. The statistics are in {recorded}."
        )
    made.save(place)
    console.print(f"{escape(str(place))}: {escape(made.describe())}")


@app.command()
@_stoppable
def plot(
    stats: Annotated[list[Path], typer.Argument(help="Files that stas record wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the pictures.")
    ] = Path("plots"),
    dims: Annotated[
        str | None, typer.Option(help="Dimensions to show; the massive ones by default.")
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="The block to show; the middle one by default.")
    ] = None,
) -> None:
    """Draw recorded statistics: pictures, and their numbers as CSV."""
    from stas.stats import ActivationStats

    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file, but pictures go into a folder.")
    if len({path.stem for path in stats}) < len(stats):
        raise ValueError("Two of the files have the same name: the pictures would not tell which.")
    loaded = {path.stem: ActivationStats.load(path) for path in stats}
    chosen = None if dims is None else _integers("--dims", dims)
    _draw(loaded, output, dims=chosen, block=block)


def _draw(stats: Any, folder: Path, **options: Any) -> None:
    with notes.status("Drawing"):
        from stas.plots import plot

        written = plot(stats, folder, **options)
    for path in written:
        console.print(escape(str(path)))


def _blocks(option: str, text: str) -> Any:
    return text if text in ("all", "middle") else _integers(option, text)


def _call_options(
    frames: int | None, size: str | None, steps: int | None, guidance: float | None
) -> dict[str, Any]:
    width, height = (None, None) if size is None else _size(size)
    arguments = {
        "num_frames": frames,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }
    check_arguments(arguments)
    return arguments


def _prompt_texts(path: Path | None, model: str, count: int) -> list[str]:
    """The first `count` prompts of a file, or of the list that ships for the model."""
    with notes.status(LOADING):
        from stas.recorder import prompt_list

    listed = [prompt.text for prompt in _prompts(None, path or prompt_list(model))]
    if len(listed) < count:
        raise ValueError(
            f"{count} videos were asked for, but there are {len(listed)} prompts"
            + (f" in {path}." if path else ", the ones that ship. Give a file by --prompts.")
        )
    return listed[:count]


def _check_stats_place(path: Path, *, force: bool, resume: bool) -> None:
    if path.suffix != ".safetensors":
        raise ValueError(f"Statistics are a .safetensors file, but got {str(path)!r}.")
    if path.exists() and not (force or resume):
        raise FileExistsError(
            f"{path} exists already. Use --resume to go on with it, or --force to overwrite it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)


def _say_findings(stats: ActivationStats) -> None:
    from stas.massive import find_massive_activations

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


@app.command()
@_stoppable
def compare(
    prompt: Annotated[str | None, typer.Argument(help="What the videos are to show.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file of prompts, one a line.")] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="off, on, a named intervention (zero, mean, scale-all, scale-first-frame, "
            "max-first-frame, boundary, stas) or a STASConfig as JSON; may be repeated, and the "
            "first is what the others are compared with. By default off and on.",
        ),
    ] = None,
    seed: Annotated[
        str, typer.Option(help="Seeds of each prompt: numbers and ranges, as in 0,7,10-13.")
    ] = "0",
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="DINO or CLIP model for similarity curves, as in facebook/dino-vitb16; may be "
            "repeated.",
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="A measure of your own: a function of frames and prompt that returns numbers by "
            "name; may be repeated.",
        ),
    ] = None,
    aesthetic: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Head of LAION's aesthetic predictor, sa_0_4_vit_l_14_linear.pth, to score each "
            "frame.",
        ),
    ] = None,
    aesthetic_clip: Annotated[
        str | None,
        typer.Option(
            help="CLIP model that the head was fitted on; openai/clip-vit-large-patch14 by default."
        ),
    ] = None,
    frames: Frames = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second of the files.")] = None,
    model: Model = "bundled",
    revision: Revision = None,
    device: Device = "auto",
    dtype: DTypeName = "auto",
    offload: OffloadName = "none",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the comparison.")
    ] = Path("comparison"),
    force: Force = False,
) -> None:
    """Make the same videos with steering off and on, and show and measure what differs.

    The folder gets a report.html that opens in a browser, the videos, and the numbers as CSV.
    Ctrl-C keeps what is finished.
    """
    wanted, seeds = _prompts(prompt, prompts), _seeds(seed)
    chosen = [(entry, number) for entry in wanted for number in seeds]
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{str(output)!r} is a file, but a comparison is a folder.")
    if not force and output.exists() and any(output.iterdir()):
        raise FileExistsError(
            f"{str(output)!r} is there already and not empty. Give another -o, or --force to "
            "overwrite."
        )
    if aesthetic_clip and aesthetic is None:
        raise ValueError("--aesthetic-clip is the model for a head: give its file by --aesthetic.")
    arguments = _call_options(frames, size, steps, guidance)

    from stas.compare import compare as compare_runs
    from stas.comparison import read_run
    from stas.metrics import AESTHETIC_CLIP, load_aesthetic, load_encoder, load_measure
    from stas.pipelines import PipelineOptions
    from stas.sample import Sample

    if fps is not None:
        check_fps(fps)
    runs = [read_run(text) for text in run or ("off", "on")]
    # Within the folder the names of generate's files, made unique where two prompts share words.
    stems = [p.stem for p in _places(Path(), [(entry.text, number) for entry, number in chosen])]
    samples = [
        Sample(stem, entry.text, number, entry.origin)
        for stem, (entry, number) in zip(stems, chosen, strict=True)
    ]
    own = [load_measure(source) for source in measure or ()]
    maker = _Maker(
        PipelineOptions(model=model, revision=revision, device=device, dtype=dtype, offload=offload)
    )
    encoders = [load_encoder(source, device=maker.options.device) for source in encoder or ()]
    scorer = None
    if aesthetic is not None:
        clip = aesthetic_clip or AESTHETIC_CLIP
        scorer = load_aesthetic(aesthetic, clip, device=maker.options.device)
    with _video_bar(len(samples) * len(runs)) as report:
        result = compare_runs(
            maker.pipeline,
            runs,
            samples,
            output,
            options=maker.options,
            arguments=arguments,
            fps=fps,
            encoders=encoders,
            own=own,
            aesthetic=scorer,
            report=report,
        )
    _say_differences(result)
    console.print(escape(str(output / "report.html")))


@app.command()
@_stoppable
def study(
    file: Annotated[
        str, typer.Argument(help="The study's TOML file, or the name of one that ships.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run directory. By default runs/NAME."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="In place of the study's.")] = None,
    revision: Revision = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(metavar="DTYPE", help="In place of the study's."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, help="How many prompts, in place of the study's."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first video, in place of the study's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps, in place of the study's.")
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:FUNCTION", help="One more measure; may be repeated."),
    ] = None,
    device: Device = "auto",
    offload: OffloadName = "none",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", metavar="", help="Say how much it is, and make nothing."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", metavar="", help=f"Start with more than {MOST_VIDEOS:,} videos."),
    ] = False,
    only_report: Annotated[
        bool,
        typer.Option("--report", metavar="", help="Write the report of what is finished."),
    ] = False,
) -> None:
    """Run a grid of steering configs x prompts x seeds, and report each axis.

    The same command goes on where it was stopped, by Ctrl-C or a kill: no video is made twice.
    The run directory gets a report.html, its tables as CSV and Markdown, and every video.
    """
    with notes.status(LOADING):
        from stas.metrics import AESTHETIC_CLIP, load_aesthetic, load_encoder, load_measure
        from stas.pipelines import PipelineOptions
        from stas.study import load_study
        from stas.study_report import write_study_report
        from stas.study_runner import check_model, claim, find_dims, make_all, read_run
    wanted = load_study(
        file,
        model=model,
        revision=revision,
        dtype=dtype,
        count=count,
        seed=seed,
        arguments=None if steps is None else {"num_inference_steps": steps},
        own_measures=measure,
    )
    run = read_run(wanted, output or Path("runs") / wanted.name)
    if only_report:
        console.print(escape(str(write_study_report(run))))
        return
    size = f"{run.videos:,} videos: {len(run.cells):,} settings x {len(run.samples):,} samples"
    if run.left > MOST_VIDEOS and not (yes or dry_run):
        raise ValueError(
            f'{size}. Start that with --yes, or make it smaller: fewer values, vary = "each", a '
            "smaller count. --dry-run says how long it takes here."
        )
    own = [load_measure(source) for source in wanted.own_measures]
    maker = _Maker(
        PipelineOptions(
            model=wanted.model,
            revision=wanted.revision,
            device=device,
            dtype=wanted.dtype,
            offload=offload,
        )
    )
    encoders = [load_encoder(each, device=maker.options.device) for each in wanted.encoders]
    scorer = None
    if wanted.aesthetic is not None:
        clip = wanted.aesthetic_clip or AESTHETIC_CLIP
        scorer = load_aesthetic(wanted.aesthetic, clip, device=maker.options.device)
    calls = check_model(run, maker.pipeline)
    notes.print(size + (f", {len(run.finished):,} of them finished." if run.finished else "."))
    if run.left:
        _say_time(maker.pipeline, run, calls[0])
    if dry_run:
        return
    with claim(run, maker.options):
        if any(cell.dims_class for cell in run.cells):
            with _video_bar(min(wanted.recorded, len(set(wanted.prompts))), "recorded") as report:
                find_dims(run, maker.pipeline, report)
        try:
            with _video_bar(run.left) as report:
                make_all(
                    run,
                    maker.pipeline,
                    options=maker.options,
                    own=own,
                    encoders=encoders,
                    aesthetic=scorer,
                    report=report,
                )
        except BaseException:
            if run.finished:
                notes.print(
                    f"{len(run.finished):,} of {run.videos:,} videos are finished and kept; the "
                    "same command goes on from there, and --report writes their report."
                )
            raise
        console.print(escape(str(write_study_report(run))))


def _say_time(pipeline: Any, run: StudyRun, call: Any) -> None:
    """Say about how long the videos that are left will take."""
    from stas.study_runner import seconds_per_video

    with notes.status("Timing short videos"):
        seconds = seconds_per_video(pipeline, call, run.study.seed)
    if seconds == seconds:  # a number
        notes.print(
            f"{run.left:,} to make, about {_duration(run.left * seconds)} here ({seconds:.1f} s "
            "each, measuring not counted)."
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say_differences(result: Comparison) -> None:
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


if __name__ == "__main__":
    main()
