"""The paper's equation and its other interventions, as one pure in-place operation."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch.compiler import is_compiling

from stas.method.config import OPS, REFERENCES, REGIONS, Op, Reference, Region
from stas.method.kernels import has_triton
from stas.method.tokens import TokenGrid


def steer_(
    hidden_states: torch.Tensor,
    grid: TokenGrid,
    dims: Sequence[int],
    *,
    op: Op = "max",
    regions: Collection[Region] = ("first_frame", "boundary"),
    boundary: float = 0.08,
    scale: float = 1.0,
    reference: Reference = "dim",
) -> torch.Tensor:
    """Steer massive dimensions at chosen tokens, in place (STAS, arXiv 2603.17825).

    With H the hidden states, t a token of `regions` and d one of `dims`:

    - `"max"` (STAS): H[b, t, d] <- scale * m[b, d] * sign(H[b, t, d]), where the reference
      magnitude m[b, d] is the maximum of |H[b, t', d]| over all visual tokens t' of sample b.
      sign(0) is 0, so an exact zero stays zero, and a product beyond the dtype's range becomes
      its largest number, not an infinity [our choice].
    - `"scale"`: H[b, t, d] <- scale * H[b, t, d].
    - `"zero"`: H[b, t, d] <- 0.
    - `"mean"`: H[b, t, d] <- the mean of H[b, t', d] over all visual tokens t' [our choice: the
      paper names the intervention and not the axis].

    Only columns `dims` are read and written: no copy of the hidden states, no host sync, and no
    allocation beyond a few vectors of (B, N). Values are read before any is written, so autograd
    sees a function of the hidden states as they came. A sample never depends on its neighbours
    in the batch.

    Args:
        hidden_states: (B, N, D), floating point, any strides; N = `grid.num_tokens` visual tokens
            in raster order. Changed in place.
        grid: The tokens' latent frames, height and width.
        dims: Massive dimensions, indices on the feature axis, 0 to D - 1.
        op: One of "max", "scale", "zero", "mean".
        regions: Any of "first_frame", "boundary", "interior"; all three is every visual token.
        boundary: r, the head and tail share of each latent frame, 0 to 0.5.
        scale: The paper's alpha, a finite number.
        reference: "dim" takes m per dimension; "global" takes one m per sample, the maximum over
            all of `dims`.

    Returns:
        `hidden_states`, the same tensor.

    Raises:
        ValueError: The shape does not fit the grid, or an option is none of those above.

    Example:
        >>> grid = TokenGrid(frames=2, height=1, width=2)
        >>> h = torch.tensor([[[1.0, 5.0], [-2.0, 5.0], [8.0, 5.0], [3.0, 5.0]]])
        >>> steer_(h, grid, [0], regions=("first_frame",))[0, :, 0]
        tensor([ 8., -8.,  8.,  3.])
    """
    if hidden_states.ndim != 3 or hidden_states.shape[1] != grid.num_tokens:
        raise ValueError(
            f"hidden_states must be (batch, {grid.num_tokens}, features) for {grid}, but got "
            f"shape {tuple(hidden_states.shape)}. Pass the visual tokens alone, without text."
        )
    _check_options(hidden_states.shape[2], dims, op, regions, boundary, reference)
    tokens = grid.mask(regions, boundary, hidden_states.device)
    return steer_tokens_(hidden_states, tokens, dims, op=op, scale=scale, reference=reference)


def steer_tokens_(
    hidden_states: torch.Tensor,
    tokens: torch.Tensor,
    dims: Sequence[int],
    *,
    op: Op,
    scale: float,
    reference: Reference,
) -> torch.Tensor:
    """`steer_` with the tokens as a boolean mask and nothing checked: for every block.

    The token axes may be several, hidden states (B, ..., D) and a mask of their shape (...). Few
    operations and none per token region: on a small model their launches are all that steering
    costs.
    """
    # Compiled blocks fuse the plain operations themselves.
    device = hidden_states.device
    if hidden_states.is_cuda and not is_compiling() and op == "max" and has_triton(device):
        from stas.method._triton import can_steer, fused_steer_

        if can_steer(hidden_states, tokens):
            across_dims = reference == "global"
            return fused_steer_(hidden_states, tokens, dims, scale=scale, across_dims=across_dims)
    # A copy, (dims, B, ...): backward needs the values of before the write, and reading a column
    # of a large tensor is dear.
    values = torch.stack([hidden_states.select(-1, dim) for dim in dims])
    axes = tuple(range(2, values.ndim))
    if op == "max":
        magnitude = torch.linalg.vector_norm(values, ord=math.inf, dim=axes, keepdim=True)
        if reference == "global":
            magnitude = magnitude.amax(dim=0, keepdim=True)
        if scale != 1.0:
            largest = torch.finfo(values.dtype).max
            magnitude = (magnitude * scale).clamp(-largest, largest)
        target = torch.sign(values) * magnitude
    elif op == "scale":
        target = values * scale
    elif op == "zero":
        target = torch.zeros_like(values)
    else:
        target = values.mean(dim=axes, keepdim=True)
    steered = torch.where(tokens, target, values)
    for dim, column in zip(dims, steered, strict=True):
        hidden_states.select(-1, dim).copy_(column)
    return hidden_states


def _check_options(
    width: int,
    dims: Sequence[int],
    op: str,
    regions: Collection[str],
    boundary: float,
    reference: str,
) -> None:
    if not dims or not all(0 <= dim < width for dim in dims):
        raise ValueError(f"dims must be at least one index from 0 to {width - 1}, but got {dims}.")
    for name, value, known in (
        ("op", op, OPS),
        ("reference", reference, REFERENCES),
        *(("regions", region, REGIONS) for region in regions),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, but got {value!r}.")
    if not 0.0 <= boundary <= 0.5:
        raise ValueError(f"boundary must be between 0 and 0.5, but got {boundary}.")
