"""The nodes in ComfyUI itself, without its server: real model classes, samplers and schedulers.

Needs COMFYUI_DIR and the Python of its environment, run with --noconftest.
"""

# ruff: noqa: E402  # ComfyUI reads its options when it is imported

from __future__ import annotations

import logging
import os

import pytest
import torch

if not os.environ.get("COMFYUI_DIR"):
    pytest.skip("COMFYUI_DIR is not set: no ComfyUI to run in", allow_module_level=True)

from stas.activations.profiles import Profile, cache_folder
from stas.method.window import Window
from tests.comfyui import zoo

zoo.start()

import comfy.patcher_extension
import comfy.sample
import comfy.samplers

from stas.comfyui import attach
from stas.comfyui.nodes import STASFindDims, STASPlots, STASRecord, STASSteer

LATENT = (1, 16, 3, 8, 8)
BOUNDARY = 0.1
DIMS = (3, 77)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("STAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model():
    import comfy.ops

    return zoo.load(zoo.wan(comfy.ops.disable_weight_init))


def text(length=5, width=4096, seed=7, **conds):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, length, width, generator=generator), dict(conds)]]


def sample(
    model,
    latent=LATENT,
    *,
    steps=5,
    cfg=1.0,
    sampler="euler",
    scheduler="simple",
    seed=1,
    sound=None,
    **options,
):
    noise = torch.randn(latent, generator=torch.Generator().manual_seed(seed))
    empty = torch.zeros(latent)
    if sound is not None:
        from comfy.nested_tensor import NestedTensor  # not in every version

        noise = NestedTensor([noise, torch.randn(sound, generator=torch.Generator())])
        empty = NestedTensor([empty, torch.zeros(sound)])
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler,
        options.pop("positive", text()), options.pop("negative", text(seed=8)),
        empty, disable_pbar=True, seed=seed, **options,
    )  # fmt: skip


def steered(model, **options):
    fields = {
        "dims": "3, 77", "blocks": "0", "scale": 1.5, "boundary": BOUNDARY, "start_percent": 0.0,
        "end_percent": 0.4,
    } | options  # fmt: skip
    return STASSteer.execute(model, **fields)[0]


class Seen:
    """What a block returned, and what the next one was given, in each forward: (B, N, D).

    Args:
        model: A ModelPatcher.
        number: The block.
        place: The attribute with the blocks.
        tokens: Makes (B, N, D) of what its blocks take and return.
        method: Of the blocks, that the model calls.
    """

    def __init__(
        self, model, number=0, place="blocks", tokens=lambda hidden: hidden, method="forward"
    ):
        blocks = getattr(model.model.diffusion_model, place)
        blocks = list(blocks.values() if hasattr(blocks, "values") else blocks)
        self.outputs, self.inputs = [], []
        self._tokens, self._method = tokens, method
        self._watched = (
            (blocks[number], self.outputs, None),
            (blocks[number + 1], None, self.inputs),
        )

    def __enter__(self):
        # Another may watch already: what it set is put back.
        self._before = [(block, vars(block).get(self._method)) for block, *_ in self._watched]
        for block, outputs, inputs in self._watched:
            self._watch(block, outputs, inputs)
        return self

    def __exit__(self, *error):
        for block, before in self._before:
            if before is None:
                delattr(block, self._method)
            else:
                setattr(block, self._method, before)

    def _watch(self, block, outputs, inputs):
        own = getattr(block, self._method)

        def watched(*args, **kwargs):
            if inputs is not None:
                given = args[0] if args else kwargs.get("img", kwargs.get("hidden_states"))
                inputs.append(self._tokens(_first(given)).clone())
            output = own(*args, **kwargs)
            if outputs is not None:
                outputs.append(self._tokens(_first(output)).clone())
            return output

        setattr(block, self._method, watched)

    @property
    def changed(self):
        pairs = zip(self.outputs, self.inputs, strict=True)
        return [not torch.equal(output, given) for output, given in pairs]


def _first(output):
    return output[0] if isinstance(output, tuple) else output


def expected(hidden, first, frames, rows, columns, dims, scale, boundary):
    """The paper's equation, entry by entry: nothing of stas is used here."""
    result = hidden.clone()
    size = rows * columns
    ends = next(k for k in range(size + 1) if k >= boundary * size - 1e-9)
    for row in range(hidden.shape[0]):
        for dim in dims:
            video = hidden[row, first : first + frames * size, dim]
            largest = max(abs(float(value)) for value in video)
            for token in range(frames * size):
                frame, place = divmod(token, size)
                if frame == 0 or place < ends or place >= size - ends:
                    value = float(video[token])
                    sign = (value > 0) - (value < 0)
                    result[row, first + token, dim] = scale * largest * sign
    return result


