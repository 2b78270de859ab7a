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

import torch
from diffusers import DiffusionPipeline

from stas.checks import check_arguments, check_fps
from stas.models import MODELS, UnsupportedModelError, find_spec, supported_text
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
    dtypes = {"default": getattr(torch, options.dtype)}
    dtypes |= dict.fromkeys(_float32_components(options.model, index), torch.float32)
    pipeline = DiffusionPipeline.from_pretrained(source, revision=options.revision, dtype=dtypes)
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


def _float32_components(model: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    """The components to keep in float32, when stas supports one of those in the index."""
    classes = [value[1] for value in index.values() if isinstance(value, list) and len(value) == 2]
    found = [MODELS[name] for name in classes if name in MODELS]
    if not found:
        raise UnsupportedModelError(
            f"{model!r} is a {index.get('_class_name', 'pipeline of no class')} and has no "
            f"transformer that stas can steer. {supported_text()}"
        )
    return tuple({name: None for spec in found for name in spec.float32 if name in index})


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


def call_arguments(pipeline: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments to call a pipeline with, checked before anything is computed.

    Args:
        pipeline: A pipeline from `load_pipeline`.
        wanted: Arguments by the pipeline's own names; None stands for the default: what the
            model's `defaults.json` says, else the pipeline's own.

    Returns:
        The arguments that are not left to the pipeline.

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
    defaults = {k: v for k, v in model_defaults(pipeline).items() if k in parameters}
    arguments = defaults | {k: v for k, v in wanted.items() if v is not None}
    name = type(pipeline).__name__
    if unknown := [key for key in arguments if key not in parameters]:
        raise ValueError(f"{name} takes no {', '.join(unknown)}.")
    missing = [
        key
        for key, parameter in list(parameters.items())[1:]
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and key not in arguments
    ]
    if missing:
        raise ValueError(
            f"{name} also needs {', '.join(missing)}, which only a call in Python can give: "
            "`with stas.steer(pipe): pipe(...)`."
        )
    _check_sizes(pipeline, arguments)
    return arguments


def _check_sizes(pipeline: Any, arguments: Mapping[str, Any]) -> None:
    check_arguments(arguments)
    transformer = pipeline.transformer or pipeline.transformer_2
    spec = find_spec(transformer)
    if spec is None:
        return
    if "num_frames" in arguments:
        step = spec.frame_step or int(pipeline.vae_scale_factor_temporal)
        FrameMap(step).num_latent_frames(arguments["num_frames"])
    patch = spec.patch(transformer.config)
    for key, cells in (("height", patch[1]), ("width", patch[2])):
        multiple = int(pipeline.vae_scale_factor_spatial) * cells
        if (value := arguments.get(key, multiple)) % multiple:
            below = max(value // multiple, 1) * multiple
            raise ValueError(
                f"{key} must be a multiple of {multiple} for this model, but got {value}. The "
                f"nearest are {below} and {below + multiple}."
            )


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
    spec = find_spec(pipeline.transformer or pipeline.transformer_2)
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
        ValueError: The video has NaN or infinite pixels.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    with _progress_to(pipeline, report or (lambda done, total: None)):
        result = pipeline(**arguments, generator=generator, output_type="np")
    return to_frames(result.frames[0])


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
    """Send a pipeline's progress to `report`: every pipeline drives `self.progress_bar`."""

    def progress_bar(
        iterable: Iterable[Any] | None = None, total: int | None = None
    ) -> _StepReporter:
        return _StepReporter(report, iterable, total)

    pipeline.progress_bar = progress_bar
    try:
        yield
    finally:
        del pipeline.progress_bar
