"""The training recipe: the clips, the captions' split, and a run of every line."""

from __future__ import annotations

import dataclasses
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from PIL import Image
from safetensors.torch import load_file, load_model

from stas.activations.profiles import FOLDER_PROFILE, Profile
from stas.activations.stats import ActivationStats
from stas.activations.sums import partial_sums
from stas.assets import BUNDLED_MODEL
from stas.method.frames import FrameMap
from stas.method.tokens import TokenGrid
from tests.method.test_detection import spiked
from training import ablations
from training.__main__ import run
from training.border import by_place, compare, places, token_cover
from training.classifier import JUDGE, Classifier
from training.clips import (
    COLOURS,
    DRIFT,
    DRIFTS,
    MOTIONS,
    PATTERNS,
    PLACES,
    SHAPES,
    STAYING,
    Mix,
    Scene,
    Thing,
    draw_scenes,
    render,
    scenes,
)
from training.evaluate import KINDS, chosen_scenes, name_pairs, place_of, wilson
from training.export import weights_hash, write_profile
from training.loop import snapshot_steps
from training.over_training import draw, load_snapshot, over_training, snapshots
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
    drawn = draw_scenes(3000, "train", random.Random(0), RECIPES["gpu"].mix)
    seen = {word for scene in drawn for word in scene.caption.split()}
    assert {*COLOURS, *SHAPES, *" ".join(MOTIONS).split(), *PATTERNS, *PLACES, *DRIFTS} <= seen


def test_the_tokenizer_knows_every_word_and_the_pads_fit():
    tokenizer = make_tokenizer()
    mix = Mix(two=0.3, patterned=0.7, placed=0.7)
    captions = [s.caption for s in draw_scenes(3000, "train", random.Random(0), mix)]
    tokens = tokenizer(captions).input_ids
    assert not any(tokenizer.unk_token_id in each for each in tokens)
    assert len({tuple(each) for each in tokens}) == len(set(captions))
    assert max(map(len, tokens)) < TEXT_LENGTH


def test_both_things_of_a_held_out_scene_are_held_out():
    held_out = {scene.caption for scene in scenes("held-out")}
    for scene in draw_scenes(50, "held-out", random.Random(0), Mix(two=1.0)):
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
    """With it the transformer gives what it gives for WanPipeline's 512 tokens, mostly zeros."""
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


