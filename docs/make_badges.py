"""Make README's badges from pyproject.toml, as files: pages load nothing from elsewhere.

python -m docs.make_badges
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs/badges"
LETTER, MARGIN = 6.6, 12  # widths in pixels
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="20" role="img" \
aria-label="{name}: {value}"><rect width="{width:.0f}" height="20" rx="3" fill="#555"/>\
<rect x="{split:.0f}" width="{rest:.0f}" height="20" rx="3" fill="#0072b2"/>\
<g fill="#fff" font-family="Verdana,sans-serif" font-size="11"><text x="6" y="14">{name}</text>\
<text x="{place:.0f}" y="14">{value}</text></g></svg>
"""


def badges() -> dict[str, str]:
    """By file name, each badge as SVG."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    diffusers = next(each for each in project["dependencies"] if each.startswith("diffusers"))
    values = {
        "python": project["requires-python"].removeprefix(">=") + "+",
        "diffusers": re.sub(r"[^\d.]", "", diffusers) + "+",
        "license": project["license"],
        "arXiv": "2603.17825",
    }
    return {f"{name}.svg": badge(name, value) for name, value in values.items()}


def badge(name: str, value: str) -> str:
    split, rest = (len(text) * LETTER + MARGIN for text in (name, value))
    sizes = {"width": split + rest, "split": split, "rest": rest, "place": split + 6}
    return SVG.format(name=name, value=value, **sizes)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in badges().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
