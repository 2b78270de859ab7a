"""Tokens that are split over processes: as steered and recorded as in one process.

Each test starts processes that run one of the functions here with gloo on the CPU and compare with
what the same process computes alone. diffusers itself runs Ulysses attention alone there; `on_cpu`
lends it what ring attention and uneven parts need.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

import stas
from stas.method.operators import steer_tokens_
from stas.method.shards import Shard, Split, TokenGroup
from stas.method.tokens import TokenGrid, VideoTokens
from tests.tiny import plant_massive_dimension, tiny_wan, tiny_wan_transformer
from tests.zoo import all_tinies

KINDS = {
    "ulysses": {"ulysses_degree": 2},
    "ring": {"ring_degree": 2},
    "ulysses_anything": {"ulysses_degree": 2, "ulysses_anything": True},
    "ring_anything": {"ring_degree": 2, "ring_anything": True},
}


def run_cases(size):
    """All that `CASES` names for so many processes: by case, what went wrong in any of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hooks.test_parallel"],
            cwd=Path(__file__).parents[2],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        texts = [process.communicate(timeout=400) for process in running]
    finally:
        for process in running:
            process.kill()
    found = {}
    for process, (out, errors) in zip(running, texts, strict=True):
        assert process.returncode == 0, errors[-3000:]
        for case, error in json.loads(out.splitlines()[-1]).items():
            found[case] = found.get(case, "") + error
    return found


# What the processes run.


def on_cpu():
    """What diffusers' context parallelism lacks on a CPU: ranks, log-sum-exp, uneven gathering."""
    from diffusers.hooks import context_parallel
    from diffusers.models import attention_dispatch as dispatch

    torch.accelerator.device_count = lambda: 1
    plain = dispatch._native_attention_forward_op

    def attention(
        ctx, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None,
        enable_gqa=False, return_lse=False, _save_ctx=True, _parallel_config=None,
    ):  # fmt: skip
        if not return_lse:
            rest = (attn_mask, dropout_p, is_causal, scale, enable_gqa, return_lse, _save_ctx)
            return plain(ctx, query, key, value, *rest, _parallel_config)
        q, k, v = (each.permute(0, 2, 1, 3).float() for each in (query, key, value))
        scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
        lse = scores.logsumexp(-1)
        out = (scores - lse[..., None]).exp() @ v
        return out.permute(0, 2, 1, 3).to(query.dtype), lse.permute(0, 2, 1)

    def gather(tensor, dim, group):
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
        dist.all_gather(lengths, torch.tensor([tensor.shape[dim]]), group=group)
        longest = int(max(lengths))
        shape = list(tensor.shape)
        shape[dim] = longest - shape[dim]
        padded = torch.cat([tensor, tensor.new_zeros(shape)], dim).contiguous()
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=group)
        return torch.cat(
            [p.narrow(dim, 0, int(n)) for p, n in zip(parts, lengths, strict=True)], dim
        )

    dispatch._native_attention_forward_op = attention
    context_parallel._all_gather_anything = gather


def the_rule():
    """The same hidden states, whole and in shards: no bit differs."""
    group = TokenGroup.over(None)
    for place, lead, extra in (("all", 1, 0), ("head", 0, 7), ("tail", 0, 5)):
        video = VideoTokens(TokenGrid(3, 2, 5), 2, place, lead)
        total = (lead + 3) * 10 + extra
        split = Split(group, total)
        hidden = torch.randn(2, total, 12, generator=torch.Generator().manual_seed(0))
        hidden[1, -1, 9] *= 40
        for dtype in (torch.float32, torch.bfloat16):
            states = hidden.to(dtype)
            mine = states.tensor_split(group.size, 1)[group.rank].clone()
            shard = split.shard(mine.shape[1])
            part = video.part(shard)
            mask = video.grid.mask(("first_frame", "boundary"), 0.2)
            for op, reference in (
                ("max", "dim"),
                ("max", "global"),
                ("scale", "dim"),
                ("mean", "dim"),
            ):
                options = {"op": op, "scale": 1.5, "reference": reference}
                whole, here = states.clone(), mine.clone()
                steer_tokens_(video.of(whole), mask, (3, 9), **options)
                own = video.of(here, "BND", shard)
                steer_tokens_(own, mask[part.start : part.stop], (3, 9), **options, split=split)
                wanted = whole.tensor_split(group.size, 1)[group.rank]
                if op == "mean":  # a sum in another order
                    torch.testing.assert_close(here, wanted, rtol=1e-2, atol=1e-2)
                else:
                    assert torch.equal(here, wanted), (place, dtype, op)
    hidden[0, -1 if extra == 0 else 0, 3] = float("nan")
    magnitudes = torch.tensor([float("nan") if group.rank == group.size - 1 else 1.0, 2.0])
    assert group.maximum_(magnitudes)[0].isnan() and magnitudes[1] == 2.0