@pytest.mark.parametrize("cfg", [1.0, 5.0])
def test_every_entry_is_that_of_the_equation(model, cfg):
    with Seen(model) as seen:
        sample(steered(model), cfg=cfg)
    assert seen.changed == [True, True, False, False, False]
    for before, after in zip(seen.outputs[:2], seen.inputs[:2], strict=True):
        assert before.shape[0] == (1 if cfg == 1 else 2)
        wanted = expected(before, 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
        assert torch.allclose(after, wanted, rtol=1e-6, atol=0)
        assert (after != before).any(dim=0).any(dim=0).nonzero().flatten().tolist() == [*DIMS]


def test_sampling_without_it_is_bit_identical_afterwards(model):
    plain = sample(model)
    assert not torch.equal(sample(steered(model)), plain)
    assert torch.equal(sample(model), plain)


def test_a_second_node_replaces_the_first(model):
    once = sample(steered(model, scale=2.0))
    assert torch.equal(sample(steered(steered(model, scale=0.5), scale=2.0)), once)
    for kind in attach.WRAPPERS:
        twice = steered(steered(model))
        assert len(twice.get_wrappers(kind, "stas")) == 1
        assert not model.get_wrappers(kind, "stas")


def test_the_wrappers_are_comfyuis():
    names = comfy.patcher_extension.WrappersMP
    assert attach.WRAPPERS == (names.OUTER_SAMPLE, names.PREDICT_NOISE, names.APPLY_MODEL)
    assert attach.DIFFUSION_MODEL == names.DIFFUSION_MODEL


@pytest.mark.parametrize("first", ["stas", "other"])
def test_it_chains_with_another_patch_on_the_same_block(model, first):
    """Another pack doubles the block's change: it is given what was steered, in both orders."""
    calls = []

    def double(args, extra):
        before = args["img"].clone()
        out = extra["original_block"](args)
        calls.append(out["img"].clone())
        out["img"] = before + 2 * (out["img"] - before)
        return out

    def patch(model):
        patched = model.clone()
        patched.set_model_patch_replace(double, "dit", "double_block", 0)
        return patched

    both = patch(steered(model)) if first == "stas" else steered(patch(model))
    with Seen(model) as seen:
        sample(both)
    assert len(calls) == 5
    for step, (output, call) in enumerate(zip(seen.outputs, calls, strict=True)):
        wanted = expected(output, 0, 3, 4, 4, DIMS, 1.5, BOUNDARY) if step < 2 else output
        assert torch.allclose(call, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("skips", [True, False])
def test_a_block_that_another_patch_skips_is_left_alone(model, skips):
    patched = model.clone()
    if skips:
        patched.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", 0)
    alone, both = sample(patched), sample(steered(patched))
    assert torch.equal(alone, both) == skips


# Its schedules begin below the model's largest sigma, as parts do.
PARTS = ("ddim_uniform",)


def steps_of(model, scheduler, start, end):
    """The steps that are steered, and the steps of the window."""
    device = torch.device("cpu")
    made = comfy.samplers.KSampler(model, 10, device, sampler="euler", scheduler=scheduler)
    node = steered(model, start_percent=start, end_percent=end)
    with Seen(model) as seen:
        sample(node, steps=10, scheduler=scheduler)
    steered_steps = [step for step, changed in enumerate(seen.changed) if changed]
    return steered_steps, list(Window(start, end).steps(len(made.sigmas) - 1))


@pytest.mark.parametrize(
    "scheduler", [name for name in comfy.samplers.SCHEDULER_NAMES if name not in PARTS]
)
@pytest.mark.parametrize("window", [(0.0, 0.4), (0.25, 0.7)])
def test_the_window_is_exact_on_every_scheduler(model, scheduler, window):
    found, wanted = steps_of(model, scheduler, *window)
    assert found == wanted


@pytest.mark.parametrize("scheduler", PARTS)
def test_schedules_that_begin_late_are_a_step_off_at_most(model, scheduler):
    for window in ((0.0, 0.4), (0.25, 0.7)):
        found, wanted = steps_of(model, scheduler, *window)
        assert abs(found[0] - wanted[0]) <= 1 and abs(found[-1] - wanted[-1]) <= 1


@pytest.mark.parametrize("cut", [3, 4, 8])
def test_two_experts_share_one_window(model, cut):
    found = []
    node = steered(model)
    for begin, end in ((0, cut), (cut, 10)):
        with Seen(model) as seen:
            sample(node, steps=10, start_step=begin, last_step=end, disable_noise=begin > 0)
        found += seen.changed
    assert found == [True] * 4 + [False] * 6


def test_the_second_expert_says_that_the_window_ended_before_it(model, caplog):
    node = steered(model)
    sample(node, steps=10, last_step=5)
    assert "no step" not in caplog.text
    sample(node, steps=10, start_step=5, disable_noise=True)
    assert "no step of this sampling was steered: the window of start_percent" in caplog.text


@pytest.mark.parametrize("sampler, evaluations", [("heun", 7), ("uni_pc", 5), ("dpm_2", 8)])
def test_substeps_of_a_steered_step_are_steered(model, sampler, evaluations):
    with Seen(model) as seen:
        sample(steered(model), steps=10, sampler=sampler)
    assert sum(seen.changed) == evaluations
    assert seen.changed == sorted(seen.changed, reverse=True)


@pytest.mark.parametrize("branch, row", [("cond", 1), ("uncond", 0)])
def test_one_branch_is_steered_alone(model, branch, row):
    with Seen(model) as seen:
        sample(steered(model, branches=branch), cfg=4.0)
    before, after = seen.outputs[0], seen.inputs[0]
    wanted = expected(before[row : row + 1], 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(after[row : row + 1], wanted, rtol=1e-6, atol=0)
    assert torch.equal(after[1 - row], before[1 - row])


def test_a_batch_steers_each_sample_by_its_own_maximum(model):
    latent = (2, 16, 3, 8, 8)
    with Seen(model) as seen:
        sample(steered(model), latent, cfg=4.0)
    wanted = expected(seen.outputs[0], 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
    assert seen.outputs[0].shape[0] == 4
    assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)


def test_odd_sizes_are_padded_as_the_model_pads_them(model):
    with Seen(model) as seen:
        sample(steered(model), (1, 16, 2, 7, 5))
    wanted = expected(seen.outputs[0], 0, 2, 4, 3, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)


def make_massive(model, dim=9, factor=5000.0):
    """A clone whose block 1 has a massive dimension."""
    patched = model.clone()
    key = "diffusion_model.blocks.1.ffn.2.bias"
    bias = torch.zeros(256)
    bias[dim] = factor
    patched.add_patches({key: (bias,)})
    return patched


def test_dims_are_detected_anew_in_each_sampling(model, caplog):
    massive = make_massive(model)
    node = steered(massive, dims="auto", blocks="1,2", end_percent=0.6)
    with caplog.at_level(logging.INFO, "stas"), Seen(model, 1) as seen:
        first, second = sample(node), sample(node)
    assert torch.equal(first, second)
    assert seen.changed == [False, True, True, False, False] * 2
    assert "steered 2 of 5 steps (1 to 2) at 2 of 4 blocks (1, 2), dims 9" in caplog.text


@pytest.mark.parametrize("dim, holds", [(9, True), (3, False)])
def test_a_profile_is_checked_against_the_weights(model, caplog, dim, holds):
    """It is found by the architecture alone: one of another checkpoint is warned of, and left."""
    config = {"num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 128}
    cache_folder().mkdir(parents=True)
    Profile(
        model="another/checkpoint",
        transformer="WanTransformer3DModel",
        config=config,
        dims=(dim,),
        ratios=(40.0,),
        source="measured",
    ).save(cache_folder() / "one.json")
    node = steered(make_massive(model), dims="profile", blocks="1", end_percent=0.6)
    with caplog.at_level(logging.INFO, "stas"), Seen(model, 1) as seen:
        sample(node)
    # Where it does not hold the first forward is made again, to be read.
    again = [] if holds else [False]
    assert seen.changed == [True, *again, True, True, False, False]
    said = "the dimensions of the profile another/checkpoint (measured) are not massive in these"
    assert (said in caplog.text) != holds
    assert "at 1 of 4 blocks (1), dims 9: " in caplog.text


def test_a_window_of_few_steps_loses_none_to_detection(model):
    massive = make_massive(model)
    with Seen(model, 1) as seen:
        sample(steered(massive, dims="auto", blocks="1", end_percent=0.5), steps=4)
    assert seen.changed == [False, True, True, False, False]


def test_find_dims_takes_one_forward(model):
    massive = make_massive(model)
    with Seen(model, 1) as seen:
        output = STASFindDims.execute(massive, text(), {"samples": torch.zeros(LATENT)}, 3)
    assert len(seen.outputs) == 1
    assert output[0] == "9"
    assert "dimension 9 at" in output[1]
    with Seen(model, 1) as seen:
        sample(steered(massive, dims=output[0], blocks="1", end_percent=0.5), steps=4)
    assert seen.changed == [True, True, False, False]


def test_where_nothing_is_massive_nothing_is_steered_and_it_is_said(model, caplog):
    output = STASFindDims.execute(model, text(), {"samples": torch.zeros(LATENT)}, 3)
    assert output[0] == "none"
    plain = sample(model)
    for dims in ("auto", "none"):
        caplog.clear()
        assert torch.equal(sample(steered(model, dims=dims)), plain)
        assert "no step of this sampling was steered" in caplog.text


def test_recording_changes_no_bit_and_sees_what_steering_did(model, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    settings = ("all", "0", "3", "stas/activations")
    plain_model, plain = STASRecord.execute(model, *settings)[:2]
    assert torch.equal(sample(plain_model, cfg=4.0), sample(model, cfg=4.0))
    assert plain.stats.num_steps == 5
    assert {branch for _, branch in plain.stats.cells} == {"cond", "uncond"}

    def largest(recording):
        moments = recording.stats.pooled(steps=[0], regions=("first_frame",))
        return moments.max_abs[0, 3], moments.mean_abs[0, 3]

    before, both = steered(model, scale=2.0), []
    for node in (STASRecord.execute(before, *settings), None):
        if node is None:
            recorded, recording = STASRecord.execute(model, *settings)[:2]
            recorded = steered(recorded, scale=2.0)
        else:
            recorded, recording = node[:2]
        sample(recorded, cfg=4.0)
        both.append(largest(recording))
    assert both[0] == both[1]
    assert both[0][1] > largest(plain)[1]
    images, path = STASPlots.execute(plain, None)[:2]
    assert images.shape[0] == 3 and images.shape[3] == 3
    assert all(0.2 < float(image.mean()) < 1 for image in images)
    from stas.activations.stats import ActivationStats

    assert ActivationStats.load(path).num_steps == 5


def test_a_cancelled_sampling_leaves_nothing(model):
    recorded, recording = STASRecord.execute(steered(model), "all", "0", "", "stas")[:2]
    sample(recorded)
    kept, plain = recording.stats, sample(steered(model))

    def cancel(step, *rest):
        if step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sample(recorded, callback=cancel)
    with pytest.raises(ValueError, match="Nothing was recorded"):
        _ = recording.stats
    assert torch.equal(sample(recorded), plain)
    assert recording.stats.samples == kept.samples


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"dims": "256"}, "dims must be from 0 to 255.*got 256"),
        ({"dims": "x"}, "dims: 'x' is not a number"),
        ({"blocks": "4"}, r"4 blocks, numbered 0 to 3.*names \[4\]"),
        ({"start_percent": 0.5, "end_percent": 0.4}, "end_percent must be larger"),
        ({"start_percent": 0.0, "end_percent": 0.0}, "bypass the node"),
        ({"regions": "edges"}, "regions must be one of first_frame"),
        ({"regions": " , "}, "regions is empty"),
        ({"dims": "profile"}, "No profile fits"),
    ],
)
def test_bad_input_is_told_when_the_node_runs(model, fields, message):
    with pytest.raises(ValueError, match=message):
        steered(model, **fields)


def test_text_is_checked_before_anything_runs():
    assert STASSteer.validate_inputs(dims="auto", blocks="middle") is True
    assert STASSteer.validate_inputs(dims=None, blocks=None) is True
    assert "dims: 'x'" in STASSteer.validate_inputs(dims="x", blocks="middle")
    assert "blocks: '1.5'" in STASRecord.validate_inputs(blocks="1.5", map_blocks="", map_dims="")


def test_scale_zero_is_the_zero_that_it_says(model):
    with Seen(model) as seen:
        sample(steered(model, scale=0.0))
    assert (seen.inputs[0][:, :16, list(DIMS)] == 0).all()


def test_a_latent_of_another_model_is_refused(model):
    with pytest.raises(ValueError, match="takes a video of 16 channels"):
        STASFindDims.execute(model, text(), {"samples": torch.ones(1, 12, 3, 8, 8)}, 3)


def test_a_model_whose_forward_another_pack_replaces_is_an_error(model):
    import types

    transformer = model.model.diffusion_model
    own = type(transformer).forward_orig

    def forward_orig(self, *args, transformer_options=None, **kwargs):
        return own(self, *args, transformer_options={}, **kwargs)

    transformer.forward_orig = types.MethodType(forward_orig, transformer)
    try:
        with pytest.raises(RuntimeError, match=r"None of the blocks \[0\] of WanModel ran"):
            sample(steered(model))
    finally:
        del transformer.forward_orig
