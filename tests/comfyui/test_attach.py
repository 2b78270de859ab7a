"""The attachment on a stand-in for ComfyUI; the real one is run in test_headless.py."""

from __future__ import annotations

import logging
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from stas.comfyui.attach import WRAPPERS
from stas.comfyui.record import pictures, record_model
from stas.comfyui.steer import profile_dims, steer_model, transformer_of
from stas.comfyui.table import find_model
from stas.method.config import STASConfig
from stas.method.steerer import SteeredDims
from tests.comfyui import stand_in

GIVEN = SteeredDims(numbers=(3, 7), origin="given", source="given")
UNKNOWN = SteeredDims(numbers=None, origin="detected", source="to be detected")


@pytest.fixture
def model():
    return stand_in.make()


def steered(model, dims=GIVEN, **fields):
    return steer_model(model, STASConfig(**({"blocks": (1,), "boundary": 0.1} | fields)), dims)


def make_massive(model, dim=9, block=1):
    model.model.diffusion_model.blocks[block].linear.bias.data[dim] = 100.0


class Seen:
    """What block 1 returned and block 2 was given in each forward."""

    def __init__(self, model, number=1, stack="blocks"):
        blocks = getattr(model.model.diffusion_model, stack)
        self.outputs, self.inputs = [], []
        self.hooks = [
            blocks[number].register_forward_hook(
                lambda module, args, output: self.outputs.append(output.clone())
            ),
            blocks[number + 1].register_forward_pre_hook(
                lambda module, args: self.inputs.append(args[0].clone())
            ),
        ]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()

    @property
    def changed(self):
        return [
            not torch.equal(before, after)
            for before, after in zip(self.outputs, self.inputs, strict=True)
        ]


def expected(hidden, dims=(3, 7), scale=1.0, boundary=0.1, frames=3, size=16):
    """The equation, entry by entry."""
    result, ends = hidden.clone(), math.ceil(boundary * size)
    for row in range(hidden.shape[0]):
        for dim in dims:
            largest = max(abs(float(value)) for value in hidden[row, :, dim])
            for token in range(frames * size):
                frame, place = divmod(token, size)
                if frame == 0 or place < ends or place >= size - ends:
                    value = float(hidden[row, token, dim])
                    result[row, token, dim] = math.copysign(scale * largest, value)
    return result


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_every_entry_is_that_of_the_equation(model, cfg):
    with Seen(model) as seen:
        stand_in.sample(steered(model, scale=1.5), cfg=cfg, batch=2)
    assert seen.changed == [True, True, False, False, False]
    for before, after in zip(seen.outputs[:2], seen.inputs[:2], strict=True):
        assert torch.allclose(after, expected(before, scale=1.5), rtol=1e-6, atol=0)


def test_nothing_is_left_on_the_model(model):
    plain = stand_in.sample(model)
    assert not torch.equal(stand_in.sample(steered(model)), plain)
    assert torch.equal(stand_in.sample(model), plain)


def test_a_second_node_replaces_the_first(model):
    once = stand_in.sample(steered(model, scale=2.0))
    twice = steered(steered(model, scale=0.5), scale=2.0)
    assert torch.equal(stand_in.sample(twice), once)
    assert all(len(twice.all_wrappers(kind)) == 1 for kind in WRAPPERS)


def test_it_steers_within_another_patch_and_not_what_that_skips(model):
    calls = []

    def twice(args, extra):
        calls.append(extra["original_block"](args)["img"].clone())
        return {"img": calls[-1] * 2}

    other = model.clone()
    other.options["patches_replace"] = {"dit": {("double_block", 1): twice}}
    with Seen(model) as seen:
        stand_in.sample(steered(other))
    for step, (output, call) in enumerate(zip(seen.outputs, calls, strict=True)):
        assert torch.allclose(call, expected(output) if step < 2 else output, rtol=1e-6, atol=0)
    other.options["patches_replace"] = {"dit": {("double_block", 1): lambda args, extra: args}}
    assert torch.equal(stand_in.sample(steered(other)), stand_in.sample(other))


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_two_experts_share_one_window(model, cut):
    sigmas = [1 - step / 10 for step in range(11)]
    node = steered(model)
    with Seen(model) as seen:
        stand_in.sample(node, sigmas[: cut + 1])
        stand_in.sample(node, sigmas[cut:])
    assert seen.changed == [True] * 4 + [False] * 6


