"""Make the tables of docs/bundled-model.md from the results in training/.

python -m docs.make_bundled
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from docs.tables import filled, table
from stas.assets import BUNDLED_MODEL
from stas.files import whole_file
from stas.studies.differences import TOO_FEW
from training.ablations import VARIANTS
from training.evaluate import wilson
from training.recipe import RECIPES
from training.transformer import HEAD_WIDTH

PAGE = Path(__file__).with_name("bundled-model.md")
TRAINING = Path(__file__).parent.parent / "training"
REGIONS = {"first_frame": "first latent frame", "boundary": "boundary, 8 %", "interior": "interior"}


def read(name: str) -> Any:
    return json.loads((TRAINING / f"{name}.json").read_text(encoding="utf-8"))


def percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def count_in_words(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['right']} of {row['of']} ({percent(low)} to {percent(high)} %)"


def accuracy() -> str:
    """What the judge names as the caption says, for captions with one object."""
    rows = {k: v for k, v in read("results")["held-out captions"].items() if k != "two things"}
    labels = next(iter(rows.values()))["generated"]
    lines = [["captions", *labels]]
    for kind, made in rows.items():
        lines.append([kind, *(count_in_words(made["generated"][label]) for label in labels)])
    for kind, made in rows.items():
        drawn = (f"{row['right']} of {row['of']}" for row in made["rendered"].values())
        lines.append([f"{kind}, rendered", *drawn])
    lines.append(["chance", *(f"{percent(row['chance'])} %" for row in labels.values())])
    return table(lines)


def where() -> str:
    """How often a thing is at the place that the caption says."""
    found = read("results")["places"]
    lines = [["captions with a place", *found["generated"]]]
    lines += [[source, *map(count_in_words, made.values())] for source, made in found.items()]
    return table(lines)


def two_things() -> str:
    """How often both of two objects are as the caption says."""
    found = read("results")["held-out captions"]["two things"]
    headings = ["both shapes", "both motions", "both shapes and motions"]
    lines = [["captions with two things", *headings]]
    for source, made in found.items():
        counts = []
        for label in ("shape", "motion", "both"):
            low, high = wilson(made[label], made["of"])
            row = {"right": made[label], "of": made["of"], "interval": (low, high)}
            counts.append(count_in_words(row))
        lines.append([source, *counts])
    return table(lines)


def by_block(rows: list[dict[str, Any]]) -> Iterable[list[str]]:
    """Headings, then each block's strongest dimension, its ratio, and that by region."""
    yield ["block", *(str(row["block"]) for row in rows)]
    yield ["dimension", *(str(row["dims"][0]) for row in rows)]
    yield ["all tokens", *(f"{row['ratios'][0]:.1f}" for row in rows)]
    for region, words in REGIONS.items():
        yield [words, *(f"{row['strongest by region'][region]:.1f}" for row in rows)]
    yield [
        "the next dimension",
        *(f"{row['dims'][1]}: {row['ratios'][1]:.1f}" for row in rows),
    ]


def blocks() -> str:
    return table(by_block(read("results")["activations"]))


def sampling() -> str:
    """The same at the first and at the last denoising step."""
    row = read("over-training")["rows"][-1]
    lines: list[list[str]] = []
    for place in ("first", "last"):
        part = list(by_block(row[f"blocks at the {place} denoising step"]))
        if not lines:
            lines.append(["step", *part[0]])
        lines += [[place, *line] for line in part[1:]]
    return table(lines)


def over_training() -> str:
    """How the strongest dimensions grew."""
    rows = read("over-training")["rows"]
    dims = list(rows[-1]["followed"])
    middle = len(rows[-1]["blocks"]) // 2
    headings = ["step", "all named right", "largest ratio", "dimension, block"]
    headings += [f"{dim}, block {middle}" for dim in dims] + ["first : boundary : interior"]
    lines = [headings]
    for row in rows:
        top = max(row["blocks"], key=lambda block: block["ratios"][0])
        region = row["blocks"][middle]["strongest by region"]
        lines.append(
            [
                f"{row['step']:,}",
                f"{100 * row['named right']:.0f} %",
                f"{top['ratios'][0]:.1f}",
                f"{top['dims'][0]}, {top['block']}",
                *(f"{row['followed'][dim][middle]:.1f}" for dim in dims),
                " : ".join(f"{region[name]:.1f}" for name in REGIONS),
            ]
        )
    return table(lines)


