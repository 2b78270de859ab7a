"""Loading a diffusers pipeline by name."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.constants import ENDPOINT
from safetensors import SafetensorError

from stas.assets import BUNDLED, BUNDLED_MODEL
from stas.checks import expect
from stas.models.registry import supported_text
from stas.models.spec import ModelSpec, UnsupportedModelError
from stas.models.table import MODELS
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import LORA_EXPECTED, PipelineOptions, looks_like_a_folder


def load_pipeline(model: str | PipelineOptions = BUNDLED, **options: Any) -> LoadedPipeline:
    """Load a video pipeline that can be steered.

    Whether stas supports the model is checked before its weights are read or downloaded.

    Args:
        model: "bundled", a folder in diffusers' format, or a hub id; or all options at once.
        **options: Further fields of `stas.pipelines.options.PipelineOptions`: revision, device,
            dtype, offload, loras.

    Returns:
        The pipeline, of the class that the model's `model_index.json` names, with how it was
        loaded.

    Raises:
        FileNotFoundError: The model looks like a folder and is none, or has no `model_index.json`.
        UnsupportedModelError: stas can't steer that model.
        ValueError: An option that doesn't exist or doesn't fit, LoRA weights that can't be
            loaded into the model, or a file of the model that says what can't be.
        OSError: The hub has no such model or can't be reached.

    Example:
        >>> loaded = load_pipeline("bundled", device="cpu")
        >>> arguments = loaded.arguments(
        ...     {"prompt": "a red circle", "num_frames": 5, "height": 32, "width": 32,
        ...      "num_inference_steps": 2}
        ... )
        >>> with loaded.steered(None):
        ...     loaded.generate(arguments, seed=0).shape
        (5, 32, 32, 3)
    """
    chosen = model if isinstance(model, PipelineOptions) else PipelineOptions(model=model)
    wanted = replace(chosen, **options).resolved()
    source = _source(wanted.model)
    local = Path(source).is_dir()
    offline = not local and _is_offline()  # the hub's client would try for 23 s
    where = {"revision": wanted.revision, "local_files_only": offline}
    try:
        index = DiffusionPipeline.load_config(source, **where)
    except OSError as error:
        raise _unreadable(wanted.model, error, local=local, offline=offline) from error
    known = isinstance(index, Mapping) and isinstance(index.get("_class_name"), str)
    expect(
        known,
        f"The model_index.json of {wanted.model!r} must be an object with the pipeline's class as "
        "_class_name, as diffusers' save_pretrained writes it, but got "
        f"{index!r:.80}",
    )
    specs = _specs(wanted.model, index)
    float32 = {name for spec in specs for name in spec.loading.float32 if name in index}
    dtypes = {"default": getattr(torch, wanted.dtype)} | dict.fromkeys(float32, torch.float32)
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtypes, **where)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(wanted.model, error, local=local, offline=offline) from error
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise  # they say what is missing
    except Exception as error:  # of files that are damaged: KeyError, AttributeError and others
        reason = shorten(f"{type(error).__name__}: {error}", 400, placeholder="...")
        raise ValueError(
            f"The model in {wanted.model!r} can't be loaded: {reason.rstrip('.')}. One of its JSON "
            "files is damaged, or is for another version of diffusers: get the model anew."
        ) from error
    if any(spec.loading.tiled_vae for spec in specs):
        pipeline.vae.enable_tiling()
    _add_loras(pipeline, wanted.loras)
    if wanted.offload == "model":
        pipeline.enable_model_cpu_offload(device=wanted.device)
    elif wanted.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=wanted.device)
    else:
        pipeline.to(wanted.device)
    return LoadedPipeline(pipeline, wanted)


def _source(name: str) -> str:
    """What diffusers is to load: an existing folder or a hub id."""
    if name == BUNDLED:
        return str(BUNDLED_MODEL)
    if not looks_like_a_folder(name):
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


def _unreadable(model: str, error: Exception, *, local: bool, offline: bool) -> OSError:
    """What to say of a model that can't be read, of a folder or of the hub."""
    reason = shorten(str(error).strip(), 400, placeholder="...")
    if local:
        return OSError(f"The model in {model!r} is not whole, or not readable: {reason}")
    reason = "there is no network, and no whole copy in the cache." if offline else reason
    return OSError(
        f"Can't read {model!r} from the hub: {reason} Expected is the id of a model in diffusers' "
        "format (for Wan those that end in -Diffusers), the network or a cached copy, and for a "
        "gated model `hf auth login`."
    )


def _is_offline() -> bool:
    """Whether the hub can't be reached: its name has no address, and no proxy is there to ask."""
    hub = urlsplit(ENDPOINT)
    proxies = getproxies()
    if proxies.get(hub.scheme) or proxies.get("all"):
        return False
    try:
        socket.getaddrinfo(hub.hostname, hub.port or hub.scheme)
    except OSError:
        return True
    return False


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
