"""STAS beside other guidance on one model: videos of the same caption and seed, in one run.

    OMP_NUM_THREADS=1 python -m benchmarks.peers [--pairs 64] [--steps 10] [--output FILE]

The bundled model runs in diffusers' modular Wan pipeline, whose guider is exchanged: plain
classifier-free guidance, the same with STAS, and diffusers' other guiders. All have the model's
guidance scale and else diffusers' defaults; where a guider asks for blocks it gets the middle one,
which is the one that STAS steers by default. Captions are held-out ones, seeds are those that no
other measurement uses.

Reported per method: the paired differences from plain guidance of what a video should show and of
what its frames measure, with 95 % bootstrap intervals; forwards of the transformer a step; and the
CPU time of the denoising loop against plain guidance's, as the median over rounds that make a
video by every method in turn.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, is_dataclass
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
from stas.pipelines.model import LoadedPipeline
from stas.studies.differences import paired_difference
from training.classifier import LABELS
from training.evaluate import chosen_scenes, contact_sheet
from training.truth import truth

FIRST_SEED = 70_000
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
    """A video, and what its denoising loop took."""

    frames: Frames
    forwards: int
    seconds: float


class Maker:
    """Makes videos of one model by any method, from the noise that WanPipeline starts with.

    Args:
        parts: The model.
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

    def noise(self, seed: int) -> torch.Tensor:
        # The modular pipeline would draw its own in the size of another VAE: it takes the spatial
        # factor from the number of layers, and this VAE, like Wan2.2's, also folds 2 x 2 pixels.
        return self.parts.prepare_latents(
            1,
            self.parts.transformer.config.in_channels,
            *(self.arguments[name] for name in ("height", "width", "num_frames")),
            torch.float32,
            torch.device("cpu"),
            torch.Generator("cpu").manual_seed(seed),
        )

    def make(self, method: Method, prompt: str, seed: int) -> Made:
        """One video."""
        pipeline = modular(self.parts, method.guider)
        forwards, seconds = 0, 0.0
        loop = WanDenoiseStep.__call__

        def timed(*args: Any) -> Any:
            nonlocal seconds
            begin = time.process_time()
            result = loop(*args)
            seconds += time.process_time() - begin
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
            arguments = self.arguments | {"prompt": prompt, "latents": self.noise(seed)}
            (video,) = pipeline(**arguments, output="videos")
        return Made(to_frames(video), forwards, seconds)

    def check_route(self, prompt: str, seed: int) -> None:
        """Plain guidance in the modular pipeline is what WanPipeline does, bit for bit."""
        arguments = self.arguments | {"prompt": prompt, "guidance_scale": self.scale}
        expected = LoadedPipeline(self.parts).generate(arguments, seed)
        plain = self.make(self.methods[BASELINE], prompt, seed)
        if not np.array_equal(plain.frames, expected):
            raise RuntimeError("The modular pipeline's video differs from WanPipeline's.")

    def measures(self, frames: Frames, prompt: str) -> dict[str, float]:
        """Everything that is measured on one video."""
        shown = truth(frames, prompt)
        shown["object found"] = float(not math.isnan(shown["colour error"]))
        summary = Measures().of(frames, LoadedPipeline(self.parts).frame_map).summary()
        return {name: (shown | summary)[name] for name in (*HIGHER, *LOWER, *FRAMES)}


@dataclass(frozen=True)
class Record:
    """What is kept of one video."""

    measures: Mapping[str, float]
    forwards: int
    seconds: float
    change: float  # mean absolute difference from plain guidance's video, in levels of 0 to 255


def schedule(names: Iterable[str], pairs: int) -> list[tuple[int, str]]:
    """Every method in each round, every other round in reverse: none always follows the same."""
    order = list(names)
    return [(pair, name) for pair in range(pairs) for name in order[:: -1 if pair % 2 else 1]]


def draw_sheet(made: Mapping[str, Made], path: Path) -> None:
    """A row of frames for each method."""
    clips = [torch.from_numpy(video.frames).permute(0, 3, 1, 2) for video in made.values()]
    contact_sheet(clips, list(made), path)


