"""The pages of comparisons and studies: one HTML file each, which opens from disk by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from stas import __version__
from stas.files import whole_file, write_table
from stas.measures.measure import NAMES
from stas.media.pictures import pane
from stas.pipelines.prompts import Sample
from stas.studies.differences import (
    DRAWS,
    FEWEST_PAIRS,
    NO_DIFFERENCE,
    NOT_STEERED,
    TOO_FEW,
    Difference,
    unit_of_pairs,
)
from stas.studies.figures import clips_over, draw_axis, draw_curves, frames_over
from stas.studies.html import TEMPLATES, drawn, write_page
from stas.studies.plan import Setting, in_words
from stas.studies.tables import (
    AxisTable,
    axis_table,
    comparison_differences,
    comparison_values,
    curve_rows,
    study_differences,
    study_values,
)
from stas.workers.leases import Leases

if TYPE_CHECKING:
    from stas.studies.compare import Comparison
    from stas.studies.run import Run
    from stas.studies.study import StudyRun

MOST_SHOWN = 24  # samples: each brings its video into the file


@contextmanager
def reporting(run: Run) -> Iterator[None]:
    """Be the one process that writes the report of a run, since all of its processes will."""
    leases = Leases(run.folder, "")
    with leases.wait("report"):
        yield
    leases.clear()


def write_report(run: Comparison) -> Path:
    """Write the curves, the tables and the page of a comparison's whole samples.

    Args:
        run: A comparison with at least one whole sample.

    Returns:
        The page: videos and pictures are inside it, so it can be sent on alone.
    """
    with reporting(run):
        return _write_report(run)


def _write_report(run: Comparison) -> Path:
    curves = draw_curves(run)
    with whole_file(run.folder / "curves.png", alone=True) as temporary:
        curves.savefig(temporary)
    write_table(run.folder / "curves.csv", curve_rows(run))
    write_table(run.folder / "values.csv", comparison_values(run))
    rows, whole = run.differences(), run.whole_samples()
    write_table(run.folder / "differences.csv", comparison_differences(run, rows))
    base = run.settings[0].name
    made = run.finished[whole[0].name, base].manifest

    def bar_of(sample: Sample) -> int:
        frames = run.finished[sample.name, base].manifest.frames
        return pane(frames["height"], frames["width"])[1]

    return write_page(
        run.folder / "report.html",
        TEMPLATES / "comparison.html",
        title=_titles([sample.prompt for sample in run.samples]),
        settings_text=" | ".join(setting.name for setting in run.settings),
        steps=steps_text(made.arguments),
        curves=drawn(curves, "Curves over the transitions, for each run"),
        verdict=verdict(rows),
        bar_of=bar_of,
        run=run,
        whole=whole,
        base=base,
        rows=rows,
        made=made,
        how_to_read=how_to_read(unit_of_pairs(whole), rows),
        most_shown=MOST_SHOWN,
        config_text=_config_text,
        version=__version__,
    )


def write_study_report(run: StudyRun) -> Path:
    """Write `values.csv`, `differences.csv`, `tables.md`, a picture per axis and `report.html`.

    Args:
        run: A study with at least one finished video.

    Returns:
        The page: pictures and tables are inside it.

    Raises:
        ValueError: Nothing is finished.
    """
    if not run.finished:
        raise ValueError(f"No video of the study in {str(run.folder)!r} is finished.")
    with reporting(run):
        return _write_study_report(run)


def _write_study_report(run: StudyRun) -> Path:
    tables = [axis_table(run, axis) for axis in run.study.axes]
    write_table(run.folder / "values.csv", study_values(run))
    write_table(run.folder / "differences.csv", study_differences(tables))
    with whole_file(run.folder / "tables.md", alone=True) as temporary:
        temporary.write_text("\n".join(markdown(run, tables)), encoding="utf-8")
    figures = {table.axis: draw_axis(table) for table in tables}
    for table in tables:
        with whole_file(run.folder / f"{table.axis}.png", alone=True) as temporary:
            figures[table.axis].savefig(temporary)
        if (picture := frames_over(run, table.axis)) is not None:
            with whole_file(run.folder / f"{table.axis}-frames.png", alone=True) as temporary:
                picture.save(temporary)
    return write_page(
        run.folder / "report.html",
        TEMPLATES / "study.html",
        title=run.study.name,
        run=run,
        page=run.folder / "report.html",
        pictures={
            axis: drawn(figure, f"Differences over {axis}") for axis, figure in figures.items()
        },
        clips={each.axis: clips_over(run, each.axis) for each in tables},
        tables=tables,
        lead=list(_lead(run, tables)),
        settings_text=lambda setting: _settings(run, setting),
    )


def verdict(rows: Sequence[Difference]) -> str:
    """One sentence in place of a table that can tell nothing; "" for one that can."""
    pairs = max((row.found.pairs for row in rows if row.found), default=0)
    if pairs >= FEWEST_PAIRS:
        return ""
    return (
        f"{pairs} pair{'' if pairs == 1 else 's'} can't tell whether steering changes anything: "
        f"that takes {FEWEST_PAIRS} prompts or more, or as many seeds of one, and small effects "
        "take hundreds."
    )


def steps_text(arguments: Mapping[str, Any]) -> str:
    """How many denoising steps, in words."""
    steps = arguments.get("num_inference_steps")
    return "the pipeline's own steps" if steps is None else f"{steps} step{'s' * (steps != 1)}"


def _titles(prompts: Sequence[str]) -> str:
    """The first of some prompts, and how many more there are."""
    unlike = list(dict.fromkeys(prompts))
    more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
    return shorten(unlike[0], 100, placeholder="...") + more


def how_to_read(unit: str, rows: Sequence[Difference]) -> str:
    """What to know of a table of differences, in words."""
    idle = (
        f" “{NOT_STEERED}”: no forward of any of its videos was, so it shows nothing of steering."
        if any(not row.steered for row in rows)
        else ""
    )
    return (
        f"The pairs, n, are {unit}{'' if unit == 'prompts' else ' of one prompt'}; intervals are "
        f"of the bootstrap ({DRAWS:,} draws, expanded percentiles). “{NO_DIFFERENCE}” where one "
        f"holds zero; “{TOO_FEW}” where one of fewer than {FEWEST_PAIRS} pairs does not. Higher or "
        "lower is not better or worse by itself: a still picture flickers least."
        f"{by_chance(rows)}{idle}"
    )


def by_chance(rows: Sequence[Difference]) -> str:
    """How many rows would differ where nothing does, in words; "" of too few pairs to tell."""
    able = [row for row in rows if row.found is not None and row.found.pairs >= FEWEST_PAIRS]
    if not able:
        return ""
    return (
        f" Of {len(able)} comparisons about {len(able) / 20:.0f} would stand out by chance alone."
    )


def markdown(run: StudyRun, tables: Sequence[AxisTable]) -> Iterator[str]:
    """The tables as lines of Markdown, for documents; bold where the interval leaves out zero."""
    yield from (line + "\n" for line in _lead(run, tables))
    for table in tables:
        yield f"### {table.axis}\n"
        yield f"| measure | off | {' | '.join(table.values)} |"
        yield "|" + "---|" * (len(table.values) + 2)
        for measure, before, row in zip(
            table.measures, table.before, table.differences, strict=True
        ):
            cells = (f"**{each.short}**" if each.told else each.short for each in row)
            yield f"| {measure} | {before:.4g} | {' | '.join(cells)} |"
        yield f"| n | | {' | '.join(table.counts)} |\n"


def _lead(run: StudyRun, tables: Sequence[AxisTable]) -> Iterator[str]:
    study = run.study
    prompts, per_prompt = len(set(study.prompts)), study.samples_per_prompt
    made = next(iter(run.finished.values())).manifest
    arguments = ", ".join(
        f"{key} {value}" for key, value in sorted(made.arguments.items()) if key != "prompt"
    )
    yield f"{_titles(study.prompts)}."
    yield (
        f"{len(run.finished)} of {run.videos} videos: {len(run.settings)} settings x {prompts} "
        f"prompt{'s' * (prompts > 1)} x {per_prompt} seed{'s' * (per_prompt > 1)}, "
        f"model {study.model} on {made.device}, stas {__version__}, {arguments}."
    )
    rows = [each for table in tables for row in table.differences for each in row]
    yield f"Each value minus steering off. {how_to_read(unit_of_pairs(run.samples), rows)}"
    if missing := [name for name in NAMES if name not in run.measured]:
        yield f"Not measured: {', '.join(missing)}."
    if base := {name: in_words(value) for name, value in study.base.items()}:
        yield "Base: " + ", ".join(f"{name} {value}" for name, value in base.items()) + "."
    classes = {
        setting.name: setting.dims_class for setting in run.study.settings() if setting.dims_class
    }
    found = {
        classes[c.name]: c.config["dims"] for c in run.settings if c.config and c.name in classes
    }
    for name, dims in found.items():
        yield f"The {name} dimensions: {in_words(dims)}."


def _settings(run: StudyRun, setting: Setting) -> str:
    """A setting's config, and whether it did anything."""
    if setting.config is None:
        return "nothing is steered"
    text = ", ".join(
        f"{key} {in_words(value)}" for key, value in setting.config.items() if value is not None
    )
    made = [found.manifest for (_, name), found in run.finished.items() if name == setting.name]
    dims = {in_words(e["dims"]) for m in made for e in (m.dims or {}).values()}
    plain = {
        name: found.manifest.frames["sha256"]
        for (name, each), found in run.finished.items()
        if each == run.settings[0].name
    }
    same: int = sum(
        plain.get(sample) == found.manifest.frames["sha256"]
        for (sample, name), found in run.finished.items()
        if name == setting.name
    )
    said = f"{text}. Steered dimensions: {' or '.join(sorted(dims)) or 'none'}."
    if same:
        said += f" {same} of {len(made)} videos equal those without steering in every pixel."
    return said


def _config_text(setting: Setting) -> str:
    return "\n".join(
        f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in (setting.config or {}).items()
    )
