"""Does steering help the bundled model? Thousands of pairs of a question that was written first.

    python -m benchmarks.helps --output benchmarks/results/helps.json [--device cuda] [--batch 256]

The questions and what answers them stand in `helps.toml`. Every setting makes the same captions and
seeds as steering off, in batches; the noise of a video is its seed's, whatever the batch. What the
judge of `training/` names is counted, and the mean difference of consecutive frames, within latent
frames and across them, is taken as a share of that without steering. The numbers of a setting are
kept in outputs/helps, so that the same command goes on. On a CPU it takes days: --pairs makes fewer
of each.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_model

import stas
from benchmarks.timing import report
from stas.files import whole_file
from stas.pipelines.prompts import Sample
from stas.preference.statistics import sign_test
from stas.studies.differences import Difference, difference
from training.classifier import JUDGE, Classifier, labels_of
from training.clips import Scene
from training.evaluate import chosen_scenes, single_out

PLAN = Path(__file__).with_suffix(".toml")
KEPT = Path("outputs/helps")
OFF = "off"
MEASURES = ("right", "pixel difference, across chunks", "pixel difference, within chunks")
POWER = 2.8  # standard errors that are seen in 80 of 100 tries at 5 %


@dataclass(frozen=True)
class Answer:
    """What a question says of a setting, against steering off.

    Args:
        setting: Its name.
        right: The share of videos that the judge names right.
        difference: Mean difference, low and high of its 95 % interval, by measure; of pixel
            differences as a share of those without steering.
        captions: How many are more, as, and less often right.
        p: The exact sign test's, over captions.
        seen: The smallest difference of shares that would have been seen in 80 of 100 tries.
    """

    setting: str
    right: float
    difference: dict[str, tuple[float, float, float]]
    captions: tuple[int, int, int]
    p: float
    seen: float


def is_right(clips: torch.Tensor, scenes: Sequence[Scene], judge: Classifier) -> list[bool]:
    """Whether the judge names what the captions say; of two things, shape and motion of both."""
    if len(scenes[0].things) == 1:
        named = zip(judge.name(clips), scenes, strict=True)
        return [all(seen[k] == v for k, v in labels_of(scene).items()) for seen, scene in named]
    found = []
    for clip, scene in zip(clips, scenes, strict=True):
        seen = judge.name(torch.stack([single_out(clip, scene, each) for each in (0, 1)]))
        pairs = list(zip(seen, scene.things, strict=True))
        found.append(all(s[k] == getattr(t, k) for s, t in pairs for k in ("shape", "motion")))
    return found


@torch.no_grad()
def measure(
    loaded: Any,
    judge: Classifier,
    scenes: Sequence[Scene],
    samples: Sequence[Sample],
    **options: Any,
) -> dict[str, list[float]]:
    """By measure, a number for each sample; `options` are how many steps, a setting, a batch."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    call = loaded.arguments({"prompt": "", "num_inference_steps": options["steps"]})
    config = stas.STASConfig(**options["setting"]) if options["setting"] else None
    starts = range(0, len(samples), options["batch"])
    for start in track(starts, description=options["name"], transient=True):
        part = slice(start, start + options["batch"])
        noise = [torch.Generator().manual_seed(each.seed) for each in samples[part]]
        prompts = [each.prompt for each in samples[part]]
        with loaded.steered(config):
            frames = loaded.pipeline(
                **{**call, "prompt": prompts, "generator": noise, "output_type": "pt"}
            ).frames.float()
        found["right"] += is_right(frames.movedim(1, 2) * 2 - 1, scenes[part], judge)
        change = (frames[:, 1:] - frames[:, :-1]).abs().mean((2, 3, 4)) * 255
        cross = [loaded.frame_map.is_cross_chunk(p) for p in range(change.shape[1])]
        mask = torch.tensor(cross, device=change.device)
        found["pixel difference, across chunks"] += change[:, mask].mean(1).tolist()
        found["pixel difference, within chunks"] += change[:, ~mask].mean(1).tolist()
    return {name: list(map(float, values)) for name, values in found.items()}


