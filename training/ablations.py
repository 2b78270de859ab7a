"""What in the recipe makes massive activations: short trainings that differ in one thing.

    python -m training.ablations runs/bundled [--seeds 3] [--part 0/1]

After `python -m training --output runs/bundled --only latents`, whose VAE and latents are used.
Each training has its own file in `FOLDER/ablations`, so a stopped command goes on where it was, and
parts of the work can run side by side: `--part 0/3`, `--part 1/3` and `--part 2/3`. All files
together are written as `FOLDER/ablations.json`. For other settings, move `FOLDER/ablations` away.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_model

import stas
from training.activations import activation_report
from training.evaluate import chosen_scenes, generate
from training.export import DEFAULTS, make_pipeline, write_json
from training.loop import log, train
from training.recipe import RECIPES, Recipe, Stage
from training.transformer import FlowMatching, Latents, encode_clips, make_transformer
from training.vae import make_vae

SHORT = Stage(steps=2000, batch=32, learning_rate=2e-3, average=0.995)
BASE = "base"


def _stage(**factors: float) -> Callable[[Recipe], Recipe]:
    """Multiply numbers of the transformer's stage."""

    def change(recipe: Recipe) -> Recipe:
        stage = recipe.transformer
        changed = {n: type(getattr(stage, n))(getattr(stage, n) * f) for n, f in factors.items()}
        return replace(recipe, transformer=replace(stage, **changed))

    return change


def _size(**factors: float) -> Callable[[Recipe], Recipe]:
    """Multiply sizes of the transformer."""
    return lambda recipe: replace(
        recipe,
        **{name: max(1, round(getattr(recipe, name) * factor)) for name, factor in factors.items()},
    )


def _decay(recipe: Recipe) -> Recipe:
    return replace(recipe, transformer=replace(recipe.transformer, weight_decay=0.3))


VARIANTS: dict[str, Callable[[Recipe], Recipe]] = {
    BASE: lambda recipe: recipe,
    "no self-attention qk-norm": lambda recipe: replace(recipe, qk_norm=False),
    "no cross-attention norm": lambda recipe: replace(recipe, cross_attn_norm=False),
    "neither of these norms": lambda recipe: replace(recipe, qk_norm=False, cross_attn_norm=False),
    "weight decay 0.3": _decay,
    "learning rate / 4": _stage(learning_rate=0.25),
    "learning rate x 2": _stage(learning_rate=2),
    "width / 2": _size(heads=0.5, ffn=0.5),
    "width x 1.5": _size(heads=1.5, ffn=1.5),
    "depth / 2": _size(layers=0.5),
    "depth x 2": _size(layers=2),
    "steps x 3": _stage(steps=3),
}
HELD_OUT_CLIPS = 512
UNTRAINED = 10**6  # steps from which on no training draws its noise


def held_out_loss(matching: FlowMatching) -> float:
    """Mean loss over 8 batches of held-out clips, the same for all variants of a seed."""
    with torch.no_grad():
        losses = [matching.loss(*matching.batch(UNTRAINED + number)) for number in range(8)]
    return torch.stack(losses).mean().item()


def ablate(
    recipe: Recipe,
    vae: AutoencoderKLWan,
    latents: Latents,
    held_out: Latents,
    folder: Path,
    *,
    videos: int,
    steps: int,
) -> dict[str, Any]:
    """Train one transformer and record it.

    Args:
        recipe: Of its transformer and text encoder, and its seed.
        vae, latents, held_out: Of the run whose latents are used.
        folder: Of the checkpoint.
        videos: Recorded, of held-out captions.
        steps: Their denoising steps.
    """
    device = latents.values.device
    matching = FlowMatching.from_nothing(recipe, latents)
    networks = {"transformer": matching.networks}
    took = train("transformer", networks, recipe.transformer, matching, folder)
    # Another one with its weights: what was compiled for training would be compiled again.
    finished = make_transformer(recipe).to(device).eval().requires_grad_(False)
    finished.load_state_dict(matching.transformer.state_dict())
    rest = (matching.text_encoder, matching.tokenizer)
    other = FlowMatching(finished, *rest, held_out, recipe)
    other.mean, other.std = matching.mean, matching.std
    loss = held_out_loss(other)
    other.restore()
    pipeline = make_pipeline(vae, *rest, finished, latents)
    captions = [scene.caption for scene in chosen_scenes(videos, "held-out")]
    size = {"height": recipe.size, "width": recipe.size, "num_frames": recipe.frames}
    with stas.record(pipeline) as recording:
        for _ in generate(pipeline, captions, size | DEFAULTS, num_inference_steps=steps):
            pass
    return {
        "held-out loss": round(loss, 5),
        "seconds": round(took, 1),
        "blocks": activation_report(recording.stats),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, default="gpu", help="what FOLDER was made by")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--part", default="0/1", metavar="I/N")
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="denoising steps of the videos")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    part, parts = (int(number) for number in options.part.split("/"))
    if not 0 <= part < parts:
        parser.error(f"--part counts from 0: expected I below N, but got {options.part}")
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    recipe = replace(RECIPES[options.recipe], transformer=SHORT).with_values(options.set)
    vae = make_vae(recipe).to(device).eval().requires_grad_(False)
    load_model(vae, options.folder / "vae.safetensors", device=str(device))
    latents = encode_clips(
        vae, recipe, device, options.folder / "latents-0.safetensors", clips=recipe.clips
    )
    rows = options.folder / "ablations"
    rows.mkdir(exist_ok=True)
    held_out = encode_clips(
        vae,
        recipe,
        device,
        rows / f"held-out-{part}.safetensors",
        clips=min(HELD_OUT_CLIPS, recipe.clips),
        split="held-out",
    )
    # All variants of a seed before the next seed: stopped early, every one has as many.
    runs = [(name, seed) for seed in range(options.seeds) for name in VARIANTS]
    for name, seed in runs[part::parts]:
        path = rows / f"{name.replace(' ', '-').replace('/', 'over')}-{seed}.json"
        if path.is_file():
            continue
        changed = replace(VARIANTS[name](recipe), seed=seed)
        torch._dynamo.reset()
        log(f"{name}, seed {seed}")
        work = rows / f"work-{part}"
        work.mkdir(exist_ok=True)
        (work / "transformer.ckpt").unlink(missing_ok=True)
        found = ablate(
            changed, vae, latents, held_out, work, videos=options.videos, steps=options.steps
        )
        write_json(path, {"variant": name, "seed": seed} | found)
    found = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(rows.glob("[!.]*.json"))
    ]
    found.sort(key=lambda row: (list(VARIANTS).index(row["variant"]), row["seed"]))
    written = {"videos": options.videos, "denoising steps": options.steps}
    written |= {"recipe": asdict(recipe), "runs": found}
    write_json(options.folder / "ablations.json", written)


if __name__ == "__main__":
    main()
