"""What ComfyUI's start pays for the nodes."""

from __future__ import annotations

import pytest

from tests.test_layout import loaded_by

PURE = ("attach", "schedule", "steer", "table", "text")


def test_what_the_nodes_import_is_light():
    loaded = loaded_by("import " + ", ".join(f"stas.comfyui.{name}" for name in PURE))
    assert loaded <= {"torch", "numpy"}


@pytest.mark.parametrize("name", ["record"])
def test_pictures_load_matplotlib_and_no_diffusers(name):
    loaded = loaded_by(f"import stas.comfyui.{name}")
    assert "matplotlib" in loaded and not loaded & {"diffusers", "transformers", "scipy", "av"}
