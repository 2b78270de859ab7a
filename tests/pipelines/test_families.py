"""`generate` with every pipeline class that a prompt alone can call, and what the others say."""

from __future__ import annotations

import functools
import inspect
from typing import ClassVar

import pytest

import stas
from stas.checks import FRAMES
from stas.media.video import read_video
from stas.method.frames import FrameMap
from stas.models.registry import find_spec
from stas.pipelines.load import load_pipeline
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from tests.zoo import all_tinies

RUNS = {run.name: run for tiny in all_tinies().values() for run in tiny.pipelines}
# They make a video from a prompt, but are meant for more, and tiny parts show nothing new of it.
ALSO_FROM_A_PROMPT = {"EasyAnimateInpaintPipeline", "LTX2InContextPipeline", "LTX2HDRPipeline"}
WAN, LTX, COG = FrameMap(4), FrameMap(8), FrameMap(4, step=8)
# Every way to run a pipeline with a prompt alone: the map of its frames, a number of them that
# it can't make, and what is said of that.
FAMILIES = {
    "allegro": (FrameMap(4, causal=False), 9, r"4 \* n. The nearest are 8 and 12"),
    "anyflow": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "anyflow far": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "cogvideox": (COG, 13, r"1 \+ 8 \* n. The nearest are 9 and 17"),
    "cogvideox 1.5": (COG, 13, r"1 \+ 8 \* n. The nearest are 9 and 17"),
    "cosmos text to world": (LTX, 13, r"1 \+ 8 \* n. The nearest are 9 and 17"),
    "cosmos 2 text to image": (WAN, None, ""),
    "cosmos 2.5 predict from text": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "cosmos 3": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "cosmos 3 with sound": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "easyanimate": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "helios": (None, 10, "whole chunks of 5. The nearest are 5 and 9"),
    "helios pyramid": (None, 10, "whole chunks of 5. The nearest are 5 and 9"),
    "hunyuan video t2v": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "hunyuan video 1.5 t2v": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "kandinsky 5 t2v": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "kandinsky 6 t2va": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "kandinsky 6 t2v": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "latte": (FrameMap(1, causal=False, step=1), 0, "at least 1, but got 0"),
    "ltx t2v": (LTX, 13, r"1 \+ 8 \* n. The nearest are 9 and 17"),
    "ltx condition without conditions": (LTX, 13, r"1 \+ 8 \* n. The nearest are 9 and 17"),
    "ltx2 t2v": (LTX, 13, r"1 \+ 8 \* n. The nearest are 9 and 17"),
    "ltx2 condition without conditions": (LTX, 13, r"1 \+ 8 \* n. The nearest are 9 and 17"),
    "mochi t2v": (FrameMap(6), 14, r"1 \+ 6 \* n. The nearest are 13 and 19"),
    "motif t2v": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "sana video": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "skyreels text to video": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "skyreels diffusion forcing": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "wan text to video": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "wan 5b text to video": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
    "wan vace": (WAN, 10, r"1 \+ 4 \* n. The nearest are 9 and 13"),
}
FRAMES_ASKED = {"helios": 9, "helios pyramid": 9}


@functools.cache
def built(name):
    return RUNS[name].build()


def loaded(name, folder):
    """The pipeline as the command line loads it from a folder."""
    if name.startswith("cosmos") and not name.startswith("cosmos 3"):
        return LoadedPipeline(
            built(name)
        )  # loading makes a safety checker of a package that is not installed
    built(name).save_pretrained(folder)
    pipeline = load_pipeline(PipelineOptions(model=str(folder), device="cpu"))
    if name == "allegro":  # a tile is 24 frames of 320 pixels, larger than the test's video
        vae = pipeline.pipeline.vae
        vae.kernel, vae.stride = (8, 48, 64), (4, 24, 32)
    return pipeline


def wanted(name, **more):
    """A request as the command line makes it, with what the tiny parts need beside."""
    call = {("num_frames" if k in FRAMES else k): v for k, v in RUNS[name].call.items()}
    call.pop("output_type", None)
    if name in FRAMES_ASKED:
        call["num_frames"] = FRAMES_ASKED[name]
    if "num_inference_steps" in inspect.signature(type(built(name)).__call__).parameters:
        call["num_inference_steps"] = 2
    return call | more


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_alone_makes_a_steered_video(name, tmp_path):
    pipeline, asked, reports = loaded(name, tmp_path), wanted(name), []
    arguments = pipeline.arguments(asked)
    assert pipeline.arguments(arguments) == arguments  # as a manifest repeats it
    with stas.steer(pipeline, dims=(3,), blocks="all") as handle:
        frames = pipeline.generate(arguments, 0, report=lambda *where: reports.append(where))
    assert handle.steered_forwards["transformer"] > 0
    assert frames.shape == (asked.get("num_frames", 1), asked["height"], asked["width"], 3)
    assert frames.std() > 0
    if name == "anyflow far":
        assert reports == []  # it drives tqdm itself
    else:
        done, total = reports[-1]
        assert done == total > 0
    spec = find_spec(pipeline.transformer)
    assert pipeline.fps == spec.loading.fps


