"""The rows against the real classes: where the video's tokens are, and that only they change."""

from __future__ import annotations

import functools
import inspect

import diffusers
import pytest
import torch

import stas
from stas import ModelSpec, TokenSpec, register_model
from stas.method.operators import steer_
from stas.models.registry import find_spec
from stas.models.table import MODELS
from tests.zoo import all_tinies

TINIES = all_tinies()
WINDOW = "ltx with tokens after the window"  # refused at the forward, see below
DIMS, OPTIONS = (3, 7), {"boundary": 0.2, "scale": 1.7}


@functools.cache
def built(name):
    """One model for all tests of a name; each leaves it as it was."""
    return TINIES[name].transformer()


def spec_of(name):
    return find_spec(built(name))


def names(verb):
    """Those that can be steered or recorded."""
    return [name for name in TINIES if verb not in spec_of(name).refusals and name != WINDOW]


STEERED, RECORDED = names("steer"), names("record")


def batch_sizes(name):
    return (1, 2) if TINIES[name].batches else (1,)


def forward(name, inputs):
    with torch.no_grad():
        return built(name)(**inputs)


def hidden_input(spec, args, kwargs):
    """The hidden states that enter a block."""
    if "hidden_states" in kwargs:
        return kwargs["hidden_states"]
    return args[1 if spec.tokens.axes.get(spec.tokens.stacks[0]) == "ND" else 0]


def first_block_input(name, inputs):
    spec, seen = spec_of(name), []
    handle = spec.blocks(built(name))[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(hidden_input(spec, args, kwargs).clone()),
        with_kwargs=True,
    )
    forward(name, inputs)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", RECORDED)
