"""What steering and recording cost on a GPU, at the full size of the paper's three models.

    python -m benchmarks.gpu [--output FILE] [--models wan2.1-1.3b ...] [--runs 20] [--small]

Random weights, bfloat16. For each model: the steered block outputs against a float64 reference
(rounding to bfloat16 is 0.0039 at most);
that removal leaves every bit as it was; that no steered forward waits for the device; and one
forward plain, steered, steered naively (clone and where) and recorded, timed by CUDA events,
interleaved in one process. "paired percent" is the median over rounds of the variant's time over
the plain one's of the same round, minus 1; the same for a second plain run is the noise. "inside
percent" is the time between events around the added operations alone, as a share of the forward:
it resolves what the noise hides, and counts the idle moments that the events themselves make.

`--small` runs the same on the CPU with small sizes, to check the script.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import nn
from torch.profiler import ProfilerActivity, profile

import stas
import stas.activations.sums
import stas.method.operators
from benchmarks.timing import report
from stas.hooks.record import TransformerRecording
from stas.hooks.steer import TransformerSteering
from stas.method.config import REGIONS
from stas.method.operators import steer_tokens_
from stas.method.tokens import TokenGrid
from stas.models.registry import find_spec

DIMS = (3, 1000)
SMALL_DIMS = (3, 7)


@dataclass(frozen=True)
class Size:
    """A model's width, depth and latents (F, H, W)."""

    heads: int
    head_dim: int
    ffn: int
    layers: int
    channels: int
    latents: tuple[int, int, int]


SIZES = {
    "wan2.1-1.3b": Size(12, 128, 8960, 30, 16, (21, 60, 104)),  # 832 x 480, 81 frames
    "wan2.2-5b": Size(24, 128, 14336, 30, 48, (31, 44, 80)),  # 1280 x 704, 121 frames
    "cogvideox-5b": Size(48, 64, 12288, 42, 16, (13, 60, 90)),  # 720 x 480, 49 frames
}
SMALL = Size(8, 16, 64, 3, 4, (3, 8, 12))  # heads for eight processes


def wan(size: Size, device: str, per_token: bool) -> tuple[nn.Module, dict[str, Any]]:
    transformer = WanTransformer3DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        in_channels=size.channels,
        out_channels=size.channels,
        ffn_dim=size.ffn,
        num_layers=size.layers,
    )
    frames, height, width = size.latents
    tokens = frames * (height // 2) * (width // 2)
    timestep = torch.full((1, tokens) if per_token else (1,), 900.0, device=device)
    return transformer, {
        "hidden_states": torch.randn(1, size.channels, *size.latents, device=device),
        "timestep": timestep,
        "encoder_hidden_states": torch.randn(1, 512, 4096, device=device),
        "return_dict": False,
    }


def cogvideox(size: Size, device: str) -> tuple[nn.Module, dict[str, Any]]:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.head_dim,
        in_channels=size.channels,
        out_channels=size.channels,
        num_layers=size.layers,
        use_rotary_positional_embeddings=True,
        sample_height=size.latents[1],
        sample_width=size.latents[2],
    )
    frames, rows, columns = size.latents[0], size.latents[1] // 2, size.latents[2] // 2
    rotary = get_3d_rotary_pos_embed(
        size.head_dim, ((0, 0), (rows, columns)), (rows, columns), frames, device=device
    )
    latents = torch.randn(1, frames, size.channels, *size.latents[1:], device=device)
    return transformer, {
        "hidden_states": latents,
        "timestep": torch.full((1,), 900.0, device=device),
        "encoder_hidden_states": torch.randn(1, 226, 4096, device=device),
        "image_rotary_emb": rotary,
        "return_dict": False,
    }


def build(name: str, device: str, small: bool) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """A transformer with random weights in bfloat16, and one forward of it."""
    torch.manual_seed(0)
    size = SMALL if small else SIZES[name]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            if name == "cogvideox-5b":
                transformer, inputs = cogvideox(size, device)
            else:
                transformer, inputs = wan(size, device, per_token=name == "wan2.2-5b")
    finally:
        torch.set_default_dtype(before)
    transformer.requires_grad_(False).eval()

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return transformer(**inputs)[0]

    return transformer, forward