def test_the_results_are_of_the_weights_that_ship_and_of_the_recipe_that_is_stated():
    results, *others = (
        json.loads((JUDGE.parent / f"{name}.json").read_text())
        for name in ("results", "over-training", "border")
    )
    for each in (results, *others):
        assert each["sha256 of the weights"] == weights_hash(BUNDLED_MODEL)
    assert results["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPES["gpu"])))


def test_wilson_interval():
    low, high = wilson(95, 100)
    assert (round(low, 3), round(high, 3)) == (0.888, 0.978)


def stats_of(ratios):
    """Statistics of 256 dimensions with the given ratios by dimension."""
    grid, values = TokenGrid(2, 2, 2), spiked(256, ratios).float()
    stats = ActivationStats(blocks=(0,), width=256, boundary=0.08)
    stats.add(0, 1, "cond", 0, partial_sums(values.expand(8, -1), grid, 0.08), grid)
    return stats


def test_the_profile_that_ships_is_what_is_exported(tmp_path):
    shipped = BUNDLED_MODEL / FOLDER_PROFILE
    profile = Profile.load(shipped)
    stats = stats_of(dict(zip(profile.dims, profile.ratios, strict=True)))
    config = dict(profile.config) | {"attention_head_dim": 32}
    write_profile(tmp_path, stats, config, profile.videos)
    assert (tmp_path / FOLDER_PROFILE).read_bytes() == shipped.read_bytes()


@pytest.mark.parametrize(
    ("ratios", "kept"),
    [
        ({3: 8.0, 7: 5.0, 9: 3.9}, (3, 7)),  # weak, and half of the strongest one's at least
        ({3: 9.0, 4: 9.1, 5: 9.2, 6: 9.3, 7: 9.4}, (7, 6, 5, 4)),
        ({3: 4.0, 7: 2.9}, (3,)),
        ({3: 2.9}, None),
    ],
)
def test_an_exported_profile_keeps_strong_dimensions_that_are_only_weak(tmp_path, ratios, kept):
    write_profile(tmp_path, stats_of(ratios), {"num_layers": 8, "num_attention_heads": 8}, 8)
    if kept is None:
        assert list(tmp_path.iterdir()) == []
        return
    profile = Profile.load(tmp_path / FOLDER_PROFILE)
    assert profile.dims == kept and profile.ratios == tuple(ratios[dim] for dim in kept)


def test_a_run_trains_exports_and_resumes(tmp_path):
    device = torch.device("cpu")
    run(SMOKE, tmp_path, device, only="latents")
    assert not (tmp_path / "classifier.safetensors").exists()
    before = (tmp_path / "vae.safetensors").read_bytes()
    run(SMOKE, tmp_path, device)
    assert (tmp_path / "vae.safetensors").read_bytes() == before
    results = json.loads((tmp_path / "results.json").read_text())
    plain = results["held-out captions"]["plain"]
    assert plain["generated"]["colour"]["of"] == plain["rendered"]["colour"]["of"] == SMOKE.videos
    assert set(results["held-out captions"]) == set(KINDS)
    assert set(results["seconds"]) == {"vae", "classifier", "latents", "transformer", "evaluation"}
    assert results["recipe"] == json.loads(json.dumps(dataclasses.asdict(SMOKE)))
    assert (tmp_path / "contact-sheet.png").is_file()
    with Image.open(tmp_path / "videos.webp") as picture:
        assert picture.n_frames == SMOKE.frames
    for part in ("transformer/diffusion_pytorch_model", "text_encoder/model"):
        stored = load_file(tmp_path / "model" / f"{part}.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert len(results["activations"]) == SMOKE.layers
    follow_and_ablate(tmp_path)


def follow_and_ablate(folder):
    """What is run on the output of a run: the weights along the way, and short trainings."""
    rows = over_training(folder, torch.device("cpu"), videos=2, steps=2)
    assert [row["step"] for row in rows] == snapshot_steps(SMOKE.transformer.steps)
    dims = list(rows[-1]["followed"])
    assert all(list(row["followed"]) == dims for row in rows)
    assert all(len(row["blocks"]) == SMOKE.layers for row in rows)
    # The last are the weights that were exported, both in bfloat16.
    pipeline = WanPipeline.from_pretrained(folder / "model")
    before = {k: v.clone() for k, v in pipeline.transformer.state_dict().items()}
    paths = snapshots(folder)
    load_snapshot(pipeline, paths[SMOKE.transformer.steps])
    after = pipeline.transformer.state_dict()
    assert all(torch.equal(before[name].bfloat16(), after[name].bfloat16()) for name in before)
    load_snapshot(pipeline, paths[0])
    assert any(not torch.equal(before[name], after[name]) for name in before)
    left, right, named = draw(rows).axes
    assert len(left.lines) == len(dims) and len(right.lines) == SMOKE.layers
    assert list(left.lines[0].get_xdata()) == [row["step"] for row in rows]
    assert len(named.lines) == 1

    command = [
        *("--recipe", "smoke", "--seeds", "1", "--videos", "1", "--steps", "1"),
        *("--set", "transformer.steps=2", "--set", "transformer.batch=2"),
    ]
    for part in ("0/2", "1/2"):
        ablations.main([str(folder), *command, "--part", part])
    with pytest.raises(SystemExit):
        ablations.main([str(folder), *command, "--part", "2/2"])
    found = json.loads((folder / "ablations.json").read_text())["runs"]
    assert [row["variant"] for row in found] == list(ablations.VARIANTS)
    depths = {row["variant"]: len(row["blocks"]) for row in found}
    assert (depths["base"], depths["depth / 2"], depths["depth x 2"]) == (2, 1, 4)


def test_every_ablation_differs_in_the_one_thing_that_it_says():
    base = RECIPES["gpu"]
    changed = {name: variant(base) for name, variant in ablations.VARIANTS.items()}
    assert len({repr(recipe) for recipe in changed.values()}) == len(changed)
    assert changed["width x 1.5"].heads == 12 and changed["depth x 2"].layers == 16
    assert changed["learning rate / 4"].transformer.learning_rate == 5e-4
    for name, (attn1, attn2) in {
        "base": (torch.nn.RMSNorm, torch.nn.RMSNorm),
        "no self-attention qk-norm": (torch.nn.Identity, torch.nn.RMSNorm),
    }.items():
        block = make_transformer(ablations.VARIANTS[name](SMOKE)).blocks[0]
        assert isinstance(block.attn1.norm_q, attn1) and isinstance(block.attn2.norm_q, attn2)
    block = make_transformer(ablations.VARIANTS["no cross-attention norm"](SMOKE)).blocks[0]
    assert isinstance(block.norm2, torch.nn.Identity)


def test_weights_along_the_way_of_another_model_are_refused(tmp_path):
    run(SMOKE, tmp_path, torch.device("cpu"), only="transformer")
    tokenizer = make_tokenizer()
    pipeline = SimpleNamespace(
        transformer=make_transformer(dataclasses.replace(SMOKE, layers=1)),
        text_encoder=make_text_encoder(tokenizer, 0),
    )
    with pytest.raises(ValueError, match="another model"):
        load_snapshot(pipeline, snapshots(tmp_path)[0])
    with pytest.raises(FileNotFoundError, match="--output"):
        snapshots(tmp_path / "empty")


def test_a_pattern_drifts_as_the_caption_says():
    for drift, (right, down) in DRIFTS.items():
        scene = dataclasses.replace(
            scene_of("red", "circle", "standing still"), pattern="dotted", drift=drift
        )
        clip, cover = render([scene], random.Random(0), size=80, frames=4)
        shift = round(80 * DRIFT / 3)  # pixels a frame
        before, after = clip[0, :, 0], clip[0, :, 1]
        back = after.roll((-shift * down, -shift * right), (1, 2))
        same = (cover[0, 0, 0] == 0) & (
            cover[0, 0, 1].roll((-shift * down, -shift * right), (0, 1)) == 0
        )
        inside = torch.zeros_like(same)
        inside[shift:-shift, shift:-shift] = True
        assert (before - back).abs()[:, same & inside].max() < 1e-4
        assert (before - after).abs()[:, same & inside].max() > 0.1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_lies_behind_the_thing_in_a_second_tone(pattern):
    plain = scene_of("green", "square", "standing still", "brown")
    clips = [
        render([scene], random.Random(3), size=64, frames=1)[0][0, :, 0]
        for scene in (plain, dataclasses.replace(plain, pattern=pattern))
    ]
    cover = render([plain], random.Random(3), size=64, frames=1)[1][0, 0, 0]
    differs = (clips[0] - clips[1]).abs().amax(0) > 1e-3
    assert not differs[cover == 1].any()
    assert 0.1 < differs[cover == 0].float().mean() < 0.7


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_at_the_border(place):
    thing = Thing("", "red", "circle", "standing still", place)
    _, cover = render([Scene((thing,), "black")], random.Random(0), size=64, frames=1)
    edges = {
        "left": cover[..., :, :4],
        "right": cover[..., :, -4:],
        "top": cover[..., :4, :],
        "bottom": cover[..., -4:, :],
    }
    assert [name for name, edge in edges.items() if edge.max() > 0.5] == [place]


@pytest.mark.parametrize("share", ["two", "patterned", "placed", "rotating"])
def test_a_mix_draws_its_share(share):
    drawn = draw_scenes(2000, "train", random.Random(0), Mix(**{share: 0.5}))
    staying = [scene for scene in drawn if scene.things[0].motion in STAYING]
    found = {
        "two": sum(len(scene.things) == 2 for scene in drawn) / len(drawn),
        "patterned": sum(bool(scene.pattern) for scene in drawn) / len(drawn),
        "placed": sum(bool(scene.things[0].place) for scene in staying) / len(staying),
        "rotating": sum(scene.things[0].motion == "rotating" for scene in drawn) / len(drawn),
    }
    usual = {"two": 0.0, "patterned": 0.0, "placed": 0.0, "rotating": 0.08}
    for name, value in found.items():
        assert value == pytest.approx(
            0.54 if name == share == "rotating" else 0.5 if name == share else usual[name], abs=0.05
        )


def test_a_thing_is_found_at_its_place():
    for place in PLACES:
        thing = Thing("small", "red", "square", "standing still", place)
        scene = Scene((thing,), "gray")
        clip, _ = render([scene], random.Random(0), size=64, frames=5)
        assert place_of(clip[0], scene) == place
        turned = clip[0].flip(2, 3)
        assert place_of(turned, scene) not in ("", place)
        leaving = torch.cat([clip[0, :, :1], turned[:, 1:]], 1)
        assert place_of(leaving, scene) == place  # where it is at the start
    middle = torch.full((3, 5, 64, 64), -1.0)
    middle[0, :, 28:36, 28:36] = 1.0
    assert place_of(middle, scene_of("red", "square", "standing still")) == ""
    assert place_of(torch.full((3, 5, 64, 64), -1.0), scene_of("red", "square", "growing")) == ""


def test_one_of_two_things_is_singled_out():
    """The judge sees what is left as it sees a clip of that thing alone."""
    classifier = Classifier().eval()
    load_model(classifier, JUDGE)
    scenes = chosen_scenes(12, "held-out", "two things")
    clips = [render([scene], random.Random(i))[0][0] for i, scene in enumerate(scenes)]
    found = name_pairs(classifier, clips, scenes)
    assert found["of"] == 12 and found["both"] >= 11
    swapped = [dataclasses.replace(scene, things=scene.things[::-1]) for scene in scenes]
    assert name_pairs(classifier, clips, swapped)["both"] >= 11  # by colour, not by place
    exchanged = [
        dataclasses.replace(
            scene,
            things=tuple(
                dataclasses.replace(thing, colour=other.colour)
                for thing, other in zip(scene.things, scene.things[::-1], strict=True)
            ),
        )
        for scene in scenes
    ]
    assert name_pairs(classifier, clips, exchanged)["both"] <= 1


def test_tokens_have_the_cover_of_their_pixels():
    grid = TokenGrid(2, 2, 2)
    cover = np.zeros((5, 32, 32))
    cover[0, :16, :16] = 1  # the first pixel frame is the first latent frame
    cover[1:, 16:, 16:] = np.array([1, 1, 0, 0])[:, None, None]
    found = token_cover(cover, grid, FrameMap(4))
    assert found.tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 0.5]]]


