"""The layout of docs/design.md: imports point one way, and importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src/stas"
TIERS = [  # the first: torch only
    {
        "checks",
        "config",
        "files",
        "fused",
        "interventions",
        "massive",
        "paired",
        "schedule",
        "stats",
        "steering",
        "tokens",
    },  # torch only
    {"models", "profiles"},
    {"hooks", "intervene", "loop", "observe"},
    {"api"},
    {  # the edges
        "cli",
        "compare",
        "comparison",
        "manifest",
        "metrics",
        "pipelines",
        "plots",
        "recorder",
        "report",
        "sample",
        "study",
        "study_report",
        "study_runner",
        "video",
    },
]
# What each tier may import from outside, beside the standard library.
OUTSIDE = [{"torch", "safetensors", "triton"}, {"torch"}, {"torch", "diffusers"}, {"torch"}, None]


def tier(name: str) -> int:
    return next(number for number, names in enumerate(TIERS) if name in names)


def imports(text: str) -> tuple[set[str], set[str]]:
    """The files of stas and the other top-level packages that a source imports, lazily or not."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "stas":
                inside.add(rest.partition(".")[0] or "__init__")
            elif package not in sys.stdlib_module_names:
                outside.add(package)
    return inside - {"__init__"}, outside


MODULES = sorted(path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__")


def test_every_file_has_a_tier():
    assert set(MODULES) == set().union(*TIERS)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    inside, outside = imports((SOURCE / f"{name}.py").read_text())
    assert {other for other in inside if tier(other) > tier(name)} == set()
    allowed = OUTSIDE[tier(name)]
    assert allowed is None or outside <= allowed


def test_no_import_goes_in_a_circle():
    graph = {name: imports((SOURCE / f"{name}.py").read_text())[0] for name in MODULES}
    while graph:
        free = {name for name, needs in graph.items() if not needs & set(graph)}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


def test_lazy_imports_are_seen():
    text = "def f():\n    from stas.api import steer\n    import diffusers.hooks, json\n"
    assert imports(text) == ({"api"}, {"diffusers"})


HEAVY = ("torch", "diffusers", "transformers", "numpy", "matplotlib", "av")


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
        "import stas.cli",
        "import stas; dir(stas)",
        # The command line reads these before it loads torch, so that a slip is told at once.
        "import stas.checks, stas.config, stas.manifest",
    ],
)
def test_importing_is_light(code):
    assert loaded_by(code) == set()


def test_the_probe_sees_a_heavy_import():
    assert "torch" in loaded_by("import stas; stas.steer")


def test_every_public_name_is_there():
    import stas

    assert set(stas.__all__) == set(stas._HOMES)
    for name in stas.__all__:
        assert getattr(stas, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'steerr'"):
        _ = stas.steerr
