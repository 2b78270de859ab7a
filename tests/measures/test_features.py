"""Measures by encoders' features, on tiny checkpoints in the real formats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    UMT5Config,
    UMT5EncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from stas.measures.features import (
    consecutive_similarity,
    first_frame_similarity,
    load_aesthetic,
    load_encoder,
)
from tests.measures.test_measure import WAN, measure, shifted, texture
from tests.tiny import T5_SIZES

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


def save_encoder(kind, folder):
    """A tiny random checkpoint in the format of DINO, DINOv2 or CLIP."""
    square = {"height": 32, "width": 32}
    if kind == "clip":
        sizes = {"vocab_size": 20} | SIZES
        text = {k: v for k, v in sizes.items() if k not in ("image_size", "patch_size")}
        config = CLIPConfig(text_config=text, vision_config=SIZES, projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
        processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square)
    elif kind == "dino":
        ViTModel(ViTConfig(**SIZES)).save_pretrained(folder)
        processor = ViTImageProcessorPil(size=square)
    else:
        sizes = {k: v for k, v in SIZES.items() if k != "intermediate_size"}
        Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
        processor = ViTImageProcessorPil(size=square)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "width"), [("dino", 16), ("dinov2", 16), ("clip", 8)])
def test_similarities_by_an_encoder(kind, width, tmp_path):
    folder = save_encoder(kind, tmp_path / f"tiny-{kind}")
    encoder = load_encoder(str(folder))
    assert encoder.name == f"tiny-{kind}"
    video = shifted(5, side=40)
    video[3] = video[2]
    features = encoder.features(video, batch=2)
    assert features.shape == (5, width)
    np.testing.assert_allclose(features, encoder.features(video), rtol=1e-4, atol=1e-6)
    measured = measure(video, WAN, [], [encoder])
    consecutive = measured.curves[f"tiny-{kind} similarity"]
    assert consecutive[2] == pytest.approx(1) and (np.delete(consecutive, 2) < 1).all()
    assert len(measured.curves[f"tiny-{kind} similarity to the first frame"]) == 4


def test_features_are_those_of_the_checkpoint(tmp_path):
    folder = save_encoder("dino", tmp_path / "tiny")
    frame = texture(32)  # of the encoder's own size: nothing is resized
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder)(pixels).last_hidden_state[0, 0]
    found = load_encoder(str(folder)).features(frame[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_similarities_of_known_features():
    features = [[1, 0], [2, 0], [0, 3], [-1, 0]]
    assert consecutive_similarity(features).tolist() == [1, 0, 0]
    assert first_frame_similarity(features).tolist() == [1, 0, -1]
    with pytest.raises(ValueError, match="frames >= 2"):
        consecutive_similarity([[1, 0]])


def test_a_missing_encoder_says_how_to_get_it():
    with pytest.raises(OSError, match="hf download facebook/dinov2-none"):
        load_encoder("facebook/dinov2-none")


def test_an_encoder_that_is_cut_short_is_refused(tmp_path):
    weights = save_encoder("dino", tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cut short or damaged .* download them again"):
        load_encoder(str(tmp_path))


def test_a_model_of_another_kind_is_refused(tmp_path):
    UMT5EncoderModel(UMT5Config(**T5_SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="UMT5Model, and no image encoder"):
        load_encoder(str(tmp_path))


def save_head(path, width=8, **replaced):
    """A random linear head in the format of LAION's, or with other parts."""
    torch.manual_seed(0)
    head = torch.nn.Linear(width, 1).state_dict() | replaced
    save_file(head, path) if path.suffix == ".safetensors" else torch.save(head, path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    return str(save_encoder("clip", tmp_path_factory.mktemp("clip")))


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_aesthetic_scores_are_the_heads_on_features_of_unit_length(clip, tmp_path, kind):
    scorer = load_aesthetic(save_head(tmp_path / f"head.{kind}"), clip)
    # Of CLIP's own size: nothing is resized.
    video = np.stack([texture(32, seed=seed) for seed in range(5)])
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    pixels = (torch.from_numpy(video).permute(0, 3, 1, 2) / 255 - mean) / deviation
    model = CLIPModel.from_pretrained(clip)
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 1)
    with torch.no_grad():
        features = model.visual_projection(model.vision_model(pixels).pooler_output)
        features = features / features.square().sum(1, keepdim=True).sqrt()
        expected = head(features)[:, 0] / 10
    found = scorer.scores(video)
    assert found.shape == (5,) and np.diff(found).all()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(scorer.scores(video, batch=2), found, atol=1e-6)
    np.testing.assert_allclose(scorer.scores(video[3:4]), found[3:4], atol=1e-6)


