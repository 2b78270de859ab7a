"""A comparison as one HTML file that opens from disk: no other file, no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from stas import __version__
from stas.files import whole_file
from stas.studies.comparison import Comparison
from stas.studies.differences import (
    DRAWS,
    FEWEST_PAIRS,
    NO_DIFFERENCE,
    TOO_FEW,
    Difference,
    unit_of_pairs,
)

MOST_SHOWN = 24  # samples: each brings its video into the file


TEXT = ' class="text"'


TYPES = {".mp4": "video/mp4", ".png": "image/png"}


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
figure { margin: 1.2rem 0; } figcaption { margin-bottom: .3rem; }
video, img { max-width: 100%; display: block; margin-bottom: .4rem; }
img.curves { background: white; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, .text { text-align: left; }
thead th { border-bottom-width: 2px; } .line td { white-space: nowrap; }
.told { background: var(--soft); font-weight: 600; }
pre { white-space: pre-wrap; margin: 0; font-size: .85rem; }
button { font: inherit; padding: .3rem .8rem; }
"""


SCRIPT = """
const videos = [...document.querySelectorAll("video")];
document.getElementById("play").addEventListener("click", () => {
  const stopped = videos.every(video => video.paused);
  videos.forEach(video => { stopped ? video.play() : video.pause(); });
});
"""


def write_report(result: Comparison, folder: Path) -> Path:
    """Write `report.html` into the folder of a comparison, from the files that lie there.

    Args:
        result: A comparison with at least one finished sample.
        folder: Where its pictures and side-by-side videos are.

    Returns:
        The file: videos and pictures are inside it, so it can be sent on alone.
    """
    path = folder / "report.html"
    with whole_file(path) as temporary:
        title = " | ".join(run.name for run in result.runs)
        temporary.write_text(html_page(title, _body(result, folder)), encoding="utf-8")
    return path


