"""`stas compare` and `stas study`: many videos, and what differs between them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from stas.assets import shipped
from stas.checks import check_fps
from stas.cli.options import (
    MEASURES,
    MODEL,
    Batch,
    ControlFile,
    Device,
    DTypeName,
    Force,
    Fps,
    Frames,
    Guidance,
    ImageFile,
    InputFiles,
    LastImageFile,
    Model,
    OffloadName,
    OwnMeasures,
    PromptFile,
    RayAddress,
    Resume,
    Revision,
    Seeds,
    Size,
    Steps,
    UsageError,
    VideoFile,
    WorkerCount,
    call_arguments,
    given_prompts,
    input_arguments,
    read_dtype,
    read_workers,
)
from stas.cli.say import LOADING, bars, console, load_for, notes, say_differences, say_time
from stas.pipelines.options import PipelineOptions
from stas.pipelines.places import check_comparison_folder
from stas.pipelines.prompts import samples_of
from stas.workers.executors import HERE

MOST_VIDEOS = 1_000  # that a study starts with unasked


def compare(
    prompt: Annotated[str | None, typer.Argument(help="What the videos are to show.")] = None,
    prompts: PromptFile = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="off, on, a named intervention (zero, mean, scale-all, scale-first-frame, "
            "max-first-frame, boundary, stas) or a STASConfig as JSON; may be repeated, and the "
            "first is what the others are compared with. By default off and on.",
        ),
    ] = None,
    seed: Seeds = "0",
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="DINO or CLIP model for similarity curves, as in facebook/dino-vitb16; may be "
            "repeated.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    measure: OwnMeasures = None,
    aesthetic: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Head of LAION's aesthetic predictor, sa_0_4_vit_l_14_linear.pth, to score each "
            "frame.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
    aesthetic_clip: Annotated[
        str | None,
        typer.Option(
            help="CLIP model that the head was fitted on; openai/clip-vit-large-patch14 by "
            "default.",
            rich_help_panel=MEASURES,
        ),
    ] = None,
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
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder of the comparison.")
    ] = Path("comparison"),
    workers: WorkerCount = None,
    ray: RayAddress = None,
    batch: Batch = 1,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Make the same videos with steering off and on, and show and measure what differs.

    The folder gets a report.html that opens in a browser, the videos, and the numbers as CSV.
    Ctrl-C keeps what is finished, and --resume goes on with it.
    """
    shared = read_workers(workers, ray)
    samples = samples_of(given_prompts(prompt, prompts), seed)
    check_comparison_folder(output, resume=resume, force=force)
    if aesthetic_clip and aesthetic is None:
        raise UsageError("--aesthetic-clip is the model for a head: give its file by --aesthetic.")
    arguments = call_arguments(frames, size, steps, guidance)
    arguments |= input_arguments(image, last_image, video, control, inputs)
    if fps is not None:
        check_fps(fps)
    with notes.status(LOADING):
        from stas.measures.measure import Measures, load_measure
        from stas.studies.compare import compare as compare_settings
        from stas.studies.compare import read_setting
    settings = [read_setting(text) for text in run or ("off", "on")]
    for source in measure or ():
        load_measure(source)  # a slip is told before the model is loaded
    loaded = load_for(
        shared,
        PipelineOptions(
            model=model, revision=revision, device=device, dtype=dtype, offload=offload
        ),
    )
    measures = Measures.load(
        encoders=encoder or (),
        own=measure or (),
        aesthetic=aesthetic,
        aesthetic_clip=aesthetic_clip,
    )
    with bars() as report:
        result = compare_settings(
            loaded,
            samples,
            output,
            settings=settings,
            arguments=arguments,
            fps=fps,
            measures=measures,
            resume=resume,
            force=force,
            workers=shared,
            batch=batch,
            report=report,
        )
    say_differences(result)
    console.print(escape(str(output / "report.html")))


def study(
    file: Annotated[
        str,
        typer.Argument(
            help="The study's TOML file, or the name of one that ships: "
            f"{', '.join(shipped('studies', '.toml'))}."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run directory. By default runs/NAME."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="In place of the study's.", rich_help_panel=MODEL)
    ] = None,
    revision: Revision = None,
    dtype: Annotated[
        Any,
        typer.Option(
            metavar="DTYPE",
            parser=read_dtype,
            help="In place of the study's.",
            rich_help_panel=MODEL,
        ),
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
    measure: OwnMeasures = None,
    device: Device = "auto",
    offload: OffloadName = "none",
    workers: WorkerCount = None,
    ray: RayAddress = None,
    batch: Batch = 1,
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
    Started on several machines that share the run directory, it shares the work. The run directory
    gets a report.html, its tables as CSV and Markdown, and every video.
    """
    shared = read_workers(workers, ray)
    with notes.status(LOADING):
        from stas.measures.measure import load_measure
        from stas.pipelines.model import LoadedPipeline
        from stas.studies.file import load_study
        from stas.studies.page import write_study_report
        from stas.studies.run import carry_out
        from stas.studies.study import load_measures, open_study
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
    run = open_study(wanted, output)
    if only_report:
        console.print(escape(str(write_study_report(run))))
        return
    size = f"{run.videos:,} videos: {len(run.settings):,} settings x {len(run.samples):,} samples"
    if run.left > MOST_VIDEOS and not (yes or dry_run):
        raise ValueError(
            f'{size}. Start that with --yes, or make it smaller: fewer values, vary = "each", a '
            "smaller count. --dry-run says how long it takes here."
        )
    for source in wanted.own_measures:
        load_measure(source)  # a slip is told before the model is loaded
    options = PipelineOptions(
        model=wanted.model,
        revision=wanted.revision,
        device=device,
        dtype=wanted.dtype,
        offload=offload,
    )
    # How long it takes is measured here, and workers load the pipeline themselves.
    loaded = load_for(HERE if dry_run else shared, options)
    measures = load_measures(wanted)
    notes.print(size + (f", {len(run.finished):,} of them finished." if run.finished else "."))
    if isinstance(loaded, LoadedPipeline) and run.left:
        say_time(loaded, run, run.check(loaded)[0])
    if dry_run:
        return
    try:
        with bars() as report:
            carry_out(run, loaded, measures, workers=shared, batch=batch, report=report)
    finally:
        # After an error or Ctrl-C too: what is finished is worth its report.
        if run.finished:
            page = write_study_report(run)
            if run.left:
                notes.print(
                    f"{len(run.finished):,} of {run.videos:,} videos are finished and kept; the "
                    "same command goes on from there."
                )
            console.print(escape(str(page)))
