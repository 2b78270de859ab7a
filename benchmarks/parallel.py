"""Steering and recording where processes share a video's tokens: exactness and cost.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.parallel [--kinds ulysses ring]
        [--models wan2.1-1.3b] [--rounds 20] [--output FILE] [--small]

Random weights with three massive dimensions, bfloat16, one process a GPU. Each process also runs
the whole model by itself: "difference" is the largest of any process's output to that, beside
"split alone", what context parallelism changes without steering, and "steering", what that changes.
"same hidden states" is the rule alone, which must be 0. Timed are whole forwards between CUDA
events, interleaved in one process: "paired percent" is the median over rounds of the variant's
time over the plain one's of the same round, minus 1; the same for a second plain run is the noise.
"inside" is the time between events around what is added to a steered block, the wait for others in
it. The bundled pipeline is made by all processes and by each alone.

`--small` runs the same with small sizes, on a CPU by gloo where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, WanPipeline
from torch import nn

import stas
from benchmarks.gpu import SIZES, SMALL, Size, wan
from stas.files import whole_file
from stas.hooks.steer import TransformerSteering
from stas.method.operators import steer_tokens_
from stas.method.shards import Split, TokenGroup
from stas.method.tokens import TokenGrid

DIMS = (3, 7, 11)
KINDS = {
    "ulysses": lambda size: {"ulysses_degree": size},
    "ring": lambda size: {"ring_degree": size},
}


def largest(value: torch.Tensor) -> float:
    """The largest value over the processes."""
    found = value.detach().float().abs().max().reshape(1)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found.item())


def the_rule(size: Size, device: torch.device) -> dict[str, float]:
    """The same hidden states, whole and in shards."""
    frames, rows, columns = size.latents
    grid, group = TokenGrid(frames, rows // 2, columns // 2), TokenGroup.over(None)
    split = Split(group, grid.num_tokens)
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(2, grid.num_tokens, 64, generator=generator, device=device)
    hidden = hidden.to(torch.bfloat16)
    mask = grid.mask(("first_frame", "boundary"), 0.08, device)
    shard = split.shard(len(mask.tensor_split(group.size)[group.rank]))
    here = slice(shard.start, shard.stop)
    found = {}
    for op in ("max", "mean"):
        for reference in ("dim", "global"):
            options: dict[str, Any] = {"op": op, "scale": 1.5, "reference": reference}
            whole = steer_tokens_(hidden.clone(), mask, DIMS, **options)
            mine = hidden[:, here].clone()
            steer_tokens_(mine, mask[here], DIMS, **options, split=split)
            found[f"{op}, {reference}"] = largest(mine - whole[:, here])
    return found


def transformers(size: Size, device: torch.device) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """A model for each process alone and the same to be split, and a forward's arguments."""
    models, before = [], torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        for _ in range(2):
            torch.manual_seed(0)
            with device:
                model, call = wan(size, str(device), per_token=False)
            for dim, value in zip(DIMS, (60.0, -90.0, 200.0), strict=True):
                model.patch_embedding.bias[dim] += value
            models.append(model.eval())
    finally:
        torch.set_default_dtype(before)
    return models[0], models[1], call


def exactness(one: nn.Module, many: nn.Module, call: dict[str, Any]) -> dict[str, Any]:
    """The largest differences between the split model and the whole one."""
    plain, split = one(**call)[0], many(**call)[0]
    found: dict[str, Any] = {"split alone": largest(split - plain), "outputs up to": largest(plain)}
    for name, options in {
        "middle block": {"dims": DIMS},
        "all blocks": {"dims": DIMS, "blocks": "all"},
        "all blocks, global": {"dims": DIMS, "blocks": "all", "reference": "global"},
        "all blocks, mean": {"dims": DIMS, "blocks": "all", "op": "mean"},
        "detected, all blocks": {"blocks": "all"},
    }.items():
        outputs, dims = [], []
        for model in (one, many):
            with stas.steer(model, **options) as handle:
                for step in range(2):
                    handle.set_step(step, 10)
                    output = model(**call)[0]
                outputs.append(output)
                dims.append(handle.dims)
        found[name] = {
            "difference": largest(outputs[1] - outputs[0]),
            "steering": largest(outputs[0] - plain),
            "dims alike": dims[0] == dims[1],
        }
    stats = []
    for model in (one, many):
        with stas.record(model) as recording:
            model(**call)
        stats.append(recording.stats.pooled())
    whole, parts = stats
    found["recorded, relative"] = {
        name: float(((theirs - mine).abs() / mine.abs().clamp(min=1e-6)).max())
        for name, mine, theirs in (
            ("mean |h|", whole.mean_abs, parts.mean_abs),
            ("mean h^2", whole.mean_square, parts.mean_square),
            ("maximum", whole.max_abs, parts.max_abs),
        )
    }
    return found


