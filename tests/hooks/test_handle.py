"""Handles."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig

import stas
from tests.hooks.test_observed import Proxy
from tests.hooks.test_steer import state
from tests.reach import of_stas
from tests.tiny import generate, tiny_cogvideox, tiny_wan


def of_its_own_class(pipeline):
    """A scheduler that has `step` as a property, and a slot."""
    base = type(pipeline.scheduler)
    step = property(lambda scheduler: super(cls, scheduler).step)
    cls = type(base.__name__, (base,), {"__slots__": ("extra",), "step": step})
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config)


def behind_a_proxy(pipeline):
    pipeline.scheduler = Proxy(pipeline.scheduler)


def patched_itself(pipeline):
    step = pipeline.scheduler.step
    pipeline.scheduler.step = lambda *args, **kwargs: step(*args, **kwargs)


def with_a_cache(pipeline):
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))


def with_checkpointing(pipeline):
    pipeline.transformer.enable_gradient_checkpointing()


def nothing(pipeline):
    pass


CHANGES = [
    nothing,
    of_its_own_class,
    behind_a_proxy,
    patched_itself,
    with_a_cache,
    with_checkpointing,
]


@pytest.mark.parametrize("later", [False, True], ids=["before", "while attached"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [tiny_wan, tiny_cogvideox])
def test_nothing_of_stas_can_be_reached_after_removal(make, change, later):
    """From the pipeline, its parts, and shallow copies that were made meanwhile."""
    if change is with_a_cache and make is tiny_cogvideox:
        pytest.skip("CogVideoX's pipeline opens no cache context")
    pipeline = make()
    generate(pipeline, steps=2)
    if not later:
        change(pipeline)
    other = make()
    change(other)
    plain = generate(other)
    handle = stas.steer(pipeline, dims=(3,))
    if later:
        change(pipeline)
    recording = stas.record(pipeline)
    assert not torch.equal(generate(pipeline, steps=3), plain)
    copies = [copy.copy(pipeline), dict(pipeline.components)]
    if change is not behind_a_proxy:
        copies.append(copy.copy(pipeline.scheduler))
    assert of_stas(pipeline)
    handle.remove()
    assert of_stas(pipeline)
    recording.remove()
    left = of_stas(pipeline, *copies, type(pipeline), type(pipeline.scheduler))
    if change is patched_itself and later:  # what a user took while attached and keeps: no more
        assert {path.partition(".step")[2] for path in left} == {".cell"}
    else:
        assert left == []
    assert torch.equal(generate(pipeline), plain)


def test_an_error_inside_the_context_undoes_all():
    pipeline = tiny_wan()
    before = state(pipeline)
    with pytest.raises(ZeroDivisionError), stas.steer(pipeline, dims=(3,)):
        _ = 1 / 0
    assert state(pipeline) == before


def test_set_step_is_checked():
    pipeline = tiny_wan()
    with (
        stas.steer(pipeline, dims=(3,)) as handle,
        pytest.raises(RuntimeError, match="follows a pipeline"),
    ):
        handle.set_step(0, 10)
    with stas.steer(pipeline.transformer, dims=(3,)) as handle:
        for step, steps in [(10, 10), (-1, 10), (0, 0)]:
            with pytest.raises(ValueError, match="between 0 and num_steps - 1"):
                handle.set_step(step, steps)
        for step, steps in [(0.5, 10), (torch.tensor(1), 10), (True, 10), (1, 10.0)]:
            with pytest.raises(TypeError, match="step and num_steps must be integers"):
                handle.set_step(step, steps)
        with pytest.raises(ValueError, match="branch must be one of cond, uncond, cond_uncond"):
            handle.set_step(0, 10, branch="positive")
        handle.set_step(np.int64(3), 10)
    with pytest.raises(RuntimeError, match="removed"):
        handle.set_step(0, 10)
    with pytest.raises(RuntimeError, match="removed"), handle:
        pass
