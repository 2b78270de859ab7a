"""Shared settings: one torch thread a process, quiet diffusers, Hypothesis without deadlines, and
no profile that was measured on this machine."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from diffusers.utils import logging
from hypothesis import settings

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()
settings.register_profile("stas", deadline=None)  # timing has no place in tests
settings.load_profile("stas")


@pytest.fixture(autouse=True)
def no_measured_profiles(monkeypatch, tmp_path):
    monkeypatch.setenv("STAS_CACHE", str(tmp_path / "cache"))
