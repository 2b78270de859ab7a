"""Steering beside the rest of diffusers: compiled, cached, offloaded, quantised, with LoRA, guided.

docs/compatibility.md says in words what these tests show.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
import threading
from pathlib import Path

import pytest
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    LayerSkipConfig,
    MagCacheConfig,
    PerturbedAttentionGuidance,
    PyramidAttentionBroadcastConfig,
    SkipLayerGuidance,
    SmoothedEnergyGuidance,
    SmoothedEnergyGuidanceConfig,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.hooks import SeaCacheConfig, TaylorSeerCacheConfig, apply_group_offloading
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanBlocks
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import stas
from stas.hooks.steer import TransformerSteering
from stas.models.table import MODELS
from tests.tiny import generate, plant_massive_dimension, tiny_wan
from tests.zoo import all_tinies

TINIES = all_tinies()
PIPELINES = {run.name: run for tiny in TINIES.values() for run in tiny.pipelines}
FAMILIES = {
    "WanTransformer3DModel": "wan text to video",
    "CogVideoXTransformer3DModel": "cogvideox",
    "HunyuanVideoTransformer3DModel": "hunyuan video t2v",
    "LTXVideoTransformer3DModel": "ltx t2v",
    "MochiTransformer3DModel": "mochi t2v",
}
BARE = {
    "WanTransformer3DModel": "wan",
    "CogVideoXTransformer3DModel": "cogvideox 1.0",
    "HunyuanVideoTransformer3DModel": "hunyuan video",
    "LTXVideoTransformer3DModel": "ltx",
    "MochiTransformer3DModel": "mochi",
}
# What each family is tested with; the rows of stas.models claim no more and no less.
COMPILED = tuple(FAMILIES)
CACHED = (*FAMILIES, "Kandinsky5Transformer3DModel", "LatteTransformer3DModel")
CACHE_PIPELINES = FAMILIES | {
    "Kandinsky5Transformer3DModel": "kandinsky 5 t2v",
    "LatteTransformer3DModel": "latte",
}
STEPS = 6
STEERING = {"dims": (1, 5), "blocks": "all", "scale": 2.0, "stop": 0.5}
families = pytest.mark.parametrize("family", FAMILIES)


def build(name):
    pipeline = PIPELINES[name].build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(name, pipeline, steps=STEPS):
    """One call with fixed noise, guided where the pipeline can be."""
    guided, unguided = PIPELINES[name].guided
    call = dict(PIPELINES[name].call) | dict(unguided if guided is None else guided)
    generator = torch.Generator().manual_seed(0)
    return pipeline(**call, num_inference_steps=steps, generator=generator).frames


def steered_run(name, pipeline, **overrides):
    with stas.steer(pipeline, **STEERING | overrides):
        return run(name, pipeline)


def test_rows_claim_the_caches_and_compilation_that_run_here():
    for name, spec in MODELS.items():
        assert ("compiled" in spec.verified) == (name in COMPILED), name
        assert ("caches" in spec.verified) == (name in CACHED), name


def test_the_document_names_tests_that_are_here():
    text = (Path(__file__).parent.parent.parent / "docs/compatibility.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 10 and named <= set(globals())


# torch.compile


class CountingBackend:
    """Runs what dynamo traced, and counts the graphs that have the model's own layers in them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += any("linear" in str(node.target) for node in graph.graph.nodes)
        return graph.forward


def compile_whole(pipeline, backend):
    pipeline.transformer = torch.compile(pipeline.transformer, backend=backend, fullgraph=True)


def compile_blocks(pipeline, backend):
    transformer = pipeline.transformer
    if transformer._repeated_blocks:
        transformer.compile_repeated_blocks(backend=backend, fullgraph=True)
    else:  # CogVideoX and Mochi name none, so diffusers refuses; this is what it would do
        for block in transformer.transformer_blocks:
            block.compile(backend=backend, fullgraph=True)


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield CountingBackend()
    torch._dynamo.reset()


BEFORE, AFTER = "compile, run, steer", "steer, compile"
# test_compile.py has Wan and CogVideoX in every order, by blocks and, with graph breaks, whole.
WAYS_TO_COMPILE = [
    *((family, compile_whole, BEFORE) for family in COMPILED),
    *((family, compile_whole, AFTER) for family in COMPILED[2:]),
    *((family, compile_blocks, order) for family in COMPILED[2:] for order in (BEFORE, AFTER)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "compile_it", "order"), WAYS_TO_COMPILE)
