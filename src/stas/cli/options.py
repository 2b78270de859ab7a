"""Options that commands share, and how what is given to them is read.

What can't be read raises typer.BadParameter, a usage error: the command ends with exit code 2.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from stas import checks
from stas.checks import IMAGES, VIDEOS, Offload, check_arguments, dtype_name, some_of
from stas.method.config import BRANCHES, REGIONS, Op, Reference, STASConfig
from stas.pipelines.places import input_files
from stas.pipelines.prompts import Prompt, parse_seeds, read_prompts
from stas.workers.executors import Workers

MODEL, VIDEO, STEERING, MEASURES, OUTPUT = "Model", "Video", "Steering", "Measures", "Output"
INPUTS, WORKERS = "Pictures and videos in", "Workers"


class UsageError(typer.BadParameter):
    """Options that don't go together, or lack one."""

    def format_message(self) -> str:
        return self.message


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """One whose errors are those of an option."""

    def told(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return told


read_integers, read_blocks = _reader(checks.read_integers), _reader(checks.read_blocks)
read_seeds, read_dtype = _reader(parse_seeds), _reader(dtype_name)


def read_maps(text: str) -> Any:
    """What `read_blocks` reads, or "none"."""
    return text if text == "none" else read_blocks(text)


def read_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if match is None:
        raise typer.BadParameter(f"expected WIDTHxHEIGHT, as in 832x480, but got {text!r}.")
    return int(match[1]), int(match[2])


def read_lora(text: str) -> tuple[str, float]:
    """SOURCE or SOURCE=WEIGHT."""
    source, equals, weight = text.rpartition("=")
    try:
        return (source, float(weight)) if equals else (text, 1.0)
    except ValueError:
        raise typer.BadParameter(
            f"expected SOURCE or SOURCE=WEIGHT, as in style.safetensors=0.8, but got {text!r}."
        ) from None


def read_some_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A reader of some words of those known, with commas between."""

    def read(text: str) -> tuple[str, ...]:
        try:
            return some_of("it", [part.strip() for part in text.split(",")], known)
        except ValueError:
            raise typer.BadParameter(
                f"expected some of {', '.join(known)}, with commas between, but got {text!r}."
            ) from None

    return read


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, whatever its value."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_other_options(context: typer.Context, why: str, *allowed: str) -> None:
    """Refuse what would be ignored: all but the parameters that are allowed, by their names."""
    options = {
        str(each.name): "/".join((max(each.opts, key=len), *each.secondary_opts))
        for each in context.command.params
    }
    kept = (*allowed, "quiet", "verbose")
    given = [options[name] for name in options if is_given(context, name) and name not in kept]
    if given:
        known = (options[name] for name in allowed if options[name].startswith("-"))
        raise UsageError(f"{why}: remove {', '.join(given)}. Only {', '.join(known)} can be given.")


def given_prompts(prompt: str | None, prompts: Path | None) -> list[Prompt]:
    """The prompt, or those of a file.

    Raises:
        UsageError: Both or neither is given.
    """
    if (prompt is None) == (prompts is None):
        raise UsageError(
            "Give a prompt or --prompts FILE, and not both. A prompt is as in "
            '"a red circle moving right on a blue background".'
        )
    return read_prompts(prompt, prompts)


def given_loras(given: list[tuple[str, float]] | None) -> dict[str, float]:
    """The weight of each LoRA.

    Raises:
        UsageError: One is given twice.
    """
    loras: dict[str, float] = {}
    for source, weight in given or ():
        if source in loras:
            raise UsageError(
                f"--lora {source} is given twice, with the weights {loras[source]:g} and "
                f"{weight:g}: give it once."
            )
        loras[source] = weight
    return loras


def given_fields(context: typer.Context) -> dict[str, Any]:
    """The fields of STASConfig that are given as options."""
    fields = (each.name for each in dataclasses.fields(STASConfig))
    return {name: context.params[name] for name in fields if context.params[name] is not None}


def steering_of(
    file: Path | None, values: Mapping[str, Any], default: STASConfig | None = None
) -> STASConfig:
    """A config from its file, else the default, with some of its fields replaced."""
    base = default or STASConfig() if file is None else STASConfig.load(file)
    return replace(base, **values)


def read_workers(count: int | None, ray: str | None) -> Workers:
    """How many processes, and where.

    Raises:
        ValueError: Ray is asked for and not installed.
    """
    return Workers(1 if count is None and ray is None else count, ray)


def call_arguments(
    frames: int | None, size: tuple[int, int] | None, steps: int | None, guidance: float | None
) -> dict[str, Any]:
    """The arguments of a pipeline's call, as far as they can be checked without it."""
    width, height = size or (None, None)
    arguments = {
        "num_frames": frames,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }
    check_arguments(arguments)
    return arguments


def read_input(text: str) -> tuple[str, str]:
    """NAME=FILE."""
    name, _, file = text.partition("=")
    known = (*IMAGES, *VIDEOS)
    if name not in known or not file:
        raise typer.BadParameter(
            f"expected NAME=FILE, as in pose_video=pose.mp4, with a name of {', '.join(known)}, "
            f"but got {text!r}."
        )
    return name, file


def input_arguments(
    image: Path | None,
    last_image: Path | None,
    video: Path | None,
    control: Path | None,
    others: list[tuple[str, str]] | None,
) -> dict[str, Any]:
    """The pictures and videos of a pipeline's call: paths, a list where a name is repeated.

    Raises:
        UsageError: There is no such file, or a name is given in two ways.
    """
    own = {"image": image, "last_image": last_image, "video": video, "control": control}
    found: dict[str, Any] = {name: path for name, path in own.items() if path is not None}
    for name, file in others or ():
        if name in own and found.get(name) is not None:
            raise UsageError(f"The {name} is given twice: by its own option and by --input.")
        found[name] = [*found[name], file] if name in found else [file]
    found = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in found.items()
    }
    for name, path in input_files(found):
        if not path.is_file():
            raise UsageError(f"There is no file {str(path)!r}, which is to be the {name}.")
    return found


