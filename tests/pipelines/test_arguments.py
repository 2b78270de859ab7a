"""Arguments of a pipeline's call."""

from __future__ import annotations

import pytest

from stas.pipelines.model import LoadedPipeline
from tests.pipelines.test_load import PROMPT, bundled, small
from tests.tiny import tiny_cogvideox

__all__ = ["bundled"]  # fixtures


@pytest.mark.parametrize("version", ["1.0", "1.5"])
def test_cogvideox_makes_as_many_frames_as_asked_and_refuses_what_it_would_round(version):
    pipeline = LoadedPipeline(tiny_cogvideox(version=version))
    wanted = {"prompt": "a red circle", "height": 32, "width": 32, "num_frames": 9}
    wanted |= {"num_inference_steps": 3, "max_sequence_length": 16}
    reports = []
    frames = pipeline.generate(
        pipeline.arguments(wanted),
        0,
        report=lambda *where: reports.append(where),
    )
    assert reports[-1] == (3, 3)
    assert frames.shape == (9, 32, 32, 3)
    with pytest.raises(ValueError, match=r"1 \+ 8 \* n. The nearest are 9 and 17"):
        pipeline.arguments(wanted | {"num_frames": 13})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"num_frames": 10}, r"10 frames: it makes 1 \+ 4 \* n. The nearest are 9 and 13"),
        ({"num_frames": 0}, "num_frames must be an integer, at least 1, but got 0"),
        ({"num_frames": "9"}, "num_frames must be an integer"),
        ({"num_inference_steps": 0}, "num_inference_steps must be an integer, at least 1"),
        ({"width": 100}, "width must be a multiple of 16.*nearest are 96 and 112"),
        ({"height": 8}, "height must be a multiple of 16.*nearest are 16 and 32"),
        ({"strength": 1.0}, "WanPipeline takes no strength"),
    ],
)
def test_what_the_pipeline_cannot_make_is_refused(bundled, wanted, message):
    with pytest.raises(ValueError, match=message):
        small(bundled, **wanted)


def test_what_is_given_by_two_names_is_refused(bundled):
    with pytest.raises(ValueError, match=r"control and control_video both stand for .* give one"):
        small(bundled, control="a.mp4", control_video="b.mp4")


def test_more_steps_than_the_scheduler_was_trained_on_are_refused(bundled):
    with pytest.raises(ValueError, match=r"at most 1000, .* but got 1001"):
        bundled.arguments({"prompt": PROMPT, "num_inference_steps": 1001})
    assert bundled.arguments({"prompt": PROMPT, "num_inference_steps": 1000})


def test_a_pipeline_that_needs_an_image_says_so(bundled):
    from diffusers import WanImageToVideoPipeline

    image_to_video = WanImageToVideoPipeline(
        tokenizer=bundled.pipeline.tokenizer,
        text_encoder=bundled.pipeline.text_encoder,
        transformer=bundled.pipeline.transformer,
        vae=bundled.pipeline.vae,
        scheduler=bundled.pipeline.scheduler,
        image_processor=None,
        image_encoder=None,
    )
    with pytest.raises(
        ValueError, match=r"also needs image.*line: --image FILE.*in Python.*`image`"
    ):
        LoadedPipeline(image_to_video).arguments({"prompt": PROMPT})
