"""The training recipe: the clips, the captions' split, and a run of every line."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
import torch
from diffusers import WanPipeline

from training.__main__ import run
from training.clips import (
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    Thing,
    draw_scenes,
    render,
    scenes,
)
from training.evaluate import wilson
from training.recipe import RECIPES
from training.text import make_text_encoder, make_tokenizer
from training.transformer import TEXT_LENGTH, FlowMatching, Latents, make_transformer
from training.vae import decode, make_vae

SMOKE = RECIPES["smoke"]


def scene_of(colour: str, shape: str, motion: str, background: str = "black") -> Scene:
    return Scene((Thing("", colour, shape, motion),), background)


def test_captions_are_many_and_all_different():
    captions = {scene.caption for split in ("train", "held-out") for scene in scenes(split)}
    assert len(captions) == len(scenes("train")) + len(scenes("held-out")) >= 500
    assert "a red circle moving right on a blue background" in captions


def test_no_held_out_caption_differs_from_a_trained_one_by_size_alone():
    def without_size(scene: Scene) -> tuple[str, ...]:
        (thing,) = scene.things
        return thing.colour, thing.shape, thing.motion, scene.background

    trained = {without_size(scene) for scene in scenes("train")}
    held_out = {without_size(scene) for scene in scenes("held-out")}
    assert not trained & held_out
    assert 0.07 < len(held_out) / len(trained | held_out) < 0.15


def test_every_word_of_every_kind_is_trained():
    seen = {word for scene in scenes("train") for word in scene.caption.split()}
    assert {*COLOURS, *SHAPES, *" ".join(MOTIONS).split()} <= seen


def test_both_things_of_a_held_out_scene_are_held_out():
    held_out = {scene.caption for scene in scenes("held-out")}
    for scene in draw_scenes(50, "held-out", random.Random(0), two=1.0):
        assert len(scene.things) == 2
        assert scene.things[0].colour != scene.things[1].colour
        for thing in scene.things:
            assert Scene((thing,), scene.background).caption in held_out


def centre(cover: torch.Tensor) -> torch.Tensor:
    """Centre (x, y) of what is covered, per frame, as shares of the side."""
    weight = cover[0] / cover[0].sum((1, 2), keepdim=True)
    axis = (torch.arange(cover.shape[-1]) + 0.5) / cover.shape[-1]
    return torch.stack([(weight.sum(1) * axis).sum(1), (weight.sum(2) * axis).sum(1)], 1)


@pytest.mark.parametrize(
    ("motion", "direction"),
    [
        ("moving right", (1, 0)),
        ("moving left", (-1, 0)),
        ("moving down", (0, 1)),
        ("moving up", (0, -1)),
        ("standing still", (0, 0)),
    ],
)
def test_things_move_as_the_caption_says(motion, direction):
    _, cover = render([scene_of("red", "circle", motion)], random.Random(1), size=64)
    path = centre(cover[0])
    moved = path[-1] - path[0]
    assert torch.allclose(moved, 0.4 * torch.tensor(direction).float(), atol=0.02)


@pytest.mark.parametrize(("motion", "grows"), [("growing", True), ("shrinking", False)])
def test_things_change_size_as_the_caption_says(motion, grows):
    _, cover = render([scene_of("red", "square", motion)], random.Random(1), size=64)
    area = cover[0, 0].sum((1, 2))
    assert (area.diff() > 0).all() if grows else (area.diff() < 0).all()


def test_rotation_turns_and_does_not_move():
    clip, cover = render([scene_of("red", "cross", "rotating")], random.Random(1), size=64)
    assert torch.allclose(centre(cover[0])[0], centre(cover[0])[-1], atol=0.01)
    assert (clip[:, :, 0] - clip[:, :, 4]).abs().max() > 0.5


def test_a_thing_has_its_colour_and_the_rest_the_background():
    clip, cover = render([scene_of("green", "square", "standing still")], random.Random(2), size=64)
    pixels = (clip[0].permute(1, 2, 3, 0) + 1) / 2
    assert torch.allclose(pixels[cover[0, 0] == 1], torch.tensor(COLOURS["green"]), atol=1e-5)
    assert torch.allclose(pixels[cover[0, 0] == 0], torch.tensor((0.04, 0.04, 0.05)), atol=1e-5)


def test_one_weighted_pad_key_is_what_the_pipeline_pads():
    """The trained forward equals WanPipeline's, which pads with zeros to 512 tokens."""
    tokenizer = make_tokenizer()
    text_encoder = make_text_encoder(tokenizer, 0).eval()
    transformer = make_transformer(SMOKE).eval()
    torch.nn.init.normal_(transformer.proj_out.weight)
    captions = ["a red circle moving right on a blue background", "a large cyan ring growing"]
    latents = Latents(torch.randn(2, 16, 2, 4, 4).half(), captions)
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=make_vae(SMOKE),
        scheduler=None,
        transformer=transformer,
    )
    padded, _ = pipeline.encode_prompt(
        captions, do_classifier_free_guidance=False, max_sequence_length=512
    )
    hidden, sigma = torch.randn(2, 16, 2, 4, 4), torch.tensor([300.0, 800.0])
    with torch.no_grad():
        expected = transformer(hidden, sigma, padded).sample
        matching = FlowMatching(transformer, text_encoder, tokenizer, latents, SMOKE)
        mask = matching.masks[:2]
        matching.pads.set_lengths(mask)
        text = text_encoder(matching.ids[:2], mask).last_hidden_state * mask[..., None]
        assert text.shape[1] == TEXT_LENGTH
        trained = transformer(hidden, sigma, text).sample
        matching.restore()
        restored = transformer(hidden, sigma, padded).sample
    torch.testing.assert_close(trained, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(restored, expected)


def test_decoding_for_training_is_the_vaes_decoding():
    vae = make_vae(SMOKE).eval()
    latents = 0.1 * torch.randn(1, 16, 2, 4, 4)
    with torch.no_grad():
        expected = vae.decode(latents).sample
        assert torch.equal(decode(vae, latents).clamp(-1, 1), expected)


def test_recipe_takes_values_by_name():
    recipe = SMOKE.with_values(["transformer.steps=7", "cross_attn_norm=false", "shift=2"])
    assert (recipe.transformer.steps, recipe.cross_attn_norm, recipe.shift) == (7, False, 2.0)


@pytest.mark.parametrize("bad", ["steps=3", "vae=3", "transformer.depth=3", "clips", "no.such=1"])
def test_recipe_refuses_what_it_has_not(bad):
    with pytest.raises(ValueError, match="recipe"):
        SMOKE.with_values([bad])


def test_wilson_interval():
    low, high = wilson(95, 100)
    assert (round(low, 3), round(high, 3)) == (0.888, 0.978)


def test_a_run_trains_exports_and_resumes(tmp_path):
    device = torch.device("cpu")
    run(SMOKE, tmp_path, device, until="classifier")
    before = (tmp_path / "vae.safetensors").read_bytes()
    run(SMOKE, tmp_path, device)
    assert (tmp_path / "vae.safetensors").read_bytes() == before
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["generated, held-out captions"]["colour"]["of"] == SMOKE.videos
    assert results["recipe"] == json.loads(json.dumps(dataclasses.asdict(SMOKE)))
    assert (tmp_path / "contact-sheet.png").is_file()
    pipeline = WanPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.transformer.dtype == torch.float32
    assert len(results["activations"]) == SMOKE.layers


def test_a_stopped_stage_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    """Stopped after step 2 and started again: the weights of a run that never stopped."""
    from training import loop

    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", 0.0)

    def trained(folder, stops: tuple[int, ...]) -> torch.Tensor:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 3)

        class Objective:
            def batch(self, step: int) -> tuple[torch.Tensor, ...]:
                if step in stops:
                    raise KeyboardInterrupt
                return (torch.randn(4, 3, generator=loop.generator(0, step)),)

            def loss(self, inputs: torch.Tensor) -> torch.Tensor:
                return module(inputs).square().mean()

        folder.mkdir(exist_ok=True)
        stage = dataclasses.replace(SMOKE.vae, steps=5, warmup=1)
        loop.train("linear", {"linear": module}, stage, Objective(), folder)
        return module.weight.detach()

    whole = trained(tmp_path / "whole", ())
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "halves", (3,))
    assert torch.equal(trained(tmp_path / "halves", ()), whole)
