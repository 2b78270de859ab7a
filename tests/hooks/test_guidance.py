"""Detail Guidance: equal to a loop written by hand, and nothing but its own forward is touched."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack, nullcontext

import pytest
import torch
from diffusers import ClassifierFreeGuidance
from diffusers.modular_pipelines import ComponentSpec
from torch import nn

import stas
from stas.method.config import REGIONS
from stas.method.presets import preset
from tests.hooks.test_compatibility import STEPS, modular_wan, run_modular
from tests.tiny import plant_massive_dimension

SCALE, DETAIL, DIMS, BLOCK = 4.0, 1.5, (1, 5), 1
ZERO = stas.STASConfig(op="zero", regions=REGIONS, dims=DIMS, blocks=(BLOCK,), stop=1.0)
# In the same block and dimensions, in the first half of the steps.
STEERED = {"dims": DIMS, "blocks": (BLOCK,), "scale": 2.0, "stop": 0.5}


def guider(**options):
    return stas.DetailGuidance(
        **{
            "guidance_scale": SCALE,
            "detail_guidance_scale": DETAIL,
            "disruption": ZERO,
        }
        | options
    )


class Watched:
    """A pipeline's inputs and predictions, forward by forward."""

    def __init__(self, pipeline):
        self.calls = []
        self.hook = pipeline.transformer.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, module, args, kwargs, output):
        self.calls.append((kwargs, output[0].clone()))


