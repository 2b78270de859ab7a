"""STAS beside other guidance on one model: videos of the same caption and seed, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.peers [--pairs 64] [--steps 10] [--output FILE]
    python -m benchmarks.peers --device cuda --batch 128 --pairs 512 [--steps 10] [--output FILE]

The bundled model runs in diffusers' modular Wan pipeline, whose guider is exchanged: plain
classifier-free guidance, the same with STAS, Detail Guidance, and diffusers' other guiders. All
have the model's guidance scale and else the defaults; where a guider asks for blocks it gets the
middle one, which is the one that STAS steers by default. Captions are held-out ones, seeds are
those that no other measurement uses; each seed's noise is the same in every batch and on every
device.

Reported per method: the paired differences from plain guidance of what a video should show and of
what its frames measure, with 95 % bootstrap intervals; forwards of the transformer a step; and, of
videos that are made one at a time, the time of the denoising loop against plain guidance's, as the
median over rounds that make a video by every method in turn.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    AutoGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    LayerSkipConfig,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    TangentialClassifierFreeGuidance,
    WanPipeline,
)
from diffusers.hooks._helpers import AttentionProcessorRegistry
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanAttnProcessor2_0
from diffusers.modular_pipelines.wan.denoise import WanDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanBlocks
from rich.progress import track

import stas
from benchmarks.timing import Times, report
from stas.assets import BUNDLED_MODEL
from stas.measures.measure import Measures
from stas.media.video import Frames, to_frames
from stas.method.frames import FrameMap
from stas.pipelines.model import LoadedPipeline
from stas.studies.differences import paired_difference
from training.classifier import LABELS
from training.evaluate import chosen_scenes, contact_sheet
from training.truth import truth

FIRST_SEED = 70_000
CAPTIONS = 400  # of the 429 held-out ones; more pairs than that use the first ones again
BASELINE = "CFG"
AGAIN = "CFG again"

# Measures of the truth by which way is better; what the frames measure has no better way.
LOG = ", log-probability"
HIGHER = (
    *(f"{label}{LOG}" for label in LABELS),
    "all right",
    "object found",
)
LOWER = ("path roughness", "size roughness", "colour error")
FRAMES = (
    "pixel difference",
    "ssim",
    "warping error, within chunks",
    "warping error, across chunks",
    "sharpness",
)

# What else diffusers has.
LEFT_OUT = {
    "SmoothedEnergyGuidance": "makes a third forward and blurs nothing in it: it never counts its "
    "forwards, so its videos are plain guidance's, bit for bit",
    "MagnitudeAwareGuidance": "raises an error for latents of videos, which have one axis more "
    "than the norm that it takes allows",
    "FrequencyDecoupledGuidance": "needs the package kornia, and has a scale for each frequency "
    "in place of the model's",
    "LTX2Guidance": "LTX-2's, whose denoising loop does the rest; by default it is plain guidance",
}


@dataclass(frozen=True)
class Method:
    """One way of guidance: a guider of diffusers, and how STAS steers beside it."""

    guider: Any
    config: stas.STASConfig | None = None


def perturbed(**options: Any) -> PerturbedAttentionGuidance:
    """Perturbed attention, which diffusers 0.42.1 has for an older name of Wan's attention only."""
    AttentionProcessorRegistry.register(
        WanAttnProcessor, AttentionProcessorRegistry.get(WanAttnProcessor2_0)
    )
    return PerturbedAttentionGuidance(**options)


def methods(scale: float, block: int) -> dict[str, Method]:
    """What is compared, plain guidance first.

    Args:
        scale: The guidance scale of all.
        block: The block for guiders that ask for some.
    """

    def skipped() -> LayerSkipConfig:
        return LayerSkipConfig(indices=[block])

    def plain() -> ClassifierFreeGuidance:
        return ClassifierFreeGuidance(guidance_scale=scale)

    return {
        BASELINE: Method(plain()),
        AGAIN: Method(plain()),
        "STAS": Method(plain(), stas.STASConfig()),
        "STAS, all blocks": Method(plain(), stas.STASConfig(blocks="all")),
        "DG": Method(stas.DetailGuidance(guidance_scale=scale)),
        "SLG": Method(SkipLayerGuidance(guidance_scale=scale, skip_layer_config=skipped())),
        "PAG": Method(perturbed(guidance_scale=scale, perturbed_guidance_layers=[block])),
        "AutoGuidance": Method(AutoGuidance(guidance_scale=scale, auto_guidance_config=skipped())),
        "CFG-Zero*": Method(ClassifierFreeZeroStarGuidance(guidance_scale=scale)),
        "APG": Method(AdaptiveProjectedGuidance(guidance_scale=scale)),
        "APG mix": Method(AdaptiveProjectedMixGuidance(guidance_scale=scale)),
        "TCFG": Method(TangentialClassifierFreeGuidance(guidance_scale=scale)),
    }


