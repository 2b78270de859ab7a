"""`stas generate`: videos from prompts, and from manifests."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stas.checks import check_fps
from stas.cli.options import (
    OUTPUT,
    STEERING,
    VIDEO,
    Branches,
    Device,
    DTypeName,
    Force,
    Fps,
    Frames,
    Guidance,
    Lora,
    Model,
    OffloadName,
    PromptFile,
    Regions,
    Resume,
    Revision,
    Seeds,
    Size,
    Steps,
    UsageError,
    call_arguments,
    is_given,
    read_blocks,
    read_integers,
    refuse_other_options,
)
from stas.cli.say import RepeatError, console, loading, notes, sentence, step_bar
from stas.method.config import Op, Reference, STASConfig
from stas.pipelines.manifest import Manifest
from stas.pipelines.options import PipelineOptions
from stas.pipelines.places import check_places, keep_inputs, lora_files, places_of
from stas.pipelines.prompts import Sample, read_prompts, samples_of

if TYPE_CHECKING:
    from stas.hooks.steer import SteeringHandle
    from stas.pipelines.model import LoadedPipeline


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
    config: Annotated[
        Path | None,
        typer.Option(
            help="STASConfig as JSON; the options below override it.", rich_help_panel=STEERING
        ),
    ] = None,
    dims: Annotated[
        Any,
        typer.Option(
            metavar="DIMS",
            parser=read_integers,
            help="Massive dimensions, as in 1188,700. By default those of the model's profile, "
            "else detected.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    blocks: Annotated[
        Any,
        typer.Option(
            metavar="BLOCKS",
            parser=read_blocks,
            help="all, middle, or as in 0,3,-1.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    op: Annotated[
        Op | None,
        typer.Option(
            help="max is STAS; the others are the paper's other interventions.",
            rich_help_panel=STEERING,
        ),
    ] = None,
    regions: Regions = None,
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
        Reference | None,
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
    branches: Branches = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The .mp4 file, or a folder. By default the folder outputs.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Make videos from a prompt, steered by default.

    Beside each video lie a strip of its frames and its manifest,
    from which --manifest makes the same video again.
    """
    started = time.monotonic()
    if manifest is not None:
        refuse_other_options(context, "manifest", "output", "force", "model")
        moved = model if is_given(context, "model") else None
        _repeat(manifest, output, moved, force=force)
        return
    samples = samples_of(_read_prompts(prompt, prompts), seed)
    values: dict[str, Any] = {
        "dims": dims,
        "blocks": blocks,
        "op": op,
        "regions": regions,
        "boundary": boundary,
        "scale": scale,
        "reference": reference,
        "start": start,
        "stop": stop,
        "branches": branches,
    }
    values = {key: value for key, value in values.items() if value is not None}
    if not steer and (config or values):
        raise UsageError(
            "--no-steer steers nothing, so it takes no --config and no steering option."
        )
    arguments = {"negative_prompt": negative_prompt}
    arguments |= call_arguments(frames, size, steps, guidance)
    if fps is not None:
        check_fps(fps)
    steering = None
    if steer:
        steering = replace(STASConfig() if config is None else STASConfig.load(config), **values)
    loras = dict(lora or [])
    places = places_of(output, samples)
    keep_inputs(places, ("config", config), ("prompt file", prompts), *lora_files(loras))
    check_places(places, force=force, resume=resume)
    options = PipelineOptions(
        model=model, revision=revision, device=device, dtype=dtype, offload=offload, loras=loras
    )
    loaded = loading(options)
    for sample in samples[:: len(seed)]:
        loaded.check(arguments | {"prompt": sample.prompt}, steering)
    said: list[str] = []
    for number, (sample, place) in enumerate(zip(samples, places, strict=True), 1):
        label = f"{number}/{len(samples)}" if len(samples) > 1 else ""
        wanted = arguments | {"prompt": sample.prompt}
        if resume and _is_finished(loaded, wanted, sample, steering, place, fps):
            console.print(f"{escape(str(place))} is finished")
            continue
        _make(loaded, wanted, sample, steering, place, fps=fps, label=label, said=said)
    if len(samples) > 1:
        console.print(f"{len(samples)} videos in {time.monotonic() - started:.0f} s")