def test_the_aesthetic_score_is_a_value_of_each_frame(clip, tmp_path):
    scorer = load_aesthetic(save_head(tmp_path / "head.pth"), clip)
    video = shifted(3, side=40)
    assert "aesthetic" not in measure(video, WAN, []).frames
    measured = measure(video, WAN, [], aesthetic=scorer)
    scores = scorer.scores(video)
    assert np.array_equal(measured.frames["aesthetic"], scores) and not measured.curves
    summary = {"aesthetic": scores.mean(), "aesthetic, first frame": scores[0]}
    assert measured.summary() == pytest.approx(summary)


def test_a_missing_head_or_clip_says_where_it_comes_from(clip, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth.*LAION-AI/aesthetic-predictor"):
        load_aesthetic(tmp_path / "none.pth", clip)
    with pytest.raises(OSError, match="hf download openai/clip-none"):
        load_aesthetic(save_head(tmp_path / "head.pth"), "openai/clip-none")


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_head_that_is_cut_short_or_a_web_page_is_refused(clip, tmp_path, kind):
    head = save_head(tmp_path / f"head.{kind}")
    whole = head.read_bytes()
    for content in (b"", whole[:20], whole[:-20], b"<!DOCTYPE html>"):
        head.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"cut short\. Download the file itself.*GitHub's page"
        ):
            load_aesthetic(head, clip)


def test_no_code_of_a_head_is_run(clip, tmp_path):
    torch.save(torch.nn.Linear(8, 1), tmp_path / "module.pth")
    with pytest.raises(ValueError, match="does not hold weights"):
        load_aesthetic(tmp_path / "module.pth", clip)


WRONG_HEADS = [
    ({"bias": torch.zeros(2)}, r"expected weight \(1, D\) and bias \(1,\), as .*bias \(2,\)\."),
    ({"weight": torch.zeros(8)}, r"got weight \(8,\), bias"),
    ({"weight": torch.zeros(8, 8)}, r"got weight \(8, 8\), bias"),
    ({"layers.0.weight": torch.zeros(4, 8)}, r"bias \(1,\), layers\.0\.weight \(4, 8\)"),
    ({"weight": torch.full((1, 8), torch.nan)}, "NaN or infinite"),
    ({"bias": torch.full((1,), torch.inf)}, "NaN or infinite"),
]


@pytest.mark.parametrize(("replaced", "message"), WRONG_HEADS)
def test_another_head_is_refused(clip, tmp_path, replaced, message):
    with pytest.raises(ValueError, match=message):
        load_aesthetic(save_head(tmp_path / "head.pth", **replaced), clip)


def test_what_is_no_dict_of_tensors_is_refused(clip, tmp_path):
    for saved, message in (([1.0], "got a list"), ({"weight": 1.0}, r"got weight \(\)")):
        torch.save(saved, tmp_path / "head.pth")
        with pytest.raises(ValueError, match=f"no aesthetic head.*{message}"):
            load_aesthetic(tmp_path / "head.pth", clip)


def test_a_head_and_an_encoder_that_do_not_belong_together_are_refused(clip, tmp_path):
    with pytest.raises(ValueError, match=r"takes 16 features, but .* gives 8: .*clip-vit-large"):
        load_aesthetic(save_head(tmp_path / "head.pth", 16), clip)
    dino = save_encoder("dino", tmp_path / "dino")
    with pytest.raises(ValueError, match="a ViTModel, and no CLIP model"):
        load_aesthetic(tmp_path / "head.pth", str(dino))
