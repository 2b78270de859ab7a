"""What is steered: which tokens, which steps, which branches, on real pipelines."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
    WanVideoToVideoPipeline,
)
from torch.utils._python_dispatch import TorchDispatchMode

import stas
import stas.hooks.loop
import stas.hooks.registry
import stas.hooks.steer
import stas.hooks.transformer
import stas.method.steerer
from stas.method.operators import steer_, steer_tokens_
from stas.models.registry import find_spec
from tests.tiny import generate, tiny_cogvideox, tiny_wan

PIPELINES = {
    "wan2.1": tiny_wan,
    "wan2.2 5b": lambda: tiny_wan(expand_timesteps=True),
    "wan2.2 a14b": lambda: tiny_wan(two_experts=True),
    "cogvideox 1.0": tiny_cogvideox,
    "cogvideox 1.5": lambda: tiny_cogvideox(version="1.5"),
}


class BlockLog:
    """Re-runs each forward of one block without its hooks and compares what came out."""

    def __init__(self, transformer, index, expected):
        self.expected = expected  # (plain output, forward number) -> expected output
        self.spec = find_spec(transformer)
        self.forwards = 0
        self.changed = []
        block = self.spec.blocks(transformer)[index]
        self.handle = block.register_forward_hook(self.check, with_kwargs=True)

    def check(self, block, args, kwargs, output):
        plain = type(block).forward(block, *args, **kwargs)
        position = self.spec.tokens.video_output
        if position is not None:
            for i, (ours, theirs) in enumerate(zip(output, plain, strict=True)):
                if i != position:
                    assert torch.equal(ours, theirs)
            output, plain = output[position], plain[position]
        assert torch.equal(output, self.expected(plain.clone(), self.forwards))
        self.changed.append(not torch.equal(output, plain))
        self.forwards += 1


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("index", [0, 1, -1])
def test_exactly_the_intended_entries_change(name, index):
    """First, middle and last block; everything else, the text included, keeps its bits."""
    pipeline = PIPELINES[name]()
    spec = find_spec(pipeline.transformer)
    options = {"regions": ("first_frame", "boundary"), "boundary": 0.2, "scale": 1.7}
    grids = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: grids.append(spec.video_tokens(module.config, kwargs).grid),
        with_kwargs=True,
    )

    def expected(plain, forward):
        return steer_(plain, grids[-1], (4, 7), **options)

    with stas.steer(pipeline, dims=(4, 7), blocks=(index,), stop=1.0, **options):
        log = BlockLog(pipeline.transformer, index, expected)
        generate(pipeline, steps=2)
    assert log.forwards > 0
    assert all(log.changed)


@pytest.fixture
def forwards(monkeypatch):
    """How many forwards were made, and which were steered: numbers counted over a call."""

    class Forwards:
        def __init__(self):
            self.total = 0
            self.steered = []

        def watch(self, pipeline):
            for name in ("transformer", "transformer_2"):
                if getattr(pipeline, name, None) is not None:
                    getattr(pipeline, name).register_forward_hook(self.count)

        def count(self, *_):
            self.total += 1

    log = Forwards()

    def spy(*args, **kwargs):
        log.steered.append(log.total)
        return steer_tokens_(*args, **kwargs)

    monkeypatch.setattr(stas.method.steerer, "steer_tokens_", spy)
    return log


def flow(scheduler_class, **options):
    return scheduler_class(prediction_type="flow_prediction", use_flow_sigmas=True, **options)


SCHEDULES = [
    # pipeline, scheduler, forwards per denoising step with guidance
    (tiny_wan, lambda: FlowMatchEulerDiscreteScheduler(shift=5.0), 2),
    (tiny_wan, lambda: flow(UniPCMultistepScheduler, flow_shift=3.0), 2),
    (tiny_wan, lambda: flow(DPMSolverMultistepScheduler, flow_shift=3.0), 2),
    (tiny_cogvideox, CogVideoXDDIMScheduler, 1),
    (tiny_cogvideox, CogVideoXDPMScheduler, 1),
    (lambda: tiny_cogvideox(version="1.5"), CogVideoXDDIMScheduler, 1),
    (lambda: tiny_wan(expand_timesteps=True), lambda: flow(UniPCMultistepScheduler), 2),
    (lambda: tiny_wan(two_experts=True), FlowMatchEulerDiscreteScheduler, 2),
]


@pytest.mark.parametrize(("pipeline", "scheduler", "per_step"), SCHEDULES)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_steered_steps_are_those_of_the_window(forwards, pipeline, scheduler, per_step, guidance):
    pipeline = pipeline()
    per_step = per_step if guidance > 1 else 1
    pipeline.scheduler = scheduler()
    forwards.watch(pipeline)
    with stas.steer(pipeline, dims=(1,), start=0.2, stop=0.6):
        for _ in range(2):  # a second call begins anew
            forwards.total, forwards.steered = 0, []
            generate(pipeline, steps=10, guidance_scale=guidance)
            assert forwards.total == 10 * per_step
            assert forwards.steered == list(range(2 * per_step, 6 * per_step))


def test_second_order_schedulers_count_denoising_steps(forwards):
    pipeline = tiny_wan()
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler()
    forwards.watch(pipeline)
    with stas.steer(pipeline, dims=(1,), stop=0.4):
        generate(pipeline, steps=5, guidance_scale=1.0)
    assert forwards.total == 9  # two forwards a step, but for the last
    assert forwards.steered == [0, 1, 2, 3]


def test_the_scheduler_may_be_swapped_while_steered(forwards):
    pipeline = tiny_wan()
    forwards.watch(pipeline)
    first = pipeline.scheduler
    with stas.steer(pipeline, dims=(1,)):
        pipeline.scheduler = flow(UniPCMultistepScheduler)
        generate(pipeline, steps=5, guidance_scale=1.0)
        assert forwards.steered == [0, 1]
    for scheduler in (first, pipeline.scheduler):
        assert not {"step", "set_timesteps"} & set(vars(scheduler))


def test_an_interrupted_call_does_not_shift_the_next(forwards):
    pipeline = tiny_wan()
    forwards.watch(pipeline)

    def interrupt(pipe, step, timestep, tensors):
        raise KeyboardInterrupt

    with stas.steer(pipeline, dims=(1,)):
        with pytest.raises(KeyboardInterrupt):
            generate(pipeline, callback_on_step_end=interrupt)
        forwards.total, forwards.steered = 0, []
        generate(pipeline, steps=5, guidance_scale=1.0)
    assert forwards.steered == [0, 1]


def video_to_video(pipeline):
    """Wan's video to video: no cache context, and a schedule that starts in the middle."""
    converted = WanVideoToVideoPipeline(
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline.text_encoder,
        transformer=pipeline.transformer,
        vae=pipeline.vae,
        scheduler=flow(UniPCMultistepScheduler),
    )
    converted.set_progress_bar_config(disable=True)
    return converted