def ablations() -> str:
    """The largest ratio of each short training, a number a seed."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in read("ablations")["runs"]:
        runs.setdefault(row["variant"], []).append(row)
    tops = {
        name: [max(row["blocks"], key=lambda block: block["ratios"][0]) for row in rows]
        for name, rows in runs.items()
    }
    ratios = {name: [block["ratios"][0] for block in found] for name, found in tops.items()}
    base = next(iter(ratios.values()))
    headings = ["variant", "largest ratio", "against base", "share of the sum (%)"]
    lines = [[*headings, "dimension", "block", "held-out loss"]]
    for name, rows in runs.items():
        words = "unclear"
        if min(ratios[name]) > max(base):
            words = "**higher**"
        elif max(ratios[name]) < min(base):
            words = "**lower**"
        lines.append(
            [
                name,
                ", ".join(f"{ratio:.1f}" for ratio in ratios[name]),
                "" if ratios[name] is base else words,
                ", ".join(f"{100 * ratio / width(name):.1f}" for ratio in ratios[name]),
                ", ".join(str(block["dims"][0]) for block in tops[name]),
                ", ".join(str(block["block"]) for block in tops[name]),
                f"{mean(row['held-out loss'] for row in rows):.3f}",
            ]
        )
    return table(lines)


def width(variant: str) -> int:
    """How many dimensions an ablation's hidden states have."""
    return HEAD_WIDTH * VARIANTS[variant](RECIPES["gpu"]).heads


def border() -> str:
    """Differences between places of a latent frame, for the same content."""
    found = read("border")
    lines = [["mean \\|h\\| at", "against", "difference (%)", "videos"]]
    for row in found["differences, as shares"]:
        if row["words"] == TOO_FEW:
            lines.append([row["what"], row["against"], TOO_FEW, str(row["pairs"])])
            continue
        low, high = 100 * row["low"], 100 * row["high"]
        text = f"{100 * row['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
        told = row["words"] in ("higher", "lower")
        lines.append(
            [row["what"], row["against"], f"**{text}**" if told else text, str(row["pairs"])]
        )
    return table(lines)


def facts() -> str:
    """What the run was and took."""
    results = read("results")
    vae, seconds, made = results["vae"], results["seconds"], results["made with"]
    frames = vae["psnr per pixel frame"]
    size = sum(path.stat().st_size for path in BUNDLED_MODEL.rglob("*") if path.is_file())
    lines = [["what", "value"]]
    lines += [
        ["size of the folder", f"{size / 1e6:.1f} MB"],
        [
            "VAE on 64 held-out clips",
            f"{vae['psnr']:.1f} dB; {min(frames):.1f} to {max(frames):.1f} dB by pixel frame",
        ],
        *([f"seconds, {name}", f"{value:.0f}"] for name, value in seconds.items()),
        ["minutes, all together", f"{sum(seconds.values()) / 60:.0f}"],
        ["device", made["device"]],
        ["versions", ", ".join(f"{k} {v}" for k, v in made.items() if k != "device")],
        ["SHA-256 of the weights", f"`{results['sha256 of the weights']}`"],
    ]
    return table(lines)


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": accuracy,
    "places": where,
    "two things": two_things,
    "facts": facts,
    "blocks": blocks,
    "sampling": sampling,
    "over training": over_training,
    "border": border,
    "ablations": ablations,
}


def fill(text: str) -> str:
    """The page with its tables made anew."""
    for name, made in TABLES.items():
        text = filled(text, name, made())
    return text


def main() -> None:
    page = fill(PAGE.read_text(encoding="utf-8"))
    with whole_file(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