@pytest.mark.parametrize("branch, rows", [("uncond", [0, 1]), ("cond", [2, 3])])
def test_one_branch_is_steered_alone(model, branch, rows):
    with Seen(model) as seen:
        stand_in.sample(steered(model, branches=(branch,)), cfg=3.0, batch=2)
    before, after = seen.outputs[0], seen.inputs[0]
    others = sorted({0, 1, 2, 3} - set(rows))
    assert torch.allclose(after[rows], expected(before[rows]), rtol=1e-6, atol=0)
    assert torch.equal(after[others], before[others])


def test_a_guider_that_is_not_known_steers_both_branches_or_none(model):
    class Own(stand_in.CFGGuider):
        pass

    both = stand_in.sample(steered(model), cfg=3.0)
    assert torch.equal(stand_in.sample(steered(model), cfg=3.0, guider=Own), both)
    with pytest.raises(RuntimeError, match=r"under this guider is not known.*branches to both"):
        stand_in.sample(steered(model, branches=("cond",)), cfg=3.0, guider=Own)


def test_dims_are_detected_in_each_sampling(model, caplog):
    make_massive(model)
    node = steered(model, UNKNOWN, stop=0.6)
    with caplog.at_level(logging.INFO, "stas"), Seen(model) as seen:
        assert torch.equal(stand_in.sample(node), stand_in.sample(node))
    assert seen.changed == [False, True, True, False, False] * 2
    assert "steered 2 of 5 steps (1 to 2) at 1 of 4 blocks (1), dims 9: detected" in caplog.text


def test_few_steps_are_all_steered(model):
    make_massive(model)
    with Seen(model) as seen:
        stand_in.sample(steered(model, UNKNOWN, stop=0.5), steps=4)
    assert seen.changed == [False, True, True, False, False]  # the first is a forward of its own


def test_a_profile_that_does_not_hold_is_detected_anew(model, caplog):
    make_massive(model)
    wrong = SteeredDims(numbers=(3,), origin="profile", source="profile x: dimension 3")
    with Seen(model) as seen:
        stand_in.sample(steered(model, wrong, stop=0.6))
    # Steered in vain, made again to be read, and the steps after it.
    assert seen.changed == [True, False, True, True, False, False]
    assert "are not massive in these weights" in caplog.text
    right = SteeredDims(numbers=(9,), origin="profile", source="profile x: dimension 9")
    with Seen(model) as seen:
        stand_in.sample(steered(model, right, stop=0.6))
    assert seen.changed == [True, True, True, False, False]


def test_where_nothing_is_massive_it_is_said(model, caplog):
    plain = stand_in.sample(model)
    assert torch.equal(stand_in.sample(steered(model, UNKNOWN)), plain)
    assert "no step of this sampling was steered: nothing is steered: no dim" in caplog.text
    caplog.clear()
    assert torch.equal(stand_in.sample(steered(model), [0.2, 0.1, 0.0]), plain) is False
    assert "the window of start_percent and end_percent has none of its steps" in caplog.text


def test_a_forward_that_ignores_the_patches_is_an_error(model):
    model.model.diffusion_model.ignores_patches = True
    with pytest.raises(RuntimeError, match=r"None of the blocks \[1\] of WanModel ran"):
        stand_in.sample(steered(model))
    # A cache of whole forwards explains it.
    model.options["wrappers"] = {"diffusion_model": {"cache": [None]}}
    stand_in.sample(steered(model))


def test_the_anchor_of_a_context_window_is_left_alone(model):
    model.options["context_window"] = SimpleNamespace(index_list=[4, 5], causal_anchor_index=3)
    with Seen(model) as seen:
        stand_in.sample(steered(model))
    before, after = seen.outputs[0], seen.inputs[0]
    assert torch.equal(after[:, :16], before[:, :16])
    assert torch.allclose(after[:, 16:], expected(before[:, 16:], frames=2), rtol=1e-6, atol=0)


