"""A comparison's folder, written by the classes of a real one, its videos plain and told apart by
eye: the later a setting in the list, the brighter."""

from __future__ import annotations

import numpy as np

from stas.measures.measure import Measures
from stas.method.config import STASConfig
from stas.method.frames import FrameMap
from stas.pipelines.manifest import Manifest, frames_record
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Prompt, samples_of
from stas.pipelines.sample import VideoFiles
from stas.studies.compare import Comparison
from stas.studies.plan import Setting

OFF, ON, STRONG = (
    Setting("off", None),
    Setting("on", STASConfig().to_dict()),
    Setting("strong", STASConfig(scale=1.5).to_dict()),
)
PROMPTS = ("a red circle <b>", "a green square", "a blue triangle")
MEASURES = Measures.load(("pixel difference",))


def make(folder, settings=(OFF, ON), prompts=PROMPTS, seeds=(0,), brighter=0):
    """Writes a finished comparison; `brighter` makes other pixels of the same plan."""
    run = Comparison(
        folder=folder,
        settings=list(settings),
        samples=samples_of([Prompt(prompt) for prompt in prompts], seeds),
        arguments={},
        measured=MEASURES.names,
        model="bundled",
        measures=MEASURES,
    )
    run.begin(PipelineOptions(device="cpu").resolved())
    for place, sample in enumerate(run.samples):
        for number, setting in enumerate(settings):
            # Noise makes the brighter video's file longer too: a length would tell them apart.
            noise = np.random.default_rng(number).integers(0, 1 + 20 * number, (32, 32))
            frames = np.zeros((9, 32, 32, 3), np.uint8)
            frames += (40 + 60 * number + 5 * place + brighter + noise).astype(np.uint8)[
                None, :, :, None
            ]
            write(run.files(number, sample), sample, setting, frames)
    return run


def write(files: VideoFiles, sample, setting, frames):
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
    files.write(frames, manifest, MEASURES.of(frames, FrameMap(4), sample.prompt))
