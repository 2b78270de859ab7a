"""Steering under torch.compile: the same bits, a few recompiles and none per step."""

from __future__ import annotations

import pytest
import torch

import stas
from tests.tiny import generate, plant_massive_dimension, tiny_cogvideox, tiny_wan

MAKERS = {
    "wan": tiny_wan,
    "wan a14b": lambda: tiny_wan(two_experts=True),
    "cogvideox": tiny_cogvideox,
}
STEERING = {"dims": (1, 5), "blocks": "all", "scale": 2.0}
# Dynamo and its guards are what is tested; a generator of machine code would only take time.
BACKEND = "aot_eager"


@pytest.fixture
def recompiles(monkeypatch):
    """How often dynamo compiled something."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def transformers(pipeline):
    names = ("transformer", "transformer_2")
    return {n: getattr(pipeline, n) for n in names if getattr(pipeline, n, None) is not None}


def compile_blocks(pipeline):
    for transformer in transformers(pipeline).values():
        if transformer._repeated_blocks:
            transformer.compile_repeated_blocks(backend=BACKEND, fullgraph=True)
        else:  # CogVideoX names none, so diffusers refuses; this is what it would do
            for block in transformer.transformer_blocks:
                block.compile(backend=BACKEND, fullgraph=True)


def compile_whole(pipeline):
    for name, transformer in transformers(pipeline).items():
        setattr(pipeline, name, torch.compile(transformer, backend=BACKEND))


@pytest.mark.slow
@pytest.mark.parametrize("compile_it", [compile_blocks, compile_whole])
@pytest.mark.parametrize("order", ["compile, steer", "steer, compile", "compile, run, steer"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_same_bits_and_no_recompile_per_step(recompiles, name, order, compile_it):
    with stas.steer(reference := MAKERS[name](), **STEERING):
        steered = generate(reference, steps=10)
    plain = generate(MAKERS[name](), steps=10)
    pipeline = MAKERS[name]()
    if order == "steer, compile":
        handle = stas.steer(pipeline, **STEERING)
        compile_it(pipeline)
    else:
        compile_it(pipeline)
        if order == "compile, run, steer":
            assert torch.allclose(generate(pipeline, steps=10), plain, atol=1e-5)
        handle = stas.steer(pipeline, **STEERING)
    before = recompiles()
    assert torch.allclose(generate(pipeline, steps=10), steered, atol=1e-5)
    assert not torch.allclose(steered, plain, atol=1e-3)
    assert recompiles() - before <= 8 * len(transformers(pipeline))
    settled = recompiles()
    for steps in (10, 20):
        generate(pipeline, steps=steps)
    assert recompiles() == settled
    handle.remove()
    assert torch.allclose(generate(pipeline, steps=10), plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_wan, tiny_cogvideox])
def test_detection_works_in_blocks_compiled_as_a_full_graph(recompiles, make):
    pipeline, reference = make(), make()
    for each in (pipeline, reference):
        plant_massive_dimension(each.transformer, 5, 1000.0)
    compile_blocks(pipeline)
    options = {"blocks": "all", "scale": 2.0}
    with stas.steer(reference, **options), stas.steer(pipeline, **options) as handle:
        assert torch.allclose(generate(pipeline), generate(reference), rtol=1e-4, atol=1e-4)
        assert handle.dims == {"transformer": (5,)}
        assert handle.origins == {"transformer": "detected"}
