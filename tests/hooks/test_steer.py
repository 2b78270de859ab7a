"""steer and its handle: detection, profiles, undoing, and what bad input leaves behind."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from diffusers import WanPipeline

import stas
from stas.activations.profiles import FOLDER_PROFILE
from tests.tiny import (
    generate,
    plant_massive_dimension,
    tiny_cogvideox,
    tiny_wan,
    tiny_wan_transformer,
)


def state(pipeline):
    """Everything that attaching could leave behind."""
    found = {}
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            for path, module in component.named_modules():
                found[name, path] = (
                    sorted(vars(module)),
                    len(module._forward_hooks),
                    len(module._forward_pre_hooks),
                )
    found["scheduler"] = sorted(vars(pipeline.scheduler))
    return found


@pytest.mark.parametrize("make", [tiny_wan, tiny_cogvideox, lambda: tiny_wan(two_experts=True)])
def test_after_removal_the_output_is_bit_identical(make):
    pipeline = make()
    plain = generate(pipeline)
    before = state(pipeline)
    with stas.steer(pipeline, dims=(3,), blocks="all", scale=2.0) as handle:
        assert not torch.equal(generate(pipeline), plain)
    assert torch.equal(generate(pipeline), plain)
    handle.remove()  # twice is harmless
    after = state(pipeline)
    # diffusers itself keeps a registry on a transformer that was called in a cache context.
    assert after == before


def test_both_experts_share_one_schedule():
    pipeline = tiny_wan(two_experts=True)
    with stas.steer(pipeline, dims=(3,), stop=1.0) as handle:
        generate(pipeline, steps=10)
        assert handle.dims == {"transformer": (3,), "transformer_2": (3,)}
        assert "transformer_2 (WanTransformer3DModel): 1 of 3 blocks" in handle.summary()
    assert "removed" in handle.summary()


@pytest.mark.parametrize("blocks", ["middle", "all"])
@pytest.mark.parametrize("make", [tiny_wan, tiny_cogvideox])
def test_detection_finds_the_planted_dimension_and_keeps_it(make, blocks):
    pipeline = make()
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    with stas.steer(pipeline, blocks=blocks, scale=2.0) as handle:
        assert handle.dims == {"transformer": None}
        assert "to be detected" in handle.summary()
        generate(pipeline, steps=6)
        assert handle.dims == {"transformer": (5,)}
        assert "detected on the first forward: dimension 5 at" in handle.summary()
        plant_massive_dimension(pipeline.transformer, 5, -1000.0)
        plant_massive_dimension(pipeline.transformer, 9, 1000.0)
        generate(pipeline, steps=3)
        assert handle.dims == {"transformer": (5,)}


@pytest.mark.parametrize("blocks", ["middle", "all"])
@pytest.mark.parametrize("make", [tiny_wan, tiny_cogvideox])
def test_the_detecting_step_is_not_steered_and_all_others_are(make, blocks):
    """In no branch and no block, so that the branches of guidance are alike in every step."""
    pipeline = make()
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    options = {"scale": 2.0, "blocks": blocks, "stop": 0.8}
    with stas.steer(pipeline, **options) as handle:
        detected = generate(pipeline)
        forwards = handle.steered_forwards["transformer"]
    with stas.steer(pipeline, dims=(5,), start=0.2, **options) as handle:
        assert torch.equal(generate(pipeline), detected)
        assert handle.steered_forwards == {"transformer": forwards}
        assert forwards == (3 if make is tiny_cogvideox else 6)


@pytest.mark.parametrize("make", [tiny_wan, tiny_cogvideox])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_window_of_one_or_two_steps_is_steered_all_the_same(make, steps):
    """The dimensions are found in a forward of their own: no step of the few is lost for it."""
    pipeline = make()
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    with stas.steer(pipeline, dims=(5,), scale=2.0) as handle:
        expected, forwards = generate(pipeline, steps=steps), handle.steered_forwards
    with stas.steer(pipeline, scale=2.0) as handle:
        assert torch.equal(generate(pipeline, steps=steps), expected)
        assert handle.steered_forwards == forwards
        assert "detected on an extra forward, as the window has few steps" in handle.summary()


def test_a_first_forward_that_is_not_finite_is_not_the_last_word():
    transformer = tiny_wan_transformer()
    plant_massive_dimension(transformer, 5, 1000.0)
    bias = transformer.patch_embedding.bias.detach().clone()
    with stas.steer(transformer) as handle:
        transformer.patch_embedding.bias.data[3] = float("nan")
        with pytest.warns(UserWarning, match="nothing is steered yet.*not finite"):
            forward(transformer)
        assert handle.dims == {"transformer": None}
        transformer.patch_embedding.bias.data.copy_(bias)
        forward(transformer)
        assert handle.dims == {"transformer": (5,)}


def test_nothing_is_steered_when_no_dimension_is_massive():
    pipeline = tiny_wan()
    plain = generate(pipeline)
    with (
        stas.steer(pipeline, blocks="all") as handle,
        pytest.warns(UserWarning, match=r"nothing is steered.*20 times.*Strongest: dimension \d+"),
    ):
        assert torch.equal(generate(pipeline), plain)
    assert handle.dims == {"transformer": ()}


def test_the_experts_of_one_pipeline_are_detected_apart():
    pipeline = tiny_wan(two_experts=True)
    plant_massive_dimension(pipeline.transformer, 5, 1000.0)
    plant_massive_dimension(pipeline.transformer_2, 11, 1000.0)
    with stas.steer(pipeline, stop=1.0) as handle:
        generate(pipeline, steps=10)
        assert handle.dims == {"transformer": (5,), "transformer_2": (11,)}


def test_a_model_folder_brings_its_profile(tmp_path):
    tiny_wan().save_pretrained(tmp_path)
    (tmp_path / FOLDER_PROFILE).write_text(
        json.dumps(
            {
                "format": "stas.profile/1",
                "model": "tiny",
                "transformer": "WanTransformer3DModel",
                "config": {"num_layers": 3},
                "dims": [6],
                "ratios": [4.5],
                "source": "measured",
            }
        )
    )
    pipeline = WanPipeline.from_pretrained(tmp_path)
    with stas.steer(pipeline) as handle:
        assert handle.dims == {"transformer": (6,)}
        assert "profile tiny (measured): dimension 6 at 4.5x the mean (weak)" in handle.summary()
    with stas.steer(pipeline, dims=(2,)) as handle:
        assert handle.dims == {"transformer": (2,)}
    transformer = type(pipeline.transformer).from_pretrained(tmp_path / "transformer")
    with stas.steer(transformer) as handle:
        assert handle.dims == {"transformer": (6,)}


def forward(transformer, batch=1):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(batch, 4, 3, 4, 4, generator=generator),
            timestep=torch.full((batch,), 500),
            encoder_hidden_states=torch.randn(batch, 8, 16, generator=generator),
            return_dict=False,
        )[0]


def test_a_bare_transformer_is_steered_until_told_the_step():
    transformer = tiny_wan_transformer()
    plain = forward(transformer)
    with stas.steer(transformer, dims=(3,), scale=2.0) as handle:
        steered = forward(transformer)
        assert not torch.equal(steered, plain)
        for step in range(10):
            handle.set_step(step, 10)
            assert torch.equal(forward(transformer), steered if step < 4 else plain)
    assert torch.equal(forward(transformer), plain)


def test_a_bare_transformer_is_told_the_branch():
    transformer = tiny_wan_transformer()
    plain = forward(transformer)
    with stas.steer(transformer, dims=(3,), scale=2.0, branches=("cond",)) as handle:
        with pytest.raises(RuntimeError, match=r'handle\.set_step\(i, n, branch="cond"\)'):
            forward(transformer)
        handle.set_step(0, 10, branch="uncond")
        assert torch.equal(forward(transformer), plain)
        handle.set_step(0, 10, branch="cond")
        assert not torch.equal(forward(transformer), plain)
        with transformer.cache_context("uncond"):
            assert torch.equal(forward(transformer), plain)


def test_a_cache_context_entered_before_steering_is_no_trap():
    """diffusers keeps the list of hooks that it found at the first context."""
    transformer = tiny_wan_transformer()
    with transformer.cache_context("cond"):
        plain = forward(transformer)
    with stas.steer(transformer, dims=(3,), scale=2.0, branches=("cond",)):
        with transformer.cache_context("uncond"):
            assert torch.equal(forward(transformer), plain)
        with transformer.cache_context("cond"):
            assert not torch.equal(forward(transformer), plain)


def test_a_bare_transformer_with_both_branches_in_a_batch_is_told_so():
    transformer = tiny_cogvideox().transformer
    inputs = {
        "hidden_states": torch.randn(2, 2, 4, 4, 4),
        "timestep": torch.tensor([500, 500]),
        "encoder_hidden_states": torch.randn(2, 8, 16),
    }
    with torch.no_grad():
        plain = transformer(**inputs).sample
        with stas.steer(transformer, dims=(3,), scale=2.0, branches=("cond",)) as handle:
            with pytest.raises(RuntimeError, match='branch="cond_uncond"'):
                transformer(**inputs)
            handle.set_step(0, 10, branch="cond_uncond")
            told = transformer(**inputs).sample
            handle.set_step(0, 10)
            with transformer.cache_context("cond_uncond"):
                assert torch.equal(transformer(**inputs).sample, told)
    assert torch.equal(told[0], plain[0])
    assert not torch.equal(told[1], plain[1])


def test_a_class_of_separate_calls_is_not_told_what_it_was():
    transformer = tiny_wan_transformer()
    with stas.steer(transformer, dims=(3,), branches=("cond",)) as handle:
        handle.set_step(0, 10, branch="cond_uncond")
        with pytest.raises(RuntimeError, match="others are told one branch, in a forward of its"):
            forward(transformer)


@pytest.mark.parametrize(
    ("config", "options", "error", "message"),
    [
        (None, {"dims": (24,)}, ValueError, "below 24, the feature width of transformer"),
        (None, {"dims": (-1,)}, ValueError, "counted from 0"),
        (None, {"blocks": (3,)}, ValueError, "3 blocks, numbered 0 to 2"),
        (None, {"blocks": (-4,)}, ValueError, "got block -4"),
        (None, {"boundary": 0.51}, ValueError, r"0 to 0\.5"),
        (None, {"scale": float("nan")}, ValueError, "finite"),
        (None, {"scale": float("inf")}, ValueError, "finite"),
        (None, {"start": 0.4}, ValueError, "empty"),
        (None, {"alpha": 1.0}, TypeError, "no option 'alpha'. Options: dims"),
        ({"scale": 1.0}, {}, TypeError, r"stas\.STASConfig, but got dict"),
    ],
)
def test_bad_options_leave_the_pipeline_untouched(config, options, error, message):
    pipeline = tiny_wan()
    plain = generate(pipeline)
    before = state(pipeline)
    with pytest.raises(error, match=message):
        stas.steer(pipeline, config, **options)
    assert state(pipeline) == before
    assert torch.equal(generate(pipeline), plain)


def test_a_second_steer_is_refused_and_changes_nothing():
    pipeline = tiny_wan()
    handle = stas.steer(pipeline, dims=(3,), scale=2.0, blocks=(0,))
    steered = generate(pipeline)
    for target in (pipeline, pipeline.transformer):
        with pytest.raises(RuntimeError, match=r"steered already. Call remove\(\)"):
            stas.steer(target, dims=(4,), blocks=(2,))
    assert torch.equal(generate(pipeline), steered)
    handle.remove()
    stas.steer(pipeline, dims=(4,)).remove()


@pytest.mark.parametrize("make", [tiny_wan, lambda: tiny_wan(two_experts=True)])
@pytest.mark.parametrize("compile_it", [False, True])
@pytest.mark.parametrize("blocks", ["middle", (-1,)])
def test_a_lost_handle_is_found_and_undoes_all(make, compile_it, blocks):
    pipeline = make()
    handle = stas.steer(pipeline, dims=(3,), blocks=blocks)
    names = list(handle.dims)
    targets = [pipeline, *(getattr(pipeline, name) for name in names)]
    if compile_it:
        targets += [torch.compile(target) for target in targets[1:]]
        for name in names:
            setattr(pipeline, name, torch.compile(getattr(pipeline, name)))
    for target in targets:
        assert stas.find_handle(target) is handle
    del handle
    message = r"Call remove\(\) on the handle of the first stas.steer, or stas.find_handle\(\.\.\."
    with pytest.raises(RuntimeError, match=message):
        stas.steer(pipeline)
    stas.find_handle(pipeline).remove()
    assert [stas.find_handle(target) for target in targets] == [None] * len(targets)


def test_experts_with_a_handle_each_are_found_one_after_the_other():
    pipeline = tiny_wan(two_experts=True)
    handles = [stas.steer(pipeline.transformer, dims=(3,)), stas.steer(pipeline.transformer_2)]
    assert stas.find_handle(pipeline.transformer_2) is handles[1]
    for handle in handles:
        assert stas.find_handle(pipeline) is handle
        stas.find_handle(pipeline).remove()
    assert stas.find_handle(pipeline) is None


def test_a_recording_is_no_steering_handle():
    transformer = tiny_wan_transformer()
    with stas.record(transformer):
        assert stas.find_handle(transformer) is None
        with stas.steer(transformer) as handle:
            assert stas.find_handle(transformer) is handle
        with pytest.raises(RuntimeError, match=r"first stas.record, then record again"):
            stas.record(transformer)


def test_a_handle_shows_its_gist():
    pipeline = tiny_wan()
    handle = stas.steer(pipeline)
    gist = "op max, scale 1, steps 0 <= i/N < 0.4; transformer: 1 of 3 blocks, dims"
    assert repr(handle) == f"SteeringHandle({gist} not known yet)"
    handle.remove()
    assert repr(handle) == f"SteeringHandle({gist} not known yet; removed)"


def test_a_bare_transformer_says_that_it_was_not_told_the_step():
    with stas.steer(tiny_wan_transformer(), dims=(3,)) as handle:
        window = "steps 0 <= i/N < 0.4"
        for text in (handle.summary(), repr(handle)):
            assert f"every forward until set_step says where the loop is, then {window}" in text
        handle.set_step(9, 10)
        for text in (handle.summary(), repr(handle)):
            assert "every forward" not in text and window in text


def test_the_second_expert_out_of_range_leaves_the_first_untouched():
    pipeline = tiny_wan(two_experts=True)
    pipeline.transformer_2 = tiny_wan_transformer(num_layers=2)
    before = state(pipeline)
    with pytest.raises(ValueError, match="transformer_2 has 2 blocks"):
        stas.steer(pipeline, dims=(3,), blocks=(2,))
    assert state(pipeline) == before


def test_a_window_that_holds_no_step_of_the_call_warns():
    pipeline = tiny_wan()
    plain = generate(pipeline, steps=2)
    with (
        stas.steer(pipeline, dims=(3,), start=0.1, stop=0.2),
        pytest.warns(UserWarning, match="none of 2 denoising steps"),
    ):
        assert torch.equal(generate(pipeline, steps=2), plain)


def test_one_frame_steers_the_first_frame_only():
    pipeline = tiny_wan()
    plain = generate(pipeline, num_frames=1)
    with (
        stas.steer(pipeline, dims=(3,), regions=("boundary",), scale=2.0) as handle,
        pytest.warns(UserWarning, match=r"No token is steered: boundary \(boundary 0\.08\)"),
    ):
        assert torch.equal(generate(pipeline, num_frames=1), plain)
        assert handle.steered_forwards == {"transformer": 0}
    with stas.steer(pipeline, dims=(3,), scale=2.0):
        assert not torch.equal(generate(pipeline, num_frames=1), plain)


def test_one_handle_steers_videos_of_every_size():
    options = {"dims": (3,), "blocks": "all", "scale": 2.0, "boundary": 0.3}
    sizes = [{"num_frames": 9}, {"num_frames": 5, "width": 64}, {"num_frames": 5, "height": 64}]
    pipeline = tiny_wan()
    with stas.steer(pipeline, **options):
        found = [generate(pipeline, **size) for size in sizes]
    for size, latents in zip(sizes, found, strict=True):
        pipeline = tiny_wan()
        with stas.steer(pipeline, **options):
            assert torch.equal(generate(pipeline, **size), latents)


def test_a_sample_does_not_depend_on_its_neighbours():
    pipeline = tiny_wan()
    noise = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    prompts = ["a red circle", "a blue square"]
    with stas.steer(pipeline, dims=(3,), blocks="all", scale=2.0):
        together = generate(pipeline, prompt=prompts, latents=noise)
        for i in range(2):
            alone = generate(pipeline, prompt=prompts[i], latents=noise[i : i + 1])
            assert torch.allclose(together[i], alone[0], rtol=1e-4, atol=1e-5)


def test_training_after_inference_mode_through_the_same_handle():
    """What steering keeps between forwards was made in inference mode, which autograd refuses."""
    transformer = tiny_wan_transformer()
    with stas.steer(transformer, dims=(3,), blocks="all"):
        with torch.inference_mode():
            forward(transformer)
        transformer.patch_embedding.weight.requires_grad_()
        transformer(
            hidden_states=torch.randn(1, 4, 3, 4, 4),
            timestep=torch.tensor([500]),
            encoder_hidden_states=torch.randn(1, 8, 16),
        ).sample.sum().backward()
    assert transformer.patch_embedding.weight.grad.abs().sum() > 0


def test_training_through_a_steered_transformer():
    transformer = tiny_wan_transformer().train()
    transformer.enable_gradient_checkpointing()
    with warnings.catch_warnings(), stas.steer(transformer, dims=(3,), blocks="all"):
        warnings.simplefilter("ignore")
        transformer(
            hidden_states=torch.randn(1, 4, 3, 4, 4),
            timestep=torch.tensor([500]),
            encoder_hidden_states=torch.randn(1, 8, 16),
        ).sample.sum().backward()
    assert transformer.patch_embedding.weight.grad.abs().sum() > 0
