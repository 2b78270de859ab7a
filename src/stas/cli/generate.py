"""`stas generate`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stas.checks import check_arguments, check_fps
from stas.cli.options import (
    MODEL,
    OUTPUT,
    STEERING,
    VIDEO,
    _integers,
    _is_given,
    _loras,
    _refuse_other_options,
    _seeds,
    _size,
    _words,
)
from stas.cli.say import LOADING, RepeatError, console, notes, sentence
from stas.cli.session import _Maker
from stas.method.config import STASConfig
from stas.pipelines.manifest import Manifest
from stas.pipelines.places import _check_places, _keep_inputs, _lora_files, _places
from stas.pipelines.prompts import _prompts

if TYPE_CHECKING:
    pass


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
        from stas.pipelines.options import PipelineOptions
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
        from stas.pipelines.options import PipelineOptions
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


def _steering(path: Path | None, values: dict[str, Any]) -> STASConfig:
    return replace(STASConfig() if path is None else STASConfig.load(path), **values)
