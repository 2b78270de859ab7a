"""Where rows say that the video's tokens lie; the real classes are run in test_classes.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stas.comfyui.table import MODELS, Forward, Place, find_model
from stas.method.tokens import TokenGrid


def wan(**attributes):
    return SimpleNamespace(patch_size=(1, 2, 2), ref_conv=None, **attributes)


def place(row, transformer, *latents, **conds):
    forward = Forward(transformer=transformer, latents=torch.Size(latents), conds=conds)
    return MODELS[row].place(forward)


def test_odd_sizes_are_padded():
    assert place("WanModel", wan(), 1, 16, 3, 5, 7).grid == TokenGrid(3, 3, 4)


def test_references_of_fun_and_phantom():
    fun = SimpleNamespace(patch_size=(1, 2, 2), ref_conv=object())
    reference = torch.zeros(1, 16, 4, 6)
    assert place("WanModel", fun, 1, 16, 3, 4, 6, reference_latent=reference).before == 6
    assert place("WanModel", wan(), 1, 16, 3, 4, 6, reference_latent=reference).before == 0
    phantom = place("WanModel", wan(), 1, 16, 3, 4, 6, time_dim_concat=torch.zeros(1, 16, 2, 4, 6))
    assert (phantom.before, phantom.after) == (0, 12)
    several = [torch.zeros(1, 16, 1, 4, 6), torch.zeros(1, 16, 2, 3, 6)]
    assert place("WanModel", wan(), 1, 16, 3, 4, 6, context_latents=several).after == 6 + 12


@pytest.mark.parametrize("references", [0, 1, 2])
def test_vace_leaves_out_the_frames_of_references(references):
    context = torch.randn(1, 1, 96, 5, 4, 4)
    context[:, :, 16:, :references] = 0
    found = place("VaceWanModel", wan(), 1, 16, 5, 4, 4, vace_context=context)
    assert found == Place(grid=TokenGrid(5 - references, 2, 2), before=4 * references)


def test_guides_of_ltx_come_last_and_may_have_lost_tokens():
    ltx = SimpleNamespace(patchifier=SimpleNamespace(patch_size=(1, 1, 1)))
    found = place("LTXVModel", ltx, 1, 128, 6, 2, 3, keyframe_idxs=torch.zeros(1, 3, 12))
    assert (found.grid, found.after) == (TokenGrid(4, 2, 3), None)
    hidden = torch.arange(24.0 + 7).reshape(1, -1, 1)
    assert found.of(hidden).flatten().tolist() == list(range(24))


@pytest.mark.parametrize(
    "start, anchored, references, left",
    [(0, False, 1, 4), (1, True, 1, 4), (5, True, 0, 4), (5, False, 0, 5)],
)
def test_a_context_window_has_the_references_that_are_in_it(start, anchored, references, left):
    """Its anchor is left alone, and is not counted twice where it is the reference."""
    context = torch.randn(1, 1, 96, 5, 4, 4)
    context[:, :, 16:, :references] = 0
    window = {"start": start, "anchored": anchored, "latents": torch.Size((1, 16, 5, 4, 4))}
    vace = Forward(transformer=wan(), conds={"vace_context": context}, **window)
    animate = Forward(transformer=wan(), conds={}, **window)
    for row, forward in (("VaceWanModel", vace), ("AnimateWanModel", animate)):
        found = MODELS[row].place(forward)
        assert (found.grid.frames, found.before) == (left, 4 * (5 - left))


def test_a_latent_of_references_alone_is_refused():
    with pytest.raises(ValueError, match="no frame of the video is left"):
        place("AnimateWanModel", wan(), 1, 16, 1, 4, 4)


def test_tokens_that_do_not_fit_are_an_error():
    expected = Place(grid=TokenGrid(2, 1, 2), before=1, after=1)
    assert expected.of(torch.zeros(1, 6, 8)).shape == (1, 4, 8)
    for present in (5, 7):
        with pytest.raises(RuntimeError, match=f"returned {present} tokens a sample.*make 6"):
            expected.of(torch.zeros(1, present, 8))
    with_text = torch.arange(9.0).reshape(1, 9, 1)
    assert expected.of(with_text, text=True).flatten().tolist() == [4, 5, 6, 7]
    assert expected.of(with_text[0], text=True).shape == (1, 4, 1)  # of one sample


def test_a_patch_of_one_integer_may_have_frames_of_its_own():
    for frames, tokens in ((None, 5), (2, 3)):
        cogvideox = SimpleNamespace(patch_size=2, patch_size_t=frames)
        found = place("CogVideoXTransformer3DModel", cogvideox, 1, 16, 5, 4, 6)
        assert found.grid == TokenGrid(tokens, 2, 3)


def test_layouts_are_views_of_tokens():
    hidden = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 2, 2)  # T, H and B of 1, 2 and 2
    rows = MODELS["GeneralDIT"].tokens(hidden)
    assert rows.shape == (2, 6, 2) and rows.data_ptr() == hidden.data_ptr()
    assert rows[1, 5].tolist() == hidden[0, 1, 2, 1].tolist()
    rows = MODELS["MiniTrainDIT"].tokens(hidden)
    assert rows.shape == (1, 12, 2) and rows.data_ptr() == hidden.data_ptr()
    with pytest.raises(RuntimeError, match="view"):
        MODELS["MiniTrainDIT"].tokens(hidden.transpose(1, 2))


def test_other_packs_and_image_models_are_refused():
    theirs = type("WanModel", (), {"__module__": "WanVideoWrapper.wanvideo.modules.model"})
    with pytest.raises(ValueError, match=r"another pack.*ComfyUI's own loader"):
        find_model(theirs())
    flux = type("Flux", (), {"__module__": "comfy.ldm.flux.model"})
    with pytest.raises(ValueError, match="Flux is no video model that STAS knows"):
        find_model(flux())
