"""Steering beside other packages that change blocks or weights: cache-dit, GGUF files, SDNQ, STG.

docs/compatibility.md says in words what these tests show.
"""

from __future__ import annotations

import itertools
import re
import types
from pathlib import Path

import pytest
import torch
from diffusers import GGUFQuantizationConfig, WanPipeline, WanTransformer3DModel

import stas
from stas.models.table import MODELS
from tests.hooks.test_compatibility import FAMILIES, STEPS, assert_either_order, build, run
from tests.tiny import generate, plant_massive_dimension, tiny_wan
from tests.zoo.wan import wan_inputs, wan_transformer

WAN = FAMILIES["WanTransformer3DModel"]
DIMS, STEERED_STEPS = (1, 5), 3
# As simple as steering gets, so that plain hooks can say what it is.
STEERING = {
    "dims": DIMS,
    "op": "zero",
    "regions": ("first_frame", "boundary", "interior"),
    "blocks": "all",
    "stop": STEERED_STEPS / STEPS,
}


def test_the_document_names_files_that_are_here():
    root = Path(__file__).parent.parent.parent
    text = (root / "docs/compatibility.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert len(named) > 5 and all((root / name).is_file() for name in named)


def blocks_of(transformer):
    return MODELS[type(transformer).__name__].blocks(transformer)


class PlainSteering:
    """What STEERING does, by torch's own hooks alone; outside of `with` nothing is left of it.

    Args:
        pipeline: Steered at each step below STEERED_STEPS.
        blocks: Numbers of the blocks; None for all.
        calls: Which forwards of a step; None for all.
    """

    def __init__(self, pipeline, *, blocks=None, calls=None):
        experts = (pipeline.transformer, getattr(pipeline, "transformer_2", None))
        self.transformers = [expert for expert in experts if expert is not None]
        every = [block for each in self.transformers for block in blocks_of(each)]
        self.blocks = every if blocks is None else [every[number] for number in blocks]
        self.calls = calls
        self.step, self.call, self.timestep = -1, -1, None
        self.acted = []  # the step and call of each steered block that ran

    def __enter__(self):
        self.handles = [block.register_forward_hook(self.zero) for block in self.blocks]
        self.handles += [
            transformer.register_forward_pre_hook(self.count, with_kwargs=True)
            for transformer in self.transformers
        ]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def count(self, module, args, kwargs):
        timestep = float(kwargs["timestep"].max())
        if timestep != self.timestep:
            self.timestep, self.step, self.call = timestep, self.step + 1, -1
        self.call += 1

    def zero(self, module, args, output):
        if self.step >= STEERED_STEPS or (self.calls and self.call not in self.calls):
            return output
        self.acted.append((self.step, self.call))
        first, *rest = (output,) if isinstance(output, torch.Tensor) else output
        first = first.clone()
        first[..., DIMS] = 0
        return (first, *rest) if rest else first


# cache-dit


@pytest.fixture
def cache_dit():
    return pytest.importorskip("cache_dit")


@pytest.fixture
def enable(cache_dit):
    """Switches DBCache on: the first block of each stack decides, the others are skipped.

    At the end it is off, whatever happened: it lies on the pipeline's class.
    """
    targets = []

    def enable(target, **options):
        targets.append(target)
        options = {
            "Fn_compute_blocks": 1,
            "Bn_compute_blocks": 0,
            "max_warmup_steps": 1,
            "residual_diff_threshold": 1e9,
        } | options
        cache_dit.enable_cache(target, cache_config=cache_dit.DBCacheConfig(**options))

    yield enable
    for target in targets:
        cache_dit.disable_cache(target)


def whole(pipeline):
    return pipeline


def transformer_alone(pipeline):
    return pipeline.transformer


CACHED = {
    # name: (pipeline, what is cached, options of DBCache, of stas.steer, and of PlainSteering)
    **{name: (name, whole, {}, {}, {}) for name in FAMILIES.values()},
    "two experts": (f"{WAN}, two experts", whole, {}, {}, {}),
    "last block runs too": (WAN, whole, {"Bn_compute_blocks": 1}, {}, {}),
    "skipped block": (
        WAN,
        whole,
        {"max_continuous_cached_steps": 1},
        {"blocks": "middle"},
        {"blocks": (1,)},
    ),
    "cond": (WAN, whole, {}, {"branches": ("cond",)}, {"calls": (0,)}),
    "uncond": (WAN, whole, {}, {"branches": ("uncond",)}, {"calls": (1,)}),
    "transformer alone": (
        WAN,
        transformer_alone,
        {"num_inference_steps": STEPS, "enable_separate_cfg": True},
        {},
        {},
    ),
}


@pytest.mark.parametrize("case", CACHED)
def test_cache_dit_in_every_order(cache_dit, enable, case):
    """What runs is steered and what is skipped is not; each is removed without the other."""
    name, cached, cache, options, plainly = CACHED[case]

    def video():
        if cached is transformer_alone and getattr(pipeline.transformer, "_is_cached", False):
            cache_dit.refresh_context(pipeline.transformer)  # no pipeline does it before its loop
        return run(name, pipeline)

    pipeline = build(name)
    plain = video()
    enable(cached(pipeline), **cache)
    only_cached = video()
    with PlainSteering(pipeline, **plainly) as hooks:
        both = video()
    cache_dit.disable_cache(cached(pipeline))
    assert torch.equal(video(), plain)
    with PlainSteering(pipeline, **plainly) as uncached:
        only_steered = video()
    assert 0 < len(hooks.acted) < len(uncached.acted)
    for one, other in itertools.combinations((plain, only_cached, only_steered, both), 2):
        assert not torch.equal(one, other)

    for last_on, first_off in itertools.product(("cache", "steering"), repeat=2):
        pipeline = build(name)
        if last_on == "steering":
            enable(cached(pipeline), **cache)
        handle = stas.steer(pipeline, **STEERING | options)
        if last_on == "cache":
            enable(cached(pipeline), **cache)
        assert torch.equal(video(), both)
        assert sum(handle.steered_forwards.values()) == len(set(hooks.acted))
        if first_off == "steering":
            handle.remove()
            assert torch.equal(video(), only_cached)
        cache_dit.disable_cache(cached(pipeline))
        if first_off == "cache":
            assert torch.equal(video(), only_steered)
            handle.remove()
        assert torch.equal(video(), plain)


def test_recording_under_cache_dit_reads_the_blocks_that_ran(enable):
    pipeline = build(WAN)
    enable(pipeline)
    with stas.steer(pipeline, **STEERING):
        steered = run(WAN, pipeline)
        with stas.record(pipeline) as recording:
            assert torch.equal(run(WAN, pipeline), steered)
    first, *later = recording.stats.pooled().count[:, 0].tolist()
    assert [first] * len(later) == [STEPS * count for count in later]
    inside = recording.stats.pooled(steps=range(STEERED_STEPS))
    assert (inside.max_abs[:, list(DIMS)] == 0).all() and (inside.max_abs > 0).any()


@pytest.mark.parametrize(
    ("window", "steered", "warning"),
    [
        # Steps 0 and 3 are whole.
        ({"start": 0.3, "stop": 1.0}, 4, "2 of the 3 blocks to read were skipped"),
        ({"start": 0.0, "stop": 0.3}, 2, "the window has 2 steps, and the first forward"),
    ],
)
def test_detection_under_cache_dit(enable, window, steered, warning):
    """It waits for a whole forward, and makes none of its own, which the cache would count."""
    pipeline, ran = tiny_wan(), []
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    for number, block in enumerate(pipeline.transformer.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    enable(pipeline, max_continuous_cached_steps=2)
    generate(pipeline, steps=STEPS)
    alone = ran.copy()
    ran.clear()
    with (
        stas.steer(pipeline, blocks="all", **window) as handle,
        pytest.warns(stas.StasWarning, match=warning),
    ):
        generate(pipeline, steps=STEPS)
    assert ran == alone
    assert handle.dims == {"transformer": (5,)}
    assert handle.steered_forwards == {"transformer": steered}


@pytest.mark.parametrize(("warmup", "leaking"), [(1, [3, 4, 5]), (3, [3, 4, 5]), (4, [])])
def test_what_cache_dit_keeps_of_steered_steps_shows_after_the_window(enable, warmup, leaking):
    """On inputs that do not depend on earlier predictions; the middle block is skipped."""
    predictions = []
    for blocks in ((), (1,)):
        transformer = wan_transformer()
        enable(transformer, max_warmup_steps=warmup, enable_separate_cfg=False)
        handle = stas.steer(transformer, **STEERING | {"blocks": blocks}) if blocks else None
        for step in range(STEPS):
            if handle is not None:
                handle.set_step(step, STEPS)
            with torch.no_grad():
                predictions.append(transformer(**wan_inputs((2, 4, 2), 1), return_dict=False)[0])
    pairs = zip(predictions[:STEPS], predictions[STEPS:], strict=True)
    differing = [step for step, pair in enumerate(pairs) if not torch.equal(*pair)]
    assert differing == [0, 1, 2, *leaking]


# Weights of GGUF files, and by SDNQ

# A file in the original format names the parts of diffusers' model so.
ORIGINAL_NAMES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    ".scale_shift_table": ".modulation",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
    "norm2": "norm3",
    "attn1": "self_attn",
    "attn2": "cross_attn",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".o.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


def write_gguf(gguf, path, transformer, quantisation):
    """A Wan transformer in the original format, the linear layers of its blocks quantised."""
    writer = gguf.GGUFWriter(path, arch="wan")
    for name, tensor in transformer.state_dict().items():
        kind = gguf.GGMLQuantizationType.F32
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantisation]
        for ours, original in ORIGINAL_NAMES.items():
            name = name.replace(ours, original)
        writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def wan_with(transformer):
    pipeline = tiny_wan()
    pipeline.transformer = transformer
    return pipeline


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_0"])
def test_weights_of_a_gguf_file_are_steered_as_what_they_stand_for(tmp_path, quantisation):
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor  # needs gguf

    sizes = {"attention_head_dim": 16, "freq_dim": 32}  # blocks of 32 numbers
    original = wan_transformer(**sizes)
    original.save_config(tmp_path)
    write_gguf(gguf, tmp_path / "tiny.gguf", original, quantisation)
    quantised = WanTransformer3DModel.from_single_file(
        str(tmp_path / "tiny.gguf"),
        config=str(tmp_path),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
    )
    weights = {
        name: dequantize_gguf_tensor(value) if isinstance(value, GGUFParameter) else value
        for name, value in quantised.state_dict(keep_vars=True).items()
    }
    assert sum(isinstance(each, GGUFParameter) for each in quantised.parameters()) == 3 * 10
    dequantised = wan_transformer(**sizes)
    dequantised.load_state_dict(weights)

    pipeline, reference = wan_with(quantised), wan_with(dequantised)
    plain = run(WAN, reference)
    assert torch.equal(run(WAN, pipeline), plain)
    assert not torch.equal(run(WAN, wan_with(original)), plain)
    with PlainSteering(reference):
        steered = run(WAN, reference)
    assert not torch.equal(steered, plain)
    with stas.steer(pipeline, **STEERING):
        assert torch.equal(run(WAN, pipeline), steered)
    assert torch.equal(run(WAN, pipeline), plain)


@pytest.fixture
def sdnq(monkeypatch):
    # Else its import compiles a function, and raises dynamo's limit of recompiles for all tests.
    monkeypatch.setenv("SDNQ_USE_TORCH_COMPILE", "0")
    return pytest.importorskip("sdnq")


def test_weights_quantised_by_sdnq_in_either_order(sdnq):
    def quantise(transformer):
        sdnq.sdnq_post_load_quant(
            transformer,
            weights_dtype="int8",
            minimum_allowed_numel=0,
            minimum_allowed_channel_size=0,
        )
        for block in transformer.blocks:
            assert block.ffn.net[2].weight.dtype == torch.int8

    assert_either_order(WAN, quantise)
    pipeline = build(WAN)
    quantise(pipeline.transformer)
    with PlainSteering(pipeline):
        steered = run(WAN, pipeline)
    with stas.steer(pipeline, **STEERING):
        assert torch.equal(run(WAN, pipeline), steered)


# Spatio-temporal guidance


class SpatioTemporalGuidance(WanPipeline):
    """As diffusers' community pipelines have it: blocks are skipped by setting `block.forward`.

    It is set anew on every block before the cond forward of each step, and on the skipped ones
    before a third forward, which no cache context names.
    """

    skipped = (1,)
    puts_back = False  # the community's leave what they set last

    def __call__(self, **call):
        blocks, steps = self.transformer.blocks, call["num_inference_steps"]
        own = type(blocks[0]).forward
        cond, uncond = self.encode_prompt(call["prompt"], max_sequence_length=16)
        self._guidance_scale, self._num_timesteps = 4.0, steps
        self.scheduler.set_timesteps(steps)
        latents = self.prepare_latents(
            1, 4, 32, 32, 9, torch.float32, "cpu", generator=torch.Generator().manual_seed(0)
        )

        def predict(text):
            return self.transformer(
                hidden_states=latents,
                timestep=timestep.expand(1),
                encoder_hidden_states=text,
                return_dict=False,
            )[0]

        for timestep in self.scheduler.timesteps:
            for block in blocks:
                block.forward = types.MethodType(lambda self, *args: own(self, *args), block)
            with self.transformer.cache_context("cond"):
                conditioned = predict(cond)
            with self.transformer.cache_context("uncond"):
                unconditioned = predict(uncond)
            for number in self.skipped:
                blocks[number].forward = types.MethodType(lambda _, h, *args: h, blocks[number])
            prediction = 5 * conditioned - 3 * unconditioned - predict(cond)
            latents = self.scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        if self.puts_back:
            for block in blocks:
                del block.forward
        return latents


@pytest.fixture(params=[False, True], ids=["left", "put back"])
def guided(request):
    pipeline = tiny_wan()
    pipeline.__class__ = SpatioTemporalGuidance
    pipeline.puts_back = request.param
    return pipeline


def sample(pipeline):
    with torch.no_grad():
        return pipeline(prompt="a red circle", num_inference_steps=STEPS)


def test_spatio_temporal_guidance_is_steered_in_all_its_forwards(guided):
    plain = sample(guided)
    with PlainSteering(guided) as hooks:
        steered = sample(guided)
    assert not torch.equal(steered, plain)
    for _ in range(2):
        with stas.steer(guided, **STEERING) as handle:
            assert torch.equal(sample(guided), steered)
            assert handle.steered_forwards == {"transformer": len(set(hooks.acted))}
        forwards = [vars(block).get("forward") for block in guided.transformer.blocks]
        expected = type(None) if guided.puts_back else types.MethodType
        assert all(isinstance(forward, expected) for forward in forwards)
        assert torch.equal(sample(guided), plain)


def test_one_branch_of_spatio_temporal_guidance_is_an_error_in_the_first_step(guided):
    with (
        stas.steer(guided, **STEERING, branches=("cond",)) as handle,
        pytest.raises(RuntimeError, match="nobody says which branch a forward"),
    ):
        sample(guided)
    assert handle.steered_forwards == {"transformer": 1}