def modular(parts: WanPipeline, guider: Any) -> Any:
    """The modular pipeline of the same components, guided by `guider`."""
    blocks = WanBlocks()
    blocks.sub_blocks["denoise"].sub_blocks["denoise"].set_progress_bar_config(disable=True)
    pipeline = blocks.init_pipeline()
    names = ("text_encoder", "tokenizer", "vae", "transformer", "scheduler")
    pipeline.update_components(guider=guider, **{name: getattr(parts, name) for name in names})
    return pipeline


@dataclass(frozen=True)
class Made:
    """A video, and what the denoising loop that made it took, for its whole batch."""

    frames: Frames
    forwards: int
    seconds: float


class Maker:
    """Makes videos of one model by any method, from the noise that WanPipeline starts with.

    Args:
        parts: The model, on the device to use.
        wanted: Arguments of the pipeline's call in place of the model's own, as for
            `LoadedPipeline.arguments`.
    """

    def __init__(self, parts: WanPipeline, **wanted: Any) -> None:
        self.parts = parts
        self.arguments = LoadedPipeline(parts).arguments({"prompt": ""} | wanted)
        self.scale = self.arguments.pop("guidance_scale")
        self.steps = self.arguments["num_inference_steps"]
        self.block = len(parts.transformer.blocks) // 2
        self.methods = methods(self.scale, self.block)
        self.frame_map = LoadedPipeline(parts).frame_map

    @property
    def device(self) -> str:
        """What it runs on, by name."""
        on = self.parts.device
        return torch.cuda.get_device_name(on) if on.type == "cuda" else on.type

    def noise(self, seed: int) -> torch.Tensor:
        # The modular pipeline would draw its own in the size of another VAE: it takes the spatial
        # factor from the number of layers, and this VAE, like Wan2.2's, also folds 2 x 2 pixels.
        return self.parts.prepare_latents(
            1,
            self.parts.transformer.config.in_channels,
            *(self.arguments[name] for name in ("height", "width", "num_frames")),
            torch.float32,
            self.parts.device,
            torch.Generator("cpu").manual_seed(seed),
        )

    def make(self, method: Method, prompts: Sequence[str], seeds: Sequence[int]) -> list[Made]:
        """A video for each prompt and seed, in one batch."""
        pipeline = modular(self.parts, method.guider)
        forwards, seconds = 0, 0.0
        loop = WanDenoiseStep.__call__

        def timed(*args: Any) -> Any:
            nonlocal seconds
            begin = self.now()
            result = loop(*args)
            seconds += self.now() - begin
            return result

        def count(*_: Any) -> None:
            nonlocal forwards
            forwards += 1

        with ExitStack() as stack:
            counter = pipeline.transformer.register_forward_pre_hook(count)
            stack.callback(counter.remove)
            stack.enter_context(mock.patch.object(WanDenoiseStep, "__call__", timed))
            if method.config is not None:
                stack.enter_context(stas.steer(pipeline, method.config))
            latents = torch.cat([self.noise(seed) for seed in seeds])
            arguments = self.arguments | {"prompt": list(prompts), "latents": latents}
            videos = pipeline(**arguments, output="videos")
        return [Made(to_frames(video), forwards, seconds) for video in videos]

    def now(self) -> float:
        """A thread's seconds on a CPU; those of a clock where a device works by itself."""
        if self.parts.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def check_route(self, prompt: str, seed: int) -> None:
        """Plain guidance in the modular pipeline is what WanPipeline does, bit for bit."""
        arguments = self.arguments | {"prompt": prompt, "guidance_scale": self.scale}
        expected = LoadedPipeline(self.parts).generate(arguments, seed)
        (plain,) = self.make(self.methods[BASELINE], [prompt], [seed])
        if not np.array_equal(plain.frames, expected):
            raise RuntimeError("The modular pipeline's video differs from WanPipeline's.")


