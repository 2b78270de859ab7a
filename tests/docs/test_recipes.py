"""Each script of docs/recipes.md, with the family's tiny pipeline for the checkpoint's."""

from __future__ import annotations

import functools
import inspect

import diffusers
import diffusers.utils
import pytest
from PIL import Image

import stas
from docs.make_recipes import PAGE, RECIPES, SETTINGS, page, snippet
from tests.zoo import all_tinies

TINIES = {run.name: run for tiny in all_tinies().values() for run in tiny.pipelines}


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
        return call(self, *args, **kept | dict(tiny.call))

    monkeypatch.setattr(cls, "__call__", small)
    monkeypatch.setattr(cls, "from_pretrained", lambda name, dtype: pipeline)
    monkeypatch.setattr(cls, "to", lambda self, device: self)
    monkeypatch.setattr(diffusers.utils, "load_image", lambda name: Image.new("RGB", (64, 48)))
    monkeypatch.setattr(diffusers.utils, "load_video", lambda name: [Image.new("RGB", (64, 48))])
    monkeypatch.setattr(
        diffusers.utils, "export_to_video", lambda video, path, fps: written.append(path)
    )
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


def test_the_page_is_made_from_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_block_of_the_page_is_a_script_that_ran():
    assert PAGE.read_text(encoding="utf-8").count("```python\n") == len(RECIPES)