def test_compiled_as_full_graphs(backend, family, compile_it, order):
    """The window's end compiles once more, and no step after it."""
    name = FAMILIES[family]
    reference = build(name)
    plain, steered = run(name, reference), steered_run(name, reference)
    pipeline = build(name)
    if order == AFTER:
        handle = stas.steer(pipeline, **STEERING)
        compile_it(pipeline, backend)
    else:
        compile_it(pipeline, backend)
        run(name, pipeline)
        backend.graphs = 0
        handle = stas.steer(pipeline, **STEERING)
    step, graphs = pipeline.scheduler.step, []
    pipeline.scheduler.step = lambda *args, **kwargs: (
        graphs.append(backend.graphs),
        step(*args, **kwargs),
    )[1]
    torch.testing.assert_close(run(name, pipeline), steered, rtol=1e-3, atol=1e-4)
    inside, after = graphs[0], graphs[-1]
    assert graphs == [inside] * 3 + [after] * 3
    if compile_it is compile_whole:
        assert (inside, after) == (1, 2)
    else:  # one graph for each class of blocks and memory layout of its input
        assert 0 < after - inside <= 4
    run(name, pipeline, steps=STEPS + 3)
    assert backend.graphs == after
    pipeline.scheduler.step = step
    handle.remove()
    if order == BEFORE:  # else it would be compiled once more, only to run once
        torch.testing.assert_close(run(name, pipeline), plain, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_compiled_models_do_not_share_the_limit_of_recompiles(backend):
    """Hooks of diffusers share one code object, of which dynamo keeps 8 graphs."""
    for family in ("HunyuanVideoTransformer3DModel", "WanTransformer3DModel"):
        pipeline = build(FAMILIES[family])
        compile_blocks(pipeline, backend)  # as full graphs, so the limit is an error
        steered_run(FAMILIES[family], pipeline)


def test_what_a_full_graph_of_the_whole_model_refuses(backend):
    """Detection decides after a forward and recording copies in one: neither fits in a graph."""
    name = FAMILIES["WanTransformer3DModel"]
    for attach in (lambda target: stas.steer(target, blocks="all"), stas.record):
        pipeline = build(name)
        compile_whole(pipeline, backend)
        with attach(pipeline), pytest.raises(torch._dynamo.exc.Unsupported):
            run(name, pipeline)


# Caches


def first_block_cache(pipeline, stacks):
    return FirstBlockCacheConfig(threshold=1e9)  # all steps after the first are cached


def mag_cache(pipeline, stacks):
    return MagCacheConfig(
        mag_ratios=[1.0] * STEPS,
        num_inference_steps=STEPS,
        retention_ratio=0.17,
        threshold=10.0,
        max_skip_steps=1,
    )


def taylorseer(pipeline, stacks):
    return TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=1,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[rf"({'|'.join(stacks)})\.\d+"],  # whole blocks: where steering is
    )


def attention_broadcast(pipeline, stacks):
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=3,
        spatial_attention_timestep_skip_range=(0, 1001),
        cross_attention_timestep_skip_range=(0, 1001),
        current_timestep_callback=lambda: int(pipeline.current_timestep),
    )


def faster_cache(pipeline, stacks):
    batched = MODELS[type(pipeline.transformer).__name__].loop.guidance == "batched"
    return FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 990),
        temporal_attention_block_skip_range=2 if len(stacks) == 2 else None,
        temporal_attention_timestep_skip_range=(-1, 990),
        unconditional_batch_skip_range=3,
        unconditional_batch_timestep_skip_range=(-1, 1001),
        attention_weight_callback=lambda module: 0.3,
        tensor_format=MODELS[type(pipeline.transformer).__name__].tokens.latents,
        is_guidance_distilled=not batched,
        current_timestep_callback=lambda: int(pipeline.current_timestep),
    )


def sea_cache(pipeline, stacks):
    return SeaCacheConfig(threshold=1e9)