def test_places_of_a_frame():
    found = places(TokenGrid(5, 8, 8))
    assert found["head and tail"].sum() == 12
    assert not (found["head and tail"] & found["rest of the first and last row"]).any()
    assert (found["border"] ^ found["inside"]).all()
    assert found["border"].sum() == 28 and found["first and last column"].sum() == 12


def test_a_place_that_is_larger_is_found_larger():
    """Planted: head and tail a tenth above all else, whatever is seen there."""
    grid, rng = TokenGrid(5, 8, 8), np.random.default_rng(0)
    rows = []
    for _ in range(20):
        values = 10 + rng.normal(0, 0.1, (5, 8, 8))
        values[:, places(grid)["head and tail"]] *= 1.1
        cover = (rng.random((5, 8, 8)) < 0.3).astype(float)
        rows.append(by_place(values, cover, grid))
    found = {(row["what"], row["against"]): row for row in compare(rows)}

    def between(*names: str) -> dict:
        return found[tuple(f"{name}, later frames" for name in names)]

    for content in ("object", "background"):
        row = between(f"{content}, head and tail", f"{content}, rest of the first and last row")
        assert row["words"] == "higher" and row["difference"] == pytest.approx(0.1, abs=0.01)
    # Content alone makes no difference; of the border, 12 of 28 tokens are head or tail.
    assert abs(between("background, inside", "object, inside")["difference"]) < 0.01
    border = between("background, border", "background, inside")
    assert border["difference"] == pytest.approx(0.1 * 12 / 28, abs=0.01)


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