def milliseconds(device: torch.device, run: Callable[[], Any]) -> float:
    dist.barrier()
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def cost(model: nn.Module, call: dict[str, Any], device: torch.device, rounds: int) -> Any:
    """Forwards in turn; medians, and what each variant adds."""
    variants: dict[str, Callable[[], Any]] = {
        "plain": nullcontext,
        "plain again": nullcontext,
        "steered, middle block": lambda: stas.steer(model, dims=DIMS),
        "steered, all blocks": lambda: stas.steer(model, dims=DIMS, blocks="all"),
        "recorded": lambda: stas.record(model),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 2):
        for name, attach in variants.items():
            with attach():
                model(**call)  # kernels are compiled, masks made, and the processes agree
                took = milliseconds(device, lambda: model(**call))
            if number >= 2:
                times[name].append(took)
    with stas.steer(model, dims=DIMS, blocks="all"), timed_inside(device) as inside:
        for _ in range(rounds + 1):
            model(**call)
        took = inside()
    few = torch.zeros(2, len(DIMS), device=device)
    result: dict[str, Any] = {
        name: {
            "ms": round(statistics.median(each), 3),
            "paired percent": round(
                100
                * (statistics.median(a / b for a, b in zip(each, times["plain"], strict=True)) - 1),
                3,
            ),
        }
        for name, each in times.items()
    }
    of_a_block = statistics.median(took[len(took) // (rounds + 1) :])
    result["inside a steered block, ms"] = round(of_a_block, 4)
    result["inside percent, all blocks"] = round(
        100 * of_a_block * len(took) / (rounds + 1) / result["plain"]["ms"], 3
    )
    reduce = [milliseconds(device, lambda: dist.all_reduce(few)) for _ in range(50)]
    result["one all-reduce of 24 bytes, ms"] = round(statistics.median(reduce), 4)
    return result


@contextmanager
def timed_inside(device: torch.device) -> Iterator[Callable[[], list[float]]]:
    """Between events around what is added to each steered block: milliseconds, one a block."""
    act, pairs = TransformerSteering.act, []

    def marked(*args: Any) -> Any:
        if device.type == "cuda":
            pair = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
            pair[0].record()
            found = act(*args)
            pair[1].record()
            pairs.append(pair)
        else:
            started = time.perf_counter()
            found = act(*args)
            pairs.append(1e3 * (time.perf_counter() - started))
        return found

    def milliseconds_inside() -> list[float]:
        if device.type != "cuda":
            return pairs
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairs]

    with mock.patch.object(TransformerSteering, "act", marked):
        yield milliseconds_inside


def pipeline(kind: str, device: torch.device) -> dict[str, Any]:
    """The bundled pipeline, detection included: split, and by each process alone."""
    made = []
    for split in (False, True):
        pipe = WanPipeline.from_pretrained(stas.BUNDLED_MODEL).to(device)
        pipe.set_progress_bar_config(disable=True)
        pipe.transformer.set_attention_backend("native")  # the last one set is all models' own
        pipe.transformer.config["_name_or_path"] = ""  # no profile: the dimensions are detected
        if split:
            parallelise(pipe.transformer, kind)
        latents = []
        for steered in (False, True):
            with stas.steer(pipe, blocks="all", scale=1.2) if steered else nullcontext() as handle:
                video = pipe(
                    "a red circle moving right on a blue background",
                    width=128,
                    height=128,
                    num_frames=29,
                    num_inference_steps=10,
                    output_type="latent",
                    generator=torch.Generator().manual_seed(0),
                )
            latents.append(video.frames)
        made.append((latents, handle.dims, handle.steered_forwards))
    (whole, *facts), (parts, *theirs) = made
    return {
        "split alone": largest(parts[0] - whole[0]),
        "difference": largest(parts[1] - whole[1]),
        "steering": largest(whole[1] - whole[0]),
        "dims and counts alike": facts == theirs,
        "dims": list(theirs[0]["transformer"] or ()),
    }


def parallelise(transformer: Any, kind: str) -> None:
    degrees = KINDS[kind](dist.get_world_size())
    if kind == "ring" and torch.cuda.is_available():
        transformer.set_attention_backend("_native_cudnn")  # one that gives the log-sum-exp
    transformer.enable_parallelism(config=ContextParallelConfig(**degrees))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["ulysses", "ring"])
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=["wan2.1-1.3b"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        torch.accelerator.device_count = lambda: 1  # diffusers takes the rank modulo that
        dist.init_process_group("gloo")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "processes": dist.get_world_size(),
        "versions": {name: version(name) for name in ("torch", "diffusers")},
    }
    for name in ["small"] if options.small else options.models:
        size = SMALL if options.small else SIZES[name]
        result[name] = {"same hidden states": the_rule(size, device)}
        for kind in options.kinds:
            one, many, call = transformers(size, device)
            parallelise(many, kind)
            if kind == "ring" and cuda:
                one.set_attention_backend("_native_cudnn")
            result[name][kind] = {
                "exactness": exactness(one, many, call),
                "cost": cost(many, call, device, options.rounds),
            }
            del one, many
            tell(result, options.output)
    result["bundled pipeline"] = {
        kind: pipeline(kind, device) for kind in options.kinds if kind == "ulysses"
    }
    tell(result, options.output)
    dist.barrier()
    dist.destroy_process_group()


def tell(result: dict[str, Any], output: Path | None) -> None:
    """Print and write what is known so far, by the first process."""
    if dist.get_rank() == 0:
        text = json.dumps(result, indent=2)
        print(text, flush=True)
        if output is not None:
            with whole_file(output) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