def inputs(uneven=False):
    frames, rows, columns = (3, 6, 6) if uneven else (4, 8, 8)
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, frames, rows, columns, generator=generator),
        "encoder_hidden_states": torch.randn(2, 6, 16, generator=generator),
        "timestep": torch.tensor([500.0, 500.0]),
        "return_dict": False,
    }


def pair(kind):
    """A transformer that each process has whole, and the same one split over them."""
    size = dist.get_world_size()
    models = [tiny_wan_transformer(), tiny_wan_transformer()]
    for model in models:
        plant_massive_dimension(model, 5, 1000.0)
    degrees = {k: size if k.endswith("degree") else v for k, v in KINDS[kind].items()}
    return models, degrees


def near(split, whole, plain_split, plain_whole):
    """No further apart than splitting alone makes them, times a few."""
    allowed = 4 * (plain_split - plain_whole).abs().max() + 1e-5 * plain_whole.abs().max()
    assert (split - whole).abs().max() <= allowed, ((split - whole).abs().max(), allowed)


@torch.no_grad()
def steering(kind):
    """Given and detected dimensions, one and all blocks, attached before and after the split."""
    (one, many), degrees = pair(kind)
    call = inputs(uneven="anything" in kind)
    for options in (
        {"dims": (5, 9), "blocks": "all"},
        {"dims": (5, 9), "blocks": "middle", "reference": "global", "scale": 1.5},
        {"dims": (5,), "blocks": "all", "op": "mean"},
        {"blocks": "all"},
    ):
        for before in (True, False) if options["blocks"] == "middle" else (False,):
            results, dims = [], []
            if before:
                early = stas.steer(many, **options)
            if getattr(many, "_parallel_config", None) is None:
                many.enable_parallelism(config=ContextParallelConfig(**degrees))
            if before:
                early.remove()
            for model in (one, many):
                plain = model(**call)[0]
                with stas.steer(model, **options) as handle:
                    for step in range(2):
                        handle.set_step(step, 10)
                        steered = model(**call)[0]
                    results.append((plain, steered))
                    dims.append(handle.dims["transformer"])
                    assert handle.steered_forwards["transformer"] == (2 if "dims" in options else 1)
                assert torch.equal(model(**call)[0], plain)
            (plain, steered), (plain_split, steered_split) = results
            assert not torch.allclose(steered, plain)
            near(steered_split, steered, plain_split, plain)
            assert dims[0] == dims[1]


@torch.no_grad()
def attached_first():
    """Steered before `enable_parallelism`: the group is found in the next forward."""
    (one, many), degrees = pair("ulysses")
    call = inputs()
    handle = stas.steer(many, dims=(5,), blocks="all")
    first = many(**call)[0]
    many.enable_parallelism(config=ContextParallelConfig(**degrees))
    with stas.steer(one, dims=(5,), blocks="all"):
        whole = one(**call)[0]
    assert torch.equal(first, whole)
    assert (many(**call)[0] - whole).abs().max() < 1e-3
    handle.remove()


@torch.no_grad()
def compiled():
    """The collective lies in the graph of each block."""
    (one, many), degrees = pair("ulysses")
    many.enable_parallelism(config=ContextParallelConfig(**degrees))
    with stas.steer(one, dims=(5,), blocks="all"):
        whole = one(**inputs())[0]
    with stas.steer(many, dims=(5,), blocks="all") as handle:
        for block in many.blocks:
            block.compile(backend="eager")
        for _ in range(2):
            split = many(**inputs())[0]
    assert (split - whole).abs().max() < 1e-3
    assert handle.steered_forwards == {"transformer": 2}


