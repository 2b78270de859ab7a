"""Make docs/recipes.md: how each model family is called, from diffusers' own settings and the rows.

python -m docs.make_recipes
"""

from __future__ import annotations

import inspect
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import diffusers

from stas.models.table import MODELS

PAGE = Path(__file__).with_name("recipes.md")
TABLE = PAGE.with_suffix(".toml")
SETTINGS = (  # of a call, where diffusers' signature has a value for them
    "height",
    "width",
    "num_frames",
    "frames",
    "video_length",
    "num_inference_steps",
    "guidance_scale",
)
LOADED = {"image": "load_image", "video": "load_video"}
HEAD = """# Recipes

One whole script for each model family. This page is made by `make docs`.

**What was run**: each script, in the tests, with the family's real pipeline class and tiny
random weights in place of the checkpoint, few steps and small frames, on a CPU. No script was
run with the trained weights here, so what memory and time they need is not known. The
checkpoint is that of the example in diffusers' source unless a note says otherwise; size,
frames, steps and guidance are the defaults of the pipeline's signature, written out so that you
see what to change. What the signature leaves to the pipeline is left out.
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A family: where its weights are and what its pipeline needs beside a prompt.

    Args:
        title: The family's name.
        pipeline: Class name in diffusers.
        transformer: Class name, for its row.
        checkpoint: Hub id.
        tiny: Name of the TinyPipeline of tests/zoo that stands in for it.
        inputs: Arguments that are files, by what loads them: "image" or "video".
        values: Other arguments of the call, as Python.
        imports: Lines of what `before` and `after` need.
        before: Lines between the checkpoint's name and its pipeline.
        parts: Components that `before` makes, as the pipeline gets them.
        after: Lines that make the values.
        note: A trap.
    """

    title: str
    pipeline: str
    transformer: str
    checkpoint: str
    tiny: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    imports: Sequence[str] = ()
    before: str = ""
    parts: Sequence[str] = ()
    after: str = ""
    note: str = ""


RECIPES = [Recipe(**row) for row in tomllib.loads(TABLE.read_text("utf-8"))["recipe"]]


def source(name: str) -> str:
    """The module of diffusers that has the pipeline, as text."""
    return inspect.getsource(sys.modules[getattr(diffusers, name).__module__])


def snippet(made: Recipe) -> str:
    """The script of a family."""
    signature = inspect.signature(getattr(diffusers, made.pipeline).__call__).parameters
    call = {"prompt": '"a cat walks over a wooden floor"'} if "prompt" in signature else {}
    for name, kind in made.inputs.items():
        ending = "png" if kind == "image" else "mp4"
        call[name] = f'{LOADED[kind]}("{name}.{ending}")'
    call |= made.values
    call |= {
        name: repr(signature[name].default)
        for name in SETTINGS
        if name in signature and isinstance(signature[name].default, int | float)
    }
    loading = MODELS[made.transformer].loading
    loaders = sorted({LOADED[kind] for kind in made.inputs.values()})
    classes = [made.pipeline, *([made.transformer] if "transformer" in made.parts else [])]
    load = f"pipe = {made.pipeline}.from_pretrained"
    arguments = ["checkpoint", "dtype=torch.bfloat16", *(f"{name}={name}" for name in made.parts)]
    lines = [
        "import stas",
        "import torch",
        *sorted(
            [
                f"from diffusers import {', '.join(classes)}",
                *([f"from diffusers.utils import {', '.join(loaders)}"] if loaders else []),
                *made.imports,
            ]
        ),
        "",
        f'checkpoint = "{made.checkpoint}"',
        *made.before.splitlines(),
        *(
            [f"{load}(", *(f"    {argument}," for argument in arguments), ")"]
            if made.parts
            else [f"{load}({', '.join(arguments)})"]
        ),
        'pipe.to("cuda")',
        *(f"pipe.{part}.to(torch.float32)" for part in loading.float32),
        *(["pipe.vae.enable_tiling()"] if loading.tiled_vae else []),
        *made.after.splitlines(),
        "with stas.steer(pipe) as handle:",
        "    video = pipe(",
        *(f"        {name}={value}," for name, value in call.items()),
        "    ).frames[0]",
        "    print(handle.summary())",
        f'stas.write_mp4("video.mp4", video, fps={loading.fps:g})',
    ]
    return "\n".join(lines)


def section(made: Recipe) -> str:
    facts = MODELS[made.transformer].facts()
    said = made.checkpoint in source(made.pipeline)
    known = "; ".join(facts["limits"])
    lines = [
        f"## {made.title}",
        f"```python\n{snippet(made)}\n```",
        f"`{made.transformer}`, tested: {', '.join(facts['verified'])}.",
        f"Limits: {known}." if known else "",
        made.note,
        "" if said else "The checkpoint's id is not from diffusers' source for this pipeline.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def page() -> str:
    return HEAD + "\n" + "\n".join(section(made) for made in RECIPES)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
