"""Loading a diffusers pipeline by name and making one video with it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec as find_module
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers import DiffusionPipeline

from stas.checks import FRAMES, check_arguments, check_fps
from stas.models import MODELS, ModelSpec, UnsupportedModelError, find_spec, supported_text
from stas.tokens import FrameMap
from stas.video import Frames, to_frames

BUNDLED = "bundled"
BUNDLED_MODEL = Path(__file__).with_name("bundled_model")
LORA_EXPECTED = (
    "Expected is a .safetensors file of LoRA weights for this model, a folder that holds one, or a "
    "hub id (OWNER/NAME), for which the network is needed: without it, give the downloaded file."
)
DEFAULTS_FILE = "defaults.json"  # a model folder may say what its pipeline is best called with

Offload = Literal["none", "model", "sequential"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """Which pipeline is loaded, and how.

    Args:
        model: "bundled", a folder in diffusers' format, or a hub id.
        revision: Branch, tag or commit of a hub id.
        device: "auto" takes an accelerator if there is one, else the CPU; or what torch accepts.
        dtype: "auto" is bfloat16 on an accelerator and float32 on the CPU. Components that
            diffusers says to keep in float32 (Wan's VAE) are kept there.
        offload: "model" keeps one component on the device at a time, "sequential" one layer.
        loras: Files, folders or hub ids of LoRA weights, with the weight of each.

    Example:
        >>> PipelineOptions(device="cpu").resolved().dtype
        'float32'
    """

    model: str = BUNDLED
    revision: str | None = None
    device: str = "auto"
    dtype: DType = "auto"
    offload: Offload = "none"
    loras: Mapping[str, float] = field(default_factory=dict)

    def resolved(self) -> PipelineOptions:
        """The same with device, dtype and paths decided for this machine, and all checked.

        Raises:
            ValueError: An option that doesn't exist, or that doesn't fit this machine.
            FileNotFoundError: LoRA weights that are neither here nor a hub id.
        """
        _check_choice("dtype", self.dtype, get_args(DType))
        _check_choice("offload", self.offload, get_args(Offload))
        device = _device(self.device)
        if self.offload != "none" and device.type == "cpu":
            raise ValueError(
                f"offload={self.offload!r} moves weights between an accelerator and the CPU, but "
                'the device is the CPU. Use offload="none".'
            )
        if self.loras and find_module("peft") is None:
            raise ValueError("LoRA weights need the package peft: pip install 'stas[lora]'.")
        for source in self.loras:
            _check_lora_exists(source)
        local = self.model == BUNDLED or _looks_like_a_folder(self.model)
        if self.revision is not None and local:
            raise ValueError(f"revision is for hub ids, but the model is {self.model!r}.")
        on_cpu: DType = "float32" if device.type == "cpu" else "bfloat16"
        dtype = on_cpu if self.dtype == "auto" else self.dtype
        return replace(
            self,
            model=self.model if self.model == BUNDLED else _absolute(self.model),
            loras={_absolute(source): weight for source, weight in self.loras.items()},
            device=str(device),
            dtype=dtype,
        )


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


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, but got {value!r}.")


def _device(name: str) -> torch.device:
    if name == "auto":
        present = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return present or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {name!r} can't be used here: {reason}") from error
    return device


def _looks_like_a_folder(name: str) -> bool:
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or "\\" in name


def _absolute(name: str) -> str:
    """A folder or file as an absolute path, which a manifest can name; a hub id as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


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


def _check_lora_exists(source: str) -> None:
    """Refuse what is not on this machine and can't be a hub id either."""
    is_path = _looks_like_a_folder(source) or Path(source).suffix == ".safetensors"
    if (is_path or source.count("/") != 1) and not Path(source).expanduser().exists():
        raise FileNotFoundError(f"There is no LoRA file or folder {source!r}. {LORA_EXPECTED}")


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


def check_has_transitions(arguments: Mapping[str, Any]) -> None:
    """See that a call makes a video that can be measured from frame to frame.

    Raises:
        ValueError: It makes one frame.
    """
    if any(arguments.get(name) == 1 for name in FRAMES):
        raise ValueError("One frame has no transition to be compared: ask for more frames.")


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


class _StepReporter:
    """Stands in for the tqdm bar that a pipeline drives."""

    def __init__(
        self, report: Callable[[int, int], None], iterable: Iterable[Any] | None, total: int | None
    ) -> None:
        self._report, self._items = report, iterable
        if total is None:
            total = len(iterable) if isinstance(iterable, Sequence) else 0
        self._done, self._total = 0, total
        report(0, total)

    def update(self, n: int = 1) -> None:
        self._done += n
        self._report(self._done, self._total)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items or ():
            yield item
            self.update()

    def __enter__(self) -> _StepReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def _progress_to(pipeline: Any, report: Callable[[int, int], None]) -> Iterator[None]:
    """Send a pipeline's progress to `report`: pipelines drive `self.progress_bar`.

    AnyFlow FAR alone drives tqdm itself: it shows nothing and reports nothing.
    """

    def progress_bar(
        iterable: Iterable[Any] | None = None, total: int | None = None
    ) -> _StepReporter:
        return _StepReporter(report, iterable, total)

    settings = getattr(pipeline, "_progress_bar_config", {})
    pipeline.progress_bar, pipeline._progress_bar_config = progress_bar, {"disable": True}
    try:
        yield
    finally:
        del pipeline.progress_bar
        pipeline._progress_bar_config = settings