def answer(
    name: str, samples: Sequence[Sample], off: dict[str, list[float]], on: dict[str, list[float]]
) -> Answer:
    """What the pairs of a setting say; a caption counts once."""

    def paired(measure: str, unit: float) -> Difference:
        pairs = zip(off[measure], on[measure], strict=True)
        named = {
            sample.name: (before / unit, after / unit)
            for sample, (before, after) in zip(samples, pairs, strict=True)
        }
        return difference(measure, name, samples, named)

    units = {each: 1.0 if each == "right" else float(np.mean(off[each])) for each in MEASURES}
    found = {each: paired(each, unit) for each, unit in units.items()}
    by_caption: dict[str, float] = {}
    for sample, before, after in zip(samples, off["right"], on["right"], strict=True):
        by_caption[sample.prompt] = by_caption.get(sample.prompt, 0.0) + after - before
    signs = list(by_caption.values())
    more, less = (sum(sign * each > 0 for each in signs) for sign in (1, -1))
    per_caption = np.array(signs) * len(signs) / len(samples)
    return Answer(
        setting=name,
        right=float(np.mean(on["right"])),
        difference={
            each: (row.found.difference, row.found.low, row.found.high)
            for each, row in found.items()
            if row.found is not None
        },
        captions=(more, len(signs) - more - less, less),
        p=sign_test(more, less),
        seen=POWER * float(per_caption.std(ddof=1)) / sqrt(len(signs)),
    )


def holm(answers: Sequence[Answer]) -> dict[str, float]:
    """By setting, its p corrected for all of them (Holm, 1979)."""
    found, highest = {}, 0.0
    for rank, each in enumerate(sorted(answers, key=lambda each: each.p)):
        highest = max(highest, min(1.0, each.p * (len(answers) - rank)))
        found[each.setting] = highest
    return found


def ask(
    loaded: Any,
    judge: Classifier,
    question: dict[str, Any],
    settings: dict[str, Any],
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """A question's answers, setting by setting, as JSON's own types."""
    scenes, samples = [], []
    for number, scene in enumerate(
        chosen_scenes(question["captions"], "held-out", question["kind"])
    ):
        for repeat in range(question["seeds"]):
            seed = options["first_seed"] + number * question["seeds"] + repeat
            scenes.append(scene)
            samples.append(Sample(f"{number}-{repeat}", scene.caption, seed))

    def measured(name: str, setting: Any) -> dict[str, list[float]]:
        words = f"{question['name']} {name} {len(samples)} {samples[0].seed} {options['batch']}"
        path = KEPT / f"{words.replace(',', '').replace(' ', '-')}.json"
        if path.is_file():
            kept: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
            return kept
        found = measure(
            loaded,
            judge,
            scenes,
            samples,
            name=f"{question['name']}: {name}",
            steps=question["steps"],
            setting=setting,
            batch=options["batch"],
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")
        return found

    off = measured(OFF, None)
    yield {"off": float(np.mean(off["right"])), "pairs": len(samples)}
    for name, setting in settings.items():
        yield asdict(answer(name, samples, off, measured(name, setting)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, help="at most, of each question")
    parser.add_argument("--question", action="append", help="by name; all by default")
    given = parser.parse_args()
    plan = tomllib.loads(PLAN.read_text(encoding="utf-8"))
    loaded = stas.load_pipeline(device=given.device, dtype="float32")
    judge = Classifier().to(loaded.options.device).eval()
    load_model(judge, JUDGE, device=loaded.options.device)
    loaded.pipeline.set_progress_bar_config(disable=True)
    gpu = torch.cuda.get_device_name() if loaded.options.device.startswith("cuda") else "cpu"
    result: dict[str, Any] = {"device": gpu, "batch": given.batch, "plan": plan, "questions": {}}

    def save() -> None:
        report("helps", result, given.output)

    for question in plan["questions"]:
        if given.question and question["name"] not in given.question:
            continue
        if given.pairs:
            question["captions"] = min(question["captions"], given.pairs)
            question["seeds"] = min(question["seeds"], given.pairs // question["captions"])
        seeds = plan["first_seed"]
        head, *answers = ask(
            loaded, judge, question, plan["settings"], first_seed=seeds, batch=given.batch
        )
        found = [Answer(**each) for each in answers]
        result["questions"][question["name"]] = {**head, "answers": answers, "holm": holm(found)}
        save()
        if question.get("primary"):
            best = max(found, key=lambda each: each.difference["right"][0]).setting
            head, again = ask(
                loaded,
                judge,
                question,
                {best: plan["settings"][best]},
                first_seed=seeds + 1_000_000,
                batch=given.batch,
            )
            result["confirmation"] = {**head, "answer": again}
            save()


if __name__ == "__main__":
    main()
