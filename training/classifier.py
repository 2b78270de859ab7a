"""A judge: a small 3D network that names shape, colour, motion and background of a clip."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import nn

from training.clips import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, draw_scenes, render
from training.loop import rank, world_size
from training.recipe import Recipe

LABELS = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "motion": MOTIONS,
    "background": tuple(BACKGROUNDS),
}
SIDE = 64  # clips are scaled down to this


class Classifier(nn.Module):
    """Clips (B, 3, T, H, W) in [-1, 1] to one vector of logits per label."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for next_width, stride in ((24, (1, 2, 2)), (48, 2), (96, 2), (192, 2)):
            layers += [
                nn.Conv3d(width, next_width, 3, stride=stride, padding=1),
                nn.GroupNorm(8, next_width),
                nn.GELU(),
            ]
            width = next_width
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(2 * width, 256)
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(v)) for name, v in LABELS.items()})

    def forward(self, clips: torch.Tensor) -> dict[str, torch.Tensor]:
        side = min(SIDE, clips.shape[-1])
        small = F.adaptive_avg_pool3d(clips, (clips.shape[2], side, side))
        features = self.features(small).flatten(2)
        pooled = torch.cat([features.mean(2), features.amax(2)], 1)
        hidden = F.gelu(self.hidden(pooled))
        return {name: head(hidden) for name, head in self.heads.items()}

    @torch.no_grad()
    def name(self, clips: torch.Tensor) -> list[dict[str, str]]:
        """What is seen in each clip, in words."""
        best = {key: logits.argmax(1).tolist() for key, logits in self(clips).items()}
        return [{key: LABELS[key][best[key][i]] for key in LABELS} for i in range(len(clips))]


def truth(scene: Scene) -> dict[str, str]:
    """What a scene with one thing shows."""
    (thing,) = scene.things
    return {
        "shape": thing.shape,
        "colour": thing.colour,
        "motion": thing.motion,
        "background": scene.background,
    }


def classifier_loss(
    model: Classifier, vae: AutoencoderKLWan, recipe: Recipe, step: int, device: torch.device
) -> torch.Tensor:
    """Cross-entropy on fresh clips; half of them went through the VAE and are noised a little.

    So the judge is used to the VAE's softness and names what is drawn, not how sharply.
    """
    rng = random.Random(f"classifier {recipe.seed} {step} {rank()}")
    batch = recipe.classifier.batch // world_size()
    scenes = draw_scenes(batch, "train", rng)
    clip, _ = render(scenes, rng, size=recipe.size, frames=recipe.frames, device=device)
    half = batch // 2
    if step % 2 == 0:
        with torch.no_grad():
            latents = vae.encode(clip[:half]).latent_dist.mode()
            spread = latents.float().std() * 0.2 * rng.random()
            latents = latents + spread * torch.randn_like(latents)
            clip = torch.cat([vae.decode(latents).sample.float(), clip[half:]])
    clip = clip + 0.1 * rng.random() * torch.randn_like(clip)
    logits = model(clip)
    losses = []
    for name, values in LABELS.items():
        target = torch.tensor([values.index(truth(scene)[name]) for scene in scenes], device=device)
        losses.append(F.cross_entropy(logits[name].float(), target))
    return torch.stack(losses).sum()
