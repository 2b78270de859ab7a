"""The pack in a real ComfyUI server: POST /prompt, wait, the saved video.

Needs COMFYUI_DIR and the Python of its environment; `make comfyui` runs it.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

if not os.environ.get("COMFYUI_DIR"):
    pytest.skip("COMFYUI_DIR is not set: no ComfyUI to run in", allow_module_level=True)

import av
import numpy as np
from PIL import Image

from tests.comfyui.server import PACK, serving

STEER = {
    "dims": "auto",
    "blocks": "all",
    "scale": 1.0,
    "boundary": 0.1,
    "start_percent": 0.0,
    "end_percent": 0.5,
}
RECORD = {"blocks": "all", "map_blocks": "middle", "map_dims": ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("comfy") / "base") as found:
        yield found


def node(cls, **inputs):
    return {"class_type": cls, "inputs": inputs}


def graph(name, steer=None, *, steps=4, model=("model", 0), **more):
    """From the tiny model to saved pictures and a saved video."""
    nodes = {
        "model": node("STASTinyModel"),
        "positive": node("STASTinyText", seed=7),
        "negative": node("STASTinyText", seed=8),
        "latent": node("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["steer", 0] if steer is not None else list(model),
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=3,
            steps=steps,
            cfg=3.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "images": node("STASTinyImages", latent=["sampler", 0]),
        "pictures": node("SaveImage", images=["images", 0], filename_prefix=f"{name}/frame"),
        "video": node("CreateVideo", images=["images", 0], fps=8.0),
        "save": node(
            "SaveVideo",
            video=["video", 0],
            filename_prefix=f"{name}/video",
            format="auto",
            codec="auto",
        ),
    }
    if steer is not None:
        nodes["steer"] = node("STASSteer", model=list(model), **{**STEER, **steer})
    return nodes | more


def frames(server, name):
    found = sorted((server.folder / "output" / name).glob("frame*.png"))
    assert len(found) == 3
    return np.stack([np.asarray(Image.open(path)) for path in found])


def error_of(entry):
    status = entry["status"]
    assert status["status_str"] == "error", status
    return dict(status["messages"])["execution_error"]["exception_message"]


def test_the_pack_is_loaded_and_says_what_it_has(server):
    info = server.ask("/object_info")
    assert "IMPORT FAILED" not in server.log
    for name in ("STASSteer", "STASFindDims", "STASRecord", "STASPlots"):
        assert info[name]["category"] == "advanced/guidance"
        assert server_file(server, f"/extensions/stas/docs/{name}.md")
    required = info["STASSteer"]["input"]["required"]
    assert list(required) == ["model", *STEER]
    assert all(options[1]["tooltip"] for options in required.values())


def server_file(server, path):
    import urllib.request

    with urllib.request.urlopen(server.url + path, timeout=30) as answer:
        return answer.read().startswith(b"# STAS")


def test_a_prompt_makes_a_video_and_sampling_without_the_node_is_as_before(server):
    before = server.run(graph("before"))
    steered = server.run(graph("steered", {"dims": "3,77", "scale": 20.0}))
    after = server.run(graph("after", steps=4, extra=node("STASTinyText", seed=1)))
    for entry in (before, steered, after):
        assert entry["status"]["status_str"] == "success", server.log[-3000:]
    (video,) = (server.folder / "output/steered").glob("video*.mp4")
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    plain, other = frames(server, "before"), frames(server, "steered")
    assert np.array_equal(plain, frames(server, "after")) and not np.array_equal(plain, other)
    said = [line for line in server.log.splitlines() if "STAS" in line and "steered" in line]
    assert len(said) == 1 and "3, 77" in said[0]


def test_dims_that_were_found_are_given_on(server):
    found = node(
        "STASFindDims", model=["model", 0], positive=["positive", 0], latent=["latent", 0], seed=0
    )
    shown = node("PreviewAny", source=["find", 1])
    entry = server.run(graph("found", {"dims": ["find", 0]}, find=found, shown=shown))
    assert entry["status"]["status_str"] == "success", server.log[-3000:]
    text = json.dumps(entry["outputs"]["shown"])
    assert "dim" in text


def test_what_is_recorded_is_shown_and_written(server):
    record = node("STASRecord", model=["model", 0], filename_prefix="recorded/stats", **RECORD)
    plots = node("STASPlots", recording=["record", 1], after=["sampler", 0])
    save = node("SaveImage", images=["plots", 0], filename_prefix="plots/plot")
    entry = server.run(
        graph("recorded", model=("record", 0), record=record, plots=plots, plot=save)
    )
    assert entry["status"]["status_str"] == "success", server.log[-3000:]
    pictures = sorted((server.folder / "output/plots").glob("*.png"))
    assert len(pictures) >= 3
    assert all(np.asarray(Image.open(path)).std() > 5 for path in pictures)
    (stats,) = (server.folder / "output/recorded").glob("stats*.safetensors")
    from stas.activations.stats import ActivationStats

    assert ActivationStats.load(stats).num_steps == 4
    assert np.array_equal(frames(server, "recorded"), frames(server, "before"))


def test_text_that_is_no_number_is_refused_before_it_is_queued(server):
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.run(graph("bad", {"dims": "twelve"}))
    assert refused.value.code == 400 and "twelve" in refused.value.read().decode()


@pytest.mark.parametrize(
    ("steer", "message"),
    [
        ({"end_percent": 0.0}, "end_percent must be larger than start_percent"),
        ({"dims": "4000"}, "256"),
        ({"blocks": "99"}, "4 blocks"),
    ],
)
def test_what_can_not_be_is_said_when_the_node_runs(server, steer, message):
    entry = server.run(graph("bad", steer))
    assert message in error_of(entry)
    assert not (server.folder / "output/bad").exists()


def test_two_queued_prompts_and_a_cancelled_one(server):
    alone = server.run(graph("alone", {"dims": "3"}))
    assert alone["status"]["status_str"] == "success"
    slow = server.ask("/prompt", {"prompt": graph("slow", {"dims": "3"}, steps=4000)})["prompt_id"]
    first = server.ask(
        "/prompt",
        {"prompt": graph("first", {"dims": "3"}, steps=4, a=node("STASTinyText", seed=2))},
    )
    second = server.ask(
        "/prompt", {"prompt": graph("second", steps=4, a=node("STASTinyText", seed=3))}
    )
    time.sleep(2)
    server.ask("/interrupt", {})
    assert server.wait(slow)["status"]["status_str"] == "error"
    for queued in (first, second):
        assert server.wait(queued["prompt_id"])["status"]["status_str"] == "success"
    assert np.array_equal(frames(server, "first"), frames(server, "alone"))
    assert np.array_equal(frames(server, "second"), frames(server, "before"))


VALUES = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool, "COMBO": str}


def takes(kind: str | list[str], options: dict[str, Any], value: Any) -> bool:
    """Whether a widget takes a value; a name of a model's file is any, since none is there."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None:
        return value in choices or str(value).endswith(".safetensors")
    low, high = options.get("min", float("-inf")), options.get("max", float("inf"))
    return isinstance(value, VALUES[kind]) and (
        kind not in ("INT", "FLOAT") or (not isinstance(value, bool) and low <= value <= high)
    )


