"""Files that people hand in, damaged at random: an object, or an error that names the file.

`make campaign` runs 20 times as many.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stas.activations.profiles import Profile
from stas.activations.stats import ActivationStats
from stas.activations.sums import partial_sums
from stas.assets import BUNDLED_MODEL
from stas.measures.result import VideoMetrics
from stas.method.config import STASConfig
from stas.method.tokens import TokenGrid
from stas.pipelines.manifest import Manifest
from stas.pipelines.prompts import read_prompts, samples_of
from stas.studies.file import load_study

MANIFEST = {
    "format": "stas.manifest/1",
    "pipeline": {"model": "bundled", "loras": {}},
    "model": {"class": "WanPipeline", "commit": None},
    "arguments": {"prompt": "a red circle", "num_frames": 5, "height": 64, "width": 64},
    "prompt_file": {"name": "a.txt", "sha256": "00", "line": 1},
    "seed": 3,
    "fps": 8.0,
    "steering": STASConfig(dims=(3,)).to_dict(),
    "dims": {
        "transformer": {"dims": [3], "origin": "given", "source": "given", "steered_forwards": 4}
    },
    "frames": {"count": 5, "sha256": "00"},
    "versions": {"stas": "0.1", "threads": 2},
    "device": "cpu",
    "seconds": 1.0,
    "created": "2026-01-01T00:00:00",
}
STUDY = """
name = "a"
model = "bundled"
count = 2
seed = 1
prompts = ["a red circle", "a blue square"]
vary = "one"
[arguments]
num_inference_steps = 2
[base]
blocks = "all"
scale = 1.0
[axes]
boundary = [0.0, 0.08]
dims = ["massive", [3, 4]]
"""


def statistics() -> bytes:
    stats = ActivationStats(blocks=(0, 1), width=3, boundary=0.1, metadata={"model": "m"})
    grid = TokenGrid(2, 2, 2)
    for block in (0, 1):
        tokens = torch.randn(8, 3, generator=torch.Generator().manual_seed(block))
        stats.add(0, 2, "cond", block, partial_sums(tokens, grid, 0.1), grid)
    with tempfile.TemporaryDirectory() as folder:
        stats.save(Path(folder, "a.safetensors"))
        return Path(folder, "a.safetensors").read_bytes()


KINDS = {
    "manifest": (json.dumps(MANIFEST).encode(), ".json", Manifest.load),
    "config": (json.dumps(STASConfig(dims=(3,)).to_dict()).encode(), ".json", STASConfig.load),
    "profile": ((BUNDLED_MODEL / "stas_profile.json").read_bytes(), ".json", Profile.load),
    "study": (STUDY.encode(), ".toml", lambda path: load_study(path).settings()),
    "prompts": (
        b"a red circle\na blue square\n",
        ".txt",
        lambda p: samples_of(read_prompts(None, p), (0,)),
    ),
    "statistics": (statistics(), ".safetensors", ActivationStats.load),
    "metrics": (
        VideoMetrics({"psnr": np.ones(4)}, {"a": np.ones(5)}, np.ones(4, bool), {"b": 1.0})
        .to_json()
        .encode(),
        ".json",
        lambda path: VideoMetrics.from_json(path.read_text(encoding="utf-8", errors="replace")),
    ),
}
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "../..", "a" * 5000, 1e308, -1, "massive", "nan"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw, whole):
    """Bytes flipped, taken out, doubled or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        change = draw(st.sampled_from(["flip", "cut", "end", "insert"]))
        if change == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif change == "end":
            del data[at:]
        else:
            data[at:at] = draw(st.binary(max_size=12))
    return bytes(data)


def replaced(draw, value):
    """The document with one of its values exchanged, taken out or put in."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        what = draw(st.sampled_from(["within", "within", "out", "in"]))
        if what == "out":
            return {k: v for k, v in value.items() if k != key}
        if what == "in":
            return value | {draw(st.text(max_size=8)): draw(ODD)}
        return value | {key: replaced(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], replaced(draw, value[at]), *value[at + 1 :]]
    return draw(ODD)


def said(kind, data):
    """Load the file; what is no clear error goes through."""
    _, suffix, load = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"handed in{suffix}")
        path.write_bytes(data)
        try:
            load(path)
        except ValueError as error:
            assert str(error).strip()
            if kind != "metrics":  # whoever reads it names the file
                assert "handed in" in str(error), str(error)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_bytes_that_are_anything(kind, data):
    said(kind, data.draw(st.binary(max_size=300) | damaged(KINDS[kind][0])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [b"[" * 100_000, b"a = " + b"[" * 100_000, b'{"a":' * 50_000])
def test_what_is_nested_too_deep(kind, text):
    said(kind, text)


@pytest.mark.parametrize("kind", ["manifest", "config", "profile", "metrics"])
@given(data=st.data())
def test_json_with_values_exchanged(kind, data):
    document = json.loads(KINDS[kind][0])
    for _ in range(data.draw(st.integers(1, 3))):
        document = replaced(data.draw, document)
    said(kind, json.dumps(document).encode())


def toml(value):
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if value is None:
        return '""'
    if isinstance(value, float):
        return {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}.get(
            json.dumps(value), repr(value)
        )
    return json.dumps(value)


@given(data=st.data())
def test_a_study_with_values_exchanged(data):
    document = tomllib.loads(STUDY)
    for _ in range(data.draw(st.integers(1, 3))):
        document = replaced(data.draw, document)
        if not isinstance(document, dict):
            document = {"name": document}
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in document.items())
    said("study", text.encode("utf-8", "replace"))


@given(data=st.data())
def test_statistics_with_values_exchanged(data):
    """The text in the file's header says shapes and steps that its arrays don't have."""
    from safetensors import safe_open
    from safetensors.torch import save

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        path.write_bytes(KINDS["statistics"][0])
        with safe_open(path, framework="pt") as file:
            head = dict(file.metadata())
            # Its handle can't be iterated over, whatever the linter thinks.
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    head["stats"] = json.dumps(replaced(data.draw, json.loads(head["stats"])))
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(arrays)))
        arrays[name] = data.draw(
            st.sampled_from([arrays[name][:0], arrays[name].bool(), torch.zeros(2)])
        )
    said("statistics", save(arrays, head))
