"""What rows claim of caches: with FirstBlockCache each computed block is steered once."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from diffusers import FirstBlockCacheConfig

import stas
from stas.intervene import TransformerSteering
from stas.models import MODELS, find_spec
from tests.zoo import all_tinies

RUNS = {run.name: run for tiny in all_tinies().values() for run in tiny.pipelines}
CACHED = (
    "wan text to video",
    "cogvideox",
    "cogvideox 1.5",
    "hunyuan video t2v",
    "mochi t2v",
    "ltx t2v",
)
STEPS = 4


def run(name, pipeline):
    arguments = dict(RUNS[name].call) | dict(RUNS[name].guided[1])
    generator = torch.Generator().manual_seed(0)
    return pipeline(**arguments, num_inference_steps=STEPS, generator=generator)[0]


@pytest.mark.parametrize("cache_first", [True, False])
@pytest.mark.parametrize("name", CACHED)
def test_a_computed_block_is_steered_once_and_a_skipped_one_not_at_all(
    name, cache_first, monkeypatch
):
    pipeline, steered = RUNS[name].build(), []
    pipeline.set_progress_bar_config(disable=True)
    act = TransformerSteering.act

    def spy(steering, index, tokens, axes):
        steered.append(index)
        act(steering, index, tokens, axes)

    monkeypatch.setattr(TransformerSteering, "act", spy)
    blocks = len(find_spec(pipeline.transformer).blocks(pipeline.transformer))
    options = {"dims": (3,), "blocks": "all", "stop": 1.0}
    with stas.steer(pipeline, **options):
        uncached = run(name, pipeline)
    for threshold, computed in ((1e-9, STEPS), (1e9, 1)):  # nothing is skipped; all but one step
        steered.clear()
        if cache_first:
            pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        with stas.steer(pipeline, **options):
            if not cache_first:
                pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
            video = run(name, pipeline)
        pipeline.transformer.disable_cache()
        assert Counter(steered) == {0: STEPS} | dict.fromkeys(range(1, blocks), computed)
        assert torch.equal(video, uncached) == (computed == STEPS)


def test_rows_claim_the_caches_that_run_here():
    tried = {type(RUNS[name].build().transformer).__name__ for name in CACHED}
    assert tried == {name for name, spec in MODELS.items() if "caches" in spec.verified}