def restyle(pipeline, **arguments):
    return pipeline(
        prompt="a red circle",
        video=torch.rand(1, 5, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
        height=32,
        width=32,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
        **arguments,
    )


def test_a_schedule_that_starts_in_the_middle_counts_its_own_steps(forwards):
    pipeline = video_to_video(tiny_wan())
    forwards.watch(pipeline)
    with stas.steer(pipeline, dims=(1,), start=0.2, stop=0.6):
        restyle(pipeline, num_inference_steps=20, strength=0.5, guidance_scale=1.0)
    assert forwards.total == 10
    assert forwards.steered == [2, 3, 4, 5]


@pytest.mark.parametrize("branch", ["cond", "uncond"])
@pytest.mark.parametrize("name", ["wan2.1", "cogvideox 1.0", "wan video to video"])
def test_one_branch_of_guidance(name, branch):
    """Separate calls with and without a cache context, and one batch with uncond first."""
    is_v2v = name == "wan video to video"
    pipeline = video_to_video(tiny_wan()) if is_v2v else PIPELINES[name]()
    spec = find_spec(pipeline.transformer)
    grids = []
    pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: grids.append(spec.video_tokens(module.config, kwargs).grid),
        with_kwargs=True,
    )

    def expected(plain, forward):
        if spec.loop.guidance == "batched":
            rows = plain[1:] if branch == "cond" else plain[:1]
        else:
            rows = plain if (forward % 2 == 0) == (branch == "cond") else plain[:0]
        if rows.shape[0]:
            steer_(rows, grids[-1], (2,), scale=2.0)
        return plain

    with stas.steer(pipeline, dims=(2,), branches=(branch,), stop=1.0, scale=2.0, blocks=(0,)):
        log = BlockLog(pipeline.transformer, 0, expected)
        if is_v2v:
            restyle(pipeline, num_inference_steps=4, strength=0.7)
        else:
            generate(pipeline, steps=3)
    assert any(log.changed)


