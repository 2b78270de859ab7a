"""The video VAE: 8x in space, 4x in time, causal, in diffusers' own class."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

from training.clips import Placed, Split, draw, draw_scenes, place, render
from training.loop import generator, rank, world_size
from training.recipe import Recipe

LATENT_CHANNELS = 16
PATCH = 2
KL_WEIGHT = 2e-4
THING_WEIGHT = 4.0  # pixels on and near a thing count 1 + this: most pixels are background


def make_vae(recipe: Recipe) -> AutoencoderKLWan:
    """A VAE with random weights."""
    torch.manual_seed(recipe.seed)
    width = recipe.vae_width
    return AutoencoderKLWan(
        base_dim=width,
        decoder_base_dim=width,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        patch_size=PATCH,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        scale_factor_spatial=8,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """What `vae.decode` computes, without its clamp, which would stop the gradient."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    frames = []
    for index in range(latents.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )
        )
    vae.clear_cache()
    return unpatchify(torch.cat(frames, 2), patch_size=PATCH)


class VAEObjective:
    """Reconstruction and KL on fresh clips: whole length always, crops first, then full pictures.

    The whole length matters: trained on short clips, the last frames drift.
    """

    def __init__(self, vae: AutoencoderKLWan, recipe: Recipe, device: torch.device) -> None:
        self.vae, self.recipe, self.device = vae, recipe, device

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        recipe = self.recipe
        rng = random.Random(f"vae {recipe.seed} {step} {rank()}")
        count = max(1, recipe.vae.batch // world_size())
        side = recipe.crop
        if step >= 0.6 * recipe.vae.steps:
            count, side = max(1, count * side**2 // recipe.size**2), recipe.size
        scenes = draw_scenes(count, "train", rng, recipe.mix)
        placed = (t.to(self.device) for t in place(scenes, rng, share=side / recipe.size))
        latent_frames = (recipe.frames - 1) // 4 + 1
        noise = torch.randn(
            (count, LATENT_CHANNELS, latent_frames, side // 8, side // 8),
            generator=generator(recipe.seed, step, self.device),
            device=self.device,
        )
        return (noise, *placed)

    def loss(self, noise: torch.Tensor, *placed: torch.Tensor) -> torch.Tensor:
        recipe = self.recipe
        with torch.autocast(self.device.type, enabled=False):
            clip, cover = draw(
                Placed(*placed), size=recipe.size, frames=recipe.frames, side=noise.shape[-1] * 8
            )
            near = F.max_pool3d(cover, (1, 5, 5), stride=1, padding=(0, 2, 2))
        weight = 1 + THING_WEIGHT * near
        posterior = self.vae.encode(clip).latent_dist
        mean, variance = posterior.mean.float(), posterior.var.float()
        error = decode(self.vae, mean + variance.sqrt() * noise).float() - clip
        reconstruction = ((error.abs() + 4 * error.square()) * weight).mean() / weight.mean()
        flicker = (error[:, :, 1:] - error[:, :, :-1]).abs().mean()
        divergence = 0.5 * (mean.square() + variance - 1 - variance.log()).mean()
        return reconstruction + 0.5 * flicker + KL_WEIGHT * divergence


@torch.no_grad()
def reconstruction_psnr(
    vae: AutoencoderKLWan, recipe: Recipe, device: torch.device, *, clips: int, split: Split
) -> tuple[float, list[float]]:
    """PSNR in dB on rendered clips: over all pixels, and per pixel frame."""
    rng = random.Random(f"psnr {split}")
    total = torch.zeros(recipe.frames, dtype=torch.float64)
    for start in range(0, clips, 8):
        batch = draw_scenes(min(8, clips - start), split, rng, recipe.mix)
        clip, _ = render(batch, rng, size=recipe.size, frames=recipe.frames, device=device)
        decoded = vae.decode(vae.encode(clip).latent_dist.mode()).sample
        # Pixels lie in [-1, 1]; PSNR is stated for [0, 1].
        error = ((decoded - clip) / 2).square().mean((1, 3, 4)).sum(0)
        total += error.double().cpu()
    per_frame = total / clips
    return -10 * per_frame.mean().log10().item(), (-10 * per_frame.log10()).tolist()
