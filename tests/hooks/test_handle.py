"""Handles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stas
from tests.hooks.test_steer import state
from tests.tiny import (
    tiny_wan,
)


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
