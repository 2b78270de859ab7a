"""What the finished model is worth: the judge's accuracies on held-out captions, and pictures.

python -m training.evaluate [FOLDER] [--judge FILE] [--videos 256] [--pictures DIR] [--output FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import WanPipeline
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_model

import stas
from stas.activations.stats import ActivationStats
from stas.assets import BUNDLED_MODEL
from stas.media.pictures import strip
from stas.media.video import to_frames
from training.activations import activation_report
from training.classifier import JUDGE, LABELS, Classifier, labels_of
from training.clips import BACKGROUNDS, COLOURS, PLACES, Mix, Scene, Split, draw_scenes, render
from training.export import write_json
from training.loop import log
from training.truth import cover_of


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, by Wilson's score."""
    z = 1.959964
    share = right / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


PLAIN, AT_BORDER = "plain", "at the border"
KINDS: dict[str, tuple[Mix, Callable[[Scene], bool]]] = {
    PLAIN: (Mix(), lambda scene: True),
    "drifting background": (Mix(patterned=1.0), lambda scene: bool(scene.drift)),
    AT_BORDER: (Mix(placed=1.0), lambda scene: bool(scene.things[0].place)),
    "two things": (Mix(two=1.0), lambda scene: True),
}


def chosen_scenes(count: int, split: Split, kind: str = PLAIN) -> list[Scene]:
    """The scenes of an evaluation, of one of KINDS: fixed, all different."""
    mix, wanted = KINDS[kind]
    rng = random.Random(f"evaluate {split} {kind}")
    found: dict[str, Scene] = {}
    while len(found) < count:
        (scene,) = draw_scenes(1, split, rng, mix)
        if wanted(scene):
            found.setdefault(scene.caption, scene)
    return list(found.values())


def single_out(clip: torch.Tensor, scene: Scene, index: int) -> torch.Tensor:
    """A clip of two things with only one of them, for the judge, who knows clips with one.

    Args:
        clip: (3, T, H, W) in [-1, 1].
        scene: What it should show, on a background without a pattern.
        index: Which thing stays.

    Returns:
        The same shape; pixels nearer to the other thing's colour than to what stays, and the soft
        edge around them, have the background's.
    """
    colours = [BACKGROUNDS[scene.background]] + [
        COLOURS[scene.things[i].colour] for i in (index, 1 - index)
    ]
    table = torch.tensor(colours, device=clip.device) * 2 - 1
    distances = (clip[None] - table[:, :, None, None, None]).square().sum(1)  # (3, T, H, W)
    nearest = distances.argmin(0)
    other, own = ((nearest == i).float()[:, None] for i in (2, 1))
    # The edge: all within two pixels of the other thing and not within one of this one.
    near_other = F.max_pool2d(other, 5, stride=1, padding=2)
    near_own = F.max_pool2d(own, 3, stride=1, padding=1)
    hidden = (other.bool() | (near_other.bool() & ~near_own.bool()))[:, 0]
    return torch.where(hidden, table[0].view(3, 1, 1, 1), clip)


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


def place_of(clip: torch.Tensor, scene: Scene) -> str:
    """The place of PLACES that the scene's thing is nearest to at the start, "" if none is near.

    Args:
        clip: (3, T, H, W) in [-1, 1].
        scene: With one thing, which is looked for by its colour, on a plain background.
    """
    frames = to_frames((clip[:, :1].permute(1, 2, 3, 0).cpu().numpy() + 1) / 2)
    inside = np.argwhere(cover_of(frames, scene)[0] > 0.5)
    if not len(inside):
        return ""
    y, x = (inside.mean(0) + 0.5) / clip.shape[-2:]
    distances = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
    nearest = min(distances, key=lambda place: distances[place])
    return nearest if distances[nearest] < 1 / 3 else ""


def accuracies(
    classifier: Classifier, clips: Sequence[torch.Tensor], scenes: Sequence[Scene]
) -> dict[str, Any]:
    """Per label: the share of clips (3, T, H, W) that the judge names as the caption says, its
    95 % interval, and chance."""
    seen = [name for clip in clips for name in classifier.name(clip[None])]
    table = {}
    for label, values in LABELS.items():
        right = [s[label] == labels_of(scene)[label] for s, scene in zip(seen, scenes, strict=True)]
        table[label] = counted(right) | {"chance": round(1 / len(values), 4)}
    return table


def rightly_placed(clips: Sequence[torch.Tensor], scenes: Sequence[Scene]) -> dict[str, Any]:
    """For each place of PLACES: in how many clips the thing is where the caption says."""
    pairs = list(zip(clips, scenes, strict=True))
    return {
        place: counted([place_of(c, s) == place for c, s in pairs if s.things[0].place == place])
        for place in PLACES
        if any(s.things[0].place == place for _, s in pairs)
    }