def test_without_guidance_there_is_only_cond(forwards):
    pipeline = tiny_cogvideox()
    forwards.watch(pipeline)
    with stas.steer(pipeline, dims=(2,), branches=("uncond",)):
        generate(pipeline, guidance_scale=1.0)
    assert forwards.steered == []
    with stas.steer(pipeline, dims=(2,), branches=("cond",)):
        generate(pipeline, guidance_scale=1.0)
    assert forwards.steered


class NoHostSync(TorchDispatchMode):
    """Fails on the operations that make the host wait for a device."""

    WAITS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_to_copy")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.WAITS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_a_steered_forward_never_waits_for_the_device(monkeypatch):
    """Neither at a block, nor before and after the forward, nor when the step moves on."""
    calls = []
    for owner, name in (
        (stas.hooks.registry.BlockHook, "post_forward"),
        (stas.hooks.transformer.TransformerHooks, "_enter"),
        (stas.hooks.transformer.TransformerHooks, "_leave"),
        (stas.hooks.loop.PipelineLoop, "_advance"),
    ):
        original = getattr(owner, name)

        def guarded(*args, original=original, name=name):
            with NoHostSync():
                result = original(*args)
            calls.append(name)
            return result

        monkeypatch.setattr(owner, name, guarded)
    pipeline = tiny_wan()
    with stas.steer(pipeline, dims=(1,), blocks="all", branches=("cond",)):
        generate(pipeline)
    counts = {name: calls.count(name) for name in calls}
    assert counts == {"_enter": 10, "_leave": 10, "post_forward": 30, "_advance": 5}
    with pytest.raises(AssertionError, match="waits"), NoHostSync():
        bool(torch.ones(()) > 0)


@pytest.mark.parametrize("cache_first", [True, False])
def test_hooks_lie_beneath_a_cache_in_either_order(cache_first):
    """The cache's residual is added after steering, and each detaches without the other."""
    cache = FirstBlockCacheConfig(threshold=1e9)  # every step after the first is cached
    reference, pipeline = tiny_wan(), tiny_wan()
    reference.transformer.enable_cache(cache)
    cached = generate(reference, steps=4)
    if cache_first:
        pipeline.transformer.enable_cache(cache)
    handle = stas.steer(pipeline, dims=(1,), blocks="all", scale=2.0, stop=1.0)
    if not cache_first:
        pipeline.transformer.enable_cache(cache)
    order = pipeline.transformer.blocks[0]._diffusers_hook._hook_order
    assert order[0] == "stas" and len(order) == 2
    steered = generate(pipeline, steps=4)
    assert not torch.equal(steered, cached)
    handle.remove()
    pipeline.transformer.disable_cache()
    pipeline.transformer.enable_cache(cache)
    assert torch.equal(generate(pipeline, steps=4), cached)


def test_removal_leaves_a_later_cache_working():
    pipeline = tiny_wan()
    handle = stas.steer(pipeline, dims=(1,), blocks="all")
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    handle.remove()
    computed = []
    pipeline.transformer.blocks[1].ffn.register_forward_hook(lambda *_: computed.append(1))
    generate(pipeline, steps=4, guidance_scale=1.0)
    assert len(computed) == 1  # the other steps came from the cache