def test_a_forward_within_a_forward_keeps_the_outer_one_steered(model):
    """As where another pack evaluates the model once more in the middle of a block."""
    within = []

    def apply_model(x, t, c_concat, c_crossattn, control, transformer_options):
        return model.model.diffusion_model(x, transformer_options)

    def again(args, extra):
        if not within:
            within.append(True)
            wrappers, x = both.all_wrappers("apply_model"), torch.randn(1, 4, 3, 8, 8)
            stand_in.call(wrappers, model.model, apply_model, x, None, None, None, None, {})
            within.clear()
        return extra["original_block"](args)

    both = steered(model)
    both.options["patches_replace"] = {"dit": {("double_block", 0): again}}
    with Seen(model) as seen:
        stand_in.sample(both, steps=5)
    assert seen.changed == [True] * 4 + [False] * 6


def test_a_sampling_within_a_sampling_is_one_of_its_own(model):
    """As where another pack samples in the middle of a block."""
    within = []

    def again(args, extra):
        if not within:
            within.append(True)
            stand_in.sample(both, [1.0, 0.9])
            within.clear()
        return extra["original_block"](args)

    both = steered(model)
    both.options["patches_replace"] = {"dit": {("double_block", 0): again}}
    with Seen(model) as seen:
        stand_in.sample(both, [1.0, 0.75, 0.5, 0.25, 0.0])
    assert seen.changed[0::2] == [True] * 4
    assert seen.changed[1::2] == [True, True, False, False]


def test_recording_sees_what_steering_did_in_both_orders(model):
    make_massive(model)
    settings = {"blocks": "all", "map_blocks": (1,), "map_dims": ()}
    plain_model, plain = record_model(model, **settings)
    assert torch.equal(stand_in.sample(plain_model, cfg=3.0), stand_in.sample(model, cfg=3.0))
    first, one = record_model(steered(model), **settings)
    recorded, two = record_model(model, **settings)
    for node in (first, steered(recorded)):
        stand_in.sample(node, cfg=3.0)
    means = [
        each.stats.pooled(steps=[0], regions=("first_frame",)).mean_abs[1, 3]
        for each in (plain, one, two)
    ]
    assert means[0] < means[1] == means[2]
    assert one.stats.map_dims == (9,)
    assert one.stats.samples == {
        (step, branch): 1 for step in range(5) for branch in ("cond", "uncond")
    }
    images = pictures(one.stats, "Wan")
    assert images.shape[0] == 3 and images.shape[-1] == 3
    assert all(0.2 < float(image.mean()) < 1 for image in images)


def test_a_cancelled_sampling_leaves_nothing(model):
    node, recording = record_model(steered(model), blocks=(0, 1), map_blocks=(1,), map_dims=(3,))
    whole = stand_in.sample(node)

    def cancel(step):
        if step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stand_in.sample(node, callback=cancel)
    with pytest.raises(ValueError, match="Nothing was recorded"):
        _ = recording.stats
    assert torch.equal(stand_in.sample(node), whole)
    assert recording.stats.num_steps == 5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dims": SteeredDims(numbers=(24,), origin="given", source="")}, "from 0 to 23"),
        ({"blocks": (4,)}, r"numbered 0 to 3.*names \[4\]"),
    ],
)
def test_what_the_model_does_not_have_is_told_at_once(model, change, message):
    with pytest.raises(ValueError, match=message):
        steered(model, **change)


def test_a_map_of_a_block_that_is_not_recorded_is_refused(model):
    with pytest.raises(ValueError, match=r"map_blocks must be among.*\[2\] are not"):
        record_model(model, blocks=(0, 1), map_blocks=(2,), map_dims=())


def test_image_models_are_refused(model):
    model.model.latent_format.latent_dimensions = 2
    with pytest.raises(ValueError, match="makes images, and STAS steers videos"):
        transformer_of(model)


def test_a_profile_is_found_by_the_architecture(model):
    transformer = model.model.diffusion_model
    row = find_model(transformer)
    with pytest.raises(ValueError, match="No profile fits this WanModel"):
        profile_dims(row, transformer)
    transformer.dim, transformer.num_heads, transformer.num_layers = 1536, 12, 30
    assert profile_dims(row, transformer).numbers == (1188,)
    assert profile_dims(row, transformer).origin == "profile"


