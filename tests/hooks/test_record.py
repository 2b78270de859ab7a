"""Recording real pipelines: what is counted where, and that nothing changes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers import FirstBlockCacheConfig

import stas
import stas.hooks.record
from stas.activations.sums import partial_sums
from stas.method.config import REGIONS
from stas.method.operators import steer_
from stas.models.registry import find_spec
from tests.tiny import (
    generate,
    plant_massive_dimension,
    tiny_cogvideox,
    tiny_wan,
    tiny_wan_transformer,
)

PIPELINES = {
    "wan": tiny_wan,
    "wan two experts": lambda: tiny_wan(two_experts=True),
    "cogvideox": tiny_cogvideox,
}


class Seen:
    """The video's tokens that each block returned, copied by a hook of torch's own."""

    def __init__(self, transformer):
        self.spec = find_spec(transformer)
        self.tokens = []  # one list per forward
        self.grid = None
        transformer.register_forward_pre_hook(self.begin, with_kwargs=True)
        for block in self.spec.blocks(transformer):
            block.register_forward_hook(self.keep)

    def begin(self, module, args, kwargs):
        self.grid = self.spec.video_tokens(module.config, kwargs).grid
        self.tokens.append([])

    def keep(self, block, args, output):
        position = self.spec.tokens.video_output
        self.tokens[-1].append((output if position is None else output[position]).clone())


@pytest.mark.parametrize("name", PIPELINES)
def test_recording_changes_no_bit_and_counts_every_step_and_branch(name):
    plain = generate(PIPELINES[name]())
    pipeline = PIPELINES[name]()
    with stas.record(pipeline) as recording:
        assert torch.equal(generate(pipeline), plain)
    assert torch.equal(generate(pipeline), plain)
    keys = [key for stats in recording.stats_of.values() for key in stats.cells]
    assert sorted(keys) == [(i, branch) for i in range(5) for branch in ("cond", "uncond")]
    for stats in recording.stats_of.values():
        assert set(stats.samples.values()) <= {1} and stats.num_steps in (5, None)


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_the_moments_are_those_of_what_the_blocks_returned(name):
    pipeline = PIPELINES[name]()
    seen = Seen(pipeline.transformer)
    with stas.record(pipeline, boundary=0.2) as recording:
        generate(pipeline, steps=2)
    stats = recording.stats
    batched = name == "cogvideox"
    for step in range(2):
        for branch in ("cond", "uncond"):
            forward = step if batched else 2 * step + (branch == "uncond")
            row = int(batched and branch == "cond")
            cell = stats.cells[step, branch]
            for block, tokens in enumerate(seen.tokens[forward]):
                for number, region in enumerate(REGIONS):
                    mask = seen.grid.mask((region,), 0.2)
                    direct = tokens[row][mask].double()
                    found = {key: a[block, number] for key, a in cell.arrays().items()}
                    assert found["count"].unique().tolist() == [len(direct)]
                    torch.testing.assert_close(found["mean"], direct.mean(0), rtol=1e-5, atol=1e-6)
                    torch.testing.assert_close(
                        found["m2"] / len(direct), direct.var(0, correction=0), rtol=1e-4, atol=1e-7
                    )


def test_steering_is_recorded_as_it_left_the_block_in_either_order():
    for steer_first in (True, False):
        pipeline = tiny_wan()
        seen = Seen(pipeline.transformer)
        options = {"dims": (3,), "blocks": "all", "scale": 3.0, "stop": 1.0}
        if steer_first:
            handle, recording = stas.steer(pipeline, **options), stas.record(pipeline)
        else:
            recording, handle = stas.record(pipeline), stas.steer(pipeline, **options)
        generate(pipeline, steps=1)
        expected = partial_sums(seen.tokens[0][1][0], seen.grid, 0.08)
        found = recording.stats.cells[0, "cond"].max_abs[1]
        assert torch.equal(found, expected[:, 1])
        assert found[0, 3] > 2 * stas_free_maximum(seen)  # it was steered
        handle.remove()
        recording.remove()
        assert not hasattr(pipeline.transformer.blocks[0], "_diffusers_hook")


@pytest.mark.filterwarnings("ignore::stas.StasWarning")
@pytest.mark.parametrize("first", ["steer", "record"])
@pytest.mark.parametrize("case", ["few steps", "a profile that does not hold"])
def test_a_forward_that_steering_makes_for_itself_is_not_recorded(first, case):
    """Neither the one that is only read, nor the one whose output is thrown away."""
    pipeline = tiny_wan()
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    with stas.steer(pipeline, dims=(5,), stop=1.0, scale=2.0), stas.record(pipeline) as wanted:
        generate(pipeline, steps=2)

    def steer():
        if case == "few steps":
            return stas.steer(pipeline, stop=1.0, scale=2.0)
        handle = stas.steer(pipeline, dims=(3,), stop=1.0, scale=2.0)
        steerer = handle._steerings["transformer"].steerer
        steerer.dims, steerer._checked = replace(steerer.dims, origin="profile"), False
        return handle

    attached = [steer(), stas.record(pipeline)] if first == "steer" else [stas.record(pipeline)]
    if first == "record":
        attached.append(steer())
    generate(pipeline, steps=2)
    recording = attached[first == "steer"]
    assert recording.stats.samples == wanted.stats.samples
    for key, cell in recording.stats.cells.items():
        for name, values in cell.arrays().items():
            assert torch.equal(values, wanted.stats.cells[key].arrays()[name])


def stas_free_maximum(seen):
    return seen.tokens[0][0][0][:, 3].abs().max() / 3.0


def test_a_sample_counts_the_same_alone_and_in_a_batch():
    prompts = ["a red circle", "a blue square moving"]
    noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    together, alone = tiny_wan(), tiny_wan()
    with stas.record(together) as one:
        generate(together, steps=2, prompt=prompts, latents=noise)
    with stas.record(alone) as two:
        for prompt, latents in zip(prompts, noise.split(1), strict=True):
            generate(alone, steps=2, prompt=prompt, latents=latents)
    assert one.stats.samples == two.stats.samples
    for key, cell in one.stats.cells.items():
        for name, array in cell.arrays().items():
            other = getattr(two.stats.cells[key], name)
            torch.testing.assert_close(array, other, rtol=1e-5, atol=1e-5)


def test_maps_over_the_tokens():
    pipeline = tiny_wan()
    seen = Seen(pipeline.transformer)
    with stas.record(pipeline, map_blocks=(1,), map_dims=(2, 7)) as recording:
        generate(pipeline, steps=2)
    stats, grid = recording.stats, seen.grid
    tokens = torch.cat([forward[1] for forward in seen.tokens]).abs().double()
    torch.testing.assert_close(stats.surface.mean[0], tokens.mean(0))  # fewer tokens than bins
    for number, dim in enumerate((2, 7)):
        expected = tokens[:, :, dim].mean(0).reshape(grid.frames, grid.height, grid.width)
        torch.testing.assert_close(stats.token_map.mean[0, number], expected)


def test_blocks_that_a_cache_skips_are_not_recorded():
    pipeline = tiny_wan()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    with stas.record(pipeline) as recording:
        generate(pipeline, steps=3)
    counts = [recording.stats.cells[step, "cond"].count[:, 0, 0].tolist() for step in range(3)]
    assert [bool(all(count)) for count in counts] == [True, False, False]
    assert all(count[0] > 0 for count in counts)


def test_a_bare_transformer_records_under_the_steps_it_is_told():
    transformer = tiny_wan_transformer()
    inputs = (torch.randn(2, 4, 3, 4, 4), torch.ones(2), torch.randn(2, 3, 16))
    with stas.record(transformer, blocks=(0, -1)) as recording, torch.no_grad():
        recording.set_step(3, 7, branch="uncond")
        transformer(*inputs)
        recording.set_step(4, 7)
        transformer(*inputs)
    stats = recording.stats
    assert stats.samples == {(3, "uncond"): 2, (4, "other"): 2}
    assert (stats.num_steps, stats.blocks) == (7, (0, 2))


def test_a_video_of_another_length_is_refused_before_it_is_mixed_in():
    pipeline = tiny_wan()
    with stas.record(pipeline) as recording:
        generate(pipeline, steps=3)
        before, computed = dict(recording.stats.samples), []
        pipeline.transformer.blocks[0].register_forward_hook(lambda *_: computed.append(1))
        with pytest.raises(ValueError, match="3 denoising steps, and one of 4"):
            generate(pipeline, steps=4)
        assert recording.stats.samples == before and not computed


def test_nan_in_a_forward_is_counted():
    transformer = tiny_wan_transformer()
    latents = torch.randn(1, 4, 3, 4, 4)
    latents[0, 0, 0, 0, 0] = math.nan
    with stas.record(transformer) as recording, torch.no_grad():
        transformer(latents, torch.ones(1), torch.randn(1, 3, 16))
    pooled = recording.stats.pooled()
    assert pooled.nonfinite.sum() > 0
    assert torch.isfinite(pooled.mean_abs).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"blocks": (9,)}, ValueError, "3 blocks"),
        ({"boundary": 0.7}, ValueError, r"0 to 0\.5"),
        ({"map_dims": (99,)}, ValueError, "below 24"),
        ({"map_blocks": (1,), "blocks": (0,)}, ValueError, "must be among the recorded"),
        ({"blocks": "some"}, ValueError, "blocks must be"),
    ],
)
def test_bad_input_leaves_the_pipeline_untouched(options, error, message):
    pipeline = tiny_wan()
    with pytest.raises(error, match=message):
        stas.record(pipeline, **options)
    assert not any(hasattr(b, "_diffusers_hook") for b in pipeline.transformer.blocks)


def test_a_second_recording_is_refused():
    pipeline = tiny_wan()
    message = r"recorded already.*first stas\.record"
    with stas.record(pipeline), pytest.raises(RuntimeError, match=message):
        stas.record(pipeline)
    with stas.record(pipeline):
        pass


def test_several_transformers_have_statistics_each():
    pipeline = tiny_wan(two_experts=True)
    with stas.record(pipeline) as recording:
        generate(pipeline, steps=2)
    assert set(recording.stats_of) == {"transformer", "transformer_2"}
    with pytest.raises(ValueError, match="stats_of"):
        _ = recording.stats


def test_recording_in_a_compiled_model_gives_the_same():
    inputs = (torch.randn(1, 4, 3, 4, 4), torch.ones(1), torch.randn(1, 3, 16))
    found = []
    for compiled in (False, True):
        transformer = tiny_wan_transformer()
        if compiled:
            transformer.compile(backend="eager")
        with stas.record(transformer) as recording, torch.no_grad():
            transformer(*inputs)
            transformer(*inputs)
        found.append(recording.stats)
    for name, array in found[0].pooled().arrays().items():
        torch.testing.assert_close(array, getattr(found[1].pooled(), name))


def test_steer_is_what_the_equation_says():
    """The recorded maximum after steering is the scaled maximum before it."""
    transformer = tiny_wan_transformer()
    inputs = (torch.randn(1, 4, 3, 4, 4), torch.ones(1), torch.randn(1, 3, 16))
    seen = Seen(transformer)
    with torch.no_grad():
        transformer(hidden_states=inputs[0], timestep=inputs[1], encoder_hidden_states=inputs[2])
        plain = seen.tokens[0][0].clone()
        with (
            stas.steer(transformer, dims=(5,), blocks=(0,), scale=2.0),
            stas.record(transformer) as recording,
        ):
            transformer(
                hidden_states=inputs[0], timestep=inputs[1], encoder_hidden_states=inputs[2]
            )
    expected = steer_(plain, seen.grid, [5], scale=2.0)[0, :, 5].abs().max()
    assert recording.stats.pooled().max_abs[0, 5] == expected
