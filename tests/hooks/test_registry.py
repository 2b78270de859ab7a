"""Hooks on blocks whose forward others exchange."""

from __future__ import annotations

import types

import pytest
import torch

import stas
from stas.hooks.registry import is_hooked
from tests.tiny import generate, tiny_wan

OPTIONS = {"dims": (3,), "scale": 2.0, "blocks": "all"}


def steered():
    pipeline = tiny_wan()
    with stas.steer(pipeline, **OPTIONS):
        return generate(pipeline)


def set_anew(pipeline):
    own = type(pipeline.transformer.blocks[0]).forward
    for block in pipeline.transformer.blocks:
        block.forward = types.MethodType(lambda self, *a, **k: own(self, *a, **k), block)


def wrap(pipeline):
    for block in pipeline.transformer.blocks:
        inner = block.forward
        block.forward = lambda *args, inner=inner, **kwargs: inner(*args, **kwargs)


@pytest.mark.parametrize("change", [set_anew, wrap])
def test_a_forward_that_is_set_on_blocks_is_steered_once_and_stays(change):
    pipeline = tiny_wan()
    untouched = generate(pipeline)
    with stas.steer(pipeline, **OPTIONS):
        change(pipeline)
        assert torch.equal(generate(pipeline), steered())
    assert torch.equal(generate(pipeline), untouched)
    assert not any(is_hooked(block, "stas") for block in pipeline.transformer.blocks)


def test_recording_reads_what_steering_left_also_under_a_forward_that_was_set():
    pipeline = tiny_wan()
    with (
        stas.steer(pipeline, dims=(3,), op="zero", regions=("first_frame", "boundary", "interior")),
        stas.record(pipeline) as recording,
    ):
        set_anew(pipeline)
        generate(pipeline)
    assert recording.stats.pooled(steps=[0]).max_abs[1, 3] == 0


@pytest.mark.parametrize("change", ["exchanged", "pruned"])
def test_blocks_that_are_others_are_an_error_in_the_first_forward(change):
    pipeline = tiny_wan()
    blocks = pipeline.transformer.blocks
    with stas.steer(pipeline, **OPTIONS):
        if change == "exchanged":
            blocks[1] = tiny_wan().transformer.blocks[1]
        else:
            del blocks[2]
        with pytest.raises(RuntimeError, match="blocks of transformer are others than when"):
            generate(pipeline)


def test_blocks_whose_inside_is_called_are_an_error():
    pipeline = tiny_wan()
    transformer = pipeline.transformer
    own = type(transformer).forward

    def forward(self, *args, **kwargs):
        kept = self.blocks
        # Called by the class's forward, past every hook.
        self._modules["blocks"] = [
            lambda *a, block=block, **k: type(block).forward(block, *a, **k) for block in kept
        ]
        try:
            return own(self, *args, **kwargs)
        finally:
            self._modules["blocks"] = kept

    with stas.steer(pipeline, **OPTIONS):
        transformer.forward = types.MethodType(forward, transformer)
        with pytest.raises(RuntimeError, match="something calls what is inside them"):
            generate(pipeline)


def test_a_patch_that_skips_the_blocks_is_not_counted():
    pipeline = tiny_wan()
    transformer, made = pipeline.transformer, []
    own = type(transformer).forward

    def forward(self, *args, **kwargs):
        if len(made) % 2 == 0:
            made.append(own(self, *args, **kwargs))
        else:
            made.append(made[-1])
        return made[-1]

    transformer.forward = types.MethodType(forward, transformer)
    with stas.steer(pipeline, stop=1.0, **OPTIONS) as handle:
        generate(pipeline, steps=6)
    assert handle.steered_forwards == {"transformer": 6} and len(made) == 12