def test_a_compiled_graph_keeps_its_patches(model):
    """The same patch is given again, or every forward would be compiled anew."""
    given = []
    node = steered(model)
    inner = model.model.diffusion_model
    forward = inner.forward

    def spy(x, options):
        given.append(options.get("patches_replace", {}).get("dit", {}).get(("double_block", 1)))
        return forward(x, options)

    inner.forward = spy
    stand_in.sample(node)
    stand_in.sample(node)
    assert len({id(each) for each in given if each is not None}) == 1


def test_compiled_whole_it_is_the_same_and_compiles_once(model):
    plain, both = stand_in.sample(model), stand_in.sample(steered(model))
    counter = CompileCounter()
    model.model.diffusion_model = torch.compile(model.model.diffusion_model, backend=counter)
    node = steered(model)
    assert torch.equal(stand_in.sample(node), both)
    compiled = counter.frame_count
    assert torch.equal(stand_in.sample(node), both)
    assert torch.equal(stand_in.sample(model), plain)
    assert counter.frame_count == compiled > 0


@pytest.mark.parametrize("number, stack, text", [(0, "double_blocks", 0), (2, "single_blocks", 3)])
def test_the_video_comes_after_the_text(number, stack, text):
    """Blocks that return the tensor that they were given are seen before they are changed."""
    model = stand_in.make(stand_in.HunyuanVideo)
    with Seen(model, 0, stack) as seen:
        stand_in.sample(steered(model, blocks=(number,)))
    assert seen.changed == [True, True, False, False, False]
    before, after = seen.outputs[0], seen.inputs[0]
    assert torch.equal(after[:, :text], before[:, :text])
    assert torch.allclose(after[:, text:], expected(before[:, text:]), rtol=1e-6, atol=0)


def test_a_block_that_comfyui_cannot_run_under_a_patch_is_run_all_the_same():
    model = stand_in.make(stand_in.Kandinsky5)
    plain = stand_in.sample(model)
    with Seen(model, 1, "visual_transformer_blocks") as seen:
        stand_in.sample(steered(model))
    assert seen.changed == [True, True, False, False, False]
    assert torch.allclose(seen.inputs[0], expected(seen.outputs[0]), rtol=1e-6, atol=0)
    assert torch.equal(stand_in.sample(model), plain)


def test_sound_and_guides_are_left_alone():
    model = stand_in.make(stand_in.LTXAVModel)
    model.shape = (1, 4 * 48 + 7)
    frame = torch.zeros(1, 3, 16)  # coordinates of one frame of guides
    model.conds = {"latent_shapes": [(1, 4, 3, 4, 4), (1, 7)], "keyframe_idxs": frame}
    with Seen(model, 1, "transformer_blocks") as seen:
        stand_in.sample(steered(model))
    before, after = seen.outputs[0], seen.inputs[0]
    assert before.shape[1] == 48 - 5
    assert torch.equal(after[:, 32:], before[:, 32:])
    assert torch.allclose(after[:, :32], expected(before[:, :32], frames=2), rtol=1e-6, atol=0)


def test_a_patch_that_runs_the_block_by_halves(model):
    """As skip layer guidance of other packs does: each half is steered, unless one branch is."""

    def halves(args, extra):
        parts = [extra["original_block"]({"img": part})["img"] for part in args["img"].chunk(2)]
        return {"img": torch.cat(parts)}

    whole = stand_in.sample(steered(model), cfg=3.0)
    other = model.clone()
    other.options["patches_replace"] = {"dit": {("double_block", 1): halves}}
    assert torch.allclose(stand_in.sample(steered(other), cfg=3.0), whole, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"splits the batch at block 1.*branches to both"):
        stand_in.sample(steered(other, branches=("cond",)), cfg=3.0)
    recorded, recording = record_model(other, blocks=(1,), map_blocks=(1,), map_dims=(3,))
    stand_in.sample(recorded, cfg=3.0)
    assert recording.stats.samples == {(step, "other"): 2 for step in range(5)}


