"""One pipeline and what it makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stas.checks import check_fps
from stas.media.video import Frames, to_frames
from stas.method.frames import FrameMap
from stas.models.registry import find_spec, supported_text
from stas.models.spec import ModelSpec, UnsupportedModelError
from stas.pipelines.progress import _progress_to

DEFAULTS_FILE = "defaults.json"  # a model folder may say what its pipeline is best called with


def _transformer(pipeline: Any) -> Any:
    """The first transformer that has a row, a compiled one unwrapped; None if there is none."""
    components = getattr(pipeline, "components", {})
    parts = [getattr(part, "_orig_mod", part) for part in components.values()]
    return next((part for part in parts if find_spec(part) is not None), None)


def _spec(pipeline: Any) -> ModelSpec | None:
    return find_spec(_transformer(pipeline))


def _compression(pipeline: Any, axis: Literal["temporal", "spatial"]) -> int | None:
    """Pixel frames, or rows, of one latent one; None when the pipeline does not say."""
    names = (
        f"vae_scale_factor_{axis}",
        f"vae_{axis}_compression_ratio",
        f"vae_{axis}_scale_factor",
        *(["vae_scale_factor"] if axis == "spatial" else []),
    )
    vae = getattr(pipeline, "vae", None)
    config = getattr(vae, "config", None)
    places = [(pipeline, name) for name in names]
    # The config before the VAE: diffusers warns of reading the config's fields through the VAE.
    places += [(config, f"scale_factor_{axis}"), (config, f"{axis}_compression_ratio")]
    places += [(vae, f"{axis}_compression_ratio")]
    for owner, name in places:
        if (value := getattr(owner, name, None)) is not None:
            return int(value)
    return None


def _frame_map(pipeline: Any, spec: ModelSpec) -> FrameMap | None:
    ratio = _compression(pipeline, "temporal") or spec.frame_step
    return None if ratio is None else FrameMap(ratio, spec.causal, spec.frame_step)


def frame_map(pipeline: Any) -> FrameMap:
    """Which pixel frames the latent frames of a pipeline's videos cover.

    Args:
        pipeline: A diffusers pipeline, loaded or your own, with a transformer that has a row.

    Returns:
        The map of its VAE.

    Raises:
        UnsupportedModelError: It has no transformer with a row.
        ValueError: It decodes its videos part by part, so that each part has a map of its own, or
            neither it nor its VAE says how many pixel frames a latent frame has.

    Example:
        >>> frame_map(load_pipeline(PipelineOptions(device="cpu"))).num_latent_frames(81)
        21
    """
    name, spec = type(pipeline).__name__, _spec(pipeline)
    if spec is None:
        raise UnsupportedModelError(f"{name} has no known transformer. {supported_text()}")
    if name in spec.chunked:
        raise ValueError(
            f"{name} decodes its videos part by part, so one map does not hold for a whole video."
        )
    found = _frame_map(pipeline, spec)
    if found is None:
        raise ValueError(
            f"{name} does not say how many pixel frames a latent frame has. Give its VAE a "
            "temporal_compression_ratio, or its row a frame_step."
        )
    return found


def frames_per_second(pipeline: Any) -> float:
    """What videos of this model are meant to be played at."""
    stated = model_defaults(pipeline).get("fps")
    if stated is not None:
        return float(stated)
    spec = _spec(pipeline)
    return spec.fps if spec else 8


def generate(
    pipeline: Any,
    arguments: Mapping[str, Any],
    seed: int,
    *,
    report: Callable[[int, int], None] | None = None,
) -> Frames:
    """Make one video; the noise comes from the CPU, so that a seed means the same everywhere.

    Args:
        pipeline: A pipeline, steered or not.
        arguments: What `call_arguments` returned.
        seed: Of the noise, 0 or more.
        report: Called with (finished steps, all steps) as denoising goes on, in place of the
            pipeline's own progress bar.

    Returns:
        (T, H, W, 3), uint8.

    Raises:
        ValueError: The video has NaN or infinite pixels, or the pipeline returned none.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    with _progress_to(pipeline, report or (lambda done, total: None)):
        result = pipeline(**arguments, generator=generator, output_type="np")
    return to_frames(_first_video(result))


def _first_video(result: Any) -> Any:
    """The first video of what a pipeline returned: (T, H, W, 3), one frame for an image."""
    for name, axes in (("frames", 5), ("video", 5), ("images", 4)):
        found = getattr(result, name, None)
        if found is not None:
            found = np.asarray(found)
            if found.ndim < axes:  # Cosmos 3 returns its one video without a batch
                found = found[None]
            return found[0] if name != "images" else found[:1]
    raise ValueError(f"The pipeline returned no video but a {type(result).__name__}.")


def model_defaults(pipeline: Any) -> dict[str, Any]:
    """What the model's folder says that its pipeline is best called with, and its fps.

    Raises:
        ValueError: The folder's `defaults.json` is not an object with a number for fps.
    """
    path = Path(str(getattr(pipeline, "name_or_path", ""))) / DEFAULTS_FILE
    if not path.is_file():
        return {}
    try:
        defaults = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(defaults, dict):
            raise ValueError("expected an object")
        check_fps(defaults.get("fps", 1))
    except ValueError as error:
        raise ValueError(f"{path} does not hold a model's defaults: {error}") from error
    return defaults
