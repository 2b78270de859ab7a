"""Runs in VBench's environment, by its Python: `python -I vbench_runner.py JOB.json`.

Imports nothing of stas, and writes what it found to the file that the job names.
"""

import importlib
import json
import os
import platform
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "vbench",
    "torch",
    "torchvision",
    "numpy",
    "transformers",
    "timm",
    "pyiqa",
    "detectron2",
)


def versions() -> dict[str, str | None]:
    """Versions of what decides a score."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def look(job: dict[str, Any]) -> dict[str, Any]:
    """Which dimensions can't be imported, and whether there is a GPU."""
    import torch

    errors = {}
    for name in job["dimensions"]:
        try:
            importlib.import_module(f"vbench.{name}")
        except Exception as error:  # whatever packages of other versions raise
            errors[name] = f"{type(error).__name__}: {error}"
    return {"errors": errors, "cuda": torch.cuda.is_available()}


def score(job: dict[str, Any]) -> dict[str, Any]:
    """One dimension's score of a list of videos, by VBench's own function."""
    import torch
    from vbench.utils import init_submodules

    name = job["dimension"]
    module = importlib.import_module(f"vbench.{name}")
    if name == "subject_consistency":
        # DINO's own code would fetch its weights by URL, also where VBench names their file.
        weights = Path(os.environ["VBENCH_CACHE_DIR"], job["dino_weights"])
        torch.hub.load_state_dict_from_url = lambda *_, **__: torch.load(weights, "cpu")
    parts = init_submodules([name], local=True)[name]
    found, videos = getattr(module, f"compute_{name}")(
        job["info"],
        torch.device(job["device"]),
        parts,
        imaging_quality_preprocessing_mode="longer",
    )
    return {"score": found, "videos": videos}


def choose_static(job: dict[str, Any]) -> dict[str, Any]:
    """Which of a list of videos VBench's filter takes for static."""
    import torch
    from easydict import EasyDict
    from vbench.cli import static_filter

    device = torch.device(job["device"])
    static_filter.DEVICE = device
    torch.load = partial(torch.load, map_location=device)  # the file's tensors are a GPU's
    model = str(Path(os.environ["VBENCH_CACHE_DIR"], job["raft_weights"]))
    options = EasyDict(model=model, small=False, mixed_precision=False, alternate_corr=False)
    judge = static_filter.StaticFilter(options, device)
    return {"static": [path for path in job["videos"] if judge.infer(path)]}


TASKS = {"look": look, "score": score, "filter": choose_static}


def main(path: str) -> None:
    """Do the job of a file."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    found = {"versions": versions(), **TASKS[job["task"]](job)}
    out = Path(job["out"])
    part = out.with_suffix(".part")
    part.write_text(json.dumps(found, default=float), encoding="utf-8")
    part.replace(out)


if __name__ == "__main__":
    main(sys.argv[1])
