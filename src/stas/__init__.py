"""Structured Activation Steering (STAS) for video diffusion transformers.

`stas` steers the massive activations of a video diffusion transformer while it samples, and
records, detects and measures them. The method is that of Cheng et al., "Steering Video Diffusion
Transformers with Massive Activations", arXiv 2603.17825.

The public names load on first use, so that `import stas` and `stas --help` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stas.api import RecordingHandle as RecordingHandle
    from stas.api import SteeringHandle as SteeringHandle
    from stas.api import find_handle as find_handle
    from stas.api import record as record
    from stas.api import steer as steer
    from stas.config import STASConfig as STASConfig
    from stas.massive import MassiveActivations as MassiveActivations
    from stas.massive import find_massive_activations as find_massive_activations
    from stas.models import ModelSpec as ModelSpec
    from stas.models import UnsupportedModelError as UnsupportedModelError
    from stas.models import register_model as register_model
    from stas.stats import ActivationStats as ActivationStats
    from stas.tokens import TokenGrid as TokenGrid

_HOMES = {
    "ActivationStats": "stas.stats",
    "MassiveActivations": "stas.massive",
    "ModelSpec": "stas.models",
    "RecordingHandle": "stas.api",
    "STASConfig": "stas.config",
    "SteeringHandle": "stas.api",
    "TokenGrid": "stas.tokens",
    "UnsupportedModelError": "stas.models",
    "find_handle": "stas.api",
    "find_massive_activations": "stas.massive",
    "record": "stas.api",
    "register_model": "stas.models",
    "steer": "stas.api",
}

__all__ = [
    "ActivationStats",
    "MassiveActivations",
    "ModelSpec",
    "RecordingHandle",
    "STASConfig",
    "SteeringHandle",
    "TokenGrid",
    "UnsupportedModelError",
    "find_handle",
    "find_massive_activations",
    "record",
    "register_model",
    "steer",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'stas' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