def _option(*names: str, panel: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **settings)


Model = Annotated[
    str,
    _option(panel=MODEL, help="The bundled model, a folder in diffusers' format, or a hub id."),
]
Revision = Annotated[str | None, _option(panel=MODEL, help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, _option(panel=MODEL, help="auto, cpu, cuda, cuda:1, mps, ...")]
DTypeName = Annotated[
    Any,
    _option(
        panel=MODEL,
        metavar="DTYPE",
        parser=read_dtype,
        help="auto, float32, bfloat16 or float16, or fp32, bf16, fp16; auto is bfloat16 on an "
        "accelerator, else float32.",
    ),
]
OffloadName = Annotated[Offload, _option(panel=MODEL, help="What waits on the CPU to save memory.")]
Lora = Annotated[
    list[Any] | None,
    _option(
        panel=MODEL,
        metavar="SOURCE[=WEIGHT]",
        parser=read_lora,
        help="LoRA weights: a file, folder or hub id; may be repeated.",
    ),
]
Prompts = Annotated[
    Path | None,
    _option(
        panel=VIDEO,
        help="Text file of prompts, one a line, or .jsonl or .csv; by default the list that ships.",
    ),
]
PromptFile = Annotated[
    Path | None,
    _option(
        panel=VIDEO,
        help="Text file of prompts, one a line; or .jsonl or .csv with the columns prompt, "
        "negative_prompt and seed.",
    ),
]
Seeds = Annotated[
    Any,
    _option(
        panel=VIDEO,
        metavar="SEEDS",
        parser=read_seeds,
        help="Seeds of each prompt: numbers and ranges, as in 0,7,10-13.",
    ),
]
FirstSeed = Annotated[int, _option(panel=VIDEO, min=0, help="Seed of the first video.")]
Frames = Annotated[int | None, _option(panel=VIDEO, help="Number of pixel frames.")]
Size = Annotated[
    Any,
    _option(
        panel=VIDEO,
        metavar="WIDTHxHEIGHT",
        parser=read_size,
        help="In pixels, as in 832x480.",
    ),
]
Steps = Annotated[int | None, _option(panel=VIDEO, help="Denoising steps.")]
Guidance = Annotated[
    float | None,
    _option(panel=VIDEO, min=0, max=100, help="Scale of classifier-free guidance."),
]
Fps = Annotated[
    float | None, _option(panel=VIDEO, min=0.1, max=240, help="Frames per second of the file.")
]
Count = Annotated[int, _option("--count", "-n", panel=VIDEO, min=1, help="How many videos.")]
Boundary = Annotated[
    float, typer.Option(help="Head and tail share of each latent frame that is boundary.")
]
ConfigFile = Annotated[
    Path | None,
    _option(panel=STEERING, help="STASConfig as JSON; the options below override it."),
]
Dims = Annotated[
    Any,
    _option(
        panel=STEERING,
        metavar="DIMS",
        parser=read_integers,
        help="Massive dimensions, as in 1188,700. By default those of the model's profile, else "
        "detected.",
    ),
]
Blocks = Annotated[
    Any,
    _option(
        panel=STEERING,
        metavar="BLOCKS",
        parser=read_blocks,
        help="all, middle, or as in 0,3,-1.",
    ),
]
OpName = Annotated[
    Op | None,
    _option(
        panel=STEERING,
        help="max is STAS; the others are the paper's other interventions.",
    ),
]
SteeredBoundary = Annotated[
    float | None,
    _option(
        "--boundary",
        panel=STEERING,
        help="Head and tail share of each latent frame, 0 to 0.5.",
    ),
]
Scale = Annotated[
    float | None, _option(panel=STEERING, help="Multiplier of the reference magnitude.")
]
ReferenceName = Annotated[
    Reference | None, _option(panel=STEERING, help="Maximum per dimension, or over all of them.")
]
Start = Annotated[float | None, _option(panel=STEERING, help="First steered share of the steps.")]
Stop = Annotated[
    float | None, _option(panel=STEERING, help="Share of the steps at which steering ends.")
]
Regions = Annotated[
    Any,
    _option(
        panel=STEERING,
        metavar="REGIONS",
        parser=read_some_of(REGIONS),
        help="Which tokens: of first_frame, boundary, interior, with commas between.",
    ),
]
Branches = Annotated[
    Any,
    _option(
        panel=STEERING,
        metavar="BRANCHES",
        parser=read_some_of(BRANCHES),
        help="Which branches of guidance: of cond, uncond, with commas between.",
    ),
]
OwnMeasures = Annotated[
    list[str] | None,
    _option(
        panel=MEASURES,
        metavar="MODULE:FUNCTION",
        help="A measure of your own: a function of frames and prompt that returns numbers by "
        "name; may be repeated.",
    ),
]
WorkerCount = Annotated[
    int | None,
    _option(
        "--workers",
        panel=WORKERS,
        metavar="N",
        min=1,
        help="How many processes share the work here, each with a GPU of its own where there are "
        "GPUs. Started on other machines too, the same command with the same output shares in it.",
    ),
]
RayAddress = Annotated[
    str | None,
    _option(
        "--ray",
        panel=WORKERS,
        metavar="ADDRESS",
        help="Share the work over a Ray cluster: its address, or auto; --workers says how many, "
        "by default one a GPU.",
    ),
]
ImageFile = Annotated[
    Path | None,
    _option("--image", panel=INPUTS, metavar="FILE", help="Picture that the video starts with."),
]
LastImageFile = Annotated[
    Path | None,
    _option("--last-image", panel=INPUTS, metavar="FILE", help="Picture that it ends with."),
]
VideoFile = Annotated[
    Path | None,
    _option("--video", panel=INPUTS, metavar="FILE", help="Video that is changed or gone on with."),
]
ControlFile = Annotated[
    Path | None,
    _option(
        "--control",
        panel=INPUTS,
        metavar="FILE",
        help="Video that controls it: edges, depth, poses.",
    ),
]
InputFiles = Annotated[
    list[Any] | None,
    _option(
        "--input",
        panel=INPUTS,
        metavar="NAME=FILE",
        parser=read_input,
        help="What else the pipeline takes by that name, as in pose_video=pose.mp4; may be "
        "repeated.",
    ),
]
Batch = Annotated[
    int,
    _option(
        panel=WORKERS,
        min=1,
        help="How many videos are made in one call of the pipeline: faster for small models.",
    ),
]
Force = Annotated[bool, _option("--force", panel=OUTPUT, metavar="", help="Overwrite what exists.")]
Resume = Annotated[
    bool,
    _option("--resume", panel=OUTPUT, metavar="", help="Go on with an output that was stopped."),
]