class Checked:
    """Compares a block's steered output with a float64 reference, from its own plain forward."""

    def __init__(self, transformer: nn.Module, index: int, dims: tuple[int, ...], scale: float):
        self.spec = find_spec(transformer)
        self.dims, self.scale = dims, scale
        self.grid = TokenGrid(1, 1, 1)
        self.wrong_untouched = self.steered = 0
        self.error = 0.0  # the largest relative difference of a steered entry
        block = self.spec.blocks(transformer)[index]
        self.hooks = [
            transformer.register_forward_pre_hook(self.see_grid, with_kwargs=True),
            block.register_forward_hook(self.check, with_kwargs=True),
        ]

    def see_grid(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.grid = self.spec.video_tokens(module.config, kwargs).grid

    def check(self, block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        plain = type(block).forward(block, *args, **kwargs)
        if self.spec.tokens.video_output is not None:
            for ours, theirs in zip(output[1:], plain[1:], strict=True):  # the text
                self.wrong_untouched += int((ours != theirs).sum())
            output, plain = output[0], plain[0]
        columns = plain[..., list(self.dims)].double()
        target = self.scale * columns.abs().amax(1, keepdim=True) * columns.sign()
        mask = self.grid.mask(("first_frame", "boundary"), 0.08, plain.device)
        found = output[..., list(self.dims)]
        self.steered += found[:, mask].numel()
        difference = (found.double() - target).abs() / target.abs()
        self.error = max(self.error, float(difference[:, mask].max()))
        expected = plain.clone()
        for dim in self.dims:
            expected[..., dim] = torch.where(mask, output[..., dim], plain[..., dim])
        self.wrong_untouched += int((output != expected).sum())

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


def check(
    transformer: nn.Module, forward: Callable[[], torch.Tensor], dims: tuple[int, ...]
) -> dict[str, Any]:
    """Steered entries against float64, everything else bit by bit, and what removal leaves."""
    plain = forward()
    result: dict[str, Any] = {"forward repeats bit for bit": torch.equal(forward(), plain)}
    blocks = len(find_spec(transformer).blocks(transformer))
    for index in (0, blocks // 2, blocks - 1):
        with stas.steer(transformer, dims=dims, blocks=(index,), scale=1.3):
            checked = Checked(transformer, index, dims, 1.3)
            steered = forward()
            checked.remove()
        result[f"block {index}"] = {
            "steered entries": checked.steered,
            "largest relative difference from float64": checked.error,
            "other entries changed": checked.wrong_untouched,
            "output changed": not torch.equal(steered, plain),
        }
    result["bit-identical after removal"] = torch.equal(forward(), plain)
    with stas.record(transformer) as recording:
        result["bit-identical while recording"] = torch.equal(forward(), plain)
    result["recorded sums against float64"] = check_sums(recording.stats)
    return result


def check_sums(stats: stas.ActivationStats) -> dict[str, float]:
    """The largest relative errors of recorded moments of planted values, on this device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    grid = TokenGrid(5, 30, 52)
    generator = torch.Generator(device).manual_seed(0)
    tokens = torch.randn(grid.num_tokens, 512, generator=generator, device=device) * 2
    tokens[:, 7] += 1500.0
    tokens = tokens.bfloat16()
    planted = stas.ActivationStats(blocks=(0,), width=512, boundary=0.08)
    planted.add(0, 1, "cond", 0, stas.activations.sums.partial_sums(tokens, grid, 0.08).cpu(), grid)
    errors = {"mean_abs": 0.0, "mean": 0.0, "variance": 0.0, "max_abs": 0.0}
    for region in REGIONS:
        values = tokens[grid.mask((region,), 0.08, device)].double().cpu()
        found = planted.pooled(regions=(region,))
        spread = values.std(0, correction=0)
        for name, direct, scale in (
            ("mean_abs", values.abs().mean(0), values.abs().mean(0)),
            ("mean", values.mean(0), spread),
            ("variance", spread.square(), spread.square()),
            ("max_abs", values.abs().amax(0), values.abs().amax(0)),
        ):
            error = ((getattr(found, name)[0] - direct).abs() / scale).max()
            errors[name] = max(errors[name], float(error))
    return errors | {"samples in the model's statistics": float(max(stats.samples.values()))}


def waits(forward: Callable[[], torch.Tensor]) -> str:
    """Whether a forward makes the host wait for the device."""
    if not torch.cuda.is_available():
        return "not measured"
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        forward()
    except RuntimeError as error:
        return f"waits: {error}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "never"


class Clock:
    """Milliseconds between two points, by CUDA events where there are any."""

    def __init__(self) -> None:
        self.on_gpu = torch.cuda.is_available()

    def now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        if not self.on_gpu:
            return 1000 * float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end))


@contextmanager
def naive(transformer: nn.Module, dims: tuple[int, ...]) -> Iterator[None]:
    """Steering as one would first write it: a clone of the hidden states and a full-size where."""
    spec = find_spec(transformer)
    masks: dict[torch.Size, torch.Tensor] = {}
    grids: list[TokenGrid] = []

    def see_grid(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        grids[:] = [spec.video_tokens(module.config, kwargs).grid]

    def hook(block: nn.Module, args: Any, output: Any) -> Any:
        hidden = output if spec.tokens.video_output is None else output[0]
        if hidden.shape not in masks:
            mask = torch.zeros(hidden.shape[1:], dtype=torch.bool, device=hidden.device)
            rows = grids[0].mask(("first_frame", "boundary"), 0.08, hidden.device)
            for dim in dims:
                mask[:, dim] = rows
            masks[hidden.shape] = mask
        hidden = hidden.clone()
        target = hidden.abs().amax(1, keepdim=True) * hidden.sign()
        steered = torch.where(masks[hidden.shape], target, hidden)
        return steered if spec.tokens.video_output is None else (steered, *output[1:])

    hooks = [block.register_forward_hook(hook) for block in spec.blocks(transformer)]
    hooks.append(transformer.register_forward_pre_hook(see_grid, with_kwargs=True))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def without_triton(attach: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """The plain torch operations in place of the fused kernels."""
    with (
        mock.patch.object(stas.method.operators, "has_triton", lambda device: False),
        mock.patch.object(stas.activations.sums, "has_triton", lambda device: False),
        attach(),
    ):
        yield


def check_kernels() -> dict[str, int]:
    """Cases in which the fused steering differs by a bit from the plain operations."""
    generator = torch.Generator("cuda").manual_seed(0)
    compared = differing = 0
    for dtype, (batch, count), layout, reference, scale, spoil in itertools.product(
        (torch.bfloat16, torch.float16, torch.float32),
        ((1, 1), (2, 1023), (3, 5000)),
        ("contiguous", "channel-major", "slice"),
        ("dim", "global"),
        (1.0, 0.7, 1.3, 1e6),
        ("", "zeros", "nan", "inf"),
    ):
        hidden = torch.randn(batch, count + 5, 64, generator=generator, device="cuda") * 50
        hidden = hidden.to(dtype)
        if layout == "channel-major":
            hidden = hidden.transpose(1, 2).contiguous().transpose(1, 2)
        hidden = hidden[:, 5:] if layout == "slice" else hidden[:, :count]
        if spoil:
            hidden[0, ::7, 3] = {"zeros": 0.0, "nan": math.nan, "inf": math.inf}[spoil]
        tokens = torch.rand(count, generator=generator, device="cuda") < 0.3
        options: dict[str, Any] = {"op": "max", "scale": scale, "reference": reference}
        fused = steer_tokens_(hidden.clone(), tokens, (3, 60), **options)
        with without_triton(nullcontext):
            plain = steer_tokens_(hidden.clone(), tokens, (3, 60), **options)
        compared += 1
        differing += not torch.equal(fused.nan_to_num(1e9), plain.nan_to_num(1e9))
    return {"compared": compared, "differing": differing}


def cost(
    transformer: nn.Module,
    forward: Callable[[], torch.Tensor],
    dims: tuple[int, ...],
    runs: int,
    thorough: bool,
) -> dict[str, Any]:
    """Time and peak memory of one forward, each variant in turn."""
    variants: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "plain": nullcontext,
        "steered, all blocks": functools.partial(
            stas.steer, transformer, dims=dims, blocks="all", scale=1.3
        ),
        "steered, middle block": functools.partial(
            stas.steer, transformer, dims=dims, blocks="middle", scale=1.3
        ),
        "naive, all blocks": functools.partial(naive, transformer, dims),
        "recorded, all blocks": functools.partial(stas.record, transformer),
    }
    if thorough:
        variants["plain again"] = nullcontext
        for name in ("steered, all blocks", "recorded, all blocks"):
            variants[f"{name}, without Triton"] = functools.partial(without_triton, variants[name])
    clock = Clock()
    milliseconds: dict[str, list[float]] = {name: [] for name in variants}
    peak: dict[str, float] = {}
    for number in range(-1, runs):
        for name in list(variants) if number % 2 else reversed(list(variants)):
            with variants[name]():
                if clock.on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                start = clock.now()
                forward()
                taken = clock.between(start, clock.now())
            if number >= 0:
                milliseconds[name].append(taken)
            if clock.on_gpu:
                peak[name] = torch.cuda.max_memory_allocated() / 2**20
    plain = milliseconds["plain"]
    inside = {
        "steered, all blocks": seconds_inside(TransformerSteering, variants, clock, forward),
        "recorded, all blocks": seconds_inside(TransformerRecording, variants, clock, forward),
    }
    return {
        "milliseconds": {name: statistics.median(values) for name, values in milliseconds.items()},
        "runs": runs,
        "paired percent": {
            name: 100 * (statistics.median(a / b for a, b in zip(values, plain, strict=True)) - 1)
            for name, values in milliseconds.items()
            if name != "plain"
        },
        "inside percent": {
            name: 100 * value / statistics.median(plain) for name, value in inside.items()
        },
        "peak MiB": peak,
    }


def seconds_inside(
    owner: type[TransformerSteering] | type[TransformerRecording],
    variants: dict[str, Callable[[], AbstractContextManager[Any]]],
    clock: Clock,
    forward: Callable[[], torch.Tensor],
) -> float:
    """Milliseconds of one forward between events around each `act`."""
    spans: list[tuple[Any, Any]] = []
    act = owner.act

    def timed(*args: Any) -> None:
        start = clock.now()
        act(*args)
        spans.append((start, clock.now()))

    name = "steered, all blocks" if owner is TransformerSteering else "recorded, all blocks"
    totals = []
    with mock.patch.object(owner, "act", timed), variants[name]():
        for _ in range(3):
            spans.clear()
            forward()
            totals.append(sum(clock.between(*span) for span in spans))
    return statistics.median(totals)


def one_steer(size: Size, dims: tuple[int, ...], device: str) -> dict[str, Any]:
    """Kernels, bytes and time of steering one block's output, next to clone and where."""
    frames, height, width = size.latents
    grid = TokenGrid(frames, height // 2, width // 2)
    features = size.heads * size.head_dim
    hidden = torch.randn(1, grid.num_tokens, features, dtype=torch.bfloat16, device=device)
    tokens = grid.mask(("first_frame", "boundary"), 0.08, device)
    wide = tokens[:, None] & torch.zeros(features, dtype=torch.bool, device=device).index_fill(
        0, torch.tensor(dims, device=device), True
    )

    def steer() -> None:
        steer_tokens_(hidden, tokens, dims, op="max", scale=1.3, reference="dim")

    def clone_and_where() -> None:
        copy = hidden.clone()
        hidden.copy_(torch.where(wide, copy.abs().amax(1, keepdim=True) * copy.sign(), copy))

    result: dict[str, Any] = {
        "values read and written, bytes": 2 * 2 * grid.num_tokens * len(dims),
        "32-byte sectors touched, bytes": 2 * 32 * grid.num_tokens * len(dims),
        "hidden states, bytes": 2 * hidden.numel(),
    }
    clock = Clock()

    def steer_without_triton() -> None:
        with without_triton(nullcontext):
            steer()

    for name, call in (
        ("steer", steer),
        ("steer without Triton", steer_without_triton),
        ("clone and where", clone_and_where),
    ):
        for _ in range(3):
            call()
        spans = []
        for _ in range(50):
            start = clock.now()
            call()
            spans.append((start, clock.now()))
        result[f"{name}, ms"] = statistics.median(clock.between(*span) for span in spans)
        if clock.on_gpu:
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                call()
                torch.cuda.synchronize()
            kernels = [e for e in profiler.events() if e.device_type.name == "CUDA"]
            result[f"{name}, kernels"] = len(kernels)
            result[f"{name}, kernel microseconds"] = sum(e.device_time for e in kernels)
    return result


def compiled(
    transformer: nn.Module, forward: Callable[[], torch.Tensor], dims: tuple[int, ...], runs: int
) -> dict[str, Any]:
    """Blocks compiled one by one: steered steps next to steps that are not steered."""
    transformer.compile_repeated_blocks(fullgraph=True)
    clock = Clock()
    with stas.steer(transformer, dims=dims, blocks="all", scale=1.3, stop=0.5) as handle:
        milliseconds: dict[str, list[float]] = {"plain": [], "steered": []}
        for number in range(-3, runs):
            for name, step in (("plain", 1), ("steered", 0)):
                handle.set_step(step, 2)
                start = clock.now()
                forward()
                taken = clock.between(start, clock.now())
                if number >= 0:
                    milliseconds[name].append(taken)
    pairs = zip(milliseconds["steered"], milliseconds["plain"], strict=True)
    return {
        "milliseconds": {name: statistics.median(values) for name, values in milliseconds.items()},
        "paired percent": 100 * (statistics.median(a / b for a, b in pairs) - 1),
    }


def graphs(
    transformer: nn.Module, forward: Callable[[], torch.Tensor], dims: tuple[int, ...], runs: int
) -> dict[str, Any]:
    """The same from two captured CUDA graphs, and whether a replay gives the same bits."""
    found: dict[str, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
    expected: dict[str, torch.Tensor] = {}
    for name, options in (("plain", None), ("steered", {"blocks": "all", "scale": 1.3})):
        with stas.steer(transformer, dims=dims, **options) if options else nullcontext():
            expected[name] = forward().clone()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = forward()
            found[name] = graph, output
    clock = Clock()
    milliseconds: dict[str, list[float]] = {name: [] for name in found}
    for number in range(-2, runs):
        for name, (graph, _) in found.items():
            start = clock.now()
            graph.replay()
            taken = clock.between(start, clock.now())
            if number >= 0:
                milliseconds[name].append(taken)
    pairs = zip(milliseconds["steered"], milliseconds["plain"], strict=True)
    return {
        "milliseconds": {name: statistics.median(values) for name, values in milliseconds.items()},
        "paired percent": 100 * (statistics.median(a / b for a, b in pairs) - 1),
        "same bits as eager": {
            name: torch.equal(output, expected[name]) for name, (_, output) in found.items()
        },
    }


def machine() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"device": "CPU, a dry run"}
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": str(torch.version.cuda),
        "driver": subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        ).stdout.strip(),
        "triton": version("triton"),
        "diffusers": version("diffusers"),
    }


def attempt(what: Callable[[], Any]) -> Any:
    """The result, or why there is none: one part that fails leaves the others."""
    try:
        return what()
    except Exception as error:
        return f"did not run: {type(error).__name__}: {error}"[:500]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not options.small else "cpu"
    dims = SMALL_DIMS if options.small else DIMS
    result: dict[str, Any] = {"on": machine()}
    if device == "cuda":
        result["fused steering against plain operations"] = attempt(check_kernels)
    for name in options.models:
        result[name] = measure(name, device, dims, options)
        report("gpu", result, options.output)  # after each model: a later one may fail
        if device == "cuda":
            torch.cuda.empty_cache()


def measure(
    name: str, device: str, dims: tuple[int, ...], options: argparse.Namespace
) -> dict[str, Any]:
    """Everything about one model."""
    begin = time.perf_counter()
    transformer, forward = build(name, device, options.small)
    size = SMALL if options.small else SIZES[name]
    entry: dict[str, Any] = {"check": attempt(lambda: check(transformer, forward, dims))}
    wait = {"plain": attempt(lambda: waits(forward))}
    with stas.steer(transformer, dims=dims, blocks="all"):
        forward()
        wait["steered"] = attempt(lambda: waits(forward))
    with stas.record(transformer):
        forward()
        wait["recorded"] = attempt(lambda: waits(forward))
    entry["waits for the device"] = wait
    first = name == options.models[0]  # the rest would cost minutes and tell little more
    entry["cost"] = attempt(lambda: cost(transformer, forward, dims, options.runs, first))
    entry["one steer"] = attempt(lambda: one_steer(size, dims, device))
    if first:
        if device == "cuda":
            entry["cuda graphs"] = attempt(
                lambda: graphs(transformer, forward, dims, options.runs // 2)
            )
        entry["compile_repeated_blocks"] = attempt(
            lambda: compiled(transformer, forward, dims, options.runs // 2)
        )
    entry["seconds for all of this"] = time.perf_counter() - begin
    return entry


if __name__ == "__main__":
    main()