def test_a_changed_patch_moves_the_token_that_the_grid_says(name):
    """Over all grids: the order of tokens, what is before and after them, and the width."""
    tiny, spec = TINIES[name], spec_of(name)
    config = built(name).config
    axes = spec.block_axes(built(name))[0]
    for size in tiny.grids:
        frames, height, width = size
        inputs = tiny.inputs(size, 1)
        video = spec.video_tokens(config, inputs)
        assert (video.grid.frames, video.grid.height, video.grid.width) == size
        assert video.lead == tiny.lead
        plain = first_block_input(name, inputs)
        assert plain.shape[-1] == spec.feature_width(config)
        places = {(0, 0, 0), (frames - 1, height - 1, 0), (frames // 2, height // 2, width - 1)}
        for frame, row, column in places:
            moved = first_block_input(name, tiny.perturb(inputs, frame, row, column))
            changed = (moved != plain).any(dim=-1)
            assert int(changed.sum()) == 1  # and no other token, of the video or not
            of_video = video.raster(video.of(changed[..., None], axes))[0, :, 0]
            token = (frame * height + row) * width + column
            assert of_video.nonzero().flatten().tolist() == [token]


class BlockCheck:
    """Re-runs a block without its hooks and compares what the steered one returned."""

    def __init__(self, name, number, video):
        self.spec, self.video = spec_of(name), video
        self.axes = self.spec.block_axes(built(name))[number]
        self.calls = 0
        block = self.spec.blocks(built(name))[number]
        self.handle = block.register_forward_hook(self.check, with_kwargs=True)

    def check(self, block, args, kwargs, output):
        plain = type(block).forward(block, *args, **kwargs)
        position = self.spec.tokens.video_output
        if position is not None:
            for number, (ours, theirs) in enumerate(zip(output, plain, strict=True)):
                if number != position and theirs is not None:
                    assert torch.equal(ours, theirs)
            output, plain = output[position], plain[position]
        assert torch.isfinite(plain).all() and plain.abs().max() > 0
        # Where each of the video's tokens lies in memory, found by numbering all tokens.
        rows = torch.arange(plain[..., 0].numel()).reshape(*plain.shape[:-1], 1)
        places = self.video.raster(self.video.of(rows, self.axes))[..., 0]
        flat = plain.reshape(-1, plain.shape[-1]).clone()
        flat[places] = steer_(flat[places], self.video.grid, DIMS, **OPTIONS)
        found = output.reshape(-1, plain.shape[-1])
        assert torch.equal(found, flat)
        assert not torch.equal(found, plain.reshape(-1, plain.shape[-1]))
        self.calls += 1


def chosen_blocks(name):
    """The first, middle and last of each stack."""
    spec, transformer = spec_of(name), built(name)
    order = [id(block) for block in spec.blocks(transformer)]
    numbers = set()
    for stack in spec.tokens.stacks:
        blocks = getattr(transformer, stack)
        numbers |= {order.index(id(blocks[i])) for i in {0, len(blocks) // 2, len(blocks) - 1}}
    return sorted(numbers)


@pytest.mark.parametrize("name", STEERED)
def test_exactly_the_intended_entries_change(name):
    """First, middle and last block of each stack, several grids, one sample and two."""
    tiny, transformer = TINIES[name], built(name)
    for size in (tiny.grids[0], tiny.grids[-1]):
        for batch in batch_sizes(name):
            inputs = tiny.inputs(size, batch)
            video = spec_of(name).video_tokens(transformer.config, inputs)
            plain = first(forward(name, inputs))
            for number in chosen_blocks(name):
                with stas.steer(transformer, dims=DIMS, blocks=(number,), **OPTIONS):
                    check = BlockCheck(name, number, video)
                    steered = first(forward(name, inputs))
                    check.handle.remove()
                if name == "latte without temporal blocks" and number % 2:
                    assert check.calls == 0  # they are switched off
                    continue
                assert check.calls == 1
                assert not torch.equal(steered, plain)  # it reaches the prediction
            assert torch.equal(first(forward(name, inputs)), plain)


def first(output):
    """The prediction for the video, of one sample or all."""
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


@pytest.mark.parametrize("name", [name for name in STEERED if TINIES[name].batches])
def test_a_sample_does_not_depend_on_its_neighbours(name):
    tiny, transformer = TINIES[name], built(name)
    with stas.steer(transformer, dims=DIMS, blocks="all", **OPTIONS):
        alone = first(forward(name, tiny.inputs(tiny.grids[-1], 1)))
        together = first(forward(name, tiny.inputs(tiny.grids[-1], 2)))
    together = together if together.ndim < alone.ndim else together[: alone.shape[0]]
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RECORDED)
def test_recording_sees_the_video_and_changes_nothing(name):
    tiny, transformer = TINIES[name], built(name)
    inputs = tiny.inputs(tiny.grids[-1], 1)
    plain = first(forward(name, inputs))
    with stas.record(transformer) as recording:
        assert torch.equal(first(forward(name, inputs)), plain)
    frames, height, width = tiny.grids[-1]
    counts = recording.stats.pooled().count
    skipped = name == "latte without temporal blocks"
    assert counts.unique().tolist() == ([0] if skipped else []) + [frames * height * width]


@pytest.mark.parametrize("name", [n for n in TINIES if "steer" in spec_of(n).refusals])
def test_what_cannot_be_steered_says_why(name):
    reason = spec_of(name).refusals["steer"]
    with pytest.raises(stas.UnsupportedModelError) as error:
        stas.steer(built(name), dims=(1,))
    assert reason in str(error.value)
    assert type(built(name)).__name__ in str(error.value)


def test_tokens_that_no_grid_names_are_refused():
    tiny = TINIES[WINDOW]
    with (
        stas.steer(built(WINDOW), dims=(1,)),
        pytest.raises(stas.UnsupportedModelError, match="which of them are the video's"),
    ):
        forward(WINDOW, tiny.inputs(tiny.grids[0], 1))


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.transformer)
def test_rows_name_real_classes_and_what_the_tests_run(spec):
    assert hasattr(diffusers, spec.transformer)
    for pipeline in spec.pipelines:
        assert hasattr(diffusers, pipeline) or pipeline == "ConsisIDPipeline"  # needs OpenCV
    mine = [name for name in TINIES if type(built(name)).__name__ == spec.transformer]
    assert ("class" in spec.verified) == any(name in RECORDED for name in mine)


def test_every_video_transformer_of_diffusers_has_a_row():
    """A new one in a later diffusers fails here by its name."""
    without = {
        "JoyImageEditTransformer3DModel": "edits images",
        "JoyImageEditPlusTransformer3DModel": "edits images",
        "SanaWMLTX2RefinerTransformer3DModel": "refines what another model made",
    }
    known = {"Cosmos3OmniTransformer"}
    classes = {
        name
        for name in dir(diffusers)
        if (name.endswith("Transformer3DModel") or name in known)
        and inspect.isclass(getattr(diffusers, name))
    }
    assert classes - set(MODELS) - set(without) == set()
    assert set(without) <= classes


def test_a_subclass_uses_its_base_class_row():
    class MyWan(diffusers.WanTransformer3DModel):
        pass

    assert find_spec(MyWan.__new__(MyWan)) is MODELS["WanTransformer3DModel"]


def test_registering_twice_is_refused():
    spec = ModelSpec(
        transformer="WanTransformer3DModel", pipelines=(), tokens=TokenSpec(stacks=("blocks",))
    )
    with pytest.raises(ValueError, match="registered already"):
        register_model(spec)
