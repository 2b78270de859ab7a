"""From trained parts to the folder that ships: a pipeline in diffusers' format, and its profile."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from stas.massive import WEAK_RATIO
from stas.profiles import FOLDER_PROFILE, FORMAT
from stas.tokens import TokenGrid
from training.recipe import Recipe
from training.transformer import Latents

DEFAULTS = {"num_inference_steps": 30, "guidance_scale": 4.0, "fps": 8}
LARGEST_BYTES = 20_000_000


def export(
    folder: Path,
    recipe: Recipe,
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    transformer: WanTransformer3DModel,
    latents: Latents,
) -> None:
    """Write the pipeline in bfloat16, with the arguments that it is meant to be called with."""
    vae.register_to_config(latents_mean=latents.mean.tolist(), latents_std=latents.std.tolist())
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
        ),
        transformer=transformer,
    )
    if folder.exists():
        shutil.rmtree(folder)
    pipeline.to(torch.bfloat16).save_pretrained(folder)
    _keep_older_name(folder)
    defaults = {"height": recipe.size, "width": recipe.size, "num_frames": recipe.frames}
    write_json(folder / "defaults.json", defaults | DEFAULTS)
    if (size := sum(path.stat().st_size for path in folder.rglob("*"))) > LARGEST_BYTES:
        raise RuntimeError(f"The model takes {size} bytes, more than the {LARGEST_BYTES} allowed.")


def _keep_older_name(folder: Path) -> None:
    """transformers 5 writes a tokenizer class name that version 4 does not know."""
    for path in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("TokenizersBackend", "PreTrainedTokenizerFast"), "utf-8")


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weight files, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


class Magnitudes:
    """Mean |h| at every block's output, per token and dimension, summed over forwards."""

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        self.sums: list[torch.Tensor | None] = [None] * len(transformer.blocks)
        self.forwards = 0
        self._hooks = [
            block.register_forward_hook(self._reader(index))
            for index, block in enumerate(transformer.blocks)
        ]

    def _reader(self, index: int) -> Any:
        def read(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            mean = output.detach().float().abs().mean(0).cpu()
            old = self.sums[index]
            self.sums[index] = mean if old is None else old + mean
            self.forwards += index == 0

        return read

    def close(self) -> list[torch.Tensor]:
        """Stop reading; the mean magnitude (tokens, dimensions) of each block."""
        for hook in self._hooks:
            hook.remove()
        return [total / self.forwards for total in self.sums if total is not None]


def activation_report(magnitudes: Iterable[torch.Tensor], grid: TokenGrid) -> list[dict[str, Any]]:
    """For each block: the strongest dimensions, their ratios, and the first by token region."""
    rows = []
    regions = ("first_frame", "boundary", "interior")
    masks = {region: grid.mask((region,), 0.08).flatten() for region in regions}
    for block, table in enumerate(magnitudes):
        mean = table.mean(0)
        ratios = mean / mean.mean()
        dims = ratios.argsort(descending=True)[:5].tolist()
        rows.append(
            {
                "block": block,
                "dims": dims,
                "ratios": [round(ratios[dim].item(), 2) for dim in dims],
                "strongest by region": {
                    region: round((table[mask, dims[0]].mean() / mean.mean()).item(), 2)
                    for region, mask in masks.items()
                },
            }
        )
    return rows


def write_profile(
    folder: Path, magnitudes: list[torch.Tensor], config: dict[str, Any], note: str
) -> None:
    """Name the model's strongest dimensions, massive or only weak, with their measured ratios.

    Kept are those whose ratio, the median over blocks, is at least half of the strongest one's.
    """
    ratios = torch.stack([m.mean(0) / m.mean() for m in magnitudes]).quantile(0.5, dim=0)
    order = ratios.argsort(descending=True).tolist()
    strongest = ratios[order[0]].item()
    dims = [dim for dim in order if ratios[dim].item() >= max(WEAK_RATIO, strongest / 2)][:4]
    if not dims:
        return
    profile = {
        "format": FORMAT,
        "model": "stas bundled model",
        "transformer": "WanTransformer3DModel",
        "config": {key: config[key] for key in ("num_layers", "num_attention_heads")},
        "dims": dims,
        "ratios": [round(ratios[dim].item(), 2) for dim in dims],
        "source": "measured",
        "note": note,
    }
    write_json(folder / FOLDER_PROFILE, profile)
