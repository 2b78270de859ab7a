"""The paper's equation and its other interventions, as one pure in-place operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

import torch
from torch.compiler import is_compiling

from stas.checks import one_of
from stas.method.config import OPS, REFERENCES, REGIONS, Op, Reference, Region
from stas.method.kernels import has_triton
from stas.method.shards import Split
from stas.method.tokens import TokenGrid

# An op of one's own: values (dims, B, N) and the reference magnitude (dims or 1, B, 1) -> targets.
Operator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _finite(targets: torch.Tensor) -> torch.Tensor:
    """A product beyond the dtype's range becomes its largest number, not an infinity."""
    largest = torch.finfo(targets.dtype).max
    return targets.clamp(-largest, largest)


def _max(
    values: torch.Tensor, scale: float, reference: Reference, split: Split | None
) -> torch.Tensor:
    magnitude = reference_magnitude(values, reference, split)
    if scale != 1.0:
        magnitude = _finite(magnitude * scale)
    return torch.sign(values) * magnitude


def _scale(
    values: torch.Tensor, scale: float, reference: Reference, split: Split | None
) -> torch.Tensor:
    return _finite(values * scale)


def _zero(
    values: torch.Tensor, scale: float, reference: Reference, split: Split | None
) -> torch.Tensor:
    return torch.zeros_like(values)


def _mean(
    values: torch.Tensor, scale: float, reference: Reference, split: Split | None
) -> torch.Tensor:
    over = tuple(range(2, values.ndim))
    mean: torch.Tensor
    if split is None:
        mean = values.mean(dim=over, keepdim=True)
        return mean
    # The sums, and beside them how many tokens they are of.
    sums = values.sum(dim=over, dtype=torch.float32)
    counts = torch.full_like(sums, values[0, 0].numel())
    sums, counts = split.group.total_(torch.stack([sums, counts]))
    mean = (sums / counts).to(values.dtype)
    return mean[(..., *(None for _ in over))]


# What each op writes: of the values (dims, B, ...) at all visual tokens, the scale, the reference,
# and how the tokens are split.
OPERATORS: Mapping[Op, Callable[[torch.Tensor, float, Reference, Split | None], torch.Tensor]] = (
    MappingProxyType({"max": _max, "scale": _scale, "zero": _zero, "mean": _mean})
)


def reference_magnitude(
    values: torch.Tensor, reference: Reference, split: Split | None = None
) -> torch.Tensor:
    """m, the maximum of |H| over all visual tokens of a sample.

    Args:
        values: (dims, B, ...), the massive dimensions at all visual tokens.
        reference: "dim" for one m per dimension, "global" for one over all of them.
        split: How the tokens are split, where the values are at some of them.

    Returns:
        (dims, B, 1, ...), or (1, B, 1, ...) for "global".
    """
    over = tuple(range(2, values.ndim))
    magnitude: torch.Tensor
    if split is not None and not values[0, 0].numel():  # a process without a token of the video
        magnitude = values.new_zeros((*values.shape[:2], *(1 for _ in over)))
    else:
        magnitude = torch.linalg.vector_norm(values, ord=math.inf, dim=over, keepdim=True)
    if split is not None:
        # A NaN may have a sign, which `abs` takes off.
        magnitude = split.group.maximum_(magnitude.float().abs()).to(values.dtype)
    return magnitude.amax(dim=0, keepdim=True) if reference == "global" else magnitude


def steer_(
    hidden_states: torch.Tensor,
    grid: TokenGrid,
    dims: Sequence[int],
    *,
    op: Op | Operator = "max",
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
    - a function of your own: H[b, t, d] <- what it returns of (values, reference), see below.

    Only columns `dims` are read and written: no copy of the hidden states, no host sync, and no
    allocation beyond a few vectors of (B, N). Values are read before any is written, so autograd
    sees a function of the hidden states as they came. A sample never depends on its neighbours
    in the batch.

    Args:
        hidden_states: (B, N, D), floating point, any strides; N = `grid.num_tokens` visual tokens
            in raster order. Changed in place.
        grid: The tokens' latent frames, height and width.
        dims: Massive dimensions, indices on the feature axis, 0 to D - 1.
        op: One of "max", "scale", "zero", "mean", or a function. It is given the values of `dims`
            at all visual tokens, (dims, B, N), and the reference magnitude m, (dims, B, 1) or
            (1, B, 1), and returns targets that broadcast to the values' shape.
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
        >>> halve = lambda values, reference: values.clamp(-reference / 2, reference / 2)
        >>> steer_(h, grid, [0], op=halve, regions=("first_frame",))[0, :, 0]
        tensor([ 4., -4.,  8.,  3.])
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
    op: Op | Operator,
    scale: float,
    reference: Reference,
    split: Split | None = None,
) -> torch.Tensor:
    """`steer_` with the tokens as a boolean mask and nothing checked: for every block.

    The token axes may be several, hidden states (B, ..., D) and a mask of their shape (...). Few
    operations and none per token region: on a small model their launches are all that steering
    costs. Where processes share the tokens (`split`), these are this one's, and what is found over
    all tokens costs one collective.
    """
    # Compiled blocks fuse the plain operations themselves.
    device = hidden_states.device
    if hidden_states.is_cuda and not is_compiling() and op == "max" and has_triton(device):
        from stas.method._triton import can_steer, fused_steer_

        if can_steer(hidden_states, tokens):
            across_dims = reference == "global"
            return fused_steer_(
                hidden_states, tokens, dims, scale=scale, across_dims=across_dims, split=split
            )
    # A copy, (dims, B, ...): backward needs the values of before the write, and reading a column
    # of a large tensor is dear.
    values = torch.stack([hidden_states.select(-1, dim) for dim in dims])
    if callable(op):
        target = op(values, reference_magnitude(values, reference, split))
    else:
        target = OPERATORS[op](values, scale, reference, split)
    steered = torch.where(tokens, target, values)
    for dim, column in zip(dims, steered, strict=True):
        hidden_states.select(-1, dim).copy_(column)
    return hidden_states


def _check_options(
    width: int,
    dims: Sequence[int],
    op: Op | Operator,
    regions: Collection[str],
    boundary: float,
    reference: str,
) -> None:
    if not dims or not all(0 <= dim < width for dim in dims):
        raise ValueError(f"dims must be at least one index from 0 to {width - 1}, but got {dims}.")
    for name, value, known in (
        *([] if callable(op) else [("op", op, OPS)]),
        ("reference", reference, REFERENCES),
        *(("regions", region, REGIONS) for region in regions),
    ):
        one_of(name, value, known)
    if not 0.0 <= boundary <= 0.5:
        raise ValueError(f"boundary must be between 0 and 0.5, but got {boundary}.")
