"""Which steps and branches are steered in each real pipeline, against a count of its forwards."""

from __future__ import annotations

import functools
import inspect

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

import stas
from stas.hooks.steer import TransformerSteering
from stas.models.registry import find_spec
from stas.models.spec import Forward
from stas.models.table import MODELS
from tests.zoo import all_tinies

PIPELINES = {run.name: run for tiny in all_tinies().values() for run in tiny.pipelines}
REFUSED = {  # by the row of the transformer: see test_refused_pipelines_say_why
    "ltx i2v long multi prompt",
    "kandinsky 6 super-resolution",
    "flux",
    "stable diffusion 3",
    "stable diffusion 3 with skipped layers",
    "qwen image",
}
ASYNCHRONOUS = {
    "skyreels diffusion forcing, asynchronous",
    "skyreels causal diffusion forcing, asynchronous",
}
STEERED = [name for name in PIPELINES if name not in REFUSED | ASYNCHRONOUS]
STEPS = 5
START, STOP = 0.2, 0.6  # steps 1 and 2 of 5


@functools.cache
def built(name):
    """One pipeline for all tests of a name; each leaves it as it was."""
    pipeline = PIPELINES[name].build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_class(name):
    return type(built(name)).__name__


def transformers(pipeline):
    found = [c for c in pipeline.components.values() if find_spec(c) is not None]
    return list({id(transformer): transformer for transformer in found}.values())


def run(name, guidance, steps=STEPS):
    """One call with fixed noise; False when the pipeline can't run with that guidance."""
    arguments = PIPELINES[name].guided[0 if guidance else 1]
    if arguments is None:
        pytest.skip("the pipeline has no such guidance")
    pipeline = built(name)
    call = dict(PIPELINES[name].call) | dict(arguments)
    if "num_inference_steps" in inspect.signature(type(pipeline).__call__).parameters:
        call["num_inference_steps"] = steps
    torch.manual_seed(0)
    return pipeline(**call, generator=torch.Generator().manual_seed(0))


class Forwards:
    """Counts the denoising forwards of a call, and lists those in which a block was steered."""

    def __init__(self, pipeline, monkeypatch):
        self.total = 0
        self.steered = []
        self.rows = []
        self.handles = [
            t.register_forward_hook(self.count, with_kwargs=True) for t in transformers(pipeline)
        ]
        act = TransformerSteering.act

        def spy(steering, forward, hook, tokens, *rest):
            self.steered.append(self.total)
            self.rows.append((forward.rows, tokens.shape[0]))
            return act(steering, forward, hook, tokens, *rest)

        monkeypatch.setattr(TransformerSteering, "act", spy)

    def count(self, module, args, kwargs, output):
        idle = find_spec(module).loop.idle
        self.total += not (idle is not None and idle(Forward({}, kwargs)))

    def remove(self):
        for handle in self.handles:
            handle.remove()


def expected(name, forwards, second_order=False):
    """The steered ones, when each loop has the same number of forwards a step.

    With a scheduler of order 2 each step has two, but for the last of a loop.
    """
    loops, steps = PIPELINES[name].loops, PIPELINES[name].steps(STEPS)
    window = [i for i in range(steps) if START * steps <= i + 1e-9 and i + 1e-9 < STOP * steps]
    assert window
    if second_order:
        length = 2 * steps - 1
        assert forwards == loops * length, f"{forwards} forwards in {loops} loops of {steps} steps"
        return 2, [
            loop * length + 2 * step + half
            for loop in range(loops)
            for step in window
            for half in range(2)
            if 2 * step + half < length
        ]
    per_step, rest = divmod(forwards, loops * steps)
    assert rest == 0, f"{forwards} forwards in {loops} loops of {steps} steps"
    return per_step, [
        (loop * steps + step) * per_step + forward
        for loop in range(loops)
        for step in window
        for forward in range(per_step)
    ]


