"""`stas generate`: videos from prompts, and from manifests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from stas.checks import check_fps
from stas.cli.options import (
    OUTPUT,
    STEERING,
    VIDEO,
    Batch,
    Blocks,
    Branches,
    ConfigFile,
    ControlFile,
    Device,
    Dims,
    DTypeName,
    Force,
    Fps,
    Frames,
    Guidance,
    ImageFile,
    InputFiles,
    LastImageFile,
    Lora,
    Model,
    OffloadName,
    OpName,
    PromptFile,
    RayAddress,
    ReferenceName,
    Regions,
    Resume,
    Revision,
    Scale,
    Seeds,
    Size,
    Start,
    SteeredBoundary,
    Steps,
    Stop,
    UsageError,
    VideoFile,
    WorkerCount,
    call_arguments,
    given_fields,
    given_loras,
    given_prompts,
    input_arguments,
    is_given,
    read_workers,
    refuse_other_options,
    steering_of,
)
from stas.cli.say import RepeatError, bars, console, load_for, loading, notes, sentence
from stas.pipelines.manifest import Manifest
from stas.pipelines.options import PipelineOptions
from stas.pipelines.places import check_places, input_files, keep_inputs, lora_files, places_of
from stas.pipelines.prompts import Sample, samples_of
from stas.workers.executors import HERE, Workers

if TYPE_CHECKING:
    from stas.pipelines.generator import GenerateJob
    from stas.workers.job import Progress


def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What the video is to show.")] = None,
    prompts: PromptFile = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Repeat the run of this manifest, bit for bit.", rich_help_panel=VIDEO),
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What it is not to show.", rich_help_panel=VIDEO)
    ] = None,
    seed: Seeds = "0",
    frames: Frames = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    fps: Fps = None,
    image: ImageFile = None,
    last_image: LastImageFile = None,
    video: VideoFile = None,
    control: ControlFile = None,
    inputs: InputFiles = None,
    model: Model = "bundled",
    revision: Revision = None,
    device: Device = "auto",
    dtype: DTypeName = "auto",
    offload: OffloadName = "none",
    lora: Lora = None,
    steer: Annotated[
        bool,
        typer.Option(
            "--steer/--no-steer", metavar="", help="STAS on or off.", rich_help_panel=STEERING
        ),
    ] = True,
    config: ConfigFile = None,
    dims: Dims = None,
    blocks: Blocks = None,
    op: OpName = None,
    regions: Regions = None,
    boundary: SteeredBoundary = None,
    scale: Scale = None,
    reference: ReferenceName = None,
    start: Start = None,
    stop: Stop = None,
    branches: Branches = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The .mp4, .gif, .webp or .apng file, or a folder. By default the folder outputs.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    kind: Annotated[
        Literal["mp4", "gif", "webp", "apng"] | None,
        typer.Option(
            "--format", help="Of the videos in a folder; mp4 by default.", rich_help_panel=OUTPUT
        ),
    ] = None,
    workers: WorkerCount = None,
    ray: RayAddress = None,
    batch: Batch = 1,
    resume: Resume = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            metavar="",
            help="Make only the videos whose file is not there, whatever made the others.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Make videos from a prompt, steered by default.

    Beside each video lie a strip of its frames and its manifest,
    from which --manifest makes the same video again.
    """
    started = time.monotonic()
    if manifest is not None:
        why = "--manifest repeats a run as it was"
        refuse_other_options(context, why, "manifest", "output", "force", "model")
        moved = model if is_given(context, "model") else None
        _repeat(manifest, output, moved, force=force)
        return
    shared = read_workers(workers, ray)
    samples = samples_of(given_prompts(prompt, prompts), seed)
    values = given_fields(context)
    if not steer and (config or values):
        raise UsageError(
            "--no-steer steers nothing, so it takes no --config and no steering option."
        )
    arguments = {"negative_prompt": negative_prompt}
    arguments |= call_arguments(frames, size, steps, guidance)
    given_files = input_arguments(image, last_image, video, control, inputs)
    arguments |= given_files
    if fps is not None:
        check_fps(fps)
    steering = None
    if steer:
        from stas.activations.profiles import default_steering

        steering = steering_of(config, values, default_steering(model))
    loras = given_loras(lora)
    places = places_of(output, samples, None if kind is None else f".{kind}")
    read = ("config", config), ("prompt file", prompts), *input_files(given_files)
    keep_inputs(places, *read, *lora_files(loras))
    if skip_existing:
        lacking = [not place.exists() for place in places]
        samples, places = list(compress(samples, lacking)), list(compress(places, lacking))
        notes.print(f"{lacking.count(False)} of {len(lacking)} videos are there and are skipped.")
        if not samples:
            return
    check_places(places, force=force, resume=resume)
    options = PipelineOptions(
        model=model, revision=revision, device=device, dtype=dtype, offload=offload, loras=loras
    )
    from stas.pipelines.generator import GenerateJob

    given = load_for(shared, options)
    _make(
        GenerateJob(given, samples, places, arguments, steering, fps=fps, force=force, batch=batch),
        samples,
        places,
        shared,
    )
    if len(samples) > 1:
        console.print(f"{len(samples)} videos in {time.monotonic() - started:.0f} s")


