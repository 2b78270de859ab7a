"""The denoising transformer, in diffusers' own class, trained by flow matching on latents."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from stas.files import whole_file
from training.clips import Split, draw_scenes, render
from training.loop import generator, log, rank, world_size
from training.recipe import Recipe
from training.text import TEXT_WIDTH, make_text_encoder, make_tokenizer
from training.vae import LATENT_CHANNELS

TEXT_LENGTH = 24  # the longest caption has 21 tokens; one more is the pad key
PIPELINE_TEXT_LENGTH = 512  # what WanPipeline pads every prompt to
HEAD_WIDTH = 32
CAPTION_DROPOUT = 0.1


def make_transformer(recipe: Recipe) -> WanTransformer3DModel:
    """A transformer with random weights, its gates open and its output zero."""
    torch.manual_seed(recipe.seed)
    width = recipe.heads * HEAD_WIDTH
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=recipe.heads,
        attention_head_dim=HEAD_WIDTH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=128,
        ffn_dim=recipe.ffn,
        num_layers=recipe.layers,
        cross_attn_norm=recipe.cross_attn_norm,
    )
    embedder = model.condition_embedder
    nn.init.zeros_(embedder.time_proj.weight)
    nn.init.zeros_(embedder.time_proj.bias)
    for linear, gain in (
        (embedder.text_embedder.linear_1, 1.0),
        (embedder.text_embedder.linear_2, 1.6),
    ):
        nn.init.normal_(linear.weight, std=gain / math.sqrt(linear.in_features))
        nn.init.zeros_(linear.bias)
    with torch.no_grad():
        for block in model.blocks:
            block.scale_shift_table.mul_(0.2)
            block.scale_shift_table[:, 2] = 0.3  # gate of the self-attention
            block.scale_shift_table[:, 5] = 0.3  # gate of the feed-forward
            # At the start no query likes the pad key, which stands for almost all 512 tokens.
            sign = torch.randn(width).sign()
            block.attn2.to_q.bias.copy_(1.2 * sign)
            block.attn2.to_k.bias.copy_(-0.1 * sign)
            nn.init.zeros_(block.attn2.to_out[0].bias)
            if not recipe.qk_norm:
                block.attn1.norm_q = block.attn1.norm_k = nn.Identity()
        model.scale_shift_table.mul_(0.2)
        nn.init.zeros_(model.proj_out.weight)
        nn.init.zeros_(model.proj_out.bias)
    return model


class OnePadKey(WanAttnProcessor):
    """Cross-attention to a short caption with what WanPipeline's hundreds of pads do to it.

    The pipeline pads every prompt with zeros to 512 unmasked tokens. They are all the same key,
    so one of them, with log(number of pads) added to its logit, gives the same result.
    """

    bias: torch.Tensor | None = None

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        return super().__call__(attn, hidden_states, encoder_hidden_states, self.bias, rotary_emb)

    def set_lengths(self, mask: torch.Tensor) -> None:
        """Take the captions' lengths from their mask (B, TEXT_LENGTH), 1 for words."""
        lengths = mask.sum(1, keepdim=True)
        position = torch.arange(mask.shape[1], device=mask.device)[None]
        bias = torch.zeros_like(mask).masked_fill(position > lengths, -math.inf)
        pads = (PIPELINE_TEXT_LENGTH - lengths).log()
        self.bias = torch.where(position == lengths, pads, bias)[:, None, None, :]


@dataclass
class Latents:
    """Encoded clips with their captions, and the channel statistics that normalise them."""

    values: torch.Tensor  # (N, 16, F, H, W), float16, not normalised
    captions: list[str]

    @property
    def mean(self) -> torch.Tensor:
        return self.values.float().mean((0, 2, 3, 4))

    @property
    def std(self) -> torch.Tensor:
        return self.values.float().std((0, 2, 3, 4))


