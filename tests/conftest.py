"""Shared settings: one torch thread a process, quiet diffusers, Hypothesis without deadlines."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers.utils import logging
from hypothesis import settings

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()
settings.register_profile("stas", deadline=None)  # timing has no place in tests
settings.load_profile("stas")
