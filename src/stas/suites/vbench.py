"""VBench (arXiv 2311.17982): its dimensions, its prompts, and how its scores become totals.

Nothing of VBench is in this package: its prompts are read from the JSON in its wheel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from stas.checks import expect
from stas.pipelines.prompts import Prompt, Sample, read_prompts, texts_alone

VERSION = "0.1.5"  # of the package whose functions are called
INFO = "VBench_full_info.json"
PLAIN = "plain"
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1  # in the total
VIDEOS = 5  # of each prompt
ALL_VIDEOS = 6_220  # of one setting, from VBench's own prompts
FILTERED_FROM = 25  # of each prompt of temporal_flickering, whose filter takes the first 5 static
FLICKERING = "temporal_flickering"


@dataclass(frozen=True)
class Need:
    """A file or folder that a dimension reads.

    Args:
        path: Within VBench's cache folder.
        source: Where it comes from.
    """

    path: str
    source: str


_CLIP = "https://openaipublic.azureedge.net/clip/models"
CLIP_B = Need(
    "clip_model/ViT-B-32.pt",
    f"{_CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
)
CLIP_L = Need(
    "clip_model/ViT-L-14.pt",
    f"{_CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
)
DINO = Need(
    "dino_model/facebookresearch_dino_main/hubconf.py", "https://github.com/facebookresearch/dino"
)
DINO_WEIGHTS = Need(
    "dino_model/dino_vitbase16_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
)
AMT = Need("amt_model/amt-s.pth", "https://huggingface.co/lalala125/AMT/resolve/main/amt-s.pth")
RAFT = Need(
    "raft_model/models/raft-things.pth",
    "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
)
LAION = Need(
    "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
)
MUSIQ = Need(
    "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/"
    "musiq_spaq_ckpt-358bb6af.pth",
)
GRIT = Need(
    "grit_model/grit_b_densecap_objectdet.pth",
    "https://datarelease.blob.core.windows.net/grit/models/grit_b_densecap_objectdet.pth",
)
UMT = Need(
    "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
    "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main/"
    "l16_ptk710_ftk710_ftk400_f16_res224.pth",
)
TAG2TEXT = Need(
    "caption_model/tag2text_swin_14m.pth",
    "https://huggingface.co/spaces/xinyu1205/recognize-anything/resolve/main/tag2text_swin_14m.pth",
)
VICLIP = Need(
    "ViCLIP/ViClip-InternVid-10M-FLT.pth",
    "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
)
VOCABULARY = Need(
    "ViCLIP/bpe_simple_vocab_16e6.txt.gz",
    "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
)


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One of VBench's 16 dimensions.

    Args:
        name: Its name, which is that of its module.
        group: Which mean it is part of.
        prompts: How many prompts it has.
        low: The score that is normalised to 0.
        high: The score that is normalised to 1.
        weight: In the mean of its group.
        least: The lowest score that there can be; the highest is 1.
        scale: What a video's number is divided by to be on the scale of the score.
        needs: The files that it reads.
        bert: Whether it reads bert-base-uncased from Hugging Face's cache.
        detectron2: Whether it needs that package.
        partial: Whether VBench leaves out videos in which it doesn't find the object.
        named: Whether it reads a video's label from the name of its file.
    """

    name: str
    group: Literal["quality", "semantic"]
    prompts: int
    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0
    least: float = 0.0
    scale: float = 1.0
    needs: tuple[Need, ...] = ()
    bert: bool = False
    detectron2: bool = False
    partial: bool = False
    named: bool = False

    def normalised(self, score: float) -> float:
        """A score on the scale that is averaged: 0 at `low`, 1 at `high`.

        Example:
            >>> DIMENSIONS["motion_smoothness"].normalised(0.9975)
            1.0
        """
        return (score - self.low) / (self.high - self.low)

    def check(self, score: float) -> float:
        """The score, if it can be one.

        Raises:
            ValueError: It is NaN, infinite or out of range.
        """
        if not (isfinite(score) and self.least <= score <= 1):
            raise ValueError(f"{self.name} has the score {score!r}: expected {self.least:g} to 1.")
        return score


