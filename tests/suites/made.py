"""A list in VBench's form with invented prompts, runs of plain videos, and an environment whose
package vbench is a stub that does what a file tells it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from stas.method.config import STASConfig
from stas.pipelines.manifest import Manifest, frames_record
from stas.pipelines.options import PipelineOptions
from stas.studies.plan import Setting
from stas.suites.run import BenchmarkRun
from stas.suites.vbench import DIMENSIONS, INFO, make_samples_of, read_entries, source_record

OFF, ON = Setting("off", None), Setting("on", STASConfig().to_dict())
LABELS = {
    "object_class": {"object": "cat"},
    "multiple_objects": {"object": "cat and dog"},
    "color": {"color": "red"},
    "spatial_relationship": {"spatial_relationship": {"object_a": "cat", "object_b": "dog"}},
    "scene": {"scene": {"scene": "barn"}},
    "appearance_style": {"appearance_style": "oil"},
}
GROUPS = (
    ("temporal_flickering",),
    ("subject_consistency", "dynamic_degree", "motion_smoothness"),
    ("scene", "background_consistency"),
    ("overall_consistency", "aesthetic_quality", "imaging_quality"),
    *(
        (name,)
        for name in (
            "object_class",
            "multiple_objects",
            "color",
            "spatial_relationship",
            "human_action",
            "appearance_style",
            "temporal_style",
        )
    ),
)


def rows(most=1000):
    """Invented prompts, as many of each group as VBench has, or at most so many."""
    listed = []
    for group in GROUPS:
        for number in range(min(most, DIMENSIONS[group[0]].prompts)):
            row = {"prompt_en": f"{group[0]} number {number}", "dimension": list(group)}
            if group[0] in LABELS:
                row["auxiliary_info"] = {group[0]: LABELS[group[0]]}
            listed.append(row)
    return listed


def write_info(folder, listed):
    """VBench_full_info.json in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INFO
    path.write_text(json.dumps(listed), encoding="utf-8")
    return path


def a_run(folder, info, *, settings=(OFF, ON), videos=None, dimensions=None, prompts="plain"):
    """A benchmark's folder before its first video."""
    run = BenchmarkRun(
        folder=folder,
        settings=list(settings),
        samples=make_samples_of(read_entries(info), prompts, videos=videos, dimensions=dimensions),
        arguments={},
        measured=(),
        suite="vbench",
        model="bundled",
        source=source_record(info, prompts),
        info=info,
    )
    run.begin(PipelineOptions(device="cpu").resolved())
    return run


def fill(run, **options):
    """Every video, of noise that tells them apart."""
    for number, setting in enumerate(run.settings):
        for place, sample in enumerate(run.samples):
            write_video(run, number, sample, setting, 1000 * number + place, **options)
    run.read()


def write_video(run, number, sample, setting, seed, *, size=16, frames=4, still=False):
    """One of noise, which a seed decides."""
    shape = (1 if still else frames, size, size, 3)
    noise = np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)
    frames = np.broadcast_to(noise, (frames, *shape[1:])).copy()
    manifest = Manifest(
        pipeline={"model": "bundled"},
        model={"class": "WanPipeline", "commit": None},
        arguments={"prompt": sample.prompt},
        prompt_file=None,
        seed=sample.seed,
        fps=8.0,
        steering=setting.config,
        dims=None if setting.config is None else {"transformer": {"dims": [1]}},
        frames=frames_record(frames),
        versions={},
        device="cpu",
        seconds=1.0,
        created="2026-01-01T00:00:00+00:00",
    )
    run.files(number, sample).write(frames, manifest)


# What a dimension answers is its video's length, or as $VBENCH_CACHE_DIR/does says.
STUB = """
import json, os
from pathlib import Path


def compute(name, info, parts):
    does = Path(os.environ["VBENCH_CACHE_DIR"], "does")
    does = does.read_text() if does.exists() else ""
    results = []
    for row in json.loads(Path(info).read_text(encoding="utf-8")):
        for path in row["video_list"]:
            assert name in row["dimension"]
            if name == "human_action":
                assert Path(path).name.rsplit("-", 1)[0] == row["prompt_en"], path
            value = os.path.getsize(path) % 997 / 997
            results.append({"video_path": path, "video_results": value})
    score = sum(each["video_results"] for each in results) / len(results)
    if name == "imaging_quality":
        for each in results:
            each["video_results"] *= 100
    if does == "crash":
        raise RuntimeError("out of patience")
    if does == "nan":
        score = float("nan")
    if does == "high":
        score = 1.5
    if does == "nan video":
        results[0]["video_results"] = float("nan")
    if does == "skip":
        results.pop()
    if does == "foreign":
        results[0]["video_path"] = "/elsewhere.mp4"
    return score, results
"""
TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)


class hub:
    pass


def device(name):
    return name


def load(*_, **__):
    return None
"""
FILTER = """
class StaticFilter:
    def __init__(self, options, device):
        open(options.model).close()

    def infer(self, path):
        return int(path[-5]) % 2 == 0
"""


def stub_environment(folder, info, version="0.1.5"):
    """An environment of this Python whose vbench is a stub."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (place,) = folder.glob("lib/python*/site-packages")
    package = place / "vbench"
    for path, text in {
        package / "__init__.py": "",
        package / "stub.py": STUB,
        package / "utils.py": "init_submodules = lambda names, local: dict.fromkeys(names, {})\n",
        package / "cli" / "__init__.py": "",
        package / "cli" / "static_filter.py": FILTER,
        place / "torch.py": TORCH,
        place / "easydict.py": "from types import SimpleNamespace as EasyDict\n",
        place / f"vbench-{version}.dist-info" / "METADATA": f"Name: vbench\nVersion: {version}\n",
        **{
            package / f"{name}.py": "from functools import partial\nfrom vbench.stub import "
            f"compute\n\ndef compute_{name}(info, device, parts, **_):\n"
            f"    return compute({name!r}, info, parts)\n"
            for name in DIMENSIONS
        },
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (package / INFO).write_bytes(Path(info).read_bytes())
    return folder


def all_models(cache):
    """Empty files where VBench's models would lie."""
    for dimension in DIMENSIONS.values():
        for need in dimension.needs:
            path = cache / need.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return cache