def test_a_cache_of_whole_forwards_is_given_no_forward_more(model):
    """EasyCache counts forwards: none is made twice, and one that it skips is not waited for."""
    make_massive(model)
    model.options["wrappers"] = {"diffusion_model": {"easycache": [None]}}
    inner, forwards = model.model.diffusion_model, []
    forward = inner.forward

    def cached(x, options):
        forwards.append(len(forwards))
        return 0.1 * x if forwards[-1] == 0 else forward(x, options)

    inner.forward = cached
    with Seen(model) as seen:
        stand_in.sample(steered(model, UNKNOWN, stop=0.5), steps=4)
    assert len(forwards) == 4
    assert seen.changed == [False, False, False]  # the only step left was read
    forwards.clear()
    wrong = SteeredDims(numbers=(3,), origin="profile", source="profile x: dimension 3")
    with Seen(model) as seen:
        stand_in.sample(steered(model, wrong, stop=0.75), steps=4)
    assert len(forwards) == 4
    assert seen.changed == [True, True, False]


class TwoModels(stand_in.CFGGuider):
    """Runs a second model for uncond, under the first one's wrappers."""

    second = None

    def __init__(self, patcher, cfg):
        super().__init__(patcher, cfg)
        self.second.pre_run()

    def predict_noise(self, x, timestep, options, seed):
        cond = super().predict_noise(x, timestep, options, seed)
        first, self.patcher.model = self.patcher.model, self.second.model
        try:
            uncond = super().predict_noise(x, timestep, options, seed)
        finally:
            self.patcher.model = first
        return uncond + 3 * (cond - uncond)


def test_a_node_on_a_guiders_second_model_is_warned_of(model, caplog, monkeypatch):
    monkeypatch.setattr(TwoModels, "second", stand_in.make())
    stand_in.sample(steered(model), guider=TwoModels)
    assert "does nothing" not in caplog.text
    monkeypatch.setattr(TwoModels, "second", steered(stand_in.make()))
    stand_in.sample(model, guider=TwoModels)
    assert "the node on this WanModel does nothing: it is the second model" in caplog.text


@pytest.mark.parametrize(
    "second, name",
    [
        (stand_in.GeneralDIT, "GeneralDIT"),
        (partial(stand_in.WanModel, layers=3), "WanModel of 3 blocks"),
    ],
)
def test_a_second_model_of_another_architecture_is_refused(model, monkeypatch, second, name):
    monkeypatch.setattr(TwoModels, "second", stand_in.make(second))
    with pytest.raises(RuntimeError, match=f"WanModel of 4 blocks, but the guider runs a {name}"):
        stand_in.sample(steered(model), guider=TwoModels)


@pytest.fixture
def hooked():
    return stand_in.make(stand_in.GeneralDIT)


def hooks_of(model):
    return [hook for each in model.model.diffusion_model.modules() for hook in each._forward_hooks]


def test_blocks_that_nobody_can_replace_are_hooked_for_one_forward(hooked):
    given, counts = [], []
    blocks = hooked.model.diffusion_model.blocks

    def watch(block, args):
        given.append(args[0].flatten(0, 2).transpose(0, 1).clone())
        counts.append(len(hooks_of(hooked)))

    blocks["block2"].register_forward_pre_hook(watch)
    plain = stand_in.sample(hooked, batch=2)
    assert not torch.equal(stand_in.sample(steered(hooked), batch=2), plain)
    assert torch.allclose(given[5], expected(given[0]), rtol=1e-6, atol=0)
    assert counts == [0] * 5 + [1, 1, 0, 0, 0]
    assert torch.equal(stand_in.sample(hooked, batch=2), plain)


def test_a_forward_that_fails_leaves_no_hook(hooked):
    def fail(block, args):
        assert len(hooks_of(hooked)) == 1
        raise InterruptedError

    hooked.model.diffusion_model.blocks["block2"].register_forward_pre_hook(fail)
    with pytest.raises(InterruptedError):
        stand_in.sample(steered(hooked))
    assert not hooks_of(hooked)


def test_recording_by_hooks_sees_what_steering_did_in_both_orders(hooked):
    settings = {"blocks": (1,), "map_blocks": (1,), "map_dims": (3,)}
    plain_model, plain = record_model(hooked, **settings)
    first, one = record_model(steered(hooked), **settings)
    recorded, two = record_model(hooked, **settings)
    for node in (plain_model, first, steered(recorded)):
        stand_in.sample(node)
    means = [
        each.stats.pooled(steps=[0], regions=("first_frame",)).mean_abs[0, 3]
        for each in (plain, one, two)
    ]
    assert means[0] < means[1] == means[2]
