"""Draw the ComfyUI pack's icon: three latent frames, bright where STAS steers.

python -m docs.make_icon
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

PLACE = Path(__file__).parents[1] / "comfyui" / "icon.png"
DARK, DIM, BRIGHT = (24, 26, 34), (74, 88, 124), (255, 190, 60)
SIZE, FRAMES, ROWS, COLUMNS = 400, 3, 4, 4


def main() -> None:
    picture = Image.new("RGB", (SIZE, SIZE), DARK)
    draw = ImageDraw.Draw(picture)
    for frame in reversed(range(FRAMES)):  # the first one in front
        left, top = 36 + 56 * frame, 148 - 56 * frame
        draw.rectangle((left - 8, top - 8, left + 212, top + 212), fill=DARK)
        for row in range(ROWS):
            for column in range(COLUMNS):
                # Head and tail of a frame in raster order, and all of the first frame.
                place = row * COLUMNS + column
                steered = frame == 0 or place < 2 or place >= ROWS * COLUMNS - 2
                x, y = left + 52 * column, top + 52 * row
                draw.rectangle((x, y, x + 46, y + 46), fill=BRIGHT if steered else DIM)
    picture.save(PLACE, optimize=True)


if __name__ == "__main__":
    main()