def counted(right: Sequence[bool]) -> dict[str, Any]:
    """How many of some clips are right, with the 95 % interval of the share."""
    low, high = wilson(sum(right), len(right))
    return {
        "right": sum(right),
        "of": len(right),
        "share": round(sum(right) / len(right), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


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


def animate(videos: Sequence[torch.Tensor], path: Path, *, fps: float, columns: int = 5) -> None:
    """Whole rows of videos (T, 3, H, W) side by side as one moving picture."""
    padded = [F.pad(video.cpu(), (2, 2, 2, 2), value=1.0) for video in videos]
    columns = min(columns, len(padded))
    rows = [
        torch.cat(padded[i : i + columns], 3) for i in range(0, len(padded) - columns + 1, columns)
    ]
    grid = to_frames(torch.cat(rows, 2).permute(0, 2, 3, 1).numpy())
    first, *others = map(Image.fromarray, grid)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=round(1000 / fps),
        loop=0,
        quality=70,
        method=6,
    )


def name_pairs(
    classifier: Classifier, clips: Sequence[torch.Tensor], scenes: Sequence[Scene]
) -> dict[str, int]:
    """In how many clips (3, T, H, W) of two things the judge names shape and motion of both."""
    right = {"shape": 0, "motion": 0, "both": 0}
    for clip, scene in zip(clips, scenes, strict=True):
        both = torch.stack([single_out(clip, scene, index) for index in (0, 1)])
        seen = classifier.name(both)
        found = {
            label: all(
                s[label] == getattr(t, label) for s, t in zip(seen, scene.things, strict=True)
            )
            for label in ("shape", "motion")
        }
        for label, value in (found | {"both": all(found.values())}).items():
            right[label] += value
    return right | {"of": len(scenes)}


def evaluate(
    folder: Path, classifier: Classifier, device: torch.device, *, videos: int, pictures: Path
) -> tuple[dict[str, Any], ActivationStats]:
    """What the finished model is worth.

    Args:
        folder: The model.
        classifier: The judge.
        device: Where both run.
        videos: Of plain captions; a quarter as many of each other kind.
        pictures: Folder of the contact sheet and the animation.

    Returns:
        Accuracies on held-out captions of every kind, next to chance and to rendered clips of the
        same captions, with the strongest dimensions; and the statistics of the plain captions.
    """
    pipeline = WanPipeline.from_pretrained(folder).to(device)
    defaults = json.loads((folder / "defaults.json").read_text(encoding="utf-8"))
    shape = {"size": defaults["height"], "frames": defaults["num_frames"], "device": device}
    accuracy: dict[str, Any] = {}
    where: dict[str, Any] = {}
    shown: dict[str, list[tuple[torch.Tensor, str]]] = {}
    for kind in KINDS:
        scenes = chosen_scenes(videos if kind == PLAIN else max(1, videos // 4), "held-out", kind)
        captions = [scene.caption for scene in scenes]
        with contextlib.ExitStack() as stack:
            if kind == PLAIN:
                recording = stack.enter_context(stas.record(pipeline))
            made = list(generate(pipeline, captions, defaults))
        clips = [video.permute(1, 0, 2, 3).to(device) * 2 - 1 for video in made]
        rng = random.Random("rendered")
        drawn = [render([scene], rng, **shape)[0][0] for scene in scenes]
        judge = name_pairs if len(scenes[0].things) == 2 else accuracies
        accuracy[kind] = {
            "generated": judge(classifier, clips, scenes),
            "rendered": judge(classifier, drawn, scenes),
        }
        if kind == AT_BORDER:
            where = {
                "generated": rightly_placed(clips, scenes),
                "rendered": rightly_placed(drawn, scenes),
            }
        shown[kind] = list(zip(made, captions, strict=True))
    sheet = [row for kind, rows in shown.items() for row in rows[: 6 if kind == PLAIN else 3]]
    contact_sheet(*zip(*sheet, strict=True), pictures / "contact-sheet.png")
    moving = [video for rows in shown.values() for video, _ in rows[:5]]
    animate(moving, pictures / "videos.webp", fps=defaults["fps"])
    report = {"held-out captions": accuracy, "places": where}
    return report | {"activations": activation_report(recording.stats)}, recording.stats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=BUNDLED_MODEL)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--videos", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pictures", type=Path, default=Path())
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    classifier = Classifier().to(device).eval()
    load_model(classifier, options.judge, device=str(device))
    result, _ = evaluate(
        options.folder, classifier, device, videos=options.videos, pictures=options.pictures
    )
    print(json.dumps(result, indent=2))
    if options.output:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