def _read_prompts(prompt: str | None, prompts: Path | None) -> Any:
    if (prompt is None) == (prompts is None):
        raise UsageError(
            "Give a prompt or --prompts FILE, and not both. Example: stas generate "
            '"a red circle moving right on a blue background"'
        )
    return read_prompts(prompt, prompts)


def _is_finished(
    loaded: LoadedPipeline,
    wanted: dict[str, Any],
    sample: Sample,
    steering: STASConfig | None,
    place: Path,
    fps: float | None,
) -> bool:
    """Whether a video is there already, whole and of the very same request.

    Raises:
        FileExistsError: Files are there, and they are of another request.
    """
    from stas.pipelines.sample import VideoFiles

    files = VideoFiles(place.with_suffix(""))
    found = files.read()
    if found is None:
        return False
    manifest = found.manifest
    asked = {
        "pipeline": asdict(loaded.options),
        "arguments": loaded.arguments(wanted),
        "seed": sample.seed,
        "fps": loaded.fps if fps is None else fps,
        "steering": None if steering is None else steering.to_dict(),
    }
    if differing := [name for name, value in asked.items() if getattr(manifest, name) != value]:
        raise FileExistsError(
            f"{str(place)!r} exists already, and its manifest says another {differing[0]}: "
            f"{getattr(manifest, differing[0])} and not {asked[differing[0]]}. Give another -o, or "
            "--force to overwrite."
        )
    return True


def _make(
    loaded: LoadedPipeline,
    wanted: dict[str, Any],
    sample: Sample,
    steering: STASConfig | None,
    place: Path,
    *,
    fps: float | None,
    label: str,
    said: list[str],
) -> Manifest:
    """Make one video, its strip and its manifest, and say so."""
    from stas.pipelines.sample import VideoFiles, make_sample

    arguments = loaded.arguments(wanted)
    with loaded.steered(steering) as handle:
        with step_bar(label, handle) as report:
            frames, record = make_sample(loaded, sample, arguments, handle, fps=fps, report=report)
        _say_what_was_steered(handle, said)
    place.parent.mkdir(parents=True, exist_ok=True)
    VideoFiles(place.with_suffix("")).write(frames, record)
    count, height, width = frames.shape[:3]
    length = f"{count} frame{'' if count == 1 else 's'}"
    console.print(
        f"{escape(str(place))} ({length}, {width}x{height}, {record.fps:g} fps) made in "
        f"{record.seconds:.1f} s, {'steered' if record.steered else 'not steered'}"
    )
    return record


def _say_what_was_steered(handle: SteeringHandle | None, said: list[str]) -> None:
    """Say what was steered, where that is news."""
    lines = [] if handle is None else handle.summary().splitlines()[1:]
    if lines != said:
        for line in lines:
            notes.print(escape(line))
    said[:] = lines


def _repeat(path: Path, output: Path | None, model: str | None, *, force: bool) -> None:
    old = Manifest.load(path)
    place = output or path.with_name(f"{path.stem}-repeated.mp4")
    if place.suffix != ".mp4":
        place = place / f"{path.stem}.mp4"
    keep_inputs([place], ("manifest", path), *lora_files(old.pipeline.get("loras", {})))
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
        arguments = dict(old.arguments)
        sample = Sample(place.stem, str(arguments["prompt"]), old.seed, old.prompt_file)
        steering = old.steering_config()
        new = _make(loaded, arguments, sample, steering, place, fps=old.fps, label="", said=[])
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
    changed += [f"dims {dims[0]} -> {dims[1]}"] if dims[0] != dims[1] else []
    raise ValueError(
        "The video was made, but its pixels are not those of the manifest's video. Changed since: "
        + (", ".join(changed) or "nothing that the manifest records; the model's files, perhaps")
        + f". Or {path} was edited."
    )
