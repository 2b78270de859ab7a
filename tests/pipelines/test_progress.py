"""A pipeline's progress, told to somebody else."""

from __future__ import annotations

import pytest

from stas.pipelines.progress import progress_to
from tests.tiny import generate, tiny_wan


def test_every_step_is_told_and_the_bar_is_as_before():
    pipeline, told = tiny_wan(), []
    before = dict(getattr(pipeline, "_progress_bar_config", {}))
    with progress_to(pipeline, lambda *where: told.append(where)):
        generate_quietly(pipeline)
    assert told == [(done, 3) for done in range(4)]
    assert "progress_bar" not in vars(pipeline)
    assert dict(pipeline._progress_bar_config) == before


def generate_quietly(pipeline):
    pipeline.set_progress_bar_config = lambda **_: None  # what the helper calls
    try:
        generate(pipeline, steps=3)
    finally:
        del pipeline.set_progress_bar_config


def test_after_an_error_too():
    pipeline = tiny_wan()
    with pytest.raises(ZeroDivisionError), progress_to(pipeline, lambda *_: 1 / 0):
        generate_quietly(pipeline)
    assert "progress_bar" not in vars(pipeline)