def test_every_pipeline_that_a_prompt_alone_can_call_is_tried():
    tried = {type(built(name)).__name__ for name in FAMILIES}
    for name in RUNS:
        pipeline = built(name)
        spec = find_spec(pipeline.transformer)
        kind = type(pipeline).__name__
        if kind in tried or {"steer", kind} & set(spec.refusals):
            continue
        if kind in ALSO_FROM_A_PROMPT:
            assert LoadedPipeline(pipeline).arguments({"prompt": "a red circle"})
            continue
        with pytest.raises(ValueError, match=rf"{kind} also needs .*(--\w+ |stas\.steer\(pipe\))"):
            LoadedPipeline(pipeline).arguments({"prompt": "a red circle"})


@pytest.mark.parametrize("name", FAMILIES)
def test_the_map_of_frames_is_the_pipelines(name):
    expected = FAMILIES[name][0]
    if expected is None:
        with pytest.raises(ValueError, match="decodes its videos part by part"):
            _ = LoadedPipeline(built(name)).frame_map
        return
    assert LoadedPipeline(built(name)).frame_map == expected
    count = wanted(name).get("num_frames", 1)
    latents = expected.num_latent_frames(count)
    assert expected.video_frames(latents) == range(count)


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name][1] is not None])
def test_a_number_of_frames_that_cannot_be_made_is_refused(name):
    _, number, message = FAMILIES[name]
    with pytest.raises(ValueError, match=message):
        LoadedPipeline(built(name)).arguments(wanted(name, num_frames=number))


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_that_do_not_divide_are_refused(name):
    height = wanted(name)["height"]
    with pytest.raises(ValueError, match="height must be a multiple of"):
        LoadedPipeline(built(name)).arguments(wanted(name, height=height + 1))


def test_guidance_is_classifier_free_guidance_whatever_it_is_called():
    """HunyuanVideo's guidance_scale is an input of a distilled model."""
    pipeline = LoadedPipeline(built("hunyuan video t2v"))
    arguments = pipeline.arguments(wanted("hunyuan video t2v", guidance_scale=4.0))
    assert arguments["true_cfg_scale"] == 4.0
    assert arguments["negative_prompt"] == ""  # without one the pipeline would not guide
    assert "guidance_scale" not in arguments
    arguments["negative_prompt"] = "blue"  # the tiny tokenizer leaves nothing of an empty one
    with stas.steer(pipeline, dims=(3,), start=0.0, stop=1.0, branches=("uncond",)) as handle:
        pipeline.generate(arguments, 0)
    assert handle.steered_forwards == {"transformer": 2}
    both = {"guidance_scale": 6.0, "true_cfg_scale": 4.0, "negative_prompt": "blue"}
    assert pipeline.arguments(both) == both


@pytest.mark.parametrize("name", ["motif t2v", "hunyuan video 1.5 t2v"])
def test_guidance_that_is_a_component_says_how_it_is_set(name):
    with pytest.raises(ValueError, match=r"takes no guidance_scale.*pipe\.guider\.new"):
        LoadedPipeline(built(name)).arguments(wanted(name, guidance_scale=4.0))


@pytest.mark.parametrize(
    ("argument", "own", "name"),
    [("num_frames", "frames", "sana video"), ("num_frames", "video_length", "latte")],
)
def test_frames_have_the_pipelines_own_name(argument, own, name):
    asked = wanted(name)
    arguments = LoadedPipeline(built(name)).arguments(asked)
    assert arguments[own] == asked[argument]
    assert argument not in arguments


def test_latte_makes_as_many_frames_as_it_has_positions():
    assert (
        LoadedPipeline(built("latte")).arguments(wanted("latte", num_frames=1))["video_length"] == 1
    )
    with pytest.raises(ValueError, match="it makes 4, or a single one"):
        LoadedPipeline(built("latte")).arguments(wanted("latte", num_frames=3))


def test_an_unknown_pipeline_has_no_map():
    class Empty:
        components: ClassVar = {}

        def __call__(self):
            pass

    with pytest.raises(stas.UnsupportedModelError, match="Empty has no known transformer"):
        _ = LoadedPipeline(Empty()).frame_map


def test_the_command_line_makes_and_repeats_a_video_of_another_family(run):
    built("latte").save_pretrained("latte")
    size = ["--size", "64x48", "--frames", "4", "--steps", "2", "--guidance", "3"]
    options = ["--model", "latte", *size, "--dims", "3", "-o", "one.mp4"]
    code, _, err = run("generate", "a red circle", *options)
    assert code == 0, err
    code, out, err = run("generate", "--manifest", "one.json", "-o", "two.mp4")
    assert code == 0, err
    assert "Identical" in out
    assert read_video("two.mp4").shape == (4, 48, 64, 3)
