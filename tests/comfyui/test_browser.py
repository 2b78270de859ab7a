"""The pack in ComfyUI's front end: examples are loaded, the node is found and has its widgets.

Needs COMFYUI_DIR, the Python of its environment with playwright, and Chromium; `make comfyui` runs
it. With STAS_SCREENSHOT it writes the picture of docs/comfyui.md there.
"""

# ruff: noqa: E402  # nothing of a browser is imported where there is none

from __future__ import annotations

import json
import os
import shutil

import pytest

if not os.environ.get("COMFYUI_DIR"):
    pytest.skip("COMFYUI_DIR is not set: no ComfyUI to run in", allow_module_level=True)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

import numpy as np
from PIL import Image

from docs import make_workflows
from tests.comfyui.server import PACK, serving

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"),
    "--disable-background-networking",
)
MODELS = {
    "diffusion_models": ["wan2.1_t2v_1.3B_fp16.safetensors"],
    "text_encoders": ["umt5_xxl_fp8_e4m3fn_scaled.safetensors"],
    "vae": ["wan_2.1_vae.safetensors"],
}
SHARPNESS = 1.5  # pixels of a picture for one of the page
CLIP = {"x": 64, "y": 98, "width": 1540, "height": 660}  # the nodes, without the bars around them
WIDGETS = ["dims", "blocks", "scale", "boundary", "start_percent", "end_percent"]
ADVANCED = ["branches", "op", "regions", "reference"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("comfy") / "base") as found:
        # Empty files of the names that the examples load, so that none is shown as missing.
        for kind, names in MODELS.items():
            (found.folder / "models" / kind).mkdir(exist_ok=True)
            for name in names:
                (found.folder / "models" / kind / name).touch()
        yield found


@pytest.fixture(scope="module")
def page(server):
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        page = browser.new_page(
            viewport={"width": 1680, "height": 940}, device_scale_factor=SHARPNESS
        )
        # Nothing but the server is asked.
        page.route(
            "**/*",
            lambda route: (
                route.continue_() if route.request.url.startswith(server.url) else route.abort()
            ),
        )
        page.goto(server.url)
        page.wait_for_function(
            "() => window.app?.graph && window.app.extensionManager", timeout=120_000
        )
        page.wait_for_timeout(3000)
        page.keyboard.press("Escape")  # the templates that a first visit shows
        page.wait_for_timeout(1000)
        yield page
        browser.close()


def load(page, path):
    page.evaluate(
        "async ([graph, name]) => { await window.app.loadGraphData(graph, true, true, name) }",
        [json.loads(path.read_text()), path.stem],
    )
    page.wait_for_timeout(1500)


@pytest.mark.parametrize(
    "path", sorted((PACK / "example_workflows").glob("*.json")), ids=lambda p: p.stem
)
def test_an_example_is_loaded_whole(page, path):
    load(page, path)
    nodes = json.loads(path.read_text())["nodes"]
    found = page.evaluate(
        "() => window.app.graph._nodes.map(n => [n.type, !!n.constructor.nodeData])"
    )
    assert sorted(kind for kind, _ in found) == sorted(node["type"] for node in nodes)
    assert all(known for _, known in found)
    again = page.evaluate("() => window.app.graph.serialize()")
    kept = {node["id"]: node.get("widgets_values") or [] for node in again["nodes"]}
    for node in nodes:
        assert kept[node["id"]][: len(node["widgets_values"])] == node["widgets_values"], node[
            "type"
        ]
    assert len(again["links"]) == len(json.loads(path.read_text())["links"])
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    steer = [node["inputs"] for node in sent.values() if node["class_type"] == "STASSteer"]
    assert steer
    for inputs in steer:
        assert {name: inputs[name] for name in WIDGETS + ADVANCED} == dict(
            zip(WIDGETS + ADVANCED, make_workflows.STEER, strict=True)
        )


def test_the_node_has_its_widgets(page):
    load(page, PACK / "example_workflows/wan2.1_t2v_stas.json")
    names = page.evaluate(
        "() => window.app.graph._nodes.find(n => n.type === 'STASSteer').widgets.map(w => w.name)"
    )
    assert [name for name in names if name in WIDGETS + ADVANCED] == WIDGETS + ADVANCED


def test_the_node_is_found_by_search(page):
    page.mouse.dblclick(800, 860)  # where no node is
    page.wait_for_timeout(1000)
    page.keyboard.type("STAS Steer")
    page.wait_for_timeout(1500)
    assert page.get_by_text("STAS Steer", exact=False).count() > 0
    before = page.evaluate(
        "() => window.app.graph._nodes.filter(n => n.type === 'STASSteer').length"
    )
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    after = page.evaluate(
        "() => window.app.graph._nodes.filter(n => n.type === 'STASSteer').length"
    )
    assert after == before + 1
    page.keyboard.press("Escape")


def test_a_picture_of_the_first_workflow(page, tmp_path):
    """Every node of the workflow is in it, drawn, under its title."""
    path = PACK / "example_workflows/wan2.1_t2v_stas.json"
    load(page, path)
    # Where the first node stands on the page, and then where all do.
    nodes = page.evaluate(
        """async ([left, top, scale]) => {
            await window.app.extensionManager.setting.set('Comfy.Minimap.Visible', false);
            const canvas = window.app.canvas, nodes = canvas.graph._nodes;
            const box = canvas.canvas.getBoundingClientRect();
            const first = nodes.find(node => node.type === 'UNETLoader');
            canvas.ds.scale = scale;
            canvas.ds.offset = [
                (left - box.left) / scale - first.pos[0], (top - box.top) / scale - first.pos[1]];
            canvas.setDirty(true, true);
            return nodes.map(node => [node.type, node.getTitle(), [
                left + (node.pos[0] - first.pos[0]) * scale,
                top + (node.pos[1] - first.pos[1]) * scale,
                node.size[0] * scale, node.size[1] * scale]]);
        }""",
        [75, 135, 0.58],
    )
    page.wait_for_timeout(1500)
    assert sorted(kind for kind, *_ in nodes) == sorted(
        node["type"] for node in json.loads(path.read_text())["nodes"]
    )
    titles = {title for _, title, _ in nodes}
    assert {"STAS Steer", "Load Diffusion Model", "KSampler", "VAE Decode"} <= titles
    path = os.environ.get("STAS_SCREENSHOT") or str(tmp_path / "workflow.png")
    page.screenshot(path=path, clip=CLIP)
    picture = np.asarray(Image.open(path).convert("L"), dtype=float)
    background = picture[-20:, :200]
    for _, title, (left, top, width, height) in nodes:
        left, top = left - CLIP["x"], top - CLIP["y"]
        assert min(left, top) >= 0 and left + width <= CLIP["width"], title
        assert top + height <= CLIP["height"], title
        left, top, width, height = (round(SHARPNESS * each) for each in (left, top, width, height))
        node = picture[top : top + height, left : left + width]
        assert node.std() > 5 * background.std(), title
        if title == "STAS Steer":  # fields of text are as dark as the background in old versions
            assert np.median(node) > np.median(background) + 10
        bar = picture[top - round(SHARPNESS * 15) : top, left : left + width]
        assert bar.std() > 5 * background.std(), title  # text on it
