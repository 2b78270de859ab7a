"""Steering beside ComfyUI's own nodes that change blocks, forwards or conditions.

Needs COMFYUI_DIR and the Python of its environment, run with --noconftest.
"""

from __future__ import annotations

import inspect
import os

import pytest
import torch

if not os.environ.get("COMFYUI_DIR"):
    pytest.skip("COMFYUI_DIR is not set: no ComfyUI to run in", allow_module_level=True)

from tests.comfyui import zoo
from tests.comfyui.test_headless import (
    BOUNDARY,
    DIMS,
    LATENT,
    Seen,
    expected,
    sample,
    steered,
    text,
)


@pytest.fixture(scope="module")
def model():
    import comfy.ops

    return zoo.load(zoo.wan(comfy.ops.disable_weight_init))


def apart(patch, model, order):
    return patch(steered(model)) if order == "steered first" else steered(patch(model))


ORDERS = pytest.mark.parametrize("order", ["steered first", "steered last"])


@ORDERS
def test_skip_layer_guidance(model, order):
    """Its third forward skips the block, and is the only one that is not steered."""
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

    def patch(model):
        return SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "0", "", 0.0)[0]

    with Seen(model, 1) as later, Seen(model) as seen:
        sample(apart(patch, model, order), cfg=4.0)
    assert len(seen.outputs) == 5 and len(later.outputs) == 10
    wanted = expected(seen.outputs[0], 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)


@ORDERS
@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_caches_of_whole_forwards(model, order, node):
    """What a cache skips is not steered; what runs in the window is."""
    import comfy_extras.nodes_easycache as nodes

    def patch(model):
        return getattr(nodes, node).execute(model, 5.0, 0.0, 1.0, False)[0]

    with Seen(model) as seen:
        sample(apart(patch, model, order), steps=10)
    assert len(seen.outputs) < 10
    assert seen.changed[0] and not seen.changed[-1]


@ORDERS
def test_torch_compile(model, order):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def patch(model):
        compiled = model.clone()
        set_torch_compile_wrapper(compiled, backend="eager")
        return compiled

    wanted = sample(steered(model))
    assert torch.allclose(sample(apart(patch, model, order)), wanted, rtol=1e-4, atol=1e-5)