@torch.no_grad()
def recording(kind):
    """All statistics and maps are of all tokens, on every process."""
    (one, many), degrees = pair(kind)
    many.enable_parallelism(config=ContextParallelConfig(**degrees))
    call = inputs(uneven="anything" in kind)
    found = []
    for model in (one, many):
        options = {"map_blocks": (0, 2), "map_dims": (5, 9), "boundary": 0.2}
        with stas.record(model, **options) as handle:
            for step in range(2):
                handle.set_step(step, 2)
                model(**call)
        found.append(handle.stats)
    whole, split = found
    assert split.samples == whole.samples and set(split.cells) == set(whole.cells)
    for key, cell in whole.cells.items():
        for name, values in cell.arrays().items():
            theirs = split.cells[key].arrays()[name]
            if name in ("count", "nonfinite"):
                assert torch.equal(theirs, values)
            else:
                torch.testing.assert_close(theirs, values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(split.surface.mean, whole.surface.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(split.token_map.mean, whole.token_map.mean, rtol=1e-3, atol=1e-3)
    assert split.token_map.count.equal(whole.token_map.count)


@torch.no_grad()
def every_class():
    """Those with a plan of diffusers' that diffusers itself runs on the tiny model."""
    tinies = all_tinies()
    for name in ("wan", "wan ti2v", "wan i2v", "lucy edit", "chrono edit"):
        call = tinies[name].inputs((4, 4, 4), 2) | {"return_dict": False}
        models, results = [tinies[name].transformer() for _ in range(2)], []
        models[1].enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        for model in models:
            plain = model(**call)[0]
            with (
                stas.steer(model, dims=(1, 2), blocks="all", scale=2.0),
                stas.record(model) as recorded,
            ):
                results.append((plain, model(**call)[0], recorded.stats.pooled().mean_abs))
        (plain, steered, means), (plain_split, steered_split, means_split) = results
        assert not torch.allclose(steered, plain)
        near(steered_split, steered, plain_split, plain)
        torch.testing.assert_close(means_split, means, rtol=1e-4, atol=1e-4)


def pipeline():
    """A whole pipeline, detection and guidance included."""
    made = []
    for split in (False, True):
        pipe = tiny_wan()
        pipe.set_progress_bar_config(disable=True)
        plant_massive_dimension(pipe.transformer, 5, 1000.0)
        if split:
            pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        with stas.steer(pipe, blocks="all", stop=0.8) as handle, stas.record(pipe) as recorded:
            latents = pipe(
                "a red circle",
                height=32,
                width=32,
                num_frames=13,
                num_inference_steps=6,
                output_type="latent",
                max_sequence_length=16,
                generator=torch.Generator().manual_seed(0),
            ).frames
        made.append((latents, handle.dims, handle.steered_forwards, recorded.stats.samples))
    (whole, *facts), (split, *split_facts) = made
    assert facts == split_facts
    assert (split - whole).abs().max() < 1e-2 * whole.abs().max()


@torch.no_grad()
def other_engine(padded):
    """Another package splits the tokens between the blocks, and the group is given."""
    size, rank = dist.get_world_size(), dist.get_rank()
    model = tiny_wan_transformer()
    call = inputs(uneven=True)
    with stas.steer(model, dims=(5,), blocks=(0,)):
        steered = []
        hook = model.blocks[0].register_forward_hook(lambda m, a, out: steered.append(out.clone()))
        model(**call)
        hook.remove()
    block = model.blocks[0]
    whole = type(block).forward

    def forward(*args, **kwargs):
        tokens = whole(block, *args, **kwargs)
        if padded == "padded":
            extra = -tokens.shape[1] % size
            tokens = torch.cat([tokens, tokens.new_full((2, extra, tokens.shape[2]), 1e6)], 1)
        return tokens.tensor_split(size, 1)[rank].contiguous()

    block.forward = forward
    parts = []
    with stas.steer(model, dims=(5,), blocks=(0,), group=dist.group.WORLD):
        block.register_forward_hook(lambda m, a, out: parts.append(out.clone()))
        try:
            model(**call)
        except Exception:  # what follows the block can't do with a part of the tokens
            assert parts
    shard = Shard.of(parts[0].shape[1], 27, rank, size)
    mine = steered[0][:, shard.start : shard.stop]
    assert torch.equal(parts[0][:, : mine.shape[1]], mine)


@torch.no_grad()
def unequal_inputs():
    """Another size on one process: an error on all of them, and nobody waits."""
    model = tiny_wan_transformer()
    call = inputs()
    if dist.get_rank() == 1:
        call["hidden_states"] = call["hidden_states"][:, :, :, :, :6]
    error = pytest.raises(RuntimeError, match="must be given the same inputs")
    with stas.steer(model, dims=(5,), group=dist.group.WORLD), error:
        model(**call)


def not_understood():
    """Said before the first forward, on every process."""
    tiny = all_tinies()["latte"]
    with stas.steer(tiny.transformer(), dims=(1,), group=dist.group.WORLD) as handle:
        model = handle._steerings["transformer"].transformer
        with pytest.raises(RuntimeError, match="fold axes"):
            model(**tiny.inputs(tiny.grids[0], 1))
    model = tiny_wan_transformer()
    error = pytest.raises(RuntimeError, match="neither an equal part")
    with stas.steer(model, dims=(5,), group=dist.group.WORLD, blocks=(0,)), error:
        model(**inputs())  # whole, where a part was to be expected
    with stas.steer(model, dims=(5,)), pytest.raises(TypeError, match="ProcessGroup"):
        stas.steer(tiny_wan_transformer(), dims=(5,), group=2)
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    with stas.steer(model, dims=(5,), group=alone), torch.no_grad():
        model(**inputs())  # a group of one splits nothing


def training():
    (_, many), degrees = pair("ulysses")
    many.enable_parallelism(config=ContextParallelConfig(**degrees))
    error = pytest.raises(RuntimeError, match="Gradients through")
    with stas.steer(many, dims=(5,), blocks="all"), error:
        many(**inputs())


CASES = {
    2: {
        "the rule": the_rule,
        **{f"steered, {kind}": functools.partial(steering, kind) for kind in KINDS},
        "steered before the split": attached_first,
        "compiled": compiled,
        "recorded": functools.partial(recording, "ulysses"),
        "every class": every_class,
        "a pipeline": pipeline,
        "another engine, uneven parts": functools.partial(other_engine, "uneven"),
        "another engine, padded": functools.partial(other_engine, "padded"),
        "unequal inputs": unequal_inputs,
        "not understood": not_understood,
        "training": training,
    },
    3: {
        "the rule": the_rule,
        "steered, ring_anything": functools.partial(steering, "ring_anything"),
        "recorded": functools.partial(recording, "ring_anything"),
    },
}


# The tests.


@pytest.mark.parametrize("size", CASES)
def test_as_in_one_process_or_an_error_on_every_process(size):
    """All cases of a size in one start of the processes, which takes longer than they do."""
    found = run_cases(size)
    assert list(found) == list(CASES[size])
    assert {case: error for case, error in found.items() if error} == {}


@pytest.mark.parametrize("place", ["all", "head", "tail"])
@pytest.mark.parametrize("size", range(1, 8))
def test_shards_are_those_of_plain_indexing(place, size):
    for frames, extra, lead in ((1, 0, 0), (2, 0, 1), (3, 4, 0), (2, 9, 1)):
        video = VideoTokens(TokenGrid(frames, 2, 3), lead=lead, place=place)
        total = (lead + frames) * 6 + (0 if place == "all" else extra)
        tokens = torch.arange(total)
        wanted = tokens[-frames * 6 :] if place == "tail" else tokens[lead * 6 :][: frames * 6]
        padding = torch.full((-total % size,), -1)
        for whole in (tokens, torch.cat([tokens, padding])):
            found = []
            for rank, part in enumerate(whole.tensor_split(size)):
                shard = Shard.of(len(part), total, rank, size)
                here = video.of(part[None, :, None], "BND", shard)[0, :, 0]
                numbers = video.part(shard)
                assert torch.equal(here, wanted[numbers.start : numbers.stop])
                found.append(here)
            assert torch.equal(torch.cat(found), wanted)


def test_one_branch_a_process_is_told():
    """CFG parallelism: the first forward of a step need not be cond."""
    from tests.tiny import generate

    pipe = tiny_wan()
    plain = generate(pipe, guidance_scale=1.0)
    with stas.steer(pipe, dims=(5,), branches=("cond",), branch="uncond", scale=2.0) as handle:
        assert torch.equal(generate(pipe, guidance_scale=1.0), plain)
        assert handle.steered_forwards == {"transformer": 0}
    with stas.record(pipe, branch="uncond") as recording:
        generate(pipe, guidance_scale=1.0)
    assert {branch for _, branch in recording.stats.cells} == {"uncond"}
    with pytest.raises(ValueError, match="could detect others"):
        stas.steer(pipe, branch="uncond")
    with pytest.raises(ValueError, match="branch must be"):
        stas.steer(pipe, dims=(5,), branch="both")


def main():
    """Run the cases for as many processes as there are; what went wrong, as JSON."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    on_cpu()
    found = {}
    for case, function in CASES[dist.get_world_size()].items():
        try:
            function()
            found[case] = ""
        except BaseException:
            found[case] = traceback.format_exc()
        dist.barrier()
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
