"""Which kernels run."""

from __future__ import annotations

import sys

import pytest
import torch

from stas import StasWarning
from stas.method.kernels import has_triton


def test_without_triton_plain_operations_run(monkeypatch):
    has_triton.cache_clear()
    monkeypatch.setattr("stas.method.kernels.find_module", lambda name: None)
    assert has_triton(torch.device("cpu")) is False
    has_triton.cache_clear()


def test_a_triton_that_does_not_run_is_said_once(monkeypatch):
    has_triton.cache_clear()
    monkeypatch.setattr("stas.method.kernels.find_module", lambda name: object())
    monkeypatch.setitem(sys.modules, "stas.method._triton", None)
    with pytest.warns(StasWarning, match="Triton's kernels don't run on cpu, so plain operations"):
        assert has_triton(torch.device("cpu")) is False
    assert has_triton(torch.device("cpu")) is False
    has_triton.cache_clear()