def measures(frames: Frames, prompt: str, frame_map: FrameMap) -> dict[str, float]:
    """Everything that is measured on one video."""
    shown = truth(frames, prompt)
    shown["object found"] = float(not math.isnan(shown["colour error"]))
    summary = Measures().of(frames, frame_map).summary()
    return {name: (shown | summary)[name] for name in (*HIGHER, *LOWER, *FRAMES)}


@dataclass(frozen=True)
class Record:
    """What is kept of one video."""

    measures: Mapping[str, float]
    forwards: int
    seconds: float
    change: float  # mean absolute difference from plain guidance's video, in levels of 0 to 255


def schedule(names: Iterable[str], pairs: int, batch: int) -> list[tuple[range, str]]:
    """Every method of each batch of pairs, every other time in reverse: none always comes next."""
    order = list(names)
    batches = [range(first, min(first + batch, pairs)) for first in range(0, pairs, batch)]
    return [
        (each, name)
        for number, each in enumerate(batches)
        for name in order[:: -1 if number % 2 else 1]
    ]


def draw_sheet(made: Mapping[str, Made], path: Path) -> None:
    """A row of frames for each method."""
    clips = [torch.from_numpy(video.frames).permute(0, 3, 1, 2) for video in made.values()]
    contact_sheet(clips, list(made), path)


def record_pair(
    pair: tuple[str, Mapping[str, Made]], frame_map: FrameMap
) -> tuple[str, dict[str, Record]]:
    """The records of one caption and seed, with the caption."""
    prompt, made = pair
    plain = made[BASELINE].frames.astype(np.int16)
    return prompt, {
        name: Record(
            measures(video.frames, prompt, frame_map),
            video.forwards,
            video.seconds,
            float(np.abs(video.frames - plain).mean()),
        )
        for name, video in made.items()
    }


def short(value: float) -> float:
    """To 4 digits."""
    return float(f"{value:.4g}")


def mean(values: Iterable[float]) -> float | None:
    """Over the videos that have a value; None if none has."""
    known = [value for value in values if math.isfinite(value)]
    return short(statistics.mean(known)) if known else None


def named(plain: Iterable[float], other: Iterable[float]) -> dict[str, int]:
    """How many videos the judge names as the caption does, and how many changed sides.

    From log-probabilities; above a half no other word can be likelier.
    """
    sides = [(a > -math.log(2), b > -math.log(2)) for a, b in zip(plain, other, strict=True)]
    return {
        "right": sum(now for _, now in sides),
        "gained": sum(now and not before for before, now in sides),
        "lost": sum(before and not now for before, now in sides),
    }


def words(name: str) -> tuple[str, str]:
    """What a difference below and above zero is called."""
    if name in HIGHER:
        return "worse", "better"
    return ("better", "worse") if name in LOWER else ("lower", "higher")


def against(
    plain: Iterable[float], other: Iterable[float], prompts: Iterable[str], name: str
) -> dict[str, object]:
    """The paired difference of one measure; pairs in which either has no value are left out.

    A caption counts once: its seeds are averaged.
    """
    by_prompt: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for *pair, prompt in zip(plain, other, prompts, strict=True):
        if all(map(math.isfinite, pair)):
            by_prompt[prompt].append((pair[0], pair[1]))
    if not by_prompt:
        return {"pairs": 0}
    means = [map(statistics.mean, zip(*pairs, strict=True)) for pairs in by_prompt.values()]
    found = paired_difference(*zip(*means, strict=True), words=words(name))
    return {
        "difference": short(found.difference),
        "interval": [short(found.low), short(found.high)],
        "pairs": sum(map(len, by_prompt.values())),
        "in words": found.words,
    }