def _make(
    job: GenerateJob, samples: Sequence[Sample], places: Sequence[Path], workers: Workers
) -> None:
    """Make videos, and say of each that it is there and what was steered, where that is news."""
    from stas.pipelines.job import carry_out

    left = {sample.name: (sample, place) for sample, place in zip(samples, places, strict=True)}
    seen: tuple[Any, ...] = ()
    steered = [""]

    def say(progress: Progress) -> None:
        nonlocal seen
        report(progress)
        now = progress.finished, *(each.task for each in progress.working)
        if seen == now:
            return
        before, seen = seen, now
        for name, (sample, place) in list(left.items()):
            if (manifest := job.made(sample)) is None:
                continue
            del left[name]
            if not before:
                console.print(f"{escape(str(place))} is finished")
                continue
            if (lines := manifest.dims_text()) != steered:
                for line in lines:
                    notes.print(escape(line))
            steered[:] = lines
            size = "{width}x{height}".format(**manifest.frames)
            count = manifest.frames["count"]
            console.print(
                f"{escape(str(place))} ({count} frame{'' if count == 1 else 's'}, {size}, "
                f"{manifest.fps:g} fps) made in {manifest.seconds:.1f} s, "
                f"{'steered' if manifest.steered else 'not steered'}"
            )

    with bars() as report:
        carry_out(job, workers, say)


def _repeat(path: Path, output: Path | None, model: str | None, *, force: bool) -> None:
    from stas.pipelines.generator import GenerateJob

    old = Manifest.load(path)
    sample = Sample(path.stem, str(old.arguments["prompt"]), old.seed, old.prompt_file)
    [place] = places_of(output or path.with_name(f"{path.stem}-repeated.mp4"), [sample])
    loras = lora_files(old.pipeline.get("loras", {}))
    keep_inputs([place], ("manifest", path), *input_files(old.arguments), *loras)
    check_places([place], force=force)
    # Whatever fails from here on does so with the manifest's values, so the message names it.
    try:
        options = PipelineOptions(**old.pipeline)
        # What a branch or tag stood for then is what is repeated.
        options = replace(
            options,
            model=options.model if model is None else model,
            revision=old.model.get("commit") if model is None else None,
        )
        loaded = loading(options, threads=old.versions.get("threads"))
        job = GenerateJob(
            loaded,
            [sample],
            [place],
            old.arguments,
            old.steering_config(),
            fps=old.fps,
            force=force,
        )
        _make(job, [sample], [place], HERE)
        new = Manifest.load(place.with_suffix(".json"))
    except Exception as error:
        raise RepeatError(f"Can't repeat {path}: {sentence(error)}") from error
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
    if old.batch is not None:
        changed.append(f"batch {old.batch['size']} -> 1")
    changed += [f"dims {dims[0]} -> {dims[1]}"] if dims[0] != dims[1] else []
    raise ValueError(
        "The video was made, but its pixels are not those of the manifest's video. Changed since: "
        + (", ".join(changed) or "nothing that the manifest records; the model's files, perhaps")
        + f". Or {path} was edited."
    )