def html_page(title: str, body: Iterable[str]) -> str:
    """A whole page in the style of the reports, from the lines of its body."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            *body,
            "</main></body></html>",
            "",
        ]
    )


def _body(result: Comparison, folder: Path) -> Iterable[str]:
    yield from _lead(result)
    yield "<h2>Videos</h2>"
    yield '<p><button id="play">Play or pause all</button></p>'
    yield from _videos(result, folder)
    yield "<h2>From frame to frame</h2>"
    yield (
        "<p>A transition is cross-chunk when its two pixel frames come from different latent "
        "frames. That is where the paper sees the gain of steering.</p>"
    )
    yield (
        '<img class="curves" alt="Curves over the transitions, for each run" '
        f'src="{inside(folder / "curves.png")}">'
    )
    yield "<h2>Paired differences</h2>"
    yield from _differences(result)
    yield "<h2>How it was made</h2>"
    yield from _settings(result)
    yield f"<script>{SCRIPT}</script>"


def inside(path: Path) -> str:
    """A file as a data URI."""
    return f"data:{TYPES[path.suffix]};base64,{b64encode(path.read_bytes()).decode()}"


def _lead(result: Comparison) -> Iterable[str]:
    finished, wanted = len(result.finished), len(result.samples)
    yield (
        f"<p>{finished} pair{'s' * (finished > 1)} of prompt and seed, each made under "
        f"{len(result.runs)} settings; all are compared with "
        f"<strong>{escape(result.runs[0].name)}</strong>.</p>"
    )
    if finished < wanted:
        yield f"<p><strong>Stopped early:</strong> {finished} of {wanted} samples are here.</p>"
    for run in result.runs[1:]:
        if count := result.identical[run.name]:
            yield (
                f"<p><strong>{count} of {finished}</strong> videos of {escape(run.name)} equal "
                f"those of {escape(result.runs[0].name)} in every pixel.</p>"
            )


def _videos(result: Comparison, folder: Path) -> Iterable[str]:
    finished = result.samples[: len(result.finished)]
    for sample in finished[:MOST_SHOWN]:
        video, picture = (inside(folder / f"{sample.name}{kind}") for kind in (".mp4", ".png"))
        text = f"{sample.prompt}, seed {sample.seed}"
        yield f"<figure><figcaption>{escape(text)}</figcaption>"
        yield (
            f'<video controls loop muted playsinline aria-label="{escape(text)}" src="{video}">'
            "</video>"
        )
        yield f'<img alt="Frames of each run: {escape(text)}" src="{picture}"></figure>'
    if len(finished) > MOST_SHOWN:
        yield f"<p>The other {len(finished) - MOST_SHOWN} are files beside this one.</p>"


def _differences(result: Comparison) -> Iterable[str]:
    rows = result.differences()
    unit = unit_of_pairs(result.samples[: len(result.finished)])
    yield (
        f"<p>Mean of the run minus {escape(result.runs[0].name)}, with its 95 % interval. "
        f"{how_to_read(unit, rows)}</p>"
    )
    base = escape(result.runs[0].name)
    heads = ("measure", "run", base, "the run", "difference", "95 % interval", "n", "in words")
    yield '<div class="wide"><table class="line"><thead><tr>'
    yield "".join(
        f'<th scope="col"{TEXT * (head in ("run", "in words"))}>{head}</th>' for head in heads
    )
    yield "</tr></thead><tbody>"
    yield from (_row(row) for row in rows)
    yield "</tbody></table></div>"
    if result.missing:
        yield (
            f"<p><strong>Not measured:</strong> {', '.join(result.missing)}, which need "
            "<code>pip install 'stas[metrics]'</code>.</p>"
        )


def how_to_read(unit: str, rows: Sequence[Difference]) -> str:
    """What to know of a table of differences, in words."""
    able = [row for row in rows if row.found is not None and row.found.pairs >= FEWEST_PAIRS]
    chance = (
        f" Of {len(able)} comparisons about {len(able) / 20:.0f} would stand out by chance alone."
        if able
        else ""
    )
    return (
        f"The pairs, n, are {unit}{'' if unit == 'prompts' else ' of one prompt'}; intervals are "
        f"of the bootstrap ({DRAWS:,} draws, expanded percentiles). “{NO_DIFFERENCE}” where one "
        f"holds zero; “{TOO_FEW}” where one of fewer than {FEWEST_PAIRS} pairs does not. Higher or "
        f"lower is not better or worse by itself: a still picture flickers least.{chance}"
    )


def _row(row: Difference) -> str:
    found = row.found
    numbers: Sequence[str] = ("-",) * 5
    if found:
        numbers = (
            f"{row.before:.4g}",
            f"{row.after:.4g}",
            f"{found.difference:+.3g}",
            row.interval,
            str(found.pairs),
        )
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    return (
        f"<tr{' class=told' * row.told}><td>{escape(row.measure)}</td>"
        f'<td class="text">{escape(row.run)}</td>{cells}<td class="text">{row.words}</td></tr>'
    )


def _settings(result: Comparison) -> Iterable[str]:
    arguments = ", ".join(f"{key} {value}" for key, value in sorted(result.arguments.items()))
    yield (
        f"<p>Model {escape(result.model)} on {escape(result.device)}, {result.fps:g} frames per "
        f"second, stas {__version__}. {escape(arguments)}.</p>"
    )
    yield '<div class="wide"><table><thead><tr>'
    yield '<th scope="col">run</th><th scope="col" class="text">config</th>'
    yield '<th scope="col" class="text">steered</th></tr></thead><tbody>'
    for run in result.runs:
        config = "" if run.config is None else _config_text(run.config.to_dict())
        yield (
            f'<tr><td>{escape(run.name)}</td><td class="text"><pre>{escape(config)}</pre></td>'
            f'<td class="text"><pre>{escape(result.steered[run.name])}</pre></td></tr>'
        )
    yield "</tbody></table></div>"


def _config_text(config: dict[str, object]) -> str:
    return "\n".join(
        f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in config.items()
    )