def test_context_windows(model):
    """Each window is steered as a video; the frame before it, where there is one, is left alone."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    known = inspect.signature(ContextWindowsManualNode.execute).parameters
    later = {"freenoise": False} if "freenoise" in known else {}

    def patch(model):
        return ContextWindowsManualNode.execute(
            model, context_length=4, context_overlap=1, context_schedule="standard_static",
            context_stride=1, closed_loop=False, fuse_method="pyramid", dim=2, **later,
        )[0]  # fmt: skip

    with Seen(model) as seen:
        sample(steered(patch(model)), (1, 16, 7, 8, 8))
    anchored = int("causal_window_fix" in known)  # not in every version
    assert [each.shape[1] // 16 for each in seen.outputs] == [4, 4 + anchored] * 5
    for index in range(4):
        before, after = seen.outputs[index], seen.inputs[index]
        frames = before.shape[1] // 16
        anchored = frames - 4
        wanted = expected(before, 16 * anchored, 4, 4, 4, DIMS, 1.5, BOUNDARY)
        assert torch.allclose(after, wanted, rtol=1e-6, atol=0)
    assert not any(seen.changed[4:])


def test_merged_models_keep_the_steering_of_the_first(model):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    merged = ModelMergeSimple().merge(steered(model), model, 0.5)[0]
    with Seen(model) as seen:
        sample(merged, LATENT)
    assert seen.changed == [True, True, False, False, False]


def lora(model, rank=2):
    """Weights of a LoRA for the output layer of every feed-forward, as files of LoRA have them."""
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for number, block in enumerate(model.model.diffusion_model.blocks):
        wide, narrow = block.ffn[2].weight.shape
        name = f"diffusion_model.blocks.{number}.ffn.2"
        weights[f"{name}.lora_up.weight"] = torch.randn(wide, rank, generator=generator)
        weights[f"{name}.lora_down.weight"] = torch.randn(rank, narrow, generator=generator)
    return weights


@ORDERS
def test_lora(model, order):
    """What is steered is what the model with its LoRA gives."""
    import comfy.sd

    weights = lora(model)

    def patch(model):
        return comfy.sd.load_lora_for_models(model, None, weights, 0.5, 0.0)[0]

    with Seen(model) as plain:
        sample(steered(model))
    with Seen(model) as seen:
        sample(apart(patch, model, order))
    assert not torch.allclose(plain.inputs[1], seen.inputs[1])
    wanted = expected(seen.outputs[0], 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)


def test_weights_that_stay_where_they_are(monkeypatch):
    """As in low-VRAM modes: each layer fetches its weights, and applies the LoRA, when it runs."""
    import comfy.model_patcher
    import comfy.ops
    import comfy.sd

    def loaded():
        model = zoo.load(zoo.wan(comfy.ops.disable_weight_init))
        node = steered(comfy.sd.load_lora_for_models(model, None, lora(model), 0.5, 0.0)[0])
        with Seen(model) as seen:
            return sample(node), seen, model.model

    whole, *_ = loaded()
    own = comfy.model_patcher.ModelPatcher.partially_load
    monkeypatch.setattr(
        comfy.model_patcher.ModelPatcher,
        "partially_load",
        lambda self, device, extra_memory=0, **options: own(self, device, 0.1, **options),
    )
    parts, seen, model = loaded()
    assert model.model_lowvram and model.diffusion_model.blocks[0].ffn[2].weight_function
    wanted = expected(seen.outputs[0], 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)
    assert torch.allclose(parts, whole, rtol=1e-4, atol=1e-5)


def two_models(first, second):
    """Dual Model CFG Guider's sampling."""
    import comfy.samplers
    import comfy_extras.nodes_custom_sampler as nodes

    if not hasattr(nodes, "Guider_DualModel"):
        pytest.skip("this version of ComfyUI has no Dual Model CFG Guider")
    guider = nodes.Guider_DualModel(first, second)
    guider.set_conds(text(), text(seed=8))
    guider.set_cfg(3.0)
    return guider.sample(
        torch.randn(LATENT, generator=torch.Generator().manual_seed(1)),
        torch.zeros(LATENT),
        comfy.samplers.sampler_object("euler"),
        torch.tensor([1.0, 0.5, 0.0]),
        disable_pbar=True,
        seed=1,
    )


def test_dual_model_guider_asks_the_first_models_node(model, caplog):
    """Both models are steered as it says; a node on the second one does nothing and is told of."""
    import comfy.ops

    second = zoo.load(zoo.fill(zoo.wan(comfy.ops.disable_weight_init), seed=1))
    with Seen(model) as first, Seen(second) as other:
        two_models(steered(model), second)
    for seen in (first, other):
        assert seen.changed == [True, False]
        wanted = expected(seen.outputs[0], 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
        assert torch.allclose(seen.inputs[0], wanted, rtol=1e-6, atol=0)
    assert "does nothing" not in caplog.text
    with Seen(model) as first, Seen(second) as other:
        two_models(model, steered(second))
    assert not any(first.changed + other.changed)
    assert "the node on this WanModel does nothing" in caplog.text


def test_weights_of_eight_bits():
    """Weights that are kept as fp8 and computed with in float32, as ComfyUI does on a CPU."""
    import comfy.ops
    import comfy.sd

    transformer = zoo.wan(comfy.ops.disable_weight_init)
    state = {
        name: value.to(torch.float8_e4m3fn) if value.ndim == 2 else value.clone()
        for name, value in transformer.state_dict().items()
    }
    options = {"dtype": torch.float8_e4m3fn}
    model = comfy.sd.load_diffusion_model_state_dict(state, model_options=options)
    kept = model.model.diffusion_model.blocks[0].ffn[2].weight.dtype
    assert kept == torch.float8_e4m3fn
    with Seen(model) as seen:
        sample(steered(model))
    assert seen.changed[0] and not seen.changed[-1]
    wanted = expected(seen.outputs[0].float(), 0, 3, 4, 4, DIMS, 1.5, BOUNDARY)
    assert torch.allclose(seen.inputs[0].float(), wanted, rtol=1e-2, atol=0)
