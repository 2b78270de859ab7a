"""Structured Activation Steering (STAS) for video diffusion transformers.

`stas` steers the massive activations of a video diffusion transformer while it samples, and
records, detects and measures them. The method is that of Cheng et al., "Steering Video Diffusion
Transformers with Massive Activations", arXiv 2603.17825.

The public names load on first use, so that `import stas` and `stas --help` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from stas.activations import plots as plots
    from stas.activations.massive import find_massive_activations as find_massive_activations
    from stas.activations.stats import ActivationStats as ActivationStats
    from stas.assets import BUNDLED_MODEL as BUNDLED_MODEL
    from stas.checks import StasWarning as StasWarning
    from stas.hooks.guidance import DetailGuidance as DetailGuidance
    from stas.hooks.record import RecordingHandle as RecordingHandle
    from stas.hooks.record import record as record
    from stas.hooks.steer import SteeringHandle as SteeringHandle
    from stas.hooks.steer import find_handle as find_handle
    from stas.hooks.steer import steer as steer
    from stas.media.video import write_mp4 as write_mp4
    from stas.method.config import STASConfig as STASConfig
    from stas.method.detection import MassiveActivations as MassiveActivations
    from stas.method.tokens import TokenGrid as TokenGrid
    from stas.models.registry import register_model as register_model
    from stas.models.spec import LoadingSpec as LoadingSpec
    from stas.models.spec import LoopSpec as LoopSpec
    from stas.models.spec import ModelSpec as ModelSpec
    from stas.models.spec import TokenSpec as TokenSpec
    from stas.models.spec import UnsupportedModelError as UnsupportedModelError
    from stas.pipelines.load import load_pipeline as load_pipeline
    from stas.pipelines.model import defaults as defaults
    from stas.studies.compare import compare as compare
    from stas.studies.study import run_study as run_study
    from stas.workers.executors import Workers as Workers

_HOMES = {
    "BUNDLED_MODEL": "stas.assets",
    "ActivationStats": "stas.activations.stats",
    "DetailGuidance": "stas.hooks.guidance",
    "LoadingSpec": "stas.models.spec",
    "LoopSpec": "stas.models.spec",
    "MassiveActivations": "stas.method.detection",
    "ModelSpec": "stas.models.spec",
    "RecordingHandle": "stas.hooks.record",
    "STASConfig": "stas.method.config",
    "StasWarning": "stas.checks",
    "SteeringHandle": "stas.hooks.steer",
    "TokenGrid": "stas.method.tokens",
    "TokenSpec": "stas.models.spec",
    "UnsupportedModelError": "stas.models.spec",
    "Workers": "stas.workers.executors",
    "compare": "stas.studies.compare",
    "defaults": "stas.pipelines.model",
    "find_handle": "stas.hooks.steer",
    "find_massive_activations": "stas.activations.massive",
    "load_pipeline": "stas.pipelines.load",
    "plots": "stas.activations.plots",
    "record": "stas.hooks.record",
    "register_model": "stas.models.registry",
    "run_study": "stas.studies.study",
    "steer": "stas.hooks.steer",
    "write_mp4": "stas.media.video",
}
_MODULES = ("plots",)  # public names that are modules themselves

__all__ = [
    "BUNDLED_MODEL",
    "ActivationStats",
    "DetailGuidance",
    "LoadingSpec",
    "LoopSpec",
    "MassiveActivations",
    "ModelSpec",
    "RecordingHandle",
    "STASConfig",
    "StasWarning",
    "SteeringHandle",
    "TokenGrid",
    "TokenSpec",
    "UnsupportedModelError",
    "Workers",
    "compare",
    "defaults",
    "find_handle",
    "find_massive_activations",
    "load_pipeline",
    "plots",
    "record",
    "register_model",
    "run_study",
    "steer",
    "write_mp4",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'stas' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = home if name in _MODULES else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