def summarise(
    pairs: Sequence[tuple[str, dict[str, Record]]], maker: Maker, batch: int
) -> dict[str, object]:
    """All pairs as one result."""
    prompts = [prompt for prompt, _ in pairs]
    by_method = {name: [records[name] for _, records in pairs] for name in maker.methods}
    plain = by_method[BASELINE]
    table: dict[str, object] = {}
    for name, records in by_method.items():
        method = maker.methods[name]
        settings = {
            key: asdict(value) if is_dataclass(value) else value
            for key, value in method.guider.config.items()
            if not key.startswith("_")
        }
        row = {
            "guider": type(method.guider).__name__,
            "settings": settings,
            "steering": method.config and method.config.to_dict(),
            "forwards per step": statistics.mean(r.forwards for r in records) / maker.steps,
            "same video as CFG": sum(r.change == 0 for r in records),
            "change of a pixel": short(statistics.mean(r.change for r in records)),
        }
        if batch == 1:
            times = Times.of([r.seconds / p.seconds for r, p in zip(records, plain, strict=True)])
            row |= {
                "seconds per step": short(
                    statistics.median(r.seconds for r in records) / maker.steps
                ),
                "time against CFG": short(times.median),
                "middle half": [short(times.low), short(times.high)],
            }
        table[name] = row
    measured: dict[str, dict[str, object]] = {}
    for measure in (*HIGHER, *LOWER, *FRAMES):
        values = {n: [r.measures[measure] for r in records] for n, records in by_method.items()}
        measured[measure] = {
            "mean": {n: mean(column) for n, column in values.items()},
            "against CFG": {
                n: against(values[BASELINE], column, prompts, measure)
                for n, column in values.items()
                if n not in (BASELINE, AGAIN)
            },
        }
        if measure.endswith(LOG):
            verdicts = {n: named(values[BASELINE], column) for n, column in values.items()}
            measured[measure]["named"] = verdicts
    return {
        "diffusers": diffusers.__version__,
        "device": maker.device,
        "batch": batch,
        "pairs": len(pairs),
        "captions": len(set(prompts)),
        "steps": maker.steps,
        "guidance scale": maker.scale,
        "first seed": FIRST_SEED,
        "block for SLG, PAG and AutoGuidance": maker.block,
        "methods": table,
        "measures": measured,
        "left out": LEFT_OUT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64, help="captions, each with its own seed")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's 30 by default")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--batch", type=int, default=1, help="videos at a time; 1 is timed")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sheet", type=Path, help="a picture of the first videos, a row a method")
    options = parser.parse_args()
    if options.batch < 1 or options.pairs < 2:
        parser.error("--batch must be 1 or more, and --pairs 2 or more: quartiles need two")
    diffusers.utils.logging.set_verbosity_error()
    parts = WanPipeline.from_pretrained(BUNDLED_MODEL, dtype=torch.float32).to(options.device)
    maker = Maker(parts, num_inference_steps=options.steps)
    captions = [scene.caption for scene in chosen_scenes(CAPTIONS, "held-out")]
    maker.check_route(captions[0], FIRST_SEED)
    record = partial(record_pair, frame_map=maker.frame_map)
    pairs: list[tuple[str, dict[str, Record]]] = []
    made: dict[str, list[Made]] = {}
    with ExitStack() as stack:
        # Beside a video that is timed nothing else runs.
        every = map
        if options.batch > 1:
            pool = ProcessPoolExecutor(mp_context=get_context("spawn"))
            every = stack.enter_context(pool).map
        order = schedule(maker.methods, options.pairs, options.batch)
        try:
            for batch, name in track(order, description="batches"):
                prompts = [captions[pair % len(captions)] for pair in batch]
                seeds = [FIRST_SEED + pair for pair in batch]
                made[name] = maker.make(maker.methods[name], prompts, seeds)
                if len(made) == len(maker.methods):
                    of_pairs = [{n: made[n][i] for n in maker.methods} for i in range(len(batch))]
                    if options.sheet and batch.start == 0:
                        draw_sheet(of_pairs[0], options.sheet)
                    pairs += every(record, zip(prompts, of_pairs, strict=True))
                    made = {}
        except KeyboardInterrupt:
            print(f"Stopped: the result is of {len(pairs)} of {options.pairs} pairs.")
    if len(pairs) < 2:
        raise SystemExit("Quartiles need two whole pairs at least.")
    report("peers", summarise(pairs, maker, options.batch), options.output)


if __name__ == "__main__":
    main()