@pytest.mark.parametrize("guidance", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("name", STEERED)
def test_the_steered_steps_are_those_of_the_window(name, guidance, monkeypatch):
    pipeline = built(name)
    forwards = Forwards(pipeline, monkeypatch)
    try:
        with stas.steer(pipeline, dims=(3,), blocks=(0,), start=START, stop=STOP):
            for _ in range(2):  # a second call begins anew
                forwards.total, forwards.steered = 0, []
                run(name, guidance)
                _, steered = expected(name, forwards.total)
                assert forwards.steered == steered
    finally:
        forwards.remove()


@pytest.mark.parametrize("branch", ["cond", "uncond"])
@pytest.mark.parametrize("name", STEERED)
def test_one_branch_of_guidance(name, branch, monkeypatch):
    pipeline = built(name)
    spec = find_spec(transformers(pipeline)[0])
    forwards = Forwards(pipeline, monkeypatch)
    options = {"dims": (3,), "blocks": (0,), "start": START, "stop": STOP, "branches": (branch,)}
    try:
        with stas.steer(pipeline, **options):
            run(name, guidance=True)
    finally:
        forwards.remove()
    per_step, steered = expected(name, forwards.total)
    if spec.loop.guidance == "batched":  # uncond first, and nothing of other forwards of a step
        assert forwards.steered == steered[::per_step]
        for rows, batch in forwards.rows:
            half = batch // 2
            assert rows == (slice(half, batch) if branch == "cond" else slice(0, half))
    else:
        assert per_step == 2
        assert forwards.steered == steered[branch == "uncond" :: 2]


@pytest.mark.parametrize("name", STEERED)
def test_without_guidance_there_is_no_uncond(name, monkeypatch):
    pipeline = built(name)
    forwards = Forwards(pipeline, monkeypatch)
    try:
        for branch in ("uncond", "cond"):
            forwards.steered, forwards.total = [], 0
            with stas.steer(pipeline, dims=(3,), blocks=(0,), branches=(branch,)):
                run(name, guidance=False)
            assert bool(forwards.steered) == (branch == "cond")
    finally:
        forwards.remove()


def test_a_video_is_changed_by_steering_and_the_same_again_after_it():
    for name in ("wan text to video", "hunyuan video t2v", "latte", "mochi t2v"):
        pipeline = built(name)
        plain = run(name, guidance=True)[0]
        with stas.steer(pipeline, dims=(3,), blocks="all", scale=3.0):
            assert not torch.equal(torch.as_tensor(run(name, guidance=True)[0]), plain)
        assert torch.equal(torch.as_tensor(run(name, guidance=True)[0]), plain)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_pipelines_say_why(name):
    pipeline = built(name)
    spec = find_spec(transformers(pipeline)[0])
    with pytest.raises(stas.UnsupportedModelError) as error:
        stas.steer(pipeline, dims=(3,))
    assert any(reason in str(error.value) for reason in spec.refusals.values())


@pytest.mark.parametrize("name", sorted(ASYNCHRONOUS))
def test_frames_at_different_steps_are_refused(name):
    pipeline = built(name)
    with (
        stas.steer(pipeline, dims=(3,)),
        pytest.raises(stas.UnsupportedModelError, match="Use ar_step=0"),
    ):
        run(name, guidance=True)
    run(name, guidance=True)


@pytest.mark.parametrize("references", [0, 1, 2])
def test_the_first_latent_frame_is_not_a_reference_image(references):
    name = ["wan vace", "wan vace, one reference", "wan vace, two references and a video"][
        references
    ]
    pipeline, seen = built(name), []
    with stas.steer(pipeline, dims=(3,)) as handle:
        part = handle._steerings["transformer"]
        begin = part.begin
        part.begin = lambda video, *more: [seen.append(video), begin(video, *more)][1]
        run(name, guidance=False)
    assert {video.lead for video in seen} == {references}


def flow(cls):
    return cls(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


SCHEDULERS = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": FlowMatchHeunDiscreteScheduler,
    "unipc": lambda: flow(UniPCMultistepScheduler),
    "dpm": lambda: flow(DPMSolverMultistepScheduler),
}
ONE_OF_A_CLASS = list({pipeline_class(name): name for name in reversed(STEERED)}.values())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ONE_OF_A_CLASS)
def test_other_schedulers(name, scheduler, monkeypatch):
    """One pipeline of each class under schedulers that it was not made with, if it can run them."""
    pipeline = built(name)
    before, pipeline.scheduler = pipeline.scheduler, SCHEDULERS[scheduler]()
    try:
        run(name, guidance=False)
    except Exception as error:
        pipeline.scheduler = before
        pytest.skip(f"by itself the pipeline can't: {type(error).__name__}")
    forwards = Forwards(pipeline, monkeypatch)
    try:
        with stas.steer(pipeline, dims=(3,), blocks=(0,), start=START, stop=STOP):
            run(name, guidance=False)
        assert forwards.steered == expected(name, forwards.total, scheduler == "heun")[1]
    finally:
        forwards.remove()
        pipeline.scheduler = before


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.transformer)
def test_rows_claim_the_pipelines_that_run_here(spec):
    run_here = {
        type(built(name)).__name__
        for name in [*STEERED, *ASYNCHRONOUS, "flux", "stable diffusion 3", "qwen image"]
        if any(type(t).__name__ == spec.transformer for t in transformers(built(name)))
    }
    assert ("pipeline" in spec.verified) == bool(run_here & set(spec.pipelines))
    assert set(spec.pipelines) - run_here <= set(spec.refusals)
