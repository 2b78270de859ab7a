"""Loading a diffusers pipeline by name and making one video with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from diffusers import DiffusionPipeline

from stas.assets import BUNDLED, BUNDLED_MODEL
from stas.models.registry import supported_text
from stas.models.spec import ModelSpec, UnsupportedModelError
from stas.models.table import MODELS
from stas.pipelines.options import LORA_EXPECTED, PipelineOptions, _looks_like_a_folder


def load_pipeline(options: PipelineOptions) -> Any:
    """Load a video pipeline that can be steered.

    Whether stas supports the model is checked before its weights are read or downloaded.

    Args:
        options: Which pipeline, and how.

    Returns:
        The pipeline, of the class that the model's `model_index.json` names.

    Raises:
        FileNotFoundError: The model looks like a folder and is none, or has no `model_index.json`.
        UnsupportedModelError: stas can't steer that model.
        ValueError: An option that doesn't exist or doesn't fit, or LoRA weights that can't be
            loaded into the model.
        OSError: The hub has no such model or can't be reached.

    Example:
        >>> pipeline = load_pipeline(PipelineOptions(device="cpu"))
        >>> type(pipeline).__name__
        'WanPipeline'
    """
    options = options.resolved()
    source = _source(options.model)
    try:
        index = DiffusionPipeline.load_config(source, revision=options.revision)
    except OSError as error:
        raise OSError(
            f"Can't read {options.model!r} from the hub: {error} Expected is the id of a model in "
            "diffusers' format (for Wan those that end in -Diffusers), the network or a cached "
            "copy, and for a gated model `hf auth login`."
        ) from error
    specs = _specs(options.model, index)
    float32 = {name for spec in specs for name in spec.float32 if name in index}
    dtypes = {"default": getattr(torch, options.dtype)} | dict.fromkeys(float32, torch.float32)
    pipeline = DiffusionPipeline.from_pretrained(source, revision=options.revision, dtype=dtypes)
    if any(spec.tiled_vae for spec in specs):
        pipeline.vae.enable_tiling()
    _add_loras(pipeline, options.loras)
    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=options.device)
    elif options.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=options.device)
    else:
        pipeline.to(options.device)
    return pipeline


def _source(name: str) -> str:
    """What diffusers is to load: an existing folder or a hub id."""
    if name == BUNDLED:
        return str(BUNDLED_MODEL)
    if not _looks_like_a_folder(name):
        if name.count("/") != 1:
            raise FileNotFoundError(
                f"There is no folder {name!r}, and a hub id looks like OWNER/NAME. Give a folder "
                f"in diffusers' format, a hub id, or {BUNDLED!r}."
            )
        return name
    folder = Path(name).expanduser()
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {name!r}. Give a folder in diffusers' format, a hub id "
            f"(OWNER/NAME), or {BUNDLED!r}."
        )
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{name!r} is not a model in diffusers' format: it has no model_index.json. "
            "Single .safetensors files are loaded in Python, by the pipeline class's "
            "from_single_file, and then steered by stas.steer(pipe)."
        )
    return str(folder)


def _specs(model: str, index: Mapping[str, Any]) -> list[ModelSpec]:
    """The rows of the transformers that a pipeline's index names."""
    classes = [value[1] for value in index.values() if isinstance(value, list) and len(value) == 2]
    found = [MODELS[name] for name in classes if name in MODELS]
    found = [spec for spec in found if "steer" not in spec.refusals]
    if not found:
        raise UnsupportedModelError(
            f"{model!r} is a {index.get('_class_name', 'pipeline of no class')} and has no "
            f"transformer that stas can steer. {supported_text()}"
        )
    return found


def _add_loras(pipeline: Any, loras: Mapping[str, float]) -> None:
    if not loras:
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise ValueError(f"diffusers can't load LoRA weights into a {type(pipeline).__name__}.")
    names = []
    for number, source in enumerate(loras):
        names.append(f"lora_{number}")
        try:
            pipeline.load_lora_weights(str(Path(source).expanduser()), adapter_name=names[-1])
            loaded = {name for part in pipeline.get_list_adapters().values() for name in part}
            if names[-1] not in loaded:
                raise ValueError(f"none of its weights belongs to this {type(pipeline).__name__}.")
        # Of the hub's client, of safetensors, pickle, peft and torch: they share no other class.
        except Exception as error:
            reason = shorten(str(error) or type(error).__name__, 200, placeholder="...")
            raise ValueError(
                f"Can't load LoRA weights from {source!r}: {reason.rstrip('.')}. {LORA_EXPECTED}"
            ) from error
    pipeline.set_adapters(names, list(loras.values()))
