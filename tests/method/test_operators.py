"""steer_ against a reference written with loops, on many shapes, strides and types."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stas.method.config import OPS, REFERENCES, REGIONS
from stas.method.operators import steer_
from stas.method.tokens import TokenGrid

LAYOUTS = ("contiguous", "channel-major", "slice of a longer sequence", "every other feature")


def region_of(token: int, grid: TokenGrid, boundary: float) -> str:
    frame, position = divmod(token, grid.height * grid.width)
    size = grid.height * grid.width
    k = math.ceil(Fraction(str(boundary)) * size)
    if frame == 0:
        return "first_frame"
    return "boundary" if position < k or position >= size - k else "interior"


def steer_by_loops(h, grid, dims, *, op, regions, boundary, scale, reference):
    """The definition, entry by entry, in double precision."""
    old = h.double().tolist()
    new = h.double().tolist()
    samples, tokens = len(old), len(old[0])
    for b in range(samples):
        peaks = {d: max(abs(old[b][t][d]) for t in range(tokens)) for d in dims}
        if reference == "global":
            peaks = dict.fromkeys(dims, max(peaks.values()))
        for t in range(tokens):
            if region_of(t, grid, boundary) not in regions:
                continue
            for d in dims:
                x = old[b][t][d]
                sign = (x > 0) - (x < 0)
                new[b][t][d] = {
                    "max": scale * peaks[d] * sign,
                    "scale": scale * x,
                    "zero": 0.0,
                    "mean": sum(old[b][s][d] for s in range(tokens)) / tokens,
                }[op]
    return torch.tensor(new, dtype=torch.float64)


def laid_out(values: torch.Tensor, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same values behind other strides, and the storage that they live in."""
    batch, tokens, width = values.shape
    if layout == "contiguous":
        storage = values.clone()
        return storage, storage
    if layout == "channel-major":
        storage = values.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        return storage.transpose(1, 2), storage
    if layout == "slice of a longer sequence":
        storage = torch.full((batch, tokens + 5, width), 777.0, dtype=values.dtype)
        storage[:, 3 : 3 + tokens] = values
        return storage[:, 3 : 3 + tokens], storage
    storage = torch.full((batch, tokens, 2 * width), 777.0, dtype=values.dtype)
    storage[:, :, ::2] = values
    return storage[:, :, ::2], storage


@st.composite
def cases(draw):
    grid = TokenGrid(*(draw(st.integers(1, high)) for high in (5, 4, 5)))
    width = draw(st.integers(1, 6))
    dims = draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=width, unique=True))
    seed = draw(st.integers(0, 2**16))
    values = torch.randn(
        draw(st.integers(1, 3)),
        grid.num_tokens,
        width,
        generator=torch.Generator().manual_seed(seed),
    )
    values = values * 10 ** draw(st.floats(-3, 3))
    values[torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) < 0.1] = 0.0
    options = {
        "op": draw(st.sampled_from(OPS)),
        "regions": tuple(draw(st.lists(st.sampled_from(REGIONS), min_size=1, unique=True))),
        "boundary": draw(st.sampled_from((0.0, 0.01, 0.08, 0.2, 0.25, 0.34, 0.5))),
        "scale": draw(st.sampled_from((0.0, 0.5, 1.0, 1.2, 3.0))),
        "reference": draw(st.sampled_from(REFERENCES)),
    }
    dtype = draw(st.sampled_from((torch.float32, torch.bfloat16, torch.float16, torch.float64)))
    return values.to(dtype), grid, dims, options, draw(st.sampled_from(LAYOUTS))


@settings(max_examples=300)
@given(cases())
def test_steer_equals_the_definition(case):
    values, grid, dims, options, layout = case
    expected = steer_by_loops(values, grid, dims, **options)
    hidden_states, storage = laid_out(values, layout)
    before = storage.clone()
    pointer = hidden_states.data_ptr()

    result = steer_(hidden_states, grid, dims, **options)

    assert result is hidden_states
    assert result.data_ptr() == pointer
    kind = torch.finfo(values.dtype)
    # One rounding of the product; a mean can cancel, so it is held to the values' size.
    atol = kind.tiny * kind.eps
    if options["op"] == "mean":
        atol = 3 * kind.eps * float(values.abs().max())
    error = (result.double() - expected).abs()
    assert bool((error <= 3 * kind.eps * expected.abs() + atol).all()), error.max()
    # All that is not steered keeps its bits, the storage around the tensor too.
    steered = torch.zeros(values.shape, dtype=torch.bool)
    for t in range(grid.num_tokens):
        if region_of(t, grid, options["boundary"]) in options["regions"]:
            steered[:, t, dims] = True
    assert torch.equal(result[~steered], values[~steered])
    hidden_states[steered] = values[steered]
    assert torch.equal(storage, before)


