"""Which kernels run: Triton's on CUDA devices that can, plain operations elsewhere."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec as find_module

import torch

from stas.checks import StasWarning


@cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run on a CUDA device; tried once, on first use."""
    if find_module("triton") is None:
        return False
    try:
        from stas.method._triton import fused_steer_

        hidden, tokens = torch.zeros(1, 1, 1, device=device), torch.ones(1, device=device)
        fused_steer_(hidden, tokens.bool(), (0,), scale=1.0, across_dims=False)
    except Exception as error:  # no compiler, no headers, a device that Triton does not know
        warnings.warn(
            f"Triton's kernels don't run on {device}, so plain operations steer and record there, "
            f"which takes a little longer: {str(error).splitlines()[0] if str(error) else error!r}",
            StasWarning,
            stacklevel=2,
        )
        return False
    return True
