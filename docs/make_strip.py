"""Make the README's picture: the bundled model with steering off, on, and disrupted.

python -m docs.make_strip
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import stas
from stas.activations.profiles import FOLDER_PROFILE, Profile
from stas.assets import BUNDLED_MODEL
from stas.media.pictures import strip
from stas.method.config import REGIONS

(DIM,) = Profile.load(BUNDLED_MODEL / FOLDER_PROFILE).dims
PROMPT, SEED = "a red circle moving right on a blue background", 0
ROWS: dict[str, stas.STASConfig | None] = {
    "off": None,
    "on, the defaults: the middle block, scale 1": stas.STASConfig(),
    "on, all blocks, scale 3": stas.STASConfig(blocks="all", scale=3.0),
    f"not STAS: that dimension ({DIM}) zeroed at all tokens of all blocks": stas.STASConfig(
        op="zero", regions=REGIONS, blocks="all"
    ),
    "not STAS: an ordinary dimension (5) zeroed likewise": stas.STASConfig(
        op="zero", regions=REGIONS, blocks="all", dims=(5,)
    ),
}
SPACE = 24


def main() -> None:
    loaded = stas.load_pipeline(device="cpu")
    arguments = loaded.arguments({"prompt": PROMPT})
    pictures = []
    for label, config in ROWS.items():
        with loaded.steered(config):
            row = np.asarray(strip(loaded.generate(arguments, SEED), count=9))
        heading = Image.new("RGB", (row.shape[1], SPACE), "white")
        font = ImageFont.load_default(15)
        ImageDraw.Draw(heading).text((4, 3), label, fill="black", font=font)
        pictures += [np.asarray(heading), row]
    path = Path(__file__).parent / "images/off-on.png"
    Image.fromarray(np.concatenate(pictures)).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