DIMENSIONS = {
    each.name: each
    for each in (
        Dimension(
            name="subject_consistency",
            group="quality",
            prompts=72,
            low=0.1462,
            needs=(DINO, DINO_WEIGHTS),
        ),
        Dimension(
            name="background_consistency",
            group="quality",
            prompts=86,
            low=0.2615,
            needs=(CLIP_B,),
        ),
        Dimension(name=FLICKERING, group="quality", prompts=75, low=0.6293),
        Dimension(
            name="motion_smoothness",
            group="quality",
            prompts=72,
            low=0.706,
            high=0.9975,
            needs=(AMT,),
        ),
        Dimension(name="dynamic_degree", group="quality", prompts=72, weight=0.5, needs=(RAFT,)),
        Dimension(name="aesthetic_quality", group="quality", prompts=93, needs=(CLIP_L, LAION)),
        Dimension(name="imaging_quality", group="quality", prompts=93, scale=100.0, needs=(MUSIQ,)),
        Dimension(
            name="object_class",
            group="semantic",
            prompts=79,
            needs=(GRIT,),
            bert=True,
            detectron2=True,
        ),
        Dimension(
            name="multiple_objects",
            group="semantic",
            prompts=82,
            needs=(GRIT,),
            bert=True,
            detectron2=True,
        ),
        Dimension(name="human_action", group="semantic", prompts=100, needs=(UMT,), named=True),
        Dimension(
            name="color",
            group="semantic",
            prompts=85,
            needs=(GRIT,),
            bert=True,
            detectron2=True,
            partial=True,
        ),
        Dimension(
            name="spatial_relationship",
            group="semantic",
            prompts=84,
            needs=(GRIT,),
            bert=True,
            detectron2=True,
        ),
        Dimension(
            name="scene", group="semantic", prompts=86, high=0.8222, needs=(TAG2TEXT,), bert=True
        ),
        Dimension(
            name="appearance_style",
            group="semantic",
            prompts=90,
            low=0.0009,
            high=0.2855,
            least=-1.0,
            needs=(CLIP_B,),
        ),
        Dimension(
            name="temporal_style",
            group="semantic",
            prompts=100,
            high=0.364,
            least=-1.0,
            needs=(VICLIP, VOCABULARY),
        ),
        Dimension(
            name="overall_consistency",
            group="semantic",
            prompts=93,
            high=0.364,
            least=-1.0,
            needs=(VICLIP, VOCABULARY),
        ),
    )
}


def read_dimensions(names: Collection[str] | None) -> list[Dimension]:
    """Dimensions by name; all of them for None or no name.

    Raises:
        ValueError: There is no such dimension.
    """
    if unknown := sorted(set(names or ()) - set(DIMENSIONS)):
        raise ValueError(
            f"VBench has no dimension {', '.join(map(repr, unknown))}. Known: "
            f"{', '.join(DIMENSIONS)}."
        )
    return [each for each in DIMENSIONS.values() if not names or each.name in names]


@dataclass(frozen=True)
class Totals:
    """What VBench makes of the scores of all dimensions, each 0 to 1."""

    quality: float
    semantic: float

    @property
    def total(self) -> float:
        weights = QUALITY_WEIGHT + SEMANTIC_WEIGHT
        return (QUALITY_WEIGHT * self.quality + SEMANTIC_WEIGHT * self.semantic) / weights


def totals(scores: Mapping[str, float]) -> Totals:
    """The quality, semantic and total score.

    Quality is the weighted mean of its seven normalised dimensions, semantic the mean of its nine,
    total (4 quality + semantic) / 5. VBench's own script takes 0 for what is missing.

    Args:
        scores: By name of each of the 16 dimensions, its score.

    Raises:
        ValueError: One is missing, or is no score.

    Example:
        >>> best = {each.name: each.high for each in DIMENSIONS.values()}
        >>> totals(best).total
        1.0
    """
    if missing := [name for name in DIMENSIONS if name not in scores]:
        raise ValueError(f"There is no total without {', '.join(missing)}.")
    means = {}
    for group in ("quality", "semantic"):
        parts = [each for each in DIMENSIONS.values() if each.group == group]
        summed = sum(each.weight * each.normalised(each.check(scores[each.name])) for each in parts)
        means[group] = summed / sum(each.weight for each in parts)
    return Totals(**means)


@dataclass(frozen=True)
class Entry:
    """A row of VBench's list.

    Args:
        row: Its number, from 0.
        prompt: What VBench scores by, whatever longer text the video was made from.
        dimensions: Names of the dimensions that are scored on its videos.
        auxiliary: What some dimensions look for, as VBench has it.
    """

    row: int
    prompt: str
    dimensions: tuple[str, ...]
    auxiliary: Mapping[str, Any]

    @property
    def videos(self) -> int:
        """How many videos VBench wants of it."""
        return FILTERED_FROM if FLICKERING in self.dimensions else VIDEOS


