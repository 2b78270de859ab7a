"""A reproduction's file, small enough to be carried out in seconds."""

from __future__ import annotations

TOML = """
title = "A small <reproduction>"
prompts = ["a red circle", "a green square moving right", "a blue triangle"]
seed = 5

[arguments]
num_inference_steps = 3
num_frames = 5
height = 32
width = 32

[[models]]
name = "Bundled & small"
model = "bundled"
scheduler = { flow_shift = 1.0 }
sources = { num_frames = "a test", flow_shift = "its config" }

[stages.record]
count = 2

[stages.interventions]
count = 1
interventions = ["zero", "scale-all"]

[stages.comparison]
count = 2

[stages.ablations]
count = 1
axes = { scale = [1.0, 2.0], dims = ["massive", "ordinary"] }

[stages.overhead]
rounds = 2

[stages.rating]

[[paper]]
model = "Bundled & small"
finding = "massive dimensions"
value = "1188"
source = "the <paper>"

[[paper]]
model = "Bundled & small"
finding = "total: off"
value = "0.8"
source = "a summary"

[quick.stages.record]
count = 1

[quick.arguments]
num_inference_steps = 2
"""


def write(folder, text=TOML, name="small.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