@pytest.mark.parametrize(
    "path", sorted((PACK / "example_workflows").glob("*.json")), ids=lambda p: p.stem
)
def test_the_workflows_are_of_this_versions_nodes(server, path):
    """Every class is there, takes what is connected, and has widgets that take its values."""
    info = server.ask("/object_info")
    for each in json.loads(Path(path).read_text())["nodes"]:
        known = info[each["type"]]
        taken = {**known["input"].get("required", {}), **known["input"].get("optional", {})}
        for given in each["inputs"]:
            assert taken[given["name"]][0] == given["type"], (each["type"], given)
        assert [output["type"] for output in each["outputs"]] == known["output"][
            : len(each["outputs"])
        ]
        widgets: dict[str, Callable[[Any], bool]] = {}
        for name, (kind, *options) in taken.items():
            options = options[0] if options else {}
            if name not in {given["name"] for given in each["inputs"]} and (
                isinstance(kind, list) or kind in VALUES
            ):
                widgets[name] = partial(takes, kind, options)
                if options.get("control_after_generate"):
                    widgets["control"] = (
                        "fixed",
                        "increment",
                        "decrement",
                        "randomize",
                    ).__contains__
        values = each["widgets_values"]
        # Newer versions have widgets more at the end, which keep their defaults.
        assert list(widgets)[len(values) :] in ([], ["bit_depth"]), (each["type"], list(widgets))
        assert [
            (each["type"], name, value)
            for (name, right), value in zip(widgets.items(), values, strict=False)
            if not right(value)
        ] == []


@pytest.mark.parametrize("install", ["link", "registry"])
def test_other_ways_to_install_it(tmp_path, install):
    with serving(tmp_path / "base", install) as server:
        assert "STASSteer" in server.ask("/object_info") and "IMPORT FAILED" not in server.log
