"""`stas profile`: which dimensions of a model are massive, and the profiles that say so."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from stas.cli.command import command
from stas.cli.options import (
    VIDEO,
    ControlFile,
    Device,
    DTypeName,
    FirstSeed,
    Force,
    Frames,
    Guidance,
    ImageFile,
    InputFiles,
    LastImageFile,
    Model,
    OffloadName,
    Prompts,
    RayAddress,
    Resume,
    Revision,
    Size,
    Steps,
    UsageError,
    VideoFile,
    WorkerCount,
    call_arguments,
    input_arguments,
    is_given,
    read_workers,
)
from stas.cli.record import check_stats_place, prompt_texts, record_with_bar
from stas.cli.say import console, load_for, loading, notes, say_findings, show, warn
from stas.pipelines.options import PipelineOptions

if TYPE_CHECKING:
    from stas.activations.profiles import Profile

profile = typer.Typer()
ModelName = Annotated[str, typer.Argument(help="The bundled model, a folder, or a hub id.")]


@profile.callback(invoke_without_command=True)
@command
def measure(
    context: typer.Context,
    model: Model = "bundled",
    prompts: Prompts = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="The most videos.", rich_help_panel=VIDEO)
    ] = 100,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            metavar="",
            help="Record all of them, also when fewer say for sure which dimensions are massive.",
            rich_help_panel=VIDEO,
        ),
    ] = False,
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
    image: ImageFile = None,
    last_image: LastImageFile = None,
    video: VideoFile = None,
    control: ControlFile = None,
    inputs: InputFiles = None,
    seed: FirstSeed = 0,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Measure which dimensions of a model are massive, and write its profile.

    Ends when that is sure, or after --count videos. From then on `steer` and `stas generate` use
    that profile for the model. The statistics lie beside it.
    """
    if (other := context.invoked_subcommand) is not None:
        if lost := [name for name in context.params if is_given(context, name)]:
            raise UsageError(f"{', '.join(lost)} belongs behind {other}, or to measuring alone.")
        return
    shared = read_workers(workers, ray)
    arguments = call_arguments(frames, size, steps, guidance)
    arguments |= input_arguments(image, last_image, video, control, inputs)
    if output is not None and output.suffix != ".json":
        raise ValueError(f"A profile is a .json file, but got {str(output)!r}.")
    from stas.activations.certainty import certainty
    from stas.activations.profiles import Profile, cached_profile, filed_under
    from stas.pipelines.recorder import make_profile

    options = PipelineOptions(
        model=model, revision=revision, device=device, dtype=dtype, offload=offload
    ).resolved()
    name = filed_under(options.model)
    place = output or cached_profile(name)
    recorded = place.with_suffix(".safetensors")
    if output is None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"The folder of measured profiles can't be written to: {error}. Give a file by -o, "
                "or another folder by the variable STAS_CACHE."
            ) from error
    if place.exists() and not force:
        raise FileExistsError(
            f"{place} exists already: {Profile.load(place).described}. Use --force to measure anew."
        )
    check_stats_place(recorded, force=force, resume=resume)
    chosen = prompt_texts(prompts, model, count)
    given = load_for(shared, options)
    how = {"seed": seed, "resume": resume, "workers": shared, "until_sure": not every}
    stats = record_with_bar(given, chosen, arguments, recorded, **how)
    say_findings(stats)
    if stats.video_ratios is not None:
        made_of = int(stats.metadata["finished"])
        if made_of < count:
            console.print(f"It is sure after {made_of} of {count} videos, so it ends here.")
        console.print(escape(certainty(stats).describe()))
    loaded = loading(given) if isinstance(given, PipelineOptions) else given
    made, found = make_profile(stats, loaded.transformer, name)
    if made is None:
        raise ValueError(
            f"No profile is written: no dimension reaches {found.threshold:g} times the mean "
            f"magnitude. Strongest: {found.describe()}. The statistics are in {recorded}."
        )
    if place.exists():  # how a tune found it is kept: it is about videos, and not of dimensions
        made = replace(made, steering=Profile.load(place).steering)
    made.save(place)
    console.print(f"{escape(str(place))}: {escape(made.describe())}")
    used = loaded.profile()
    if output is None and used is not None and used != made:
        warn(f"It is not used: {used.described} says more. Measure more videos, by --count.")


@profile.command("list")
@command
def list_profiles() -> None:
    """List the profiles that ship and those that were measured on this machine."""
    from stas.activations.profiles import all_profiles

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "dims", "from", "file"):
        table.add_column(heading)
    for path, found in all_profiles():
        dims = ", ".join(map(str, found.dims))
        table.add_row(escape(found.model), dims, escape(found.origin), escape(str(path)))
    show(table)


@profile.command("show")
@command
def show_profile(model: ModelName) -> None:
    """Print the profile that a model is steered with."""
    path, found = _used(model)
    notes.print(escape(str(path)))
    console.print(json.dumps(found.to_dict(), indent=2), markup=False)


@profile.command()
@command
def delete(
    model: ModelName,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Don't ask.")] = False,
) -> None:
    """Delete the profile of a model that was measured on this machine, and its statistics."""
    from stas.activations.profiles import Profile, cached_profile, filed_under

    path = cached_profile(filed_under(model))
    if not path.is_file():
        raise FileNotFoundError(f"No profile of {model!r} was measured on this machine.")
    if not (yes or sys.stdin.isatty()):
        raise UsageError("Nobody is there to be asked: give --yes.")
    if not (yes or typer.confirm(f"Delete {path} ({Profile.load(path).described})?")):
        return
    for each in (path, path.with_suffix(".safetensors")):
        each.unlink(missing_ok=True)
    console.print(f"{escape(str(path))} is deleted.")


def _used(model: str) -> tuple[Path, Profile]:
    from stas.activations.profiles import filed_under, profiles_of

    found = profiles_of(filed_under(model))
    if not found:
        raise FileNotFoundError(
            f"There is no profile of {model!r}. Measure it: stas profile --model {model}"
        )
    return found[0]
