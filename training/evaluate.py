"""What the finished model is worth: the judge's accuracies on held-out captions, and pictures.

python -m training.evaluate [FOLDER] [--judge FILE] [--videos 256] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_model

from stas.pipelines import BUNDLED_MODEL
from stas.tokens import TokenGrid
from stas.video import strip, to_frames
from training.classifier import JUDGE, LABELS, Classifier, labels_of
from training.clips import Scene, Split, draw_scenes, render
from training.export import Magnitudes, activation_report, write_json
from training.loop import log


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score."""
    z = 1.959964
    share = right / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def chosen_scenes(count: int, split: Split, *, two: float = 0.0) -> list[Scene]:
    """The scenes of an evaluation: fixed, all different."""
    rng = random.Random(f"evaluate {split} {two}")
    found: dict[str, Scene] = {}
    while len(found) < count:
        (scene,) = draw_scenes(1, split, rng, two=two)
        found.setdefault(scene.caption, scene)
    return list(found.values())


def generate(
    pipeline: WanPipeline, captions: Sequence[str], defaults: dict[str, Any], **options: Any
) -> Iterator[torch.Tensor]:
    """Videos (T, 3, H, W) in [0, 1], in order; video i starts from the noise of seed i."""
    pipeline.set_progress_bar_config(disable=True)
    arguments = {key: value for key, value in defaults.items() if key != "fps"} | options
    batch = 32 if pipeline.device.type == "cuda" else 2
    for start in range(0, len(captions), batch):
        part = list(captions[start : start + batch])
        seeds = range(start, start + len(part))
        videos = pipeline(
            prompt=part,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
            **arguments,
        ).frames
        log(f"evaluate: {start + len(part)} of {len(captions)} videos")
        yield from videos.float()


def accuracies(seen: Sequence[dict[str, str]], scenes: Sequence[Scene]) -> dict[str, Any]:
    """Per label: the share named as the caption says, its 95 % interval, and chance."""
    table = {}
    for label, values in LABELS.items():
        right = sum(
            s[label] == labels_of(scene)[label] for s, scene in zip(seen, scenes, strict=True)
        )
        low, high = wilson(right, len(scenes))
        table[label] = {
            "right": right,
            "of": len(scenes),
            "share": round(right / len(scenes), 4),
            "interval": [round(low, 4), round(high, 4)],
            "chance": round(1 / len(values), 4),
        }
    return table


@torch.no_grad()
def name_rendered(
    classifier: Classifier, scenes: Sequence[Scene], size: int, frames: int
) -> list[dict[str, str]]:
    """What the judge sees in rendered clips of the scenes: its own ceiling."""
    rng = random.Random("rendered")
    device = next(classifier.parameters()).device
    seen: list[dict[str, str]] = []
    for start in range(0, len(scenes), 16):
        clip, _ = render(scenes[start : start + 16], rng, size=size, frames=frames, device=device)
        seen += classifier.name(clip)
    return seen


def contact_sheet(
    videos: Sequence[torch.Tensor], captions: Sequence[str], path: Path, *, frames: int = 9
) -> None:
    """A row of evenly spaced frames for each video, under its caption."""
    rows = [strip(to_frames(v.permute(0, 2, 3, 1).cpu().numpy()), count=frames) for v in videos]
    (width, height), space = rows[0].size, 22
    sheet = Image.new("RGB", (width, (height + space) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = number * (height + space)
        draw.text((4, top + 2), caption, fill="black", font=font)
        sheet.paste(row, (0, top + space))
    sheet.save(path)


def evaluate(
    folder: Path, classifier: Classifier, device: torch.device, *, videos: int, sheet: Path
) -> dict[str, Any]:
    """Accuracies on held-out captions next to chance and rendered clips, and the activations."""
    pipeline = WanPipeline.from_pretrained(folder).to(device)
    defaults = json.loads((folder / "defaults.json").read_text(encoding="utf-8"))
    scenes = chosen_scenes(videos, "held-out")
    reader = Magnitudes(pipeline.transformer)
    made = list(generate(pipeline, [scene.caption for scene in scenes], defaults))
    magnitudes = reader.close()
    seen: list[dict[str, str]] = []
    for video in made:
        seen += classifier.name(video.permute(1, 0, 2, 3)[None].to(device) * 2 - 1)
    pairs = chosen_scenes(4, "held-out", two=1.0)
    both = list(generate(pipeline, [scene.caption for scene in pairs], defaults))
    shown = min(8, len(made))
    contact_sheet(made[:shown] + both, [s.caption for s in (*scenes[:shown], *pairs)], sheet)
    latent_frames = (defaults["num_frames"] - 1) // 4 + 1
    side = defaults["height"] // 16
    return {
        "generated, held-out captions": accuracies(seen, scenes),
        "rendered, same captions": accuracies(
            name_rendered(classifier, scenes, defaults["height"], defaults["num_frames"]), scenes
        ),
        "activations": activation_report(magnitudes, TokenGrid(latent_frames, side, side)),
    } | {"magnitudes": magnitudes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=BUNDLED_MODEL)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--videos", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sheet", type=Path, default=Path("contact-sheet.png"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    classifier = Classifier().to(device).eval()
    load_model(classifier, options.judge, device=str(device))
    result = evaluate(
        options.folder, classifier, device, videos=options.videos, sheet=options.sheet
    )
    del result["magnitudes"]
    print(json.dumps(result, indent=2))
    if options.output:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