def test_a_copy_of_a_steered_model_is_refused():
    pipeline = tiny_wan()
    message = r"handle\.remove\(\) first"
    with stas.steer(pipeline, dims=(1,)), pytest.raises(RuntimeError, match=message):
        copy.deepcopy(pipeline.transformer)
    copy.deepcopy(pipeline.transformer)


def test_a_copy_of_a_steered_pipelines_scheduler_is_its_own(forwards):
    pipeline = tiny_wan()
    forwards.watch(pipeline)
    with stas.steer(pipeline, dims=(1,)) as handle:
        pipeline.scheduler.set_timesteps(5)
        twin = copy.deepcopy(pipeline.scheduler)
        assert twin.step.__self__ is twin
        twin.step(torch.zeros(1), twin.timesteps[0], torch.zeros(1))
        assert handle._loop.clock.step == 0
        assert pipeline.scheduler.step_index is None


def test_two_pipelines_steered_differently_in_one_process():
    one, two = tiny_wan(), tiny_cogvideox()
    plain = generate(one), generate(two)
    with stas.steer(one, dims=(1,), scale=2.0) as first:
        alone = generate(one)
        with stas.steer(two, dims=(2,), scale=3.0):
            assert torch.equal(generate(one), alone)
            assert not torch.equal(generate(two), plain[1])
        assert torch.equal(generate(two), plain[1])
        assert torch.equal(generate(one), alone)
        first.remove()
    assert torch.equal(generate(one), plain[0])


def offload_models(pipeline):
    pipeline.enable_model_cpu_offload(device="cpu")


def offload_layers(pipeline):
    """What enable_sequential_cpu_offload does, which itself refuses the CPU as its device."""
    from accelerate import cpu_offload

    cpu_offload(pipeline.transformer, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("steer_first", [True, False])
@pytest.mark.parametrize("offload", [offload_models, offload_layers])
def test_steering_survives_offload_switched_on_before_or_after(offload, steer_first):
    """accelerate swaps forwards around a call; the second call must be steered too."""
    options = {"dims": (1,), "blocks": "all", "scale": 2.0}
    with stas.steer(plain := tiny_wan(), **options):
        expected = generate(plain)
    pipeline = tiny_wan()
    untouched = generate(pipeline)
    if steer_first:
        handle = stas.steer(pipeline, **options)
    offload(pipeline)
    if not steer_first:
        handle = stas.steer(pipeline, **options)
    for _ in range(2):
        assert torch.equal(generate(pipeline), expected)
    handle.remove()
    for _ in range(2):
        assert torch.equal(generate(pipeline), untouched)


@pytest.mark.parametrize("blocks", ["all", "middle"])
def test_hooks_that_another_library_took_off_are_put_on_again_and_removal_stays_exact(blocks):
    from accelerate import cpu_offload

    pipeline = tiny_wan()
    untouched = generate(pipeline)
    cpu_offload(pipeline.transformer, execution_device=torch.device("cpu"))
    handle = stas.steer(pipeline, dims=(1,), blocks=blocks, scale=2.0)
    steered = generate(pipeline)
    pipeline.remove_all_hooks()
    assert torch.equal(generate(pipeline), steered)
    handle.remove()
    assert torch.equal(generate(pipeline), untouched)
    assert not torch.equal(steered, untouched)
    assert "forward" not in vars(pipeline.transformer.blocks[1])


def test_a_wrapper_out_of_reach_does_nothing_after_removal():
    """A user's own wrapper around the steered forward keeps it alive."""
    pipeline = tiny_wan()
    untouched = generate(pipeline)
    handle = stas.steer(pipeline, dims=(1,), scale=2.0)
    block = pipeline.transformer.blocks[1]
    steered_forward = block.forward
    block.forward = lambda *args, **kwargs: steered_forward(*args, **kwargs)
    assert not torch.equal(generate(pipeline), untouched)
    handle.remove()
    assert torch.equal(generate(pipeline), untouched)
