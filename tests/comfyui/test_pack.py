"""The folder that goes into custom_nodes, as far as it can be seen without ComfyUI."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from docs import make_workflows
from stas import __version__

PACK = Path(__file__).parents[2] / "comfyui"
WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))


def test_the_metadata_is_whole():
    data = tomllib.loads((PACK / "pyproject.toml").read_text())
    project, comfy = data["project"], data["tool"]["comfy"]
    assert "comfyui" not in project["name"].lower() and project["version"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (PACK / project["readme"]).read_text().startswith("# STAS for ComfyUI")
    license = (PACK / project["license"]["file"]).read_bytes()
    assert license == (PACK.parent / "LICENSE").read_bytes()
    icon = Image.open(PACK / comfy["Icon"])
    assert icon.size == (400, 400)


def test_it_asks_for_the_package_that_it_stands_on():
    code = f"""
import runpy, sys
sys.modules["stas"] = None
runpy.run_path({str(PACK / "__init__.py")!r})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "The STAS nodes need the package stas in ComfyUI's Python environment" in run.stderr


def inputs_of(source):
    """The inputs of each node, by the id of the node, as its schema in the source names them."""
    found = {}
    for part in source.split("io.Schema(")[1:]:
        schema = part[: part.index("outputs=[")]
        (node,) = re.findall(r'node_id="(\w+)"', schema)
        found[node] = re.findall(r'\.Input\(\s*"(\w+)"', schema)
    return found


def described(page):
    """The inputs that the table of a help page names, in order."""
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


INPUTS = inputs_of((PACK.parent / "src/stas/comfyui/nodes.py").read_text())


def test_each_node_has_a_help_page():
    assert sorted(INPUTS) == sorted(path.stem for path in (PACK / "web/docs").glob("*.md"))


@pytest.mark.parametrize("node", INPUTS)
def test_a_help_page_names_the_nodes_inputs_and_no_others(node):
    page = (PACK / f"web/docs/{node}.md").read_text()
    assert sorted(described(page)) == sorted(INPUTS[node]) and INPUTS[node]
    for name in INPUTS[node]:  # and a page that leaves one out is found out
        other = page.replace(f"`{name}`", "`other`")
        assert sorted(described(other)) != sorted(INPUTS[node])


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