@given(cases())
def test_a_sample_never_depends_on_its_neighbours(case):
    values, grid, dims, options, _ = case
    together = steer_(values.clone(), grid, dims, **options)
    for b in range(values.shape[0]):
        alone = steer_(values[b : b + 1].clone(), grid, dims, **options)
        assert torch.equal(together[b : b + 1], alone)


def test_max_keeps_polarity_and_leaves_zero():
    grid = TokenGrid(1, 1, 4)
    h = torch.tensor([-2.0, 0.0, 5.0, 1.0]).reshape(1, 4, 1)
    assert steer_(h, grid, [0], scale=2.0).flatten().tolist() == [-10.0, 0.0, 10.0, 10.0]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_gradients_equal_those_of_an_out_of_place_reference(op, reference):
    grid, dims, regions = TokenGrid(3, 2, 3), [1, 3], ("first_frame", "boundary")
    weight = torch.randn(5, 5, dtype=torch.float64)
    inputs = torch.randn(2, grid.num_tokens, 5, dtype=torch.float64)

    def out_of_place(h):
        values = h[..., dims]
        peak = values.abs().amax(dim=1, keepdim=True)
        if reference == "global":
            peak = peak.amax(dim=2, keepdim=True)
        target = {
            "max": 1.5 * peak * values.sign(),
            "scale": 1.5 * values,
            "zero": 0 * values,
            "mean": values.mean(dim=1, keepdim=True).expand_as(values),
        }[op]
        mask = grid.mask(regions, 0.2)[None, :, None]
        columns = dict(zip(dims, torch.where(mask, target, values).unbind(-1), strict=True))
        return torch.stack([columns.get(d, h[..., d]) for d in range(5)], dim=-1)

    gradients = []
    for steered in (
        lambda h: steer_(
            h, grid, dims, op=op, regions=regions, boundary=0.2, scale=1.5, reference=reference
        ),
        out_of_place,
    ):
        leaf = inputs.clone().requires_grad_()
        loss = (steered(leaf @ weight) @ weight).square().sum()
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    assert torch.allclose(*gradients, rtol=1e-12, atol=1e-12)


def test_a_wrong_grid_is_refused_before_anything_is_written():
    h = torch.ones(1, 7, 2)
    with pytest.raises(ValueError, match=r"must be \(batch, 8, features\).*visual tokens alone"):
        steer_(h, TokenGrid(2, 2, 2), [0])
    assert torch.equal(h, torch.ones(1, 7, 2))


def test_compiles_whole_without_a_graph_break():
    grid = TokenGrid(3, 2, 2)
    h = torch.randn(2, 12, 4)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x):
        return steer_(x * 2, grid, (1, 2), scale=1.2)

    assert torch.equal(step(h), steer_(h * 2, grid, (1, 2), scale=1.2))


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        ([], {}, "dims must be at least one index from 0 to 1, but got"),
        ([2], {}, "dims must be at least one index"),
        ([-1], {}, "dims must be at least one index"),
        ([0], {"op": "add"}, "op must be one of max, scale, zero, mean, but got 'add'"),
        ([0], {"reference": "mean"}, "reference must be one of dim, global"),
        ([0], {"regions": ("middle",)}, "regions must be one of first_frame, boundary"),
        ([0], {"boundary": 0.6}, "boundary must be between 0 and 0.5, but got 0.6"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(dims, options, message):
    h = torch.ones(1, 8, 2)
    with pytest.raises(ValueError, match=message):
        steer_(h, TokenGrid(2, 2, 2), dims, **options)
    assert torch.equal(h, torch.ones(1, 8, 2))


def test_a_product_beyond_the_dtypes_range_stays_finite():
    h = torch.tensor([60000.0, -3.0]).half().reshape(1, 2, 1)
    steered = steer_(h, TokenGrid(1, 1, 2), [0], scale=2.0).flatten().tolist()
    assert steered == [65504.0, -65504.0]
