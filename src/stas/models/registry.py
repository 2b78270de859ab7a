"""Finding the row of a transformer, and adding one."""

from __future__ import annotations

from stas.models.spec import ModelSpec
from stas.models.table import MODELS


def register_model(spec: ModelSpec) -> None:
    """Add a transformer class, so that `steer` takes pipelines that use it.

    Args:
        spec: The row; its `transformer` is the class's name.

    Raises:
        TypeError: Not a ModelSpec.
        ValueError: A row for that class exists.

    Example:
        >>> from stas import TokenSpec
        >>> register_model(ModelSpec(
        ...     transformer="MyVideoTransformer",
        ...     pipelines=("MyPipeline",),
        ...     tokens=TokenSpec(stacks=("blocks",)),
        ... ))
        >>> del MODELS["MyVideoTransformer"]
    """
    if not isinstance(spec, ModelSpec):
        raise TypeError(f"register_model expects a stas.ModelSpec, but got {spec!r}.")
    if spec.transformer in MODELS:
        raise ValueError(
            f"{spec.transformer} is registered already. To replace its row, delete "
            f"stas.models.table.MODELS[{spec.transformer!r}] first."
        )
    MODELS[spec.transformer] = spec


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
