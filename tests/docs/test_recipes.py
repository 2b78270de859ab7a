"""Each script of docs/recipes.md, with the family's tiny pipeline for the checkpoint's."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import diffusers
import diffusers.utils
import huggingface_hub
import pytest
from diffusers.pipelines import consisid
from PIL import Image

import stas
from docs.make_recipes import PAGE, RECIPES, SETTINGS, page, snippet
from tests.zoo import all_tinies
from tests.zoo.cogvideox import FRAMES, face

TINIES = {run.name: run for tiny in all_tinies().values() for run in tiny.pipelines}


# Which argument takes which model that `prepare_face_models` returns, by its names.
FACE_MODELS = {
    "face_helper_1": "face_helper_1",
    "clip_vision_model": "face_clip_model",
    "face_helper_2": "face_helper_2",
    "eva_transform_mean": "eva_transform_mean",
    "eva_transform_std": "eva_transform_std",
    "app": "face_main_model",
}


def put_a_face(monkeypatch):
    """In place of diffusers' functions of faces, whose packages need not be here.

    They take what those take, and give values by the names that those return.
    """
    name = "diffusers.pipelines.consisid.consisid_utils"
    tree = ast.parse(Path(importlib.util.find_spec(name).origin).read_text("utf-8"))
    values = face() | {"image": FRAMES[0], "face_kps": None}

    def stand_in(node):
        names = [argument.arg for argument in node.args.args]
        returned = [value.id for value in node.body[-1].value.elts]
        needed = names[: len(names) - len(node.args.defaults)]

        def function(*args, **given):
            got = dict(zip(names, args, strict=False)) | given
            assert set(needed) <= set(got) <= set(names)
            assert "app" not in names or FACE_MODELS.items() <= got.items()
            return [values.get(value, value) for value in returned]

        return function

    module = ModuleType(name)
    for node in tree.body:
        if getattr(node, "name", "") in ("prepare_face_models", "process_face_embeddings_infer"):
            setattr(module, node.name, stand_in(node))
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(consisid, "consisid_utils", module, raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda checkpoint: "folder")


def run(made, text, monkeypatch):
    """Run the script with a small call; the names that it called the pipeline with are checked."""
    tiny, cls = TINIES[made.tiny], getattr(diffusers, made.pipeline)
    pipeline = tiny.build()
    assert type(pipeline) is cls
    pipeline.set_progress_bar_config(disable=True)
    written, call = [], cls.__call__

    @functools.wraps(call)
    def small(self, *args, **given):
        inspect.signature(call).bind(self, *args, **given)
        kept = {name: value for name, value in given.items() if name not in SETTINGS}
        if "guidance_scale" in given:
            kept["guidance_scale"] = given["guidance_scale"]
        if "num_inference_steps" in given:
            kept["num_inference_steps"] = 3
        own = {name: given[name] for name in made.values}
        return call(self, *args, **kept | dict(tiny.call) | own)

    def loaded(name, dtype, **parts):
        assert list(parts) == list(made.parts)
        assert all(part is pipeline.components[name] for name, part in parts.items())
        return pipeline

    monkeypatch.setattr(cls, "__call__", small)
    monkeypatch.setattr(cls, "from_pretrained", loaded)
    for name in made.parts:
        part = pipeline.components[name]
        monkeypatch.setattr(
            type(part), "from_pretrained", lambda *_, part=part, dtype=None, subfolder=None: part
        )
    if cls is diffusers.ConsisIDPipeline:
        put_a_face(monkeypatch)
    monkeypatch.setattr(cls, "to", lambda self, device: self)
    monkeypatch.setattr(diffusers.utils, "load_image", lambda name: Image.new("RGB", (64, 48)))
    monkeypatch.setattr(diffusers.utils, "load_video", lambda name: [Image.new("RGB", (64, 48))])
    # Tiny pipelines are asked for latents, which are no pixels.
    monkeypatch.setattr(stas, "write_mp4", lambda path, video, fps: written.append(path))
    # Random weights have no massive dimension to detect.
    monkeypatch.setattr(stas, "steer", functools.partial(stas.steer, dims=(3,)))
    namespace = {}
    exec(compile(text, made.title, "exec"), namespace)
    assert written == ["video.mp4"]
    return namespace["handle"]


@pytest.mark.parametrize("made", RECIPES, ids=lambda made: made.title)
def test_the_script_steers(made, monkeypatch, capsys):
    handle = run(made, snippet(made), monkeypatch)
    assert sum(handle.steered_forwards.values()) > 0
    assert capsys.readouterr().out


def test_an_argument_that_the_pipeline_does_not_take_fails(monkeypatch):
    text = snippet(RECIPES[0]).replace("num_frames=", "num_frame=")
    with pytest.raises(TypeError, match="num_frame"):
        run(RECIPES[0], text, monkeypatch)


def test_models_of_a_face_in_another_order_fail(monkeypatch):
    made = next(made for made in RECIPES if made.pipeline == "ConsisIDPipeline")
    text = snippet(made).replace("helper, clip, helper_2", "helper, helper_2, clip")
    with pytest.raises(AssertionError):
        run(made, text, monkeypatch)


def test_the_page_is_made_from_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_block_of_the_page_is_a_script_that_ran():
    assert PAGE.read_text(encoding="utf-8").count("```python\n") == len(RECIPES)
