"""`stas record` and `stas plot`: seeing massive activations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stas.cli.options import (
    Boundary,
    ControlFile,
    Count,
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
    read_blocks,
    read_integers,
    read_maps,
    read_workers,
)
from stas.cli.say import bars, console, load_for, notes, say_findings
from stas.files import made_folder
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import read_prompts, texts_alone

if TYPE_CHECKING:
    from stas.activations.stats import ActivationStats
    from stas.pipelines.model import LoadedPipeline


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
    blocks: Annotated[
        Any,
        typer.Option(metavar="BLOCKS", parser=read_blocks, help="all, middle, or as in 0,3,-1."),
    ] = "all",
    boundary: Boundary = 0.08,
    map_blocks: Annotated[
        Any,
        typer.Option(
            metavar="BLOCKS",
            parser=read_maps,
            help="Blocks of which maps over the tokens are kept, or none.",
        ),
    ] = "middle",
    map_dims: Annotated[
        Any,
        typer.Option(
            metavar="DIMS",
            parser=read_integers,
            help="Dimensions of the maps; those of the model's profile by default.",
        ),
    ] = None,
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
    plots: Annotated[
        bool,
        typer.Option("--plots", metavar="", help="Draw pictures into a folder beside the output."),
    ] = False,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Record statistics of the hidden states over many videos.

    What is finished is saved after each video: Ctrl-C loses the video in work, and --resume goes
    on. `stas plot` draws the file.
    """
    shared = read_workers(workers, ray)
    arguments = call_arguments(frames, size, steps, guidance)
    arguments |= input_arguments(image, last_image, video, control, inputs)
    check_stats_place(output, force=force, resume=resume)
    chosen = prompt_texts(prompts, model, count)
    options: dict[str, Any] = {"blocks": blocks, "boundary": boundary}
    if map_blocks != "none":
        options |= {"map_blocks": map_blocks, "map_dims": map_dims}
    stats = record_with_bar(
        load_for(
            shared,
            PipelineOptions(
                model=model, revision=revision, device=device, dtype=dtype, offload=offload
            ),
        ),
        chosen,
        arguments,
        output,
        seed=seed,
        resume=resume,
        workers=shared,
        **options,
    )
    console.print(f"{escape(str(output))}: {stats!r}")
    say_findings(stats)
    if plots:
        _draw({model: stats}, output.with_suffix(""))


def plot(
    stats: Annotated[list[Path], typer.Argument(help="Files that stas record wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the pictures.")
    ] = Path("plots"),
    dims: Annotated[
        Any,
        typer.Option(
            metavar="DIMS",
            parser=read_integers,
            help="Dimensions to show; the massive ones by default.",
        ),
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="The block to show; the middle one by default.")
    ] = None,
    figure: Annotated[
        int | None, typer.Option(help="Only this figure of the paper, 1 or 2.")
    ] = None,
    raster: Annotated[
        bool,
        typer.Option(
            "--raster",
            metavar="",
            help="Draw and say instead whether dimensions follow the place in the sequence or the "
            "picture's border, by prompt.",
        ),
    ] = False,
) -> None:
    """Draw recorded statistics: pictures, and their numbers as CSV."""
    from stas.activations.stats import ActivationStats

    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file, but pictures go into a folder.")
    if raster and figure is not None:
        raise UsageError("--raster draws its own picture, and --figure is another: give one.")
    if len({path.stem for path in stats}) < len(stats):
        raise ValueError("Two of the files have the same name: the pictures would not tell which.")
    loaded = {path.stem: ActivationStats.load(path) for path in stats}
    if raster:
        _draw_raster(loaded, output, dims=dims, block=block)
    else:
        _draw(loaded, output, dims=dims, block=block, figure=figure)


def record_with_bar(
    loaded: LoadedPipeline | PipelineOptions,
    prompts: list[str],
    arguments: dict[str, Any],
    path: Path,
    **options: Any,
) -> ActivationStats:
    """Record videos with a bar."""
    from stas.pipelines.recorder import record_videos

    with bars() as report:
        return record_videos(loaded, prompts, arguments, path, report=report, **options)


def _draw(stats: Any, folder: Path, **options: Any) -> None:
    with notes.status("Drawing"):
        from stas.activations.plots import plot

        written = plot(stats, folder, **options)
    for path in written:
        console.print(escape(str(path)))


def _draw_raster(stats: Any, folder: Path, **options: Any) -> None:
    from stas.activations.raster import raster, write_raster

    found = {name: raster(each, **options) for name, each in stats.items()}
    for name, evidence in found.items():
        for each in evidence:
            of = f"{name}: " if len(found) > 1 else ""
            console.print(escape(f"{of}dimension {each.dim}, block {each.block}: {each.words}"))
        for path in write_raster(evidence, folder, f"{name}-" if len(found) > 1 else ""):
            console.print(escape(str(path)))


def prompt_texts(path: Path | None, model: str, count: int) -> list[str]:
    """The first `count` prompts of a file, or of the list that ships for the model."""
    from stas.assets import prompt_list

    listed = texts_alone(read_prompts(None, path or prompt_list(model)), "A recording")
    if len(listed) < count:
        raise ValueError(
            f"{count} videos were asked for, but there are {len(listed)} prompts"
            + (f" in {path}." if path else ", the ones that ship. Give a file by --prompts.")
        )
    return listed[:count]


def check_stats_place(path: Path, *, force: bool, resume: bool) -> None:
    if path.suffix != ".safetensors":
        raise ValueError(f"Statistics are a .safetensors file, but got {str(path)!r}.")
    if path.exists() and not (force or resume):
        raise FileExistsError(
            f"{path} exists already. Use --resume to go on with it, or --force to overwrite it."
        )
    with made_folder(path.parent):
        pass  # so it can be made; recording makes it again, and only where a video is made
