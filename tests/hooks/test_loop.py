"""A steered transformer in loops that are not those of the steered pipeline."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from diffusers import CogVideoXPipeline, UniPCMultistepScheduler, WanModularPipeline, WanPipeline

import stas
from tests.hooks.test_transformer import flow, forwards, restyle, video_to_video
from tests.tiny import generate, tiny_cogvideox, tiny_wan

__all__ = ["forwards"]  # a fixture


@pytest.mark.parametrize("same_scheduler", [True, False])
def test_another_pipeline_on_the_same_weights_is_left_alone_and_told(same_scheduler):
    pipeline = tiny_wan()
    other = video_to_video(pipeline)
    if same_scheduler:
        other.scheduler = pipeline.scheduler
    plain = torch.as_tensor(restyle(other, num_inference_steps=4).frames)
    with stas.steer(pipeline, dims=(1,), scale=2.0) as handle:
        steered = generate(pipeline)
        with pytest.warns(stas.StasWarning, match="WanVideoToVideoPipeline runs the transformer"):
            assert torch.equal(torch.as_tensor(restyle(other, num_inference_steps=4).frames), plain)
        assert handle.steered_forwards == {"transformer": 4}
        assert torch.equal(generate(pipeline), steered)


def noise():
    return torch.Generator().manual_seed(3)


def preview(other, made):
    def callback(pipeline, step, timestep, values):
        if step == 1:
            made.append(generate(other, generator=noise()))
        return values

    return callback


@pytest.mark.filterwarnings("ignore:A WanPipeline runs")
def test_a_pipeline_in_a_callback_is_left_alone_and_the_steered_one_is_as_if_alone():
    pipeline = tiny_wan()
    parts = {name: part for name, part in pipeline.components.items() if name != "scheduler"}
    other = WanPipeline(**parts, scheduler=copy.deepcopy(pipeline.scheduler))
    plain, made = generate(other, generator=noise()), []
    with stas.steer(pipeline, dims=(1,), scale=2.0, stop=1.0), stas.record(pipeline) as recording:
        alone = generate(pipeline)
        samples = dict(recording.stats.samples)
        assert torch.equal(generate(pipeline, callback_on_step_end=preview(other, made)), alone)
    assert torch.equal(made[0], plain)
    assert recording.stats.samples == {key: 2 * count for key, count in samples.items()}


@pytest.mark.filterwarnings("ignore:A WanPipeline runs")
def test_a_pipeline_in_a_thread_is_left_alone():
    pipeline = tiny_wan()
    parts = {name: part for name, part in pipeline.components.items() if name != "scheduler"}
    other = WanPipeline(**parts, scheduler=copy.deepcopy(pipeline.scheduler))
    plain, made = generate(other, generator=noise()), []

    def work():
        torch.set_num_threads(1)
        made.extend(generate(other, generator=noise()) for _ in range(4))

    with stas.steer(pipeline, dims=(1,), scale=2.0, stop=1.0):
        alone = generate(pipeline)
        thread = threading.Thread(target=work)
        thread.start()
        beside = [generate(pipeline) for _ in range(4)]
        thread.join()
    assert all(torch.equal(each, alone) for each in beside)
    assert len(made) == 4 and all(torch.equal(each, plain) for each in made)


def test_a_loop_that_never_steps_its_scheduler_is_told():
    pipeline = tiny_wan()
    latents, text = torch.zeros(1, 4, 3, 4, 4), torch.zeros(1, 8, 16)
    with stas.steer(pipeline, dims=(1,)), torch.no_grad():
        pipeline.scheduler.set_timesteps(5)
        with pytest.raises(RuntimeError, match=r"scheduler.step was not called between them"):
            for timestep in pipeline.scheduler.timesteps:
                latents = latents - pipeline.transformer(latents, timestep[None], text).sample


def test_an_exchanged_transformer_is_not_silently_unsteered():
    pipeline = tiny_wan()
    with stas.steer(pipeline, dims=(1,)):
        pipeline.transformer = tiny_wan().transformer
        with pytest.raises(RuntimeError, match=r"another one than stas attached to"):
            generate(pipeline)
    generate(pipeline)


def own_loop(pipeline, branches):
    """Two calls a step, each in the cache context that says its branch."""
    latents = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 8, 16)
    pipeline.scheduler.set_timesteps(5)
    for timestep in pipeline.scheduler.timesteps:
        for branch in branches:
            with pipeline.transformer.cache_context(branch), torch.no_grad():
                noise = pipeline.transformer(latents, timestep[None], text).sample
        pipeline.scheduler.step(noise, timestep, latents)


@pytest.mark.parametrize("run_before", [True, False])
def test_a_cache_context_tells_the_branch_before_anything_else(forwards, run_before):
    pipeline = tiny_wan()
    if run_before:  # without guidance
        generate(pipeline, guidance_scale=1.0)
    forwards.watch(pipeline)
    with stas.steer(pipeline, dims=(1,), branches=("cond",)):
        own_loop(pipeline, ("uncond", "cond"))
    assert forwards.total == 10
    assert forwards.steered == [1, 3]


def test_one_branch_is_refused_where_nobody_says_which():
    pipeline = tiny_wan()
    generate(pipeline)  # what it says of guidance is old from here on
    with stas.steer(pipeline, dims=(1,), branches=("cond",)):
        pipeline.scheduler.set_timesteps(5)
        with pytest.raises(RuntimeError, match="nobody says which branch"):
            pipeline.transformer(torch.zeros(1, 4, 3, 4, 4), torch.ones(1), torch.zeros(1, 8, 16))


def test_a_modular_pipeline_does_not_say_which_branch_and_both_are_steered(forwards):
    parts = tiny_wan().components
    modular = WanModularPipeline()
    names = ("text_encoder", "tokenizer", "transformer", "vae", "scheduler")
    modular.update_components(**{name: parts[name] for name in names})
    forwards.watch(modular)
    arguments = {
        "prompt": "a red circle",
        "negative_prompt": "",
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "num_inference_steps": 5,
        "output": "latents",
    }
    with stas.steer(modular, dims=(1,)) as handle:
        modular(**arguments)
        per_step = forwards.total // 5
        assert per_step == 2
        assert forwards.steered == list(range(2 * per_step))
        assert handle.steered_forwards == {"transformer": 2 * per_step}


def test_a_method_that_somebody_put_on_the_scheduler_is_put_back():
    pipeline = tiny_wan()
    calls = []
    original = pipeline.scheduler.step

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    pipeline.scheduler.step = counted
    with stas.steer(pipeline, dims=(1,)):
        generate(pipeline, steps=3)
    generate(pipeline, steps=3)
    assert len(calls) == 6
    assert pipeline.scheduler.step is counted


def test_two_pipelines_may_share_a_scheduler(recwarn):
    one, two = tiny_wan(), tiny_wan()
    two.scheduler = one.scheduler
    with stas.steer(one, dims=(1,), start=0.1, stop=0.2), stas.steer(two, dims=(1,)):
        generate(two, steps=2)
    assert not [warning for warning in recwarn if "No step is steered" in str(warning.message)]


def test_a_swapped_scheduler_keeps_what_the_call_said():
    """References stay references, and guidance stays known, when the scheduler was exchanged."""

    from tests.models.test_pipelines import built, run

    for name, branches, guidance in (
        ("wan vace, one reference", ("cond", "uncond"), True),
        ("anyflow", ("cond",), False),
        ("cogvideox", ("cond",), False),
    ):
        pipeline, seen = built(name), []
        before = pipeline.scheduler
        with stas.steer(pipeline, dims=(3,), branches=branches, stop=1.0) as handle:
            part = handle._steerings["transformer"]

            def begin(video, *more, begin=part.begin, seen=seen):
                seen.append((video.lead, (forward := begin(video, *more)) is not None))
                return forward

            part.begin = begin
            pipeline.scheduler = type(before).from_config(before.config)
            run(name, guidance)
            pipeline.scheduler = before
        assert set(seen) == {(int("reference" in name), True)}


def test_a_loop_that_starts_in_the_middle_is_followed_from_its_start(forwards):
    """Also when the scheduler was exchanged, whose `set_timesteps` nobody heard."""
    pipeline = video_to_video(tiny_wan())
    forwards.watch(pipeline)
    with stas.steer(pipeline, dims=(1,), start=0.0, stop=0.4):
        for swapped in (False, True):
            if swapped:
                pipeline.scheduler = flow(UniPCMultistepScheduler)
            forwards.total, forwards.steered = 0, []
            restyle(pipeline, num_inference_steps=20, strength=0.5, guidance_scale=1.0)
            assert (forwards.total, forwards.steered) == (10, [0, 1, 2, 3])
    for scheduler in (pipeline.scheduler, flow(UniPCMultistepScheduler)):
        with stas.record(pipeline) as recording:
            pipeline.scheduler = scheduler
            restyle(pipeline, num_inference_steps=20, strength=0.5, guidance_scale=1.0)
            assert recording.stats.num_steps == 10
            # A call that uses all of its steps says nothing more than this.
            scheduler.set_timesteps(20)
            assert recording._loop.clock.num_steps == 20


def test_a_loop_of_no_step_is_left_to_the_pipeline():
    pipeline = video_to_video(tiny_wan())
    plain = restyle(pipeline, num_inference_steps=10, strength=0.05, guidance_scale=1.0)
    with stas.steer(pipeline, dims=(1,)):
        steered = restyle(pipeline, num_inference_steps=10, strength=0.05, guidance_scale=1.0)
    assert torch.equal(torch.as_tensor(steered.frames), torch.as_tensor(plain.frames))


def test_a_loop_that_starts_in_the_middle_is_recorded():
    from tests.models.test_pipelines import built, run

    for name in ("wan video to video", "cogvideox video to video", "easyanimate inpaint"):
        with stas.record(built(name)) as recording:
            run(name, True, steps=6)
        steps = {step for step, _ in recording.stats.cells}
        assert steps == set(range(recording.stats.num_steps))
        assert 1 < recording.stats.num_steps < 6


class Interrupted(BaseException):
    """As Ctrl-C is: no Exception, so torch runs no hook after the forward."""


@pytest.mark.filterwarnings("ignore:A WanPipeline runs")
@pytest.mark.parametrize("training", [False, True])
def test_what_an_interrupted_forward_left_steers_nobody_else(training):
    pipeline = tiny_wan()
    parts = {name: part for name, part in pipeline.components.items() if name != "scheduler"}
    other = WanPipeline(**parts, scheduler=copy.deepcopy(pipeline.scheduler))
    transformer = pipeline.transformer
    plain = generate(other, generator=noise())
    if training:
        transformer.enable_gradient_checkpointing()
    before = vars(transformer).get("_gradient_checkpointing_func")

    def interrupt(*_):
        raise Interrupted

    with stas.steer(pipeline, dims=(1,), scale=2.0, blocks="all") as handle:
        stop = transformer.blocks[2].register_forward_pre_hook(interrupt)
        pipeline.scheduler.set_timesteps(5)
        with pytest.raises(Interrupted), torch.set_grad_enabled(training):
            transformer(torch.zeros(1, 4, 3, 4, 4), torch.ones(1), torch.zeros(1, 8, 16))
        stop.remove()
        assert torch.equal(generate(other, generator=noise()), plain)
        handle.remove()
    assert vars(transformer).get("_gradient_checkpointing_func") is before
    assert torch.equal(generate(pipeline, generator=noise()), plain)


class ThreeKinds(CogVideoXPipeline):
    """Its batch has the rows of a third prediction too: [uncond, cond, perturbed]."""

    def __call__(self, samples):
        self._guidance_scale = 3.0
        self.scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(0)
        latents = self.prepare_latents(
            samples, 4, 9, 32, 32, torch.float32, torch.device("cpu"), generator
        )
        text = torch.randn(3 * samples, 16, 16, generator=generator)
        for timestep in self.scheduler.timesteps:
            with torch.no_grad():
                found = self.transformer(
                    torch.cat([latents] * 3), text, timestep.expand(3 * samples), return_dict=False
                )[0]
            uncond, cond, _ = found.chunk(3)
            latents = self.scheduler.step(cond - uncond, timestep, latents, return_dict=False)[0]
        return latents


@pytest.mark.parametrize("samples", [1, 2])
def test_a_batch_of_three_kinds_of_rows_is_not_taken_for_two(samples):
    pipeline = ThreeKinds(**tiny_cogvideox().components)
    plain = pipeline(samples)
    with stas.steer(pipeline, dims=(3,), scale=2.0, stop=1.0) as handle:
        assert not torch.equal(pipeline(samples), plain)
        assert handle.steered_forwards == {"transformer": 4}
    for branch in ("cond", "uncond"):
        with (
            stas.steer(pipeline, dims=(3,), branches=(branch,)),
            pytest.raises(RuntimeError, match="nobody says which branch"),
        ):
            pipeline(samples)
    with stas.record(pipeline) as recording:
        pipeline(samples)
    assert recording.stats.samples == {(step, "other"): 3 * samples for step in range(4)}