def read_entries(path: Path) -> list[Entry]:
    """VBench's list of prompts, VBench_full_info.json of its wheel.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {str(path)!r}. It is {INFO} of the package vbench {VERSION}: make the "
            "environment with `stas bench setup`, or name the file by --info."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        expect(isinstance(data, list) and len(data) > 0, "expected a list of prompts")
        entries = [_entry(row, each) for row, each in enumerate(data)]
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no {INFO} of VBench: {error}") from error
    return entries


def _entry(row: int, data: Mapping[str, Any]) -> Entry:
    prompt, names = data["prompt_en"], data["dimension"]
    expect(isinstance(prompt, str) and prompt.strip() != "", f"row {row} has no prompt")
    known = isinstance(names, list) and names and set(names) <= set(DIMENSIONS)
    expect(bool(known), f"row {row} has the dimensions {names!r}")
    auxiliary = data.get("auxiliary_info", {})
    expect(isinstance(auxiliary, dict), f"row {row} has no auxiliary_info that can be read")
    return Entry(row, prompt, tuple(names), auxiliary)


def source_record(info: Path, prompts: str | os.PathLike[str] = PLAIN) -> dict[str, Any]:
    """What the prompts are read from: names and SHA-256."""
    record = {INFO: sha256(info.read_bytes()).hexdigest()}
    if prompts != PLAIN:
        path = Path(prompts)
        record |= {"prompts": path.name, "prompts_sha256": sha256(path.read_bytes()).hexdigest()}
    return record


def make_samples_of(
    entries: Sequence[Entry],
    prompts: str | os.PathLike[str] = PLAIN,
    *,
    dimensions: Collection[str] | None = None,
    videos: int | None = None,
    seed: int = 0,
) -> list[Sample]:
    """The videos that VBench wants, named by row and index: "0007-2".

    Names of prompts would not do: two are there twice, two differ in case alone, and one has an
    accent. Rows with the same prompt and the same text to make it from share their videos, as
    in VBench.

    Args:
        entries: VBench's list.
        prompts: "plain" for VBench's own short prompts; or a text file with a longer one for each
            row, line by line, such as VBench's augmented lists.
        dimensions: Only what these need; all by default.
        videos: Of each prompt, at most; as many as VBench wants by default.
        seed: Every video has a seed of its own, counted on from here.

    Raises:
        ValueError: The file has not one line a row, or there is no such dimension.
        FileNotFoundError: There is no such file.

    Example:
        >>> entries = [Entry(7, "a cat runs", ("color",), {})]
        >>> [sample.name for sample in make_samples_of(entries, videos=2)]
        ['0007-0', '0007-1']
    """
    names = {each.name for each in read_dimensions(dimensions)}
    given: list[Prompt] = [Prompt(entry.prompt) for entry in entries]
    if prompts != PLAIN:
        read = read_prompts(None, Path(prompts))
        if len(read) != len(entries):
            raise ValueError(
                f"{prompts} has {len(read)} lines, but VBench's list has {len(entries)} rows: each "
                "line is the longer text of the row with that number."
            )
        texts_alone(read, "VBench")
        given = read
    samples, seen = [], set()
    for entry, prompt in zip(entries, given, strict=True):
        if not names & set(entry.dimensions) or (entry.prompt, prompt.text) in seen:
            continue
        seen.add((entry.prompt, prompt.text))
        for index in range(min(entry.videos, videos or entry.videos)):
            number = seed + FILTERED_FROM * entry.row + index
            name = f"{entry.row:04d}-{index}"
            samples.append(Sample(name, prompt.text, number, prompt.origin))
    return samples


def videos_of(
    entries: Sequence[Entry], dimension: str, samples: Collection[str], videos: int = VIDEOS
) -> dict[int, list[str]]:
    """By row of a dimension, the names of its samples that are there, at most so many.

    A row without samples of its own has those of the first row of the same prompt.

    Example:
        >>> entries = [Entry(0, "a cat", ("color",), {}), Entry(1, "a cat", ("scene",), {})]
        >>> videos_of(entries, "scene", {"0000-0", "0000-1"})
        {1: ['0000-0', '0000-1']}
    """
    first: dict[str, int] = {}
    found = {}
    for entry in entries:
        row = entry.row
        if f"{row:04d}-0" in samples:
            first.setdefault(entry.prompt, row)
        else:
            row = first.get(entry.prompt, row)
        if dimension in entry.dimensions:
            names = [f"{row:04d}-{index}" for index in range(videos)]
            found[entry.row] = [name for name in names if name in samples]
    return found
