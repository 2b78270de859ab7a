"""Everything that users do to a pipeline while it is steered or recorded, in random order.

Beside the pipeline runs a reference: the same weights with a function of plain Python around each
block's forward, which steers and reads by what the paper says and knows nothing of stas. After
each call both have the same bits, counts and statistics. `make campaign` runs thousands of steps
from a seed.
"""

from __future__ import annotations

import copy
import math
import types
import warnings

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import stas
from tests.reach import of_stas
from tests.tiny import plant_massive_dimension, tiny_cogvideox, tiny_wan
from tests.zoo import all_tinies

PLANTED, PROMPTS = 5, ["a red circle", "a blue square moving right"]


class Interrupted(Exception):
    """What a user's own code raises in a callback or a block."""


def sana():
    return all_tinies()["sana video"].pipelines[0].build()


def swapped(pipeline):
    """Another scheduler of the kind that the pipeline can use."""
    kinds = [FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler]
    if not isinstance(pipeline.scheduler, tuple(kinds)):
        kinds = [CogVideoXDDIMScheduler, CogVideoXDPMScheduler]
    other = kinds[isinstance(pipeline.scheduler, kinds[0])]
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    if other is UniPCMultistepScheduler:
        return other(**options)
    return other()


class Reference:
    """Steers and reads the blocks of a pipeline by functions around their forwards."""

    def __init__(self, pipeline, family):
        self.pipeline, self.family = pipeline, family
        self.blocks = list(_stack(pipeline.transformer))
        for block in self.blocks:
            block.forward = self._around(block, block.forward)
        pipeline.transformer.register_forward_pre_hook(self._begin, with_kwargs=True)
        pipeline.transformer.register_forward_hook(self._end)
        self.config, self.dims, self.forwards = None, None, 0
        self.recording, self.recorded = False, {}
        self.mine, self.ran, self.step, self.calls = True, False, 0, 0

    def _around(self, block, forward):
        def around(*args, **kwargs):
            output = forward(*args, **kwargs)
            tokens = output if isinstance(output, torch.Tensor) else output[0]
            if self.mine:
                self._act(_stack(self.pipeline.transformer).index(block), tokens)
            return output

        return around

    def start(self, steps, prompts):
        self.steps, self.prompts, self.step, self.calls = steps, prompts, 0, 0

    def _begin(self, module, args, kwargs):
        if self.mine:
            hidden_states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            batch, *shape = hidden_states.shape
            if self.family == "cogvideox":  # frames before channels
                shape = shape[1], shape[0], *shape[2:]
            patch = module.config.patch_size
            patch = (1, patch, patch) if isinstance(patch, int) else patch
            self.grid = tuple(size // each for size, each in zip(shape[1:], patch, strict=True))
            if self.family == "wan":
                rows = {"uncond" if self.calls else "cond": slice(0, batch)}
            elif batch == 2 * self.prompts:
                rows = {"uncond": slice(0, batch // 2), "cond": slice(batch // 2, batch)}
            else:
                rows = {"cond": slice(0, batch)}
            self.rows, self.ran, self.seen, self.found = rows, False, [], []

    def _end(self, module, args, output):
        if not self.mine:
            return
        self.forwards += self.ran
        self.calls += 1
        if self.config is not None and self.found:
            self.dims, self.resting = (PLANTED,), self.step
        for block, branch, values in self.seen:
            total = self.recorded.setdefault((self.step, branch), {})
            total.setdefault(block, []).append(values)

    def _active(self):
        first = math.ceil(self.config.start * self.steps - 1e-9)
        return first <= self.step < math.ceil(self.config.stop * self.steps - 1e-9)

    def window(self):
        return [i for i in range(self.steps) if self._in(i)]

    def _in(self, step):
        self.step, kept = step, self.step
        inside, self.step = self._active(), kept
        return inside

    def _act(self, index, tokens):
        config = self.config
        if config is not None and self._active():
            chosen = {"middle": [len(self.blocks) // 2], "all": range(len(self.blocks))}
            blocks = chosen.get(config.blocks) if isinstance(config.blocks, str) else config.blocks
            wanted = [rows for branch, rows in self.rows.items() if branch in config.branches]
            if index in blocks and wanted and self._chosen(config):
                if self.dims is None and len(self.window()) > 2:
                    self.found.append(index)
                elif self.step != self.resting:
                    self.dims = self.dims or (PLANTED,)
                    self.ran = True
                    for rows in wanted:
                        for sample in tokens[rows]:
                            self._steer(sample, config)
        if self.recording:
            for branch, rows in self.rows.items():
                for sample in tokens[rows]:
                    self.seen.append((index, branch, sample.double().abs()))

    def _chosen(self, config):
        frames, area = self.grid[0], self.grid[1] * self.grid[2]
        k = max(0, math.ceil(config.boundary * area - 1e-9))
        chosen = []
        for frame in range(frames):
            for place in range(area):
                ends = place < k or place >= area - k
                region = "first_frame" if frame == 0 else "boundary" if ends else "interior"
                if region in config.regions:
                    chosen.append(frame * area + place)
        return chosen

    def _steer(self, sample, config):
        chosen = self._chosen(config)
        before = sample.clone()
        peaks = {dim: before[:, dim].abs().max() for dim in self.dims}
        if config.reference == "global":
            peaks = dict.fromkeys(self.dims, max(peaks.values()))
        for dim in self.dims:
            values = before[chosen, dim]
            if config.op == "max":
                sample[chosen, dim] = torch.copysign(config.scale * peaks[dim], values)
            elif config.op == "scale":
                sample[chosen, dim] = values * config.scale
            else:
                sample[chosen, dim] = 0.0

    resting = None


def _stack(transformer):
    """The blocks in a list, without what somebody wrapped them in."""
    blocks = getattr(transformer, "blocks", None) or transformer.transformer_blocks
    return [getattr(block, "wrapped_block", block) for block in blocks]


class Wrapper(torch.nn.Module):
    """What another library puts around a block."""

    def __init__(self, block):
        super().__init__()
        self.wrapped_block = block

    def forward(self, *args, **kwargs):
        return self.wrapped_block(*args, **kwargs)


CONFIGS = st.builds(
    stas.STASConfig,
    dims=st.sampled_from([None, (3,), (PLANTED,), (2, PLANTED, 9)]),
    blocks=st.sampled_from(["middle", "all", (0,), (0, 2)]),
    op=st.sampled_from(["max", "max", "scale", "zero"]),
    regions=st.sampled_from([("first_frame", "boundary"), ("first_frame",), ("boundary",)]),
    boundary=st.sampled_from([0.08, 0.3]),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
    reference=st.sampled_from(["dim", "global"]),
    start=st.sampled_from([0.0, 0.2]),
    stop=st.sampled_from([0.4, 0.8, 1.0]),
    branches=st.sampled_from([("cond", "uncond"), ("cond",), ("uncond",)]),
)
EVENTS = st.sampled_from(
    [None, None, "guidance off", "interrupt", "interrupt in a block", "preview", "scheduler"]
)


class Campaign(RuleBasedStateMachine):
    """One pipeline, its reference, and what is attached to it."""

    def __init__(self):
        super().__init__()
        warnings.simplefilter("ignore", stas.StasWarning)
        self.handle = self.recording = None
        self.cached = False
        self.places = [0, 1, 2]  # which block is where
        self.watched = {}  # by what is attached: the places that it watches, and what was there
        self.recorded_steps = None

    @initialize(family=st.sampled_from(["wan", "cogvideox", "sana"]))
    def build(self, family):
        make = {"wan": tiny_wan, "cogvideox": tiny_cogvideox, "sana": sana}[family]
        self.family = family
        self.pipeline, other = make(), make()
        for pipeline in (self.pipeline, other):
            pipeline.set_progress_bar_config(disable=True)
            if family != "sana":
                plant_massive_dimension(pipeline.transformer, PLANTED, 1000.0)
            else:
                bias = pipeline.transformer.patch_embedding.bias
                with torch.no_grad():
                    bias[PLANTED] += 1000.0
        self.reference = Reference(other, family)

    def teardown(self):
        for handle in (self.handle, self.recording):
            if handle is not None:
                handle.remove()
        if hasattr(self, "pipeline"):
            assert of_stas(self.pipeline, type(self.pipeline)) == []
        super().teardown()

    # What is attached.

    @rule(config=CONFIGS)
    def steer(self, config):
        if self.handle is not None:
            with pytest.raises(RuntimeError, match="already"):
                stas.steer(self.pipeline, config)
            return
        if config.dims is None and self.cached:
            return  # waits for a forward that skipped nothing: tests/hooks/test_compatibility.py
        self.handle = stas.steer(self.pipeline, config)
        chosen = {"middle": (1,), "all": (0, 1, 2)}
        blocks = chosen[config.blocks] if isinstance(config.blocks, str) else config.blocks
        self.watched["steer"] = {place: self.places[place] for place in blocks}
        reference = self.reference
        reference.config, reference.dims = config, config.dims
        reference.forwards, reference.resting = 0, None

    @precondition(lambda self: self.handle is not None)
    @rule()
    def stop_steering(self):
        self.handle.remove()
        self.handle = self.reference.config = None
        del self.watched["steer"]

    @precondition(lambda self: self.recording is None)
    @rule()
    def record(self):
        self.recording = stas.record(self.pipeline)
        self.watched["record"] = dict(enumerate(self.places))
        self.recorded_steps = None
        self.reference.recording, self.reference.recorded = True, {}

    @precondition(lambda self: self.recording is not None)
    @rule()
    def stop_recording(self):
        self.recording.remove()
        self._compare_statistics()
        self.recording, self.reference.recording = None, False
        del self.watched["record"]

    @property
    def broken(self):
        return any(
            self.places[place] != block
            for watched in self.watched.values()
            for place, block in watched.items()
        )

    # What is done to the blocks, the scheduler and the weights.

    @rule(pair=st.sampled_from([(0, 1), (1, 2), (0, 2)]))
    def exchange_blocks(self, pair):
        if self.cached:
            return
        for pipeline in (self.pipeline, self.reference.pipeline):
            blocks = getattr(pipeline.transformer, "blocks", None)
            blocks = pipeline.transformer.transformer_blocks if blocks is None else blocks
            blocks[pair[0]], blocks[pair[1]] = blocks[pair[1]], blocks[pair[0]]
        one, other = pair
        self.places[one], self.places[other] = self.places[other], self.places[one]

    @precondition(lambda self: not self.cached)
    @rule(index=st.integers(0, 2))
    def set_a_forward_anew(self, index):
        block = _stack(self.pipeline.transformer)[index]
        block.forward = types.MethodType(type(block).forward, block)

    @precondition(lambda self: not self.cached and not self.broken)
    @rule(index=st.integers(0, 2))
    def wrap_a_block_and_call(self, index):
        """A wrapper that stays for one call."""
        transformer = self.pipeline.transformer
        blocks = getattr(transformer, "blocks", None)
        blocks = transformer.transformer_blocks if blocks is None else blocks
        block = blocks[index]
        blocks[index] = Wrapper(block)
        try:
            self.call(True, 4, 1, 9, None, 0)
        finally:
            blocks[index] = block

    @precondition(lambda self: self.family == "wan" and not self.broken)
    @rule(threshold=st.sampled_from([0.01, 0.2]))
    def cache(self, threshold):
        waits = self.handle is not None and self.handle.dims["transformer"] is None
        if self.cached or waits:
            return
        self.cached = True
        for pipeline in (self.pipeline, self.reference.pipeline):
            pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))

    @precondition(lambda self: self.cached)
    @rule()
    def stop_caching(self):
        self.cached = False
        for pipeline in (self.pipeline, self.reference.pipeline):
            pipeline.transformer.disable_cache()

    @rule()
    def swap_the_scheduler(self):
        for pipeline in (self.pipeline, self.reference.pipeline):
            if self.family != "sana":
                pipeline.scheduler = swapped(pipeline)

    @rule()
    def make_one_like_the_scheduler(self):
        for pipeline in (self.pipeline, self.reference.pipeline):
            pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)

    @precondition(lambda self: self.handle or self.recording)
    @rule()
    def copies_are_refused(self):
        with pytest.raises(RuntimeError, match="can't be copied"):
            copy.deepcopy(self.pipeline.transformer)

    # Calls.

    @precondition(lambda self: not self.broken)
    @rule(
        guided=st.booleans(),
        steps=st.sampled_from([1, 2, 4, 5]),
        prompts=st.sampled_from([1, 1, 2]),
        frames=st.sampled_from([1, 9]),
        event=EVENTS,
        at=st.integers(0, 2),
    )
    def call(self, guided, steps, prompts, frames, event, at):
        if event == "guidance off" and (self.family == "cogvideox" or not guided):
            event = None
        if self.cached and event in ("interrupt", "interrupt in a block", "preview"):
            event = None  # diffusers' cache keeps what was interrupted, and fails in the next call
        if self.recording is not None and self.recorded_steps not in (None, steps):
            with pytest.raises(ValueError, match="can't be added"):
                self._call(self.pipeline, guided, steps, prompts, frames, None, at)
            return
        self.reference.start(steps, prompts)
        result = self._call(self.pipeline, guided, steps, prompts, frames, event, at)
        wanted = self._call(self.reference.pipeline, guided, steps, prompts, frames, event, at)
        assert type(result) is type(wanted), f"{result!r} and not {wanted!r}"
        if isinstance(wanted, torch.Tensor):
            assert torch.equal(result, wanted)
        self.reference.resting = None
        if self.handle is not None:
            counts = self.handle.steered_forwards["transformer"]
            assert counts == self.reference.forwards
            assert self.handle.dims["transformer"] == self.reference.dims
        if self.recording is not None:
            self._compare_statistics()
            if self.reference.recorded:
                self.recorded_steps = steps

    @precondition(lambda self: self.broken)
    @rule(guided=st.booleans())
    def a_call_with_exchanged_blocks_is_refused(self, guided):
        with pytest.raises(RuntimeError, match="others than when"):
            self._call(self.pipeline, guided, 2, 1, 9, None, 0)

    @rule(guided=st.booleans())
    def another_pipeline_is_left_alone(self, guided):
        """On the same weights: its video has the bits of weights that nothing is attached to."""
        results = []
        for pipeline in (self.pipeline, self.reference.pipeline):
            self.reference.mine = False
            results.append(self._preview(pipeline, guided))
            self.reference.mine = True
        assert torch.equal(*results)

    def _preview(self, pipeline, guided):
        kinds = {"cogvideox": CogVideoXDDIMScheduler}
        scheduler = kinds.get(self.family, FlowMatchEulerDiscreteScheduler)()
        other = type(self._plain(pipeline))(**(pipeline.components | {"scheduler": scheduler}))
        other.set_progress_bar_config(disable=True)
        return self._call(other, guided, 2, 1, 9, None, 0)

    def _plain(self, pipeline):
        return {"wan": tiny_wan, "cogvideox": tiny_cogvideox, "sana": sana}[self.family]()

    def _call(self, pipeline, guided, steps, prompts, frames, event, at):
        reference = self.reference
        of_reference = pipeline is reference.pipeline

        def after_step(_, index, timestep, given):
            if of_reference and reference.mine:
                reference.step, reference.calls = index + 1, 0
            if index != min(at, steps - 1):
                return given
            if event == "interrupt":
                raise Interrupted
            if event == "guidance off":
                pipeline._guidance_scale = 1.0
                if self.family == "sana":
                    given["prompt_embeds"] = given["prompt_embeds"].chunk(2)[-1]
            if event == "preview":
                mine, reference.mine = reference.mine, False
                previews.append(self._preview(pipeline, guided))
                reference.mine = mine
            return given

        previews, hooks = [], []
        if event == "interrupt in a block":
            left = [at + 1]

            def stop(*_):
                left[0] -= 1
                if left[0] == 0:
                    raise Interrupted

            last = _stack(pipeline.transformer)[2]
            hooks.append(next(last.children()).register_forward_pre_hook(stop))
        call = {
            "prompt": PROMPTS[:prompts],
            "num_inference_steps": steps,
            "guidance_scale": 3.0 if guided else 1.0,
            "callback_on_step_end": after_step,
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
            "generator": torch.Generator().manual_seed(0),
            "output_type": "latent",
        }
        call |= {"height": 32, "width": 64}
        if self.family == "sana":
            call |= {"frames": frames, "use_resolution_binning": False}
        else:
            call |= {"num_frames": frames, "max_sequence_length": 16}
        try:
            latents = pipeline(**call).frames
        except Interrupted as stopped:
            return stopped
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([each.flatten() for each in (latents, *previews)])

    def _compare_statistics(self):
        stats, recorded = self.recording.stats, self.reference.recorded
        assert set(stats.cells) == set(recorded)
        for (step, branch), blocks in recorded.items():
            assert stats.samples[step, branch] == len(blocks[0])
            found = stats.pooled(steps=[step], branches=[branch]).mean_abs
            for block, values in blocks.items():
                assert torch.allclose(found[block], torch.cat(values).mean(0), rtol=1e-5)


SHORT = settings(max_examples=10, stateful_step_count=15, derandomize=True)
LONG = settings(max_examples=200, stateful_step_count=50)


def test_campaign():
    """Short and always the same, or as long as `make campaign` asks."""
    long = settings.get_current_profile_name() == "campaign"
    run_state_machine_as_test(
        Campaign,
        settings=settings(
            LONG if long else SHORT,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # shrinking takes minutes, and a case has 50 steps at most
            report_multiple_bugs=False,
        ),
    )
