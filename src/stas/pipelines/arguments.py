"""The arguments that a pipeline is called with, checked before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stas.checks import FRAMES, check_arguments
from stas.models.spec import ModelSpec
from stas.pipelines.model import _compression, _frame_map, _spec, _transformer, model_defaults

# What pipelines call the scale of guidance; where both exist, guidance_scale is an input of a
# distilled model and not of guidance.
GUIDANCE = ("true_cfg_scale", "guidance_scale")


def call_arguments(pipeline: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to call a pipeline with, checked before anything is computed.

    Args:
        pipeline: A pipeline from `load_pipeline`.
        wanted: Arguments by the pipeline's own names; None stands for the default: what the
            model's `defaults.json` says, else the pipeline's own. `num_frames` also stands for
            what the pipeline calls its frames, and `guidance_scale` for the scale of
            classifier-free guidance (HunyuanVideo: `true_cfg_scale`, unless that is given too).

    Returns:
        The arguments that are not left to the pipeline, by its own names.

    Raises:
        ValueError: The pipeline takes no such argument, needs one that is not given, or its VAE
            and patches can't make that size or number of frames.

    Example:
        >>> pipeline = load_pipeline(PipelineOptions(device="cpu"))
        >>> call_arguments(pipeline, {"prompt": "a red circle", "num_frames": 9})["num_frames"]
        9
        >>> call_arguments(pipeline, {"prompt": "a red circle", "num_frames": 10})
        Traceback (most recent call last):
        ...
        ValueError: The VAE can't make a video of 10 frames: it makes 1 + 4 * n. The nearest are \
9 and 13.
    """
    parameters = inspect.signature(type(pipeline).__call__).parameters
    given = {k: v for k, v in wanted.items() if v is not None}
    arguments = _own_names(model_defaults(pipeline), parameters)
    arguments = {k: v for k, v in arguments.items() if k in parameters}
    arguments |= _own_names(given, parameters)
    name = type(pipeline).__name__
    if unknown := [key for key in arguments if key not in parameters]:
        hint = ""
        if "guidance_scale" in unknown and hasattr(pipeline, "guider"):
            hint = (
                " Its guidance is a component: in Python, "
                "`pipe.guider = pipe.guider.new(guidance_scale=...)`."
            )
        raise ValueError(f"{name} takes no {', '.join(unknown)}.{hint}")
    _check_needs(pipeline, arguments, parameters)
    if arguments.get("true_cfg_scale", 0) > 1 and "negative_prompt" in parameters:
        # Without a negative prompt these pipelines would leave guidance off, in silence.
        arguments.setdefault("negative_prompt", "")
    check_arguments(arguments)
    if (spec := _spec(pipeline)) is not None:
        _check_frames(pipeline, spec, arguments, parameters)
        _check_size(pipeline, spec, arguments)
    return arguments


def _own_names(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with what the pipeline calls its frames and its guidance."""
    names = {
        "num_frames": next((name for name in FRAMES if name in parameters), "num_frames"),
        "guidance_scale": next((name for name in GUIDANCE if name in parameters), "guidance_scale"),
    }
    if "true_cfg_scale" in arguments:
        del names["guidance_scale"]
    return {names.get(key, key): value for key, value in arguments.items()}


def _check_needs(
    pipeline: Any, arguments: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    name = type(pipeline).__name__
    missing = [
        key
        for key, parameter in list(parameters.items())[1:]
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and key not in arguments
    ]
    spec = _spec(pipeline)
    unsaid = spec.needs.get(name) if spec else None
    if unsaid and not any(key in arguments for key in unsaid.split(" or ")):
        missing.append(unsaid)
    if missing:
        raise ValueError(
            f"{name} also needs {', '.join(missing)}, which only a call in Python can give: "
            "`with stas.steer(pipe): pipe(...)`."
        )


def _check_frames(
    pipeline: Any,
    spec: ModelSpec,
    arguments: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
) -> None:
    frames = next((arguments[name] for name in FRAMES if name in arguments), None)
    frame_map = _frame_map(pipeline, spec)
    if frames is None or frame_map is None:
        return
    # Latte learned one position per frame, and adds none to a single frame.
    length = _transformer(pipeline).config.get("video_length")
    if length and frames not in (1, length):
        raise ValueError(
            f"This model can't make a video of {frames} frames: it makes {length}, or a single one."
        )
    chunk = "num_latent_frames_per_chunk"
    if chunk not in parameters:
        frame_map.num_latent_frames(frames)
        return
    # Helios makes whole chunks and cuts what they are together to 1 + ratio * n.
    size = len(frame_map.video_frames(arguments.get(chunk, parameters[chunk].default)))
    below = max(1, -(-frames // size) - 1)
    made = [(n * size - 1) // frame_map.ratio * frame_map.ratio + 1 for n in (below, below + 1)]
    if frames not in made:
        raise ValueError(
            f"{type(pipeline).__name__} can't make a video of {frames} frames: it makes whole "
            f"chunks of {size}. The nearest are {made[0]} and {made[1]}."
        )


def _check_size(pipeline: Any, spec: ModelSpec, arguments: Mapping[str, Any]) -> None:
    factor = _compression(pipeline, "spatial")
    if factor is None or not {"height", "width"} & set(arguments):
        return
    _, rows, columns = spec.patch(_transformer(pipeline).config)
    for key, cells in (("height", rows), ("width", columns)):
        multiple = factor * cells
        if (value := arguments.get(key, multiple)) % multiple:
            below = max(value // multiple, 1) * multiple
            raise ValueError(
                f"{key} must be a multiple of {multiple} for this model, but got {value}. The "
                f"nearest are {below} and {below + multiple}."
            )


def check_has_transitions(arguments: Mapping[str, Any]) -> None:
    """See that a call makes a video that can be measured from frame to frame.

    Raises:
        ValueError: It makes one frame.
    """
    if any(arguments.get(name) == 1 for name in FRAMES):
        raise ValueError("One frame has no transition to be compared: ask for more frames.")