SKIP_BLOCKS = (first_block_cache, mag_cache, taylorseer, sea_cache)
EVERY_FAMILY = (first_block_cache, mag_cache, taylorseer, attention_broadcast)
# Where diffusers fails by itself: no cache context or current_timestep, or folded axes.
WITHOUT = {
    "Kandinsky5Transformer3DModel": (first_block_cache, taylorseer, attention_broadcast),
    "LatteTransformer3DModel": (first_block_cache, mag_cache, taylorseer),
}
CACHE_RUNS = [
    *(
        (family, cache)
        for family in CACHED
        for cache in EVERY_FAMILY
        if cache not in WITHOUT.get(family, ())
    ),
    # FasterCache wants cond and uncond in one batch, SeaCache the step in the cache context.
    ("CogVideoXTransformer3DModel", faster_cache),
    ("MochiTransformer3DModel", faster_cache),
    ("LatteTransformer3DModel", faster_cache),
    ("WanTransformer3DModel", sea_cache),
]


def enable(cache, pipeline):
    stacks = MODELS[type(pipeline.transformer).__name__].tokens.stacks
    pipeline.transformer.enable_cache(cache(pipeline, stacks))


class BlockCount:
    """Counts the blocks that are computed in steered steps, and those that are steered."""

    def __init__(self, handle, pipeline, monkeypatch):
        self.computed = self.steered = 0
        self.part = handle._steerings["transformer"]
        for block in self.part.blocks:
            next(block.children()).register_forward_hook(self.count)
        act = TransformerSteering.act

        def spy(*args):
            self.steered += 1
            return act(*args)

        monkeypatch.setattr(TransformerSteering, "act", spy)

    def count(self, *_):
        self.computed += self.part.forward is not None


@pytest.mark.parametrize(("family", "cache"), CACHE_RUNS)
def test_caches_in_either_order(family, cache, monkeypatch):
    """Alike in both orders; what is skipped is not steered; each is removed without the other."""
    name = CACHE_PIPELINES[family]
    reference = build(name)
    plain, steered = run(name, reference), steered_run(name, reference)
    enable(cache, reference)
    cached = run(name, reference)
    assert not torch.equal(cached, plain)

    first, second = build(name), build(name)
    enable(cache, first)
    handle = stas.steer(first, **STEERING)
    count = BlockCount(handle, first, monkeypatch)
    both = run(name, first)
    assert 0 < count.steered == count.computed
    blocks_steered = count.steered
    with stas.steer(uncached := build(name), **STEERING) as whole:
        run(name, uncached)
    forwards = whole.steered_forwards["transformer"]
    assert (blocks_steered < forwards * len(count.part.blocks)) == (cache in SKIP_BLOCKS)
    assert 0 < handle.steered_forwards["transformer"] <= forwards
    assert not torch.equal(both, cached) and not torch.equal(both, steered)
    assert torch.equal(run(name, first), both)
    handle.remove()
    assert torch.equal(run(name, first), cached)

    handle = stas.steer(second, **STEERING)
    enable(cache, second)
    assert torch.equal(run(name, second), both)
    second.transformer.disable_cache()
    assert torch.equal(run(name, second), steered)
    handle.remove()
    assert torch.equal(run(name, second), plain)


