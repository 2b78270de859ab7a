"""Options that commands share, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stas.checks import check_arguments

MOST_SEEDS = 100_000


MODEL = "Model"


VIDEO = "Video"


STEERING = "Steering"


OUTPUT = "Output"


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
