"""Make the tables of docs/peers.md from benchmarks/results/peers-*-steps.json.

python -m docs.make_peers
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import BASELINE, FRAMES, LOG, LOWER
from docs.tables import filled, table

PAGE = Path(__file__).with_name("peers.md")
FOLDER = Path(__file__).parent.parent / "benchmarks/results"
RESULTS = "peers-*-steps.json"
SAID = ("better", "worse", "higher", "lower")
UNITS = {  # of what is too small to be read as it is
    "path roughness": (1e-3, "thousandths"),
    "size roughness": (1e-3, "thousandths"),
    "ssim": (1e-3, "thousandths"),
    "warping error, within chunks": (1e-6, "millionths"),
    "warping error, across chunks": (1e-6, "millionths"),
}


def costs(methods: Mapping[str, Any]) -> str:
    """What each method takes and whether its videos are other ones."""
    columns = {
        "method": list(methods),
        "guider": [f"`{row['guider']}`" for row in methods.values()],
        "forwards a step": [f"{row['forwards per step']:.3g}" for row in methods.values()],
        "time a step": [time(row) for row in methods.values()],
        "change of a pixel": [f"{row['change of a pixel']:.2f}" for row in methods.values()],
        "equal videos": [str(row["same video as CFG"]) for row in methods.values()],
    }
    if not any(columns["time a step"]):  # of batches nothing is timed
        del columns["time a step"]
    return table([tuple(columns), *zip(*columns.values(), strict=True)])


def time(row: Mapping[str, Any]) -> str:
    """That of a method's denoising loop against plain guidance's, where it was taken."""
    if "time against CFG" not in row:
        return ""
    low, high = row["middle half"]
    return "1" if low == high == 1 else f"{row['time against CFG']:.3f} ({low:.3f} to {high:.3f})"


def named(measures: Mapping[str, Any]) -> str:
    """How many videos the judge names as the caption does."""
    labels = [name.removesuffix(LOG) for name in measures if name.endswith(LOG)]
    lines = [["method", *labels]]
    for method in measures[labels[0] + LOG]["named"]:
        counts = [measures[label + LOG]["named"][method] for label in labels]
        cells = [f"{n['right']} (+{n['gained']} -{n['lost']})" for n in counts]
        lines.append([method, *cells])
    return table(lines)


def differences(measures: Mapping[str, Any], names: Iterable[str], pairs: int) -> str:
    """Plain guidance's means, and every method's differences from them."""
    columns = []
    for name in names:
        unit, of = UNITS.get(name, (1.0, ""))
        found, plain = measures[name]["against CFG"], measures[name]["mean"][BASELINE]
        columns.append(
            [
                f"{name} ({of})" if of else name,
                "none" if plain is None else number(plain / unit, ""),
                *(cell(row, unit, pairs) for row in found.values()),
            ]
        )
    first = ["method", f"{BASELINE}: mean", *found]
    return table(zip(first, *columns, strict=True))


def number(value: float, sign: str = "+") -> str:
    """With three digits, and three decimals at most."""
    return f"{value:{sign}.3f}" if abs(value) < 1 else f"{value:{sign}.3g}"


def cell(found: Mapping[str, Any], unit: float, pairs: int) -> str:
    """One difference with its interval, bold where that leaves out zero."""
    if not found["pairs"]:
        return "none"
    low, high = (number(bound / unit) for bound in found["interval"])
    difference = number(found["difference"] / unit)
    if found["in words"] in SAID:
        difference = f"**{difference}**"
    left = "" if found["pairs"] == pairs else f", n = {found['pairs']}"
    return f"{difference} ({low} to {high}{left})"


def in_words(measures: Mapping[str, Any]) -> str:
    """What each method's differences say."""
    lines = [["method", *SAID]]
    for method in next(iter(measures.values()))["against CFG"]:
        row = {
            name: found["against CFG"][method].get("in words") for name, found in measures.items()
        }
        lines.append([method, *("; ".join(n for n in row if row[n] == w) or "none" for w in SAID)])
    return table(lines)


def section(result: Mapping[str, Any]) -> list[str]:
    """All of one result."""
    measures, pairs, captions = (result[key] for key in ("measures", "pairs", "captions"))
    found = [cell for row in measures.values() for cell in row["against CFG"].values()]
    apart = sum(cell.get("in words") in SAID for cell in found)
    judged = [name for name in measures if name.endswith(LOG) or name == "all right"]
    return [
        f"## {result['steps']} steps, {pairs} pairs",
        f"{captions} captions; on {result['device']}, videos at a time: {result['batch']}. "
        f"Guidance scale {result['guidance scale']:g}, diffusers {result['diffusers']}, torch "
        f"{result['torch']}, threads: {result['threads']}. {apart} of {len(found)} intervals leave "
        f"out zero; about {0.05 * len(found):.0f} would if no method differed from plain guidance "
        "in anything.",
        in_words(measures),
        "### Cost",
        costs(result["methods"]),
        "### What the video should show",
        "Videos that the judge names as the caption says, and how many of them plain guidance's "
        "were not, and the other way round:",
        named(measures),
        "Differences:",
        differences(measures, judged, pairs),
        differences(measures, ("object found", *LOWER), pairs),
        "### What its frames measure",
        differences(measures, FRAMES, pairs),
    ]


def page(text: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The page with the tables of the results."""
    left_out = ((f"`{name}`", why) for name, why in results[0]["left out"].items())
    parts = [part for result in results for part in section(result)]
    parts += ["## Left out", table([("guider of diffusers", "why"), *left_out])]
    return filled(text, "results", "\n\n".join(part.rstrip("\n") for part in parts) + "\n")


def load() -> list[dict[str, Any]]:
    """The results that the page shows, one for each number of steps."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob(RESULTS))]


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), load()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
