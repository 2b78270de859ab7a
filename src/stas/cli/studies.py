"""`stas compare` and `stas study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from stas.checks import check_fps
from stas.cli.options import (
    Device,
    DTypeName,
    Force,
    Frames,
    Guidance,
    Model,
    OffloadName,
    Revision,
    Size,
    Steps,
    _call_options,
    _seeds,
)
from stas.cli.say import LOADING, _say_differences, _say_time, _video_bar, console, notes
from stas.cli.session import _Maker
from stas.pipelines.places import _places
from stas.pipelines.prompts import _prompts

if TYPE_CHECKING:
    pass


MOST_VIDEOS = 1_000  # that a study starts with unasked


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

    from stas.measures.features import AESTHETIC_CLIP, load_aesthetic, load_encoder
    from stas.measures.measure import load_measure
    from stas.pipelines.options import PipelineOptions
    from stas.pipelines.prompts import Sample
    from stas.studies.compare import compare as compare_runs
    from stas.studies.comparison import read_run

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
        from stas.measures.features import AESTHETIC_CLIP, load_aesthetic, load_encoder
        from stas.measures.measure import load_measure
        from stas.pipelines.options import PipelineOptions
        from stas.studies.file import load_study
        from stas.studies.report import write_study_report
        from stas.studies.run import check_model, claim, find_dims, make_all, read_run
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