def record_round(maker: Maker, prompt: str, made: Mapping[str, Made]) -> dict[str, Record]:
    """The records of one caption and seed."""
    plain = made[BASELINE].frames.astype(np.int16)
    return {
        name: Record(
            maker.measures(video.frames, prompt),
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


def against(plain: Iterable[float], other: Iterable[float], name: str) -> dict[str, object]:
    """The paired difference of one measure; pairs in which either has no value are left out."""
    pairs = [pair for pair in zip(plain, other, strict=True) if all(math.isfinite(x) for x in pair)]
    if not pairs:
        return {"pairs": 0}
    found = paired_difference(*zip(*pairs, strict=True), words=words(name))
    return {
        "difference": short(found.difference),
        "interval": [short(found.low), short(found.high)],
        "pairs": found.pairs,
        "in words": found.words,
    }


def summarise(rounds: list[dict[str, Record]], maker: Maker) -> dict[str, object]:
    """All rounds as one result."""
    by_method = {name: [records[name] for records in rounds] for name in maker.methods}
    plain = by_method[BASELINE]
    table: dict[str, object] = {}
    for name, records in by_method.items():
        method = maker.methods[name]
        settings = {
            key: asdict(value) if is_dataclass(value) else value
            for key, value in method.guider.config.items()
            if not key.startswith("_")
        }
        times = Times.of([r.seconds / p.seconds for r, p in zip(records, plain, strict=True)])
        table[name] = {
            "guider": type(method.guider).__name__,
            "settings": settings,
            "steering": method.config and method.config.to_dict(),
            "forwards per step": statistics.mean(r.forwards for r in records) / maker.steps,
            "seconds per step": short(statistics.median(r.seconds for r in records) / maker.steps),
            "time against CFG": short(times.median),
            "middle half": [short(times.low), short(times.high)],
            "same video as CFG": sum(r.change == 0 for r in records),
            "change of a pixel": short(statistics.mean(r.change for r in records)),
        }
    measures: dict[str, dict[str, object]] = {}
    for measured in (*HIGHER, *LOWER, *FRAMES):
        values = {n: [r.measures[measured] for r in records] for n, records in by_method.items()}
        measures[measured] = {
            "mean": {n: mean(column) for n, column in values.items()},
            "against CFG": {
                n: against(values[BASELINE], column, measured)
                for n, column in values.items()
                if n not in (BASELINE, AGAIN)
            },
        }
        if measured.endswith(LOG):
            verdicts = {n: named(values[BASELINE], column) for n, column in values.items()}
            measures[measured]["named"] = verdicts
    return {
        "diffusers": diffusers.__version__,
        "rounds": len(rounds),
        "steps": maker.steps,
        "guidance scale": maker.scale,
        "first seed": FIRST_SEED,
        "block for SLG, PAG and AutoGuidance": maker.block,
        "methods": table,
        "measures": measures,
        "left out": LEFT_OUT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64, help="captions, each with its own seed")
    parser.add_argument("--steps", type=int, help="denoising steps; the model's 30 by default")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sheet", type=Path, help="a picture of the first videos, a row a method")
    options = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    parts = WanPipeline.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    maker = Maker(parts, num_inference_steps=options.steps)
    prompts = [scene.caption for scene in chosen_scenes(150, "held-out")]
    maker.check_route(prompts[0], FIRST_SEED)
    rounds: list[dict[str, Record]] = []
    made: dict[str, Made] = {}
    try:
        for pair, name in track(schedule(maker.methods, options.pairs), description="videos"):
            prompt, seed = prompts[pair % len(prompts)], FIRST_SEED + pair
            made[name] = maker.make(maker.methods[name], prompt, seed)
            if len(made) == len(maker.methods):
                rounds.append(record_round(maker, prompt, made))
                if options.sheet and pair == 0:
                    draw_sheet({name: made[name] for name in maker.methods}, options.sheet)
                made = {}
    except KeyboardInterrupt:
        print(f"Stopped: the result is of {len(rounds)} of {options.pairs} rounds.")
    if len(rounds) < 2:
        raise SystemExit("Quartiles need two whole rounds at least.")
    report("peers", summarise(rounds, maker), options.output)


if __name__ == "__main__":
    main()