def by_hand(pipeline, steering, weak_steps, original=False, cfg=True):
    """The same video in a loop of its own: torch's hook in place of the guider's and steer's.

    Prompts and noise are those that a modular pipeline gives its transformer.
    """
    watched = Watched(pipeline)
    pipeline.update_components(guider=ClassifierFreeGuidance(SCALE))
    run_modular(pipeline)
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    cond, uncond = (watched.calls[i][0]["encoder_hidden_states"] for i in range(2))
    latents = watched.calls[0][0]["hidden_states"].float()
    scheduler.set_timesteps(STEPS)
    mask = stas.TokenGrid(latents.shape[2], 2, 2).mask(("first_frame", "boundary"), 0.08)

    def steered(step):
        def act(module, args, output):
            for dim in DIMS:
                column = output[..., dim]
                target = 2.0 * column.abs().amax(dim=1, keepdim=True) * column.sign()
                output[..., dim] = torch.where(mask, target, column)

        return act if steering and step < STEPS / 2 else None

    def zeroed(module, args, output):
        output[..., list(DIMS)] = 0

    def run(text, timestep, *hooks):
        with torch.no_grad(), ExitStack() as stack:
            for hook in filter(None, hooks):
                stack.callback(transformer.blocks[BLOCK].register_forward_hook(hook).remove)
            return transformer(
                hidden_states=latents, timestep=timestep, encoder_hidden_states=text
            ).sample

    for step, t in enumerate(scheduler.timesteps):
        timestep = t.expand(len(latents))
        plain = run(cond, timestep, steered(step))
        pred = plain
        if cfg:
            without = run(uncond, timestep, steered(step))
            pred = (plain if original else without) + SCALE * (plain - without)
        if step in weak_steps:
            weak = run(cond, timestep, steered(step), zeroed)
            pred = pred + DETAIL * (plain - weak)
        latents = scheduler.step(pred.float(), t, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("steering", [False, True])
@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("cfg", [True, False])
def test_it_is_what_a_loop_by_hand_makes(steering, original, cfg):
    scale = SCALE if cfg else float(not original)
    made = modular_wan(guider(guidance_scale=scale, use_original_formulation=original))
    with stas.steer(made, **STEERED) if steering else nullcontext() as handle:
        found = run_modular(made)
    if steering:
        per_step = 3 if cfg else 2
        assert handle.steered_forwards == {"transformer": per_step * 3}
    expected = by_hand(modular_wan(None), steering, range(STEPS), original, cfg)
    assert torch.equal(found, expected)
    assert not torch.equal(found, by_hand(modular_wan(None), steering, range(1), original, cfg))


def test_the_window_is_that_of_the_disruption():
    some = stas.STASConfig.from_dict(ZERO.to_dict() | {"start": 0.2, "stop": 0.6})
    pipeline = modular_wan(guider(disruption=some))
    watched = Watched(pipeline)
    found = run_modular(pipeline)
    steps = some.window.steps(STEPS)
    assert len(watched.calls) == 2 * STEPS + len(steps)
    assert torch.equal(found, by_hand(modular_wan(None), False, steps))


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_at_scale_zero_it_is_plain_guidance_bit_for_bit(rescale):
    plain = run_modular(modular_wan(ClassifierFreeGuidance(SCALE, rescale)))
    pipeline = modular_wan(guider(guidance_rescale=rescale, detail_guidance_scale=0.0))
    watched = Watched(pipeline)
    assert torch.equal(run_modular(pipeline), plain)
    assert len(watched.calls) == 2 * STEPS


def test_disabled_it_is_the_cond_prediction():
    # Not run in a pipeline: Wan's of diffusers 0.42.1 fails in each step of one forward.
    off = guider(enabled=False)
    assert off.num_conditions == 1
    cond = torch.randn(2, 3)
    assert torch.equal(off.forward(cond).pred, cond)


def test_rescaling_is_of_the_whole_guidance():
    pred, cond = torch.randn(2, 1, 4, 3, 4, 4)
    plain = guider().forward(cond, pred, pred).pred
    found = guider(guidance_rescale=0.5).forward(cond, pred, pred).pred
    expected = 0.5 * plain * (cond.std() / plain.std()) + 0.5 * plain
    torch.testing.assert_close(found, expected)


def test_only_the_weak_forward_is_disrupted_and_nothing_is_left():
    pipeline = modular_wan(ClassifierFreeGuidance(SCALE))
    plain, before = run_modular(pipeline), state(pipeline.transformer)
    watched = Watched(pipeline)
    pipeline.update_components(guider=guider())
    assert not torch.equal(run_modular(pipeline), plain)
    watched.hook.remove()
    assert state(pipeline.transformer) == before
    for first in range(0, len(watched.calls), 3):
        forwards = watched.calls[first : first + 3]
        (asked, cond), _, (again, weak) = forwards
        assert asked.keys() == again.keys()
        assert torch.equal(asked["encoder_hidden_states"], again["encoder_hidden_states"])
        assert not torch.equal(cond, weak)
        for kwargs, prediction in forwards[:2]:
            with torch.no_grad():
                assert torch.equal(pipeline.transformer(**kwargs)[0], prediction)
    pipeline.update_components(guider=ClassifierFreeGuidance(SCALE))
    assert torch.equal(run_modular(pipeline), plain)


def state(transformer):
    """What hooks lie where."""
    return [
        (name, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in transformer.named_modules()
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_weak_forward_that_is_broken_off_leaves_nothing_that_acts(error):
    pipeline = modular_wan(ClassifierFreeGuidance(SCALE))
    plain, before = run_modular(pipeline), state(pipeline.transformer)
    whole = guider()
    pipeline.update_components(guider=whole)
    guided = run_modular(pipeline)

    def broken(module, args, output):
        if whole._count_prepared == 3:
            raise error

    hook = pipeline.transformer.blocks[-1].register_forward_hook(broken)
    with pytest.raises(error):
        run_modular(pipeline)
    hook.remove()
    pipeline.update_components(guider=ClassifierFreeGuidance(SCALE))
    assert torch.equal(run_modular(pipeline), plain)
    pipeline.update_components(guider=whole)
    assert torch.equal(run_modular(pipeline), guided)
    assert state(pipeline.transformer) == before


def test_a_forward_of_another_thread_is_left_alone():
    pipeline = modular_wan(guider())
    watched = Watched(pipeline)
    alone = run_modular(pipeline)
    inputs, expected = watched.calls[0]
    found = []

    def other():
        with torch.no_grad():
            found.append(pipeline.transformer(**inputs)[0])

    class Beside(stas.DetailGuidance):
        """Starts another thread's forward when the weak one is about to run."""

        def cleanup_models(self, denoiser):
            if self._is_weak():
                thread = threading.Thread(target=other)
                thread.start()
                thread.join()
            super().cleanup_models(denoiser)

    pipeline.update_components(guider=Beside.from_config(pipeline.guider.config))
    assert torch.equal(run_modular(pipeline), alone)
    assert len(found) == STEPS
    assert all(torch.equal(each, expected) for each in found)


def test_dimensions_are_detected_on_the_first_weak_forward():
    def planted(guidance):
        pipeline = modular_wan(guidance)
        plant_massive_dimension(pipeline.transformer, 3, 1000.0)
        return pipeline

    some = stas.STASConfig(op="zero", regions=REGIONS, blocks=(BLOCK,), stop=1.0)
    detecting = planted(guider(disruption=some))
    assert detecting.guider.dims is None
    first, second = run_modular(detecting), run_modular(detecting)
    assert detecting.guider.dims == (3,)
    named = {"dims": (3,)}
    known = stas.STASConfig.from_dict(some.to_dict() | named)
    assert torch.equal(run_modular(planted(guider(disruption=known))), second)
    # Its step has no guidance of detail.
    late = stas.STASConfig.from_dict(some.to_dict() | named | {"start": 1 / STEPS})
    assert torch.equal(run_modular(planted(guider(disruption=late))), first)


def test_without_massive_dimensions_it_is_plain_guidance_and_says_so():
    plain = run_modular(modular_wan(ClassifierFreeGuidance(SCALE)))
    with pytest.warns(stas.StasWarning, match="no dimension reaches"):
        assert torch.equal(run_modular(modular_wan(guider(disruption=None))), plain)


def test_recording_beside_it_sees_what_is_left():
    pipeline = modular_wan(guider())
    alone = run_modular(pipeline)
    with stas.record(pipeline) as recording:
        assert torch.equal(run_modular(pipeline), alone)
    block = recording.stats.blocks.index(BLOCK)
    for branch, disrupted in {"cond": False, "uncond": False, "other": True}.items():
        magnitudes = recording.stats.pooled(branches=[branch]).mean_abs[block]
        assert (magnitudes == 0).nonzero().flatten().tolist() == list(DIMS) * disrupted


def test_it_is_saved_and_loaded(tmp_path):
    saved = guider(disruption=preset("mean"), guidance_rescale=0.3)
    saved.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "guider_config.json").read_text())["disruption"]["op"] == "mean"
    loaded = stas.DetailGuidance.from_pretrained(tmp_path)
    for each in (loaded, saved.new(), saved.from_config(saved.config)):
        assert each.disruption == saved.disruption == preset("mean")
        assert (each.detail_guidance_scale, each.guidance_rescale) == (DETAIL, 0.3)
    assert guider(disruption=None).config.disruption.op == "zero"
    assert saved.new(detail_guidance_scale=2.0).detail_guidance_scale == 2.0
    created = ComponentSpec("guider", stas.DetailGuidance, config=saved.config).create()
    folder = str(tmp_path)
    by_name = ComponentSpec("guider", stas.DetailGuidance, pretrained_model_name_or_path=folder)
    assert created.disruption == by_name.load().disruption == saved.disruption


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"detail_guidance_scale": -1.0}, ValueError, "finite number, 0 or more, but got -1.0"),
        ({"detail_guidance_scale": float("nan")}, ValueError, "but got nan"),
        ({"detail_guidance_scale": "2"}, TypeError, "must be a number, but got '2'"),
        ({"disruption": "zero"}, TypeError, "must be a stas.STASConfig.*but got str"),
        ({"disruption": {"op": "none"}}, ValueError, "op must be one of"),
        ({"disruption": {"branches": ["cond"]}}, ValueError, "always of cond: leave branches out"),
        ({"start": 1.5}, ValueError, "start"),
    ],
)
def test_bad_values_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        guider(**options)


def test_what_it_cannot_disrupt_is_refused_before_anything_is_changed():
    part = guider(disruption=stas.STASConfig(dims=(99,), stop=1.0))
    pipeline = modular_wan(part)
    before = state(pipeline.transformer)
    with pytest.raises(ValueError, match="dims must be below 24"):
        run_modular(pipeline)
    part.set_state(0, STEPS, torch.tensor(0))
    part._count_prepared = 2
    with pytest.raises(stas.UnsupportedModelError, match="Linear has no transformer"):
        part.prepare_models(nn.Linear(1, 1))
    assert state(pipeline.transformer) == before
