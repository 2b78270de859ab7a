"""Several prompts in one call: each video as alone, in every pipeline that says so."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch

import stas
from stas.measures.measure import Measures
from stas.media.video import read_video
from stas.pipelines.load import load_pipeline
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.prompts import Prompt, samples_of
from stas.studies.compare import compare
from tests.models.test_pipelines import PIPELINES, STEERED

PROMPTS = ("a red circle", "a blue square")
SMALL = {"num_frames": 5, "num_inference_steps": 2, "height": 64, "width": 64}
ROUNDING = 1.01 / 255  # Cosmos checks its frames as pictures of 8 bits


@pytest.mark.parametrize("name", STEERED)
def test_each_video_is_as_alone_or_the_batch_is_refused(name):
    run = PIPELINES[name]
    loaded = LoadedPipeline(run.build())
    loaded.pipeline.set_progress_bar_config(disable=True)
    if loaded.name not in loaded.spec.loading.batched:
        loaded.check_batch(1)
        with pytest.raises(ValueError, match="can't make 2 videos in one call"):
            loaded.generate_batch([{"prompt": prompt} for prompt in PROMPTS], [0, 1])
        return
    call = dict(run.call) | dict(run.guided[0] or run.guided[1] or {})
    call.pop("output_type", None)
    if "num_inference_steps" in inspect.signature(type(loaded.pipeline).__call__).parameters:
        call["num_inference_steps"] = 2
    noise = [torch.Generator().manual_seed(seed) for seed in range(2)]
    with stas.steer(loaded.pipeline, stas.STASConfig(dims=(0,), blocks="all")):
        both = loaded._call({**call, "prompt": list(PROMPTS), "generator": noise}, None)
        alone = [
            loaded._call(
                {**call, "prompt": prompt, "generator": torch.Generator().manual_seed(seed)}, None
            )[0]
            for seed, prompt in enumerate(PROMPTS)
        ]
    assert len(both) == 2
    for one, other in zip(alone, both, strict=True):
        np.testing.assert_allclose(one, other, atol=ROUNDING)
    assert np.abs(np.asarray(alone[0], float) - alone[1]).max() > 2 * ROUNDING


def test_a_batch_of_one_is_the_video_alone_bit_for_bit():
    loaded = load_pipeline("bundled", device="cpu")
    call = loaded.arguments({"prompt": PROMPTS[0], **SMALL})
    (found,) = loaded.generate_batch([call], [3])
    assert np.array_equal(found, loaded.generate(call, 3))


def test_a_run_in_batches(tmp_path):
    """Each video as alone, the batch in its manifest, and whole batches after a stop."""
    samples = samples_of([Prompt(prompt) for prompt in PROMPTS], range(2))[:3]
    runs = {
        batch: compare(
            "bundled",
            samples,
            tmp_path / str(batch),
            arguments=SMALL,
            batch=batch,
            measures=Measures(names=("pixel difference",)),
        )
        for batch in (1, 2)
    }
    for sample in samples:
        for setting in ("off", "on"):
            one, two = (run.finished[sample.name, setting] for run in runs.values())
            frames = [
                read_video(tmp_path / batch / "videos" / f"{sample.name}-{setting}.mkv")
                for batch in ("1", "2")
            ]
            assert np.abs(frames[0].astype(int) - frames[1]).max() <= 1
            assert one.manifest.batch is None and two.manifest.steered == one.manifest.steered
    batches = [runs[2].finished[sample.name, "on"].manifest.batch for sample in samples]
    assert batches == [{"size": 2, "index": 0}, {"size": 2, "index": 1}, None]
    lost = tmp_path / "2/videos" / f"{samples[1].name}-on.json"
    kept = tmp_path / "2/videos" / f"{samples[0].name}-on.json"
    before, when = json.loads(lost.read_text())["frames"], kept.stat().st_mtime_ns
    lost.unlink()
    compare(
        "bundled",
        samples,
        tmp_path / "2",
        arguments=SMALL,
        batch=2,
        measures=Measures(names=("pixel difference",)),
        resume=True,
    )
    assert json.loads(lost.read_text())["frames"] == before and kept.stat().st_mtime_ns == when


def test_batches_that_can_not_be():
    with pytest.raises(ValueError, match="a batch of 1 video or more, but got 0"):
        compare("bundled", PROMPTS[0], arguments=SMALL, batch=0)
