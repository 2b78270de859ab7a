"""A judge: a small 3D network that names what a clip with one thing shows."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import nn

from training.clips import (
    BACKGROUNDS,
    COLOURS,
    DRIFTS,
    MOTIONS,
    SHAPES,
    Placed,
    Scene,
    draw,
    draw_scenes,
    place,
)
from training.loop import rank, world_size
from training.recipe import Recipe

LABELS = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "motion": MOTIONS,
    "background": tuple(BACKGROUNDS),
    "drift": ("none", *DRIFTS),
}
JUDGE = Path(__file__).with_name("judge.safetensors")
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


def labels_of(scene: Scene) -> dict[str, str]:
    """What a scene with one thing shows."""
    (thing,) = scene.things
    return {
        "shape": thing.shape,
        "colour": thing.colour,
        "motion": thing.motion,
        "background": scene.background,
        "drift": scene.drift or "none",
    }


class ClassifierObjective:
    """Cross-entropy on fresh clips; half of them go through the VAE with noise on their latents.

    So the judge is used to the VAE's softness and names what is drawn, not how sharply.
    """

    def __init__(
        self, model: Classifier, vae: AutoencoderKLWan, recipe: Recipe, device: torch.device
    ) -> None:
        self.model, self.vae, self.recipe, self.device = model, vae, recipe, device

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        rng = random.Random(f"classifier {self.recipe.seed} {step} {rank()}")
        count = self.recipe.classifier.batch // world_size()
        scenes = draw_scenes(count, "train", rng, replace(self.recipe.mix, two=0.0))
        labels = [[LABELS[name].index(labels_of(s)[name]) for name in LABELS] for s in scenes]
        strengths = [rng.uniform(0, 0.2), rng.uniform(0, 0.1)]  # of the noise: latents, pixels
        tensors = (torch.tensor(labels), torch.tensor(strengths), *place(scenes, rng))
        return tuple(tensor.to(self.device) for tensor in tensors)

    def loss(
        self, labels: torch.Tensor, strengths: torch.Tensor, *placed: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            clip, _ = draw(Placed(*placed), size=self.recipe.size, frames=self.recipe.frames)
            half = len(clip) // 2
            latents = self.vae.encode(clip[:half]).latent_dist.mode()
            latents = latents + strengths[0] * latents.std() * torch.randn_like(latents)
            clip = torch.cat([self.vae.decode(latents).sample.float(), clip[half:]])
            clip = clip + strengths[1] * torch.randn_like(clip)
        logits = self.model(clip)
        return torch.stack(
            [F.cross_entropy(logits[name].float(), labels[:, i]) for i, name in enumerate(LABELS)]
        ).sum()