@pytest.mark.parametrize("branch", ["cond", "uncond"])
@pytest.mark.parametrize("family", ["CogVideoXTransformer3DModel", "LatteTransformer3DModel"])
def test_one_branch_where_faster_cache_leaves_uncond_out(family, branch, monkeypatch):
    """Its batch has the cond rows alone then: they are steered as cond and never as uncond."""
    name = CACHE_PIPELINES[family]
    pipeline, rows = build(name), []
    steer_tokens_ = stas.method.operators.steer_tokens_

    def spy(tokens, *args, **kwargs):
        rows.append(tokens.shape[0])
        return steer_tokens_(tokens, *args, **kwargs)

    monkeypatch.setattr(stas.method.steerer, "steer_tokens_", spy)
    enable(faster_cache, pipeline)
    present = []  # rows of the batch that the blocks see in each forward
    child = next(MODELS[family].blocks(pipeline.transformer)[0].children())
    child.register_forward_pre_hook(
        lambda module, args: present.append(args[0].shape[0]),
    )
    steered_run(name, pipeline, blocks=(0,), branches=(branch,), stop=1.0)
    full = max(present)
    assert present == [full, full // 2, full // 2] * 2
    assert rows == [1] * (6 if branch == "cond" else 2)


def test_faster_cache_records_the_cond_rows_as_cond():
    pipeline = build("cogvideox")
    enable(faster_cache, pipeline)
    with stas.record(pipeline) as recording:
        run("cogvideox", pipeline)
    cond, uncond = (
        int(recording.stats.pooled(branches=(branch,)).count.max()) for branch in ("cond", "uncond")
    )
    assert cond == 3 * uncond > 0


def test_a_block_that_a_cache_skips_is_not_recorded():
    name = FAMILIES["WanTransformer3DModel"]
    pipeline = build(name)
    enable(first_block_cache, pipeline)
    steered = steered_run(name, pipeline)
    with stas.record(pipeline) as recording:
        assert torch.equal(steered_run(name, pipeline), steered)
    first, *later = recording.stats.pooled().count[:, 0].tolist()
    assert [first] * len(later) == [STEPS * count for count in later]


@pytest.mark.parametrize(
    ("config", "skipped", "found"),
    [
        (  # steps 0, 1 and 5 are computed
            MagCacheConfig(
                mag_ratios=[1.0] * 6, num_inference_steps=6, retention_ratio=0.3, threshold=10.0
            ),
            3,
            (5,),
        ),
        (FirstBlockCacheConfig(threshold=1e9), 2, None),  # step 0, and the first block of the rest
    ],
)
def test_detection_waits_for_a_forward_that_no_cache_skipped(config, skipped, found):
    pipeline = tiny_wan()
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    pipeline.transformer.enable_cache(config)
    with (
        stas.steer(pipeline, blocks="all", start=0.3, stop=1.0) as handle,
        pytest.warns(UserWarning, match=f"{skipped} of the 3 blocks to read were skipped"),
    ):
        generate(pipeline, steps=6)
        assert handle.dims == {"transformer": found}


def first_tensor(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def loop(family, config, begin, *, steered):
    """Predictions of a bare transformer on inputs that do not depend on earlier ones.

    The cache is enabled before step `begin`.
    """
    tiny = TINIES[BARE[family]]
    transformer = tiny.transformer()
    handle = stas.steer(transformer, **STEERING | {"blocks": "middle"}) if steered else None
    predictions = []
    for step in range(STEPS):
        if config is not None and step == begin:
            transformer.enable_cache(config)
        inputs = tiny.inputs(tiny.grids[-1], 1)
        noise = torch.randn(
            inputs["hidden_states"].shape, generator=torch.Generator().manual_seed(step)
        )
        inputs["hidden_states"] = inputs["hidden_states"] + 0.1 * noise
        if handle is not None:
            handle.set_step(step, STEPS)
        with torch.no_grad(), transformer.cache_context("cond"):
            predictions.append(first_tensor(transformer(**inputs, return_dict=False)))
    return predictions


def mag(retention):
    return MagCacheConfig(
        mag_ratios=[1.0] * STEPS,
        num_inference_steps=STEPS,
        retention_ratio=retention / STEPS,
        threshold=10.0,
    )


def taylor(start, stacks):
    return TaylorSeerCacheConfig(
        cache_interval=10,
        disable_cache_before_step=start,
        max_order=1,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[rf"({'|'.join(stacks)})\.\d+"],
    )


def first_block(stacks):
    return FirstBlockCacheConfig(threshold=1e9)


LEAKS = {
    # name: (config for the row's stacks, the step at which it is enabled, the steps after the
    # window that are not as without steering)
    "no cache": (lambda stacks: None, 0, []),
    "first block cache": (first_block, 0, [3, 4, 5]),
    "first block cache enabled at step 3": (first_block, 3, []),
    "mag cache from step 1": (lambda stacks: mag(1), 0, [3]),
    "mag cache from step 3": (lambda stacks: mag(3), 0, [3, 4, 5]),
    "mag cache from step 4": (lambda stacks: mag(4), 0, []),
    "taylorseer from step 4": (lambda stacks: taylor(4, stacks), 0, [4]),
    "taylorseer from step 5": (lambda stacks: taylor(5, stacks), 0, []),
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("family", ["WanTransformer3DModel", "CogVideoXTransformer3DModel"])
def test_what_a_cache_keeps_of_steered_steps_shows_after_the_window(family, name):
    """Steps 0 to 2 are steered; a cache that begins late enough after them keeps nothing."""
    config, begin, leaking = LEAKS[name]
    stacks = MODELS[family].tokens.stacks
    plain = loop(family, config(stacks), begin, steered=False)
    steered = loop(family, config(stacks), begin, steered=True)
    differing = [i for i in range(STEPS) if not torch.equal(plain[i], steered[i])]
    assert differing[:1] == [0]
    assert [step for step in differing if step >= 3] == leaking


# Offloading, storage types and quantised weights


def offload_leaves(transformer):
    device = torch.device("cpu")  # the mechanism alone: there is nowhere else to go to
    apply_group_offloading(
        transformer, onload_device=device, offload_device=device, offload_type="leaf_level"
    )


def offload_blocks(transformer):
    device = torch.device("cpu")
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=device,
        offload_type="block_level",
        num_blocks_per_group=1,
    )


def store_as_float8(transformer):
    transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )


def quantise_by_torchao(transformer):
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(transformer, torchao.Int8WeightOnlyConfig())


def quantise_by_quanto(transformer):
    quanto = pytest.importorskip("optimum.quanto")
    quanto.quantize(transformer, weights=quanto.qint8)
    quanto.freeze(transformer)


@pytest.mark.parametrize("change", [offload_leaves, offload_blocks, store_as_float8])
@families
def test_offloading_and_storage_in_either_order(family, change):
    assert_either_order(FAMILIES[family], change)


@pytest.mark.parametrize("change", [quantise_by_torchao, quantise_by_quanto])
def test_quantised_weights_in_either_order(change):
    assert_either_order(FAMILIES["WanTransformer3DModel"], change)


def assert_either_order(name, change):
    changed = build(name)
    change(changed.transformer)
    plain = run(name, changed)
    handle = stas.steer(changed, **STEERING)
    steered = run(name, changed)
    assert not torch.equal(steered, plain)
    assert torch.equal(run(name, changed), steered)
    handle.remove()
    assert torch.equal(run(name, changed), plain)

    pipeline = build(name)
    handle = stas.steer(pipeline, **STEERING)
    change(pipeline.transformer)
    assert torch.equal(run(name, pipeline), steered)
    handle.remove()
    assert torch.equal(run(name, pipeline), plain)


# LoRA


def adapter_weights(name, seed):
    """A LoRA file's content for the pipeline's transformer."""
    transformer = build(name).transformer
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    torch.manual_seed(seed)
    transformer.add_adapter(config)
    weights = get_peft_model_state_dict(transformer)
    return {f"transformer.{key}": 3 * value for key, value in weights.items()}


@families
def test_lora_comes_and_goes_while_steered(family):
    name = FAMILIES[family]
    one, two = adapter_weights(name, 1), adapter_weights(name, 2)

    def close(found, expected):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    reference = build(name)
    bare, bare_steered = run(name, reference), steered_run(name, reference)
    reference.load_lora_weights(dict(one), adapter_name="one")
    plain, steered = run(name, reference), steered_run(name, reference)
    reference.load_lora_weights(dict(two), adapter_name="two")
    reference.set_adapters(["one", "two"], [0.5, 1.0])
    mixed = steered_run(name, reference)
    for found, other in ((bare, plain), (plain, steered), (steered, mixed)):
        assert not torch.allclose(found, other, atol=1e-2)

    pipeline = build(name)
    handle = stas.steer(pipeline, **STEERING)
    pipeline.load_lora_weights(dict(one), adapter_name="one")
    assert torch.equal(run(name, pipeline), steered)
    pipeline.load_lora_weights(dict(two), adapter_name="two")
    pipeline.set_adapters(["one", "two"], [0.5, 1.0])
    assert torch.equal(run(name, pipeline), mixed)
    pipeline.delete_adapters("two")
    pipeline.set_adapters(["one"])
    handle.remove()
    assert torch.equal(run(name, pipeline), plain)
    with stas.steer(pipeline, **STEERING):
        pipeline.fuse_lora()  # rounds the weights
        close(run(name, pipeline), steered)
        pipeline.unfuse_lora()
        close(run(name, pipeline), steered)
        pipeline.unload_lora_weights()
        close(run(name, pipeline), bare_steered)
    close(run(name, pipeline), bare)


# Modular pipelines and guiders


SKIP = {"indices": [1], "fqn": "blocks"}


def skip_layer(guidance_scale):
    return SkipLayerGuidance(
        guidance_scale=guidance_scale,
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        skip_layer_config=[LayerSkipConfig(**SKIP)],
    )


def perturbed(guidance_scale):
    return PerturbedAttentionGuidance(
        guidance_scale=guidance_scale,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        perturbed_guidance_config=[
            LayerSkipConfig(**SKIP, skip_attention=False, skip_attention_scores=True, skip_ff=False)
        ],
    )


def smoothed_energy():
    return SmoothedEnergyGuidance(
        guidance_scale=4.0,
        seg_guidance_start=0.0,
        seg_guidance_stop=1.0,
        seg_guidance_config=[SmoothedEnergyGuidanceConfig(indices=[1], fqn="blocks")],
    )


CFG = ["cond", "uncond"]
GUIDERS = {
    # name: (guider, the forwards of step 0, those of later steps)
    "cfg": (lambda: ClassifierFreeGuidance(guidance_scale=4.0), CFG, CFG),
    "cfg in some steps": (
        lambda: ClassifierFreeGuidance(guidance_scale=4.0, start=0.2),
        ["cond"],
        CFG,
    ),
    "zero star": (lambda: ClassifierFreeZeroStarGuidance(zero_init_steps=0), CFG, CFG),
    "apg": (lambda: AdaptiveProjectedGuidance(guidance_scale=4.0), CFG, CFG),
    "skip layer": (lambda: skip_layer(4.0), CFG, [*CFG, "skip"]),
    "skip layer alone": (lambda: skip_layer(1.0), ["cond"], ["cond", "skip"]),
    # With CFG diffusers has no entry for Wan's attention processor.
    "perturbed alone": (lambda: perturbed(1.0), ["cond"], ["cond", "skip"]),
    "smoothed energy": (smoothed_energy, CFG, [*CFG, "smoothed"]),
}


def modular_wan(guider):
    parts = tiny_wan()
    pipeline = WanBlocks().init_pipeline()
    pipeline.update_components(
        guider=guider,
        **{
            name: getattr(parts, name)
            for name in ("text_encoder", "tokenizer", "vae", "transformer", "scheduler")
        },
    )
    return pipeline


def run_modular(pipeline):
    return pipeline(
        prompt="a red circle moving right",
        height=32,
        width=32,
        num_frames=9,
        num_inference_steps=STEPS,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        output="latents",
    )


@pytest.mark.parametrize("name", GUIDERS)
def test_guiders_of_modular_pipelines(name):
    """Steps and branches are followed; forwards of other kinds are of neither branch."""
    make, first, later = GUIDERS[name]
    kinds = [(0, kind) for kind in first]
    kinds += [(step, kind) for step in range(1, STEPS) for kind in later]
    pipeline = modular_wan(make())
    plain = run_modular(pipeline)
    for branches in (("cond",), ("uncond",), ("cond", "uncond")):
        acting = []
        with stas.steer(pipeline, **STEERING, branches=branches) as handle:
            part = handle._steerings["transformer"]

            def begin(*what, begin=part.begin, acting=acting):
                acting.append((forward := begin(*what)) is not None)
                return forward

            part.begin = begin
            steered = run_modular(pipeline)
        everything = len(branches) == 2
        expected = [step < 3 and (everything or kind in branches) for step, kind in kinds]
        assert acting == expected
        assert torch.equal(steered, plain) != any(expected)
    assert torch.equal(run_modular(pipeline), plain)


def test_a_guider_may_be_swapped_while_steered():
    pipeline = modular_wan(ClassifierFreeGuidance(guidance_scale=4.0))
    swapped = perturbed(1.0)
    options = STEERING | {"branches": ("uncond",)}
    with stas.steer(pipeline, **options) as handle:
        run_modular(pipeline)
        assert handle.steered_forwards == {"transformer": 3}
        before = pipeline.guider
        pipeline.update_components(guider=swapped)
        run_modular(pipeline)
        assert handle.steered_forwards == {"transformer": 3}  # it has no uncond forward
    for guider in (before, swapped):
        assert "prepare_inputs_from_block_state" not in vars(guider)


# Training, copies, files and threads


@pytest.mark.parametrize("family", BARE)
def test_gradient_checkpointing_gives_the_same_gradients(family):
    tiny = TINIES[BARE[family]]
    gradients = []
    for checkpointed in (False, True):
        transformer = tiny.transformer().train()
        if checkpointed:
            transformer.enable_gradient_checkpointing()
        with stas.steer(transformer, **STEERING) as handle:
            inputs = tiny.inputs(tiny.grids[-1], 1)
            first_tensor(transformer(**inputs, return_dict=False)).square().mean().backward()
        assert handle.steered_forwards == {"transformer": 1}
        named = transformer.named_parameters()
        gradients.append({name: p.grad for name, p in named if p.grad is not None})
    plain, again = gradients
    assert plain.keys() == again.keys() and len(plain) > 50
    for name, gradient in plain.items():
        assert torch.equal(again[name], gradient), name


def test_what_a_steered_pipeline_saves_is_the_pipeline_without_steering(tmp_path):
    pipeline = tiny_wan()
    plain = generate(pipeline)
    with stas.steer(pipeline, **STEERING):
        generate(pipeline)
        pipeline.save_pretrained(tmp_path / "pipeline")
        pipeline.transformer.save_pretrained(tmp_path / "transformer")
    saved = WanPipeline.from_pretrained(tmp_path / "pipeline")
    assert torch.equal(generate(saved), plain)
    saved.transformer = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert torch.equal(generate(saved), plain)


@pytest.mark.parametrize("attach", [stas.steer, stas.record])
@pytest.mark.parametrize(
    "copying",
    [copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_of_an_attached_model_are_refused(attach, copying):
    pipeline = tiny_wan()
    plain = generate(pipeline)
    with attach(pipeline):
        for target in (pipeline, pipeline.transformer):
            with pytest.raises(RuntimeError, match=r"handle\.remove\(\) first"):
                copying(target)
    assert torch.equal(generate(copy.deepcopy(pipeline)), plain)


def in_threads(*calls):
    """What the calls return, made at once."""
    results, start = [None] * len(calls), threading.Barrier(len(calls))

    def work(index):
        start.wait()
        results[index] = calls[index]()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_pipelines_in_two_threads():
    names = ("wan text to video", "ltx condition at the first frame")
    pipelines = [build(name) for name in names]
    options = [STEERING, STEERING | {"dims": (2,), "scale": 3.0, "stop": 1.0}]
    handles = [stas.steer(p, **o) for p, o in zip(pipelines, options, strict=True)]
    calls = [lambda n=n, p=p: run(n, p) for n, p in zip(names, pipelines, strict=True)]
    alone = [call() for call in calls]
    for _ in range(3):
        for found, expected in zip(in_threads(*calls), alone, strict=True):
            assert torch.equal(found, expected)
    for handle in handles:
        handle.remove()


def test_one_pipeline_in_one_thread_after_another():
    pipeline = tiny_wan()
    with stas.steer(pipeline, **STEERING):
        here = generate(pipeline)
        for _ in range(2):
            (there,) = in_threads(lambda: generate(pipeline))
            assert torch.equal(there, here)


def test_steering_after_the_first_run_sees_the_cache_context(monkeypatch):
    """diffusers lists the hooks that hear of a context once, at the first one."""
    pipeline = tiny_wan()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    generate(pipeline)
    with stas.steer(pipeline, dims=(1,), branches=("uncond",)) as handle:
        branches = []
        part = handle._steerings["transformer"]
        pipeline.transformer.register_forward_hook(lambda *_: branches.append(part.context))
        generate(pipeline, steps=2)
    assert branches == ["cond", "uncond"] * 2


def test_tokens_split_by_an_unknown_engine_are_refused():
    """Each block has a part of the tokens, and nobody says which processes share them."""
    transformer = TINIES["wan"].transformer()
    block = transformer.blocks[0]
    whole = block.forward
    block.forward = lambda *args, **kwargs: whole(*args, **kwargs).chunk(2, dim=1)[0]
    with (
        stas.steer(transformer, dims=(1,), blocks=(0,)),
        pytest.raises(
            RuntimeError, match=r"name the processes that share them: stas\.steer\(\.\.\., group="
        ),
    ):
        transformer(**TINIES["wan"].inputs((2, 4, 4), 1))
