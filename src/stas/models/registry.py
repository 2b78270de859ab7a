"""Finding the row of a transformer, and adding one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from stas.method.tokens import Axes, Place
from stas.models.spec import ContextMeaning, Guidance, Latents, ModelSpec, Verified
from stas.models.table import MODELS


def register_model(spec: ModelSpec) -> None:
    """Add a transformer class, so that `steer` takes pipelines that use it.

    Args:
        spec: The row; its `transformer` is the class's name.

    Raises:
        TypeError: Not a ModelSpec, or a field of another type than the row needs.
        ValueError: A row for that class exists, or a field says what no row can say.

    Example:
        >>> register_model(ModelSpec(
        ...     transformer="MyVideoTransformer", pipelines=("MyPipeline",), stacks=("blocks",)
        ... ))
        >>> del MODELS["MyVideoTransformer"]
    """
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"register_model expects a stas.ModelSpec, but got {spec!r}.")
    check_spec(spec)
    if spec.transformer in MODELS:
        raise ValueError(
            f"{spec.transformer} is registered already. To replace its row, delete "
            f"stas.models.table.MODELS[{spec.transformer!r}] first."
        )
    MODELS[spec.transformer] = spec


def check_spec(spec: ModelSpec) -> None:
    """Raise what is wrong with a row, by field.

    Raises:
        TypeError: A field of another type than the row needs.
        ValueError: A field says what no row can say.
    """
    for name, wanted, text in _FIELD_TYPES:
        value = getattr(spec, name)
        if isinstance(value, bool) and bool not in wanted:
            raise TypeError(f"{name} must be {text}, but got {value!r}.")
        if not isinstance(value, wanted):
            raise TypeError(f"{name} must be {text}, but got {value!r}.")
    for name in _NAMES:
        for entry in getattr(spec, name):
            if not isinstance(entry, str):
                raise TypeError(f"{name} must hold names, but got {entry!r}.")
    for name in _FUNCTIONS:
        value = getattr(spec, name)
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function of the forward, but got {value!r}.")
    for name in ("lead_frames", "trail_frames"):
        value = getattr(spec, name)
        if not callable(value) and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be an integer or a function, but got {value!r}.")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name} must be at least 0, but got {value}.")
    for name in ("transformer", "stacks", "width"):
        if not getattr(spec, name):
            raise ValueError(f"{name} must not be empty.")
    if spec.video_output is not None and spec.video_output < 0:
        raise ValueError(f"video_output must be at least 0, but got {spec.video_output}.")
    if not 0 < spec.fps < math.inf:
        raise ValueError(f"fps must be a finite number above 0, but got {spec.fps}.")
    if spec.frame_step is not None and spec.frame_step < 1:
        raise ValueError(f"frame_step must be at least 1, but got {spec.frame_step}.")
    _check_known("latents", [spec.latents], get_args(Latents))
    _check_known("place", [spec.place], get_args(Place))
    _check_known("guidance", [spec.guidance], get_args(Guidance))
    _check_known("verified", spec.verified, get_args(Verified))
    _check_known("axes", spec.axes.values(), get_args(Axes))
    _check_known("the keys of axes", spec.axes, spec.stacks)
    _check_known("contexts", spec.contexts.values(), get_args(ContextMeaning))
    _check_known("the keys of refusals", spec.refusals, ("steer", "record", *spec.pipelines))
    for name in ("needs", "loop_starters"):
        _check_known(f"the keys of {name}", getattr(spec, name), spec.pipelines)
    for name in ("chunked", "counts_early"):
        _check_known(name, getattr(spec, name), spec.pipelines)


def _check_known(name: str, values: Iterable[object], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, but got {value!r}.")


_NAMES = ("pipelines", "stacks", "watches", "counts_early", "width", "float32", "chunked")


_FUNCTIONS = ("grid", "tile", "idle")


_MAPPINGS = ("axes", "loop_starters", "contexts", "needs", "refusals")


_FIELD_TYPES: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("transformer", (str,), "the name of a class"),
    *((name, (tuple,), "a tuple of names") for name in (*_NAMES, "verified")),
    *((name, (Mapping,), "a mapping") for name in _MAPPINGS),
    *((name, (bool,), "True or False") for name in ("interleaved", "causal", "tiled_vae")),
    ("video_output", (int, type(None)), "an integer or None"),
    ("frame_step", (int, type(None)), "an integer or None"),
    ("fps", (int, float), "a number"),
    ("note", (str,), "text"),
)


def find_spec(transformer: object) -> ModelSpec | None:
    """The row for a transformer's class or the nearest of its base classes."""
    for cls in type(transformer).__mro__:
        if cls.__name__ in MODELS:
            return MODELS[cls.__name__]
    return None


def supported_text() -> str:
    """What is supported and how to add more, for error messages."""
    names = sorted(name for name, spec in MODELS.items() if "steer" not in spec.refusals)
    return (
        f"Supported video transformers: {', '.join(names)}. For another class, describe "
        "it with stas.register_model(stas.ModelSpec(...)). Image models have a single frame and "
        "are not steered."
    )
