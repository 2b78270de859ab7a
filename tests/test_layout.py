"""The face of the package, and that importing it stays light; import-linter holds the layers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import stas

SOURCE = Path(__file__).parent.parent / "src/stas"
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "matplotlib",
    "av",
    "scipy",
    "peft",
    "gradio",
)
WITHOUT_DIFFUSERS = ("diffusers", "transformers", "matplotlib", "scipy", "peft")


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has after running `code`."""
    probe = f"{code}\nimport sys\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import stas",
        "import stas; dir(stas)",
        "import stas.cli.main",
        # The command line reads these before it loads torch, so that a slip is told at once.
        "import stas.checks, stas.files, stas.assets, stas.method.config, stas.method.presets",
        "import stas.pipelines.manifest, stas.pipelines.options, stas.pipelines.places",
    ],
)
def test_importing_is_light(code):
    assert loaded_by(code) == set()


@pytest.mark.parametrize("package", ["method", "models", "activations"])
def test_the_core_does_without_the_libraries_around_it(package):
    modules = [
        f"stas.{package}.{path.stem}"
        for path in sorted((SOURCE / package).glob("*.py"))
        if path.stem not in ("__init__", "_triton", "plots")  # Triton, and what draws
    ]
    assert loaded_by(f"import {', '.join(modules)}") & set(WITHOUT_DIFFUSERS) == set()


def test_the_probe_sees_a_heavy_import():
    assert "torch" in loaded_by("import stas; stas.steer")
    assert "diffusers" in loaded_by("import stas.hooks.steer")


def test_every_public_name_is_there():
    assert set(stas.__all__) == set(stas._HOMES)
    for name in stas.__all__:
        assert getattr(stas, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'steerr'"):
        _ = stas.steerr


def test_the_face_shows_public_names_and_nothing_else():
    assert dir(stas) == sorted([*stas.__all__, "__version__"])


def test_the_command_is_a_module_too():
    command = [sys.executable, "-m", "stas", "-h"]
    assert "Usage: stas" in subprocess.run(command, capture_output=True, text=True).stdout