@torch.no_grad()
def encode_clips(
    vae: AutoencoderKLWan,
    recipe: Recipe,
    device: torch.device,
    path: Path,
    *,
    clips: int,
    split: Split = "train",
) -> Latents:
    """Draw and encode clips of a split, or read them when `path` holds them already."""
    if not path.is_file():
        started = time.monotonic()
        rng = random.Random(f"latents {recipe.seed} {rank()}")
        share = clips // world_size()
        batch = 64 if device.type == "cuda" else 4
        values, captions = [], []
        for start in range(0, share, batch):
            scenes = draw_scenes(min(batch, share - start), split, rng, recipe.mix)
            clip, _ = render(scenes, rng, size=recipe.size, frames=recipe.frames, device=device)
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
                latents = vae.encode(clip).latent_dist.mode()
            values.append(latents.half().cpu())
            captions += [scene.caption for scene in scenes]
            if start // batch % 50 == 0:
                log(f"latents: {start} of {share}")
        with whole_file(path) as temporary:
            took = f"{time.monotonic() - started:.1f}"
            metadata = {"captions": "\n".join(captions), "seconds": took}
            save_file({"latents": torch.cat(values)}, temporary, metadata)
    with safe_open(path, "pt", device=str(device)) as file:
        return Latents(file.get_tensor("latents"), file.metadata()["captions"].split("\n"))


class FlowMatching:
    """Flow matching: the objective of the transformer and the text encoder on encoded clips."""

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
        latents: Latents,
        recipe: Recipe,
    ) -> None:
        self.transformer, self.text_encoder, self.recipe = transformer, text_encoder, recipe
        self.tokenizer = tokenizer
        self.device = latents.values.device
        self.values = latents.values
        self.mean = latents.mean.view(1, -1, 1, 1, 1)
        self.std = latents.std.view(1, -1, 1, 1, 1)
        tokens = tokenizer(
            [*latents.captions, ""],  # the last stands for a dropped caption
            padding="max_length",
            max_length=TEXT_LENGTH,
            return_tensors="pt",
        )
        self.ids = tokens.input_ids.to(self.device)
        self.masks = tokens.attention_mask.float().to(self.device)
        self.pads = OnePadKey()
        for block in transformer.blocks:
            block.attn2.set_processor(self.pads)

    @classmethod
    def from_nothing(cls, recipe: Recipe, latents: Latents) -> FlowMatching:
        """The objective with networks of random weights, where the latents are, ready to train."""
        device = latents.values.device
        tokenizer = make_tokenizer()
        transformer = make_transformer(recipe).to(device)
        text_encoder = make_text_encoder(tokenizer, recipe.seed).to(device)
        matching = cls(transformer, text_encoder, tokenizer, latents, recipe)
        if device.type == "cuda":
            transformer.compile_repeated_blocks()
        return matching

    @property
    def networks(self) -> nn.ModuleDict:
        """What is trained."""
        return nn.ModuleDict({"transformer": self.transformer, "text_encoder": self.text_encoder})

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        recipe = self.recipe
        count = recipe.transformer.batch // world_size()
        numbers = generator(recipe.seed, step, self.device)
        options = {"generator": numbers, "device": self.device}
        chosen = torch.randint(len(self.values), (count,), **options)
        dropped = torch.rand(count, **options) < CAPTION_DROPOUT
        caption = torch.where(dropped, len(self.values), chosen)
        noise = torch.randn((count, *self.values.shape[1:]), **options)
        sigma = torch.sigmoid(torch.randn(count, **options))
        sigma = recipe.shift * sigma / (1 + (recipe.shift - 1) * sigma)
        return self.values[chosen], noise, sigma, self.ids[caption], self.masks[caption]

    def loss(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Mean squared error of the predicted velocity, noise - latents, at noise level sigma."""
        clean = (latents.float() - self.mean) / self.std
        level = sigma.view(-1, 1, 1, 1, 1)
        self.pads.set_lengths(mask)
        # As an additive mask: from a mask of ones and zeros, transformers asks the device a
        # question, which a CUDA graph can't hold.
        unseen = (1 - mask[:, None, None, :]) * torch.finfo(mask.dtype).min
        text = self.text_encoder(ids, unseen).last_hidden_state * mask[..., None]
        velocity = self.transformer(
            (1 - level) * clean + level * noise, sigma * 1000, text, return_dict=False
        )[0]
        return (velocity.float() - (noise - clean)).square().mean()

    def restore(self) -> None:
        """Give the transformer its usual cross-attention back."""
        for block in self.transformer.blocks:
            block.attn2.set_processor(WanAttnProcessor())
