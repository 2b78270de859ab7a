"""What ships with the package: the bundled model, prompts, profiles, studies and tunes."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

BUNDLED = "bundled"  # what the bundled model is called where a model is named
BUNDLED_MODEL = _HERE / "bundled_model"
"""The folder of the bundled model, in diffusers' format, for `WanPipeline.from_pretrained`."""


def prompt_list(model: str) -> Path:
    """The prompts that ship for a model: captions it was not trained on, or general ones."""
    return _HERE / "prompts" / f"{'bundled' if model == BUNDLED else 'general'}.txt"


def shipped(kind: str, suffix: str) -> dict[str, Path]:
    """The files that ship of a kind, "studies", "tunes" or "profiles", by stem.

    Example:
        >>> "ablation-scale" in shipped("studies", ".toml")
        True
    """
    return {path.stem: path for path in sorted((_HERE / kind).glob(f"*{suffix}"))}
