"""The page of a tune, which opens from disk by itself."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from stas import __version__
from stas.activations.intervals import MeanInterval
from stas.files import whole_file
from stas.media.figure import Picture
from stas.studies.figures import COLOURS
from stas.studies.html import drawn, write_page
from stas.tuning.race import Race

if TYPE_CHECKING:
    from stas.tuning.run import TuneRun

TEMPLATE = Path(__file__).parent / "templates" / "tune.html"
COLOUR_OF = dict(zip(("race", "confirmation"), COLOURS, strict=False))


def rows(race: Race) -> list[tuple[str, str, MeanInterval, str]]:
    """What was seen: setting, stage, gain of the objective, and how it ended."""
    ends = {drop.setting: f"{drop.why}, after {drop.samples}" for drop in race.drops}
    found = [
        (name, "race", race.race_interval(name), ends.get(name, "not dropped"))
        for name in race.settings
        if race.raced
    ]
    if race.confirmed:
        outcome = race.outcome
        end = "" if outcome is None else "beats off" if outcome.winner else "not confirmed"
        found.append((race.alive[0], "confirmation", race.confirmation_interval(), end))
    return found


def interval_text(found: MeanInterval) -> str:
    """An interval in short; "-" where there are too few pairs for one."""
    return f"{found.low:+.3g} to {found.high:+.3g}" if isfinite(found.low) else "-"


def draw_intervals(race: Race) -> Figure:
    """The gain of each setting with its interval: of the race, and of the confirmation."""
    found = rows(race)
    figure = Picture(1.1 + 0.32 * len(found))
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    for place, (_, stage, interval, _) in enumerate(found):
        if isfinite(interval.low):
            axes.plot([interval.low, interval.high], [place] * 2, color=COLOUR_OF[stage])
        axes.plot(interval.mean, place, "o", color=COLOUR_OF[stage], markersize=5)
    axes.set_yticks(range(len(found)), [_label(*row) for row in found], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"how much better than off: {race.rules.objective.measure}", fontsize=8)
    return figure


def _label(name: str, stage: str, found: MeanInterval, _: str) -> str:
    name = name if len(name) <= 40 else f"{name[:39]}…"
    return f"{name}, {stage}, n {found.n}"


def lead(run: TuneRun, race: Race) -> Sequence[str]:
    """What was found and how, in sentences."""
    rules = race.rules
    said = "Not finished." if race.outcome is None else race.outcome.words
    if run.unrated:
        said += f" {len(run.unrated)} pairs wait for votes: `stas rate {run.folder}`."
    guards = [
        f"{each.measure} ({each.better} is better) must not get worse by {each.margin:g}"
        for each in rules.guards
    ]
    return [
        said,
        f"{race.spent} of at most {rules.budget} videos: {len(race.raced)} samples in the race of "
        f"{len(race.settings)} settings, {len(race.confirmed)} in the confirmation, model "
        f"{run.tune.study.model}, stas {__version__}.",
        f"{rules.objective.measure} decides, {rules.objective.better} is better."
        + (f" Beside it {'; '.join(guards)}." if guards else ""),
        f"Only the confirmation decides, on prompts that the race never saw: its interval holds at "
        f"all looks at once, with {100 * (1 - rules.error):g} %. Those of the race hold for all "
        "settings at once, and are of what was chosen by: they only drop.",
    ]


def write_tune_page(run: TuneRun, race: Race) -> Path:
    """Write `intervals.png` and `report.html`.

    Returns:
        The page; the picture is inside it.
    """
    figure = draw_intervals(race)
    with whole_file(run.folder / "intervals.png", alone=True) as temporary:
        figure.savefig(temporary)
    guards = race.rules.guards if race.confirmed else ()
    return write_page(
        run.folder / "report.html",
        TEMPLATE,
        title=f"Tuning: {run.tune.study.name}",
        lead=lead(run, race),
        rows=rows(race),
        guards=[(each, race.confirmation_interval(each)) for each in guards],
        interval_text=interval_text,
        picture=drawn(figure, "Gain of each setting"),
    )
