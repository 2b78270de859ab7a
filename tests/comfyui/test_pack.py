"""The folder that goes into custom_nodes, as far as it can be seen without ComfyUI."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from docs import make_workflows
from stas import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACK = Path(__file__).parents[2] / "comfyui"
NODES = ("STASSteer", "STASFindDims", "STASRecord", "STASPlots")
WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))


def test_the_metadata_is_whole():
    data = tomllib.loads((PACK / "pyproject.toml").read_text())
    project, comfy = data["project"], data["tool"]["comfy"]
    assert "comfyui" not in project["name"].lower() and project["version"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and comfy["PublisherId"]
    wanted = (PACK / "requirements.txt").read_text().split()
    assert project["dependencies"] == wanted
    icon = Image.open(PACK / comfy["Icon"])
    assert icon.size == (400, 400)


@pytest.mark.parametrize("node", NODES)
def test_each_node_has_a_help_page_that_names_its_inputs(node):
    page = (PACK / f"web/docs/{node}.md").read_text()
    source = (PACK.parent / "src/stas/comfyui/nodes.py").read_text()
    schema = source[source.index(f'node_id="{node}"') :]
    schema = schema[: schema.index("outputs=[")]
    names = re.findall(r'\.Input\(\s*"(\w+)"', schema)
    assert names and [name for name in names if f"`{name}`" not in page] == []


def test_workflows_are_made_by_their_script():
    assert [path.stem for path in WORKFLOWS] == sorted(make_workflows.WORKFLOWS)
    for path in WORKFLOWS:
        made = make_workflows.workflow(make_workflows.WORKFLOWS[path.stem])
        assert json.loads(path.read_text()) == made


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path):
    graph = json.loads(path.read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert any(node["type"] == "STASSteer" for node in nodes.values())
    for number, start, slot, end, place, kind in graph["links"]:
        output, into = nodes[start]["outputs"][slot], nodes[end]["inputs"][place]
        assert output["type"] == into["type"] == kind
        assert number in output["links"] and into["link"] == number
    wired = [each["link"] for node in nodes.values() for each in node["inputs"]]
    assert None not in wired and len(set(wired)) == len(wired) == len(graph["links"])
    spots = [tuple(node["pos"]) for node in nodes.values()]
    assert len(set(spots)) == len(spots)
