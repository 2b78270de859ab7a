"""From trained parts to the folder that ships: a pipeline in diffusers' format, and its profile."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from stas.activations.massive import find_massive_activations
from stas.activations.profiles import FOLDER_PROFILE, Profile
from stas.activations.stats import ActivationStats
from stas.files import whole_file
from stas.method.detection import WEAK_RATIO
from training.recipe import Recipe
from training.transformer import Latents

DEFAULTS = {"num_inference_steps": 30, "guidance_scale": 4.0, "fps": 8}
LARGEST_BYTES = 20_000_000


def make_pipeline(
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    transformer: WanTransformer3DModel,
    latents: Latents,
) -> WanPipeline:
    """The pipeline of the trained parts."""
    vae.register_to_config(latents_mean=latents.mean.tolist(), latents_std=latents.std.tolist())
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
        ),
        transformer=transformer,
    )


def export(folder: Path, recipe: Recipe, pipeline: WanPipeline) -> None:
    """Write the pipeline in bfloat16, with the arguments that it is meant to be called with."""
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
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_profile(
    folder: Path, stats: ActivationStats, config: dict[str, Any], videos: int
) -> None:
    """Name the model's strongest dimensions, massive or only weak, with their measured ratios.

    Kept are those whose ratio, the median over blocks and steps, is at least half of the strongest
    one's.
    """
    found = find_massive_activations(stats)
    least = max(WEAK_RATIO, found.ratios[0] / 2)
    kept = [i for i, ratio in enumerate(found.ratios) if ratio >= least][:4]
    if not kept:
        return
    Profile(
        model="stas bundled model",
        transformer="WanTransformer3DModel",
        config={key: config[key] for key in ("num_layers", "num_attention_heads")},
        dims=tuple(found.strongest[i] for i in kept),
        ratios=tuple(round(found.ratios[i], 2) for i in kept),
        source="measured",
        note="median over blocks and steps of mean |h| over its mean over dimensions; "
        f"{videos} videos of held-out captions",
        videos=videos,
    ).save(folder / FOLDER_PROFILE)
