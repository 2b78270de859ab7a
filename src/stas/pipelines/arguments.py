"""The arguments that a pipeline is called with, checked before anything is computed."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stas.checks import FRAMES, IMAGES, VIDEOS, StasWarning, check_arguments
from stas.pipelines.inputs import NAMES, shape_warning, with_records
from stas.pipelines.texts import unread

if TYPE_CHECKING:
    from stas.pipelines.model import LoadedPipeline

# What pipelines call the scale of guidance; where both exist, guidance_scale is an input of a
# distilled model and not of guidance.
GUIDANCE = ("true_cfg_scale", "guidance_scale")
SIZE = ("width", "height")
SHOWN = 80  # letters of a text that is not read


def call_arguments(loaded: LoadedPipeline, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """See `stas.pipelines.model.LoadedPipeline.arguments`."""
    pipeline = loaded.pipeline
    parameters = inspect.signature(type(pipeline).__call__).parameters
    given = {k: v for k, v in wanted.items() if v is not None}
    arguments = default_arguments(loaded)
    arguments |= with_records(_own_names(given, parameters))
    if unknown := [key for key in arguments if key not in parameters]:
        hint = ""
        if "guidance_scale" in unknown and hasattr(pipeline, "guider"):
            hint = (
                " Its guidance is a component: in Python, "
                "`pipe.guider = pipe.guider.new(guidance_scale=...)`."
            )
        raise ValueError(f"{loaded.name} takes no {', '.join(unknown)}.{hint}")
    _check_needs(loaded, arguments, parameters)
    if arguments.get("true_cfg_scale", 0) > 1 and "negative_prompt" in parameters:
        # Without a negative prompt these pipelines would leave guidance off, in silence.
        arguments.setdefault("negative_prompt", "")
    check_arguments(arguments)
    _check_steps(pipeline, arguments)
    for said in _warnings(pipeline, arguments, parameters):
        if said not in loaded.warned:  # one video's arguments are asked for several times
            loaded.warned.add(said)
            warnings.warn(said, StasWarning, stacklevel=3)
    if loaded.transformer is not None:
        _check_frames(loaded, arguments, parameters)
        _check_size(loaded, arguments)
    return arguments


def default_arguments(loaded: LoadedPipeline) -> dict[str, Any]:
    """What the model's folder says of the call, by the pipeline's own names."""
    parameters = inspect.signature(type(loaded.pipeline).__call__).parameters
    arguments = _own_names(loaded.defaults, parameters)
    return {name: value for name, value in arguments.items() if name in parameters}


def _own_names(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with what the pipeline calls its frames and its guidance."""
    names = {
        "num_frames": next((name for name in FRAMES if name in parameters), "num_frames"),
        "guidance_scale": next((name for name in GUIDANCE if name in parameters), "guidance_scale"),
    }
    for name, known in NAMES.items():
        names[name] = next((each for each in known if each in parameters), known[0])
    if "true_cfg_scale" in arguments:
        del names["guidance_scale"]
    own: dict[str, Any] = {}
    for key, value in arguments.items():
        name = names.get(key, key)
        if name in own:
            other = next(each for each in arguments if names.get(each, each) == name)
            raise ValueError(f"{other} and {key} both stand for the pipeline's {name}: give one.")
        own[name] = value
    return own


def _check_needs(
    loaded: LoadedPipeline,
    arguments: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
) -> None:
    name = loaded.name
    missing = [
        key
        for key, parameter in list(parameters.items())[1:]
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and key not in arguments
    ]
    unsaid = None if loaded.transformer is None else loaded.spec.loading.needs.get(name)
    if unsaid and not any(key in arguments for key in unsaid.split(" or ")):
        missing.append(unsaid)
    if missing:
        options = [_option(each) for key in missing for each in key.split(" or ")]
        how = (
            f"On the command line: {' or '.join(options)}; in Python its path, or the picture or "
            f"video itself, as {' or '.join(f'`{key}`' for key in missing)}."
            if all(options)
            else "Only a call in Python can give that: `with stas.steer(pipe): pipe(...)`."
        )
        raise ValueError(f"{name} also needs {', '.join(missing)}. {how}")


def _option(name: str) -> str:
    """How the command line gives a picture or video, "" where it doesn't."""
    for option in ("image", "last_image", "video", "control"):
        if name in NAMES.get(option, (option,)):
            return f"--{option.replace('_', '-')} FILE"
    return f"--input {name}=FILE" if name in (*IMAGES, *VIDEOS) else ""


def _asked(
    arguments: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], name: str
) -> Any:
    """What the pipeline will be called with, its own default included."""
    return arguments.get(name, parameters[name].default if name in parameters else None)


def _warnings(
    pipeline: Any, arguments: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> Iterator[str]:
    """What to say of arguments that can be called with, and give something else than wanted."""
    length = _asked(arguments, parameters, "max_sequence_length")
    for name in ("prompt", "negative_prompt"):
        text = arguments.get(name)
        rest = unread(pipeline, text, length) if isinstance(text, str) else ""
        if rest:
            rest = rest if len(rest) <= SHOWN else f"{rest[: SHOWN - 3]}..."
            yield f"The {name} is longer than the model's text encoder reads. Not read is: {rest!r}"
    if said := shape_warning(arguments, *(_asked(arguments, parameters, k) for k in SIZE)):
        yield said


def _check_steps(pipeline: Any, arguments: Mapping[str, Any]) -> None:
    config = getattr(getattr(pipeline, "scheduler", None), "config", {})
    trained, steps = config.get("num_train_timesteps"), arguments.get("num_inference_steps")
    if trained and steps and steps > trained:
        raise ValueError(
            f"num_inference_steps must be at most {trained}, the steps that the scheduler "
            f"({type(pipeline.scheduler).__name__}) was trained on, but got {steps}."
        )


def _check_frames(
    loaded: LoadedPipeline,
    arguments: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
) -> None:
    frames = next((arguments[name] for name in FRAMES if name in arguments), None)
    frame_map = loaded.vae_frame_map
    if frames is None or frame_map is None:
        return
    # Latte learned one position per frame, and adds none to a single frame.
    length = loaded.transformer.config.get("video_length")
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
            f"{loaded.name} can't make a video of {frames} frames: it makes whole "
            f"chunks of {size}. The nearest are {made[0]} and {made[1]}."
        )


def _check_size(loaded: LoadedPipeline, arguments: Mapping[str, Any]) -> None:
    factor = loaded.compression("spatial")
    if factor is None or not {"height", "width"} & set(arguments):
        return
    _, rows, columns = loaded.spec.patch(loaded.transformer.config)
    for key, cells in (("height", rows), ("width", columns)):
        multiple = factor * cells
        if (value := arguments.get(key, multiple)) % multiple:
            below = max(value // multiple, 1) * multiple
            raise ValueError(
                f"{key} must be a multiple of {multiple} for this model, but got {value}. The "
                f"nearest are {below} and {below + multiple}."
            )
