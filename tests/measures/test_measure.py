"""Measures on frames of which the truth is known, and what can't be measured."""

from __future__ import annotations

import sys

import cv2
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
from stas.measures.frames import (
    colourfulness,
    flow_metrics,
    optical_flow,
    pixel_difference,
    psnr,
    sharpness,
    ssim,
    temporal_flickering,
)
from stas.measures.measure import NAMES, WITHOUT_EXTRA, Measures, available_names
from stas.measures.result import cross_chunk
from stas.method.frames import FrameMap
from tests.tiny import T5_SIZES

WAN = FrameMap(4)


def measure(video, frame_map, names=NAMES, encoders=(), own=(), prompt="", aesthetic=None):
    measures = Measures(names=names, encoders=encoders, own=own, aesthetic=aesthetic)
    return measures.of(video, frame_map, prompt)


def texture(side, *, seed=0):
    """Smooth colours over the full range, (side, side, 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float64)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def shifted(count=6, *, x=2, y=0, side=64):
    """A picture that moves left by x and up by y pixels a frame."""
    picture = texture(side + 40)
    starts = [(5 + y * p, 5 + x * p) for p in range(count)]
    return np.stack([picture[r : r + side, c : c + side] for r, c in starts])


def test_a_constant_video():
    video = np.repeat(texture(64)[None], 6, axis=0)
    summary = measure(video, WAN).summary()
    for part in ("", ", within chunks", ", across chunks"):
        assert summary[f"pixel difference{part}"] == 0
        assert summary[f"ssim{part}"] == pytest.approx(1)
        assert summary[f"psnr{part}"] == np.inf
        assert summary[f"motion{part}"] < 0.01
        assert summary[f"warping error{part}"] < 1e-6
    assert temporal_flickering(video) == 1
    assert summary["sharpness"] == pytest.approx(summary["sharpness, first frame"])


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, 3), (-1, 2)])
def test_a_known_shift_is_the_motion_and_leaves_no_warping_error(x, y):
    video = shifted(x=x, y=y, side=64) if x >= 0 else shifted(x=-x, y=y, side=64)[:, :, ::-1]
    video = np.ascontiguousarray(video)
    forth, back = next(optical_flow(video))
    middle = forth[16:48, 16:48].mean((0, 1))
    assert middle == pytest.approx([-x, -y], abs=0.1)
    assert back[16:48, 16:48].mean((0, 1)) == pytest.approx([x, y], abs=0.1)
    found = flow_metrics(video)
    assert found["motion"] == pytest.approx(np.full(5, np.hypot(x, y)), rel=0.05)
    unwarped = ((video[1:].astype(float) - video[:-1]) ** 2).mean() / 255**2
    assert found["warping error"].max() < unwarped / 100


def test_the_warping_error_sees_what_motion_does_not_explain():
    video = shifted()
    bright = video.copy()
    bright[3:] = np.clip(bright[3:].astype(int) + 25, 0, 255)
    calm, jump = (flow_metrics(v)["warping error"] for v in (video, bright))
    assert jump[2] == pytest.approx((25 / 255) ** 2, rel=0.25)  # some pixels are clipped
    assert np.delete(jump, 2).max() < 1e-4 and calm.max() < 1e-4


def test_known_noise():
    rng = np.random.default_rng(0)
    base = np.full((2, 64, 64, 3), 128, np.uint8)
    base[1] += rng.choice(np.array([0, 10], np.uint8), (64, 64, 3))
    difference = base[1].astype(float) - 128
    assert pixel_difference(base) == pytest.approx([difference.mean()])
    assert psnr(base) == pytest.approx([10 * np.log10(255**2 / (difference**2).mean())])
    more = base.copy()
    more[1] = np.where(base[1] > 128, 178, 128)
    assert ssim(more)[0] < ssim(base)[0] < 1


def test_ssim_of_two_flat_frames_is_its_luminance_term():
    flat = np.stack([np.full((32, 32, 3), v, np.uint8) for v in (100, 120)])
    c1 = (0.01 * 255) ** 2
    assert ssim(flat) == pytest.approx([(2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)])


def test_flickering_is_vbenchs_formula():
    video = np.random.default_rng(1).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    pairs = zip(video[:-1].astype(np.float32), video[1:].astype(np.float32), strict=True)
    scores = [np.mean(cv2.absdiff(a, b)) for a, b in pairs]
    expected = (255.0 - np.mean(scores).item()) / 255.0
    assert temporal_flickering(video) == pytest.approx(expected, abs=1e-7)


def test_sharpness_falls_with_blur_and_is_the_laplacians_variance():
    impulse = np.zeros((2, 32, 32, 3), np.uint8)
    impulse[:, 16, 16] = 100
    # -4 at the point, 1 at its four neighbours: the squares add up to 20, the mean is 0.
    assert sharpness(impulse) == pytest.approx(np.full(2, 20 * 100**2 / 32**2))
    clear = shifted(2)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in clear])
    assert (sharpness(blurred) < sharpness(clear) / 2).all()


def test_colourfulness_is_the_published_formula():
    half = np.zeros((2, 32, 32, 3), np.uint8)
    half[:, :16] = (255, 0, 0)
    half[:, 16:] = (0, 0, 255)
    # rg is 255 and 0, yb 127.5 and -255.
    expected = np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, -63.75)
    assert colourfulness(half) == pytest.approx(np.full(2, expected))


def test_transitions_are_split_by_chunks():
    assert cross_chunk(33, WAN).nonzero()[0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert cross_chunk(9, FrameMap(4, causal=False)).nonzero()[0].tolist() == [3, 7]
    video = np.zeros((9, 16, 16, 3), np.uint8)
    video[1:5], video[5:] = 10, 30  # jumps of 10 and 20 at the two cross-chunk transitions
    summary = measure(video, WAN, ["pixel difference"]).summary()
    assert summary == {
        "pixel difference": 30 / 8,
        "pixel difference, within chunks": 0,
        "pixel difference, across chunks": 15,
    }


def test_no_such_transition_is_no_number():
    summary = measure(np.zeros((2, 16, 16, 3), np.uint8), WAN, ["pixel difference"]).summary()
    assert np.isnan(summary["pixel difference, within chunks"])


def test_every_name_can_be_asked_for_alone():
    video = shifted(2, side=16)
    for name in NAMES:
        found = measure(video, WAN, [name])
        assert [*found.curves, *found.frames] == [name]


BAD = [
    (np.full((2, 16, 16, 3), np.nan, np.float32), ValueError, "NaN"),
    (np.zeros((2, 16, 16, 3), np.float32), TypeError, r"uint8.*to_frames"),
    (np.zeros((1, 16, 16, 3), np.uint8), ValueError, "at least two frames"),
    (np.zeros((2, 16, 16), np.uint8), ValueError, "grayscale"),
    (np.zeros((2, 16, 16, 1), np.uint8), ValueError, "grayscale"),
    (np.zeros((2, 3, 16, 16), np.uint8), ValueError, "shape"),
    (np.zeros((2, 15, 16, 3), np.uint8), ValueError, "16 x 16 pixels"),
]


@pytest.mark.parametrize(("frames", "error", "message"), BAD)
def test_what_can_not_be_measured_is_refused(frames, error, message):
    with pytest.raises(error, match=message):
        measure(frames, WAN)
    with pytest.raises(error, match=message):
        pixel_difference(frames)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"no measure 'lpips'\. Known: pixel"):
        measure(shifted(2), WAN, ["lpips"])


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"cv2: pip install 'stas\[metrics\]'"):
        sharpness(shifted(2))
    with pytest.raises(ValueError, match=r"sharpness.*pip install 'stas\[metrics\]'"):
        measure(shifted(2), WAN)
    assert set(Measures().of(shifted(2), WAN).summary())
    assert available_names() == WITHOUT_EXTRA
    assert set(measure(shifted(2), WAN, WITHOUT_EXTRA).summary())


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


@pytest.mark.parametrize("returned", [3, {"x": "bright"}, None])
def test_a_measure_of_ones_own_returns_numbers_by_name(returned):
    def broken(frames, prompt):
        return returned

    with pytest.raises(ValueError, match=r"broken must return numbers by name, .* returned"):
        measure(shifted(3), FrameMap(4), (), own=[broken])
    found = measure(shifted(3), FrameMap(4), (), own=[lambda f, p: {"n": len(p)}], prompt="ab")
    assert found.summary() == {"n": 2.0}
