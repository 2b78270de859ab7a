"""T2V-CompBench (arXiv 2407.14505): its videos in its layout, its commands, and its CSVs.

Its scorers are scripts for environments that belong to the user. They match prompts by the order
of the files and average what they could read: so all videos are checked first, and scores are
taken from the rows. This is its edition of 700 prompts.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any

from stas.files import whole_file
from stas.pipelines.prompts import Sample, read_prompts, texts_alone
from stas.studies.differences import difference
from stas.studies.plan import Setting
from stas.suites.names import lay_out
from stas.suites.rows import Row
from stas.suites.run import SCORES, BenchmarkRun

PROMPTS = 100  # of each category
LAYOUT = "compbench"  # the folder of the videos in its layout


@dataclass(frozen=True, kw_only=True)
class Category:
    """One of the seven categories.

    Args:
        name: Of its folder of videos.
        prompts: The file of its prompts.
        tables: Endings of the CSVs with its scores, which together have every video once.
        columns: What their header has, the score last and the video's name first.
        commands: What scores it. {videos}, {standard} and {frames} are the folders of its videos
            and of what the scorers make of them, {out} that of the CSVs, {model} the name, {count}
            and {fps} the frames of a video.
        low: The score that becomes 0.
        high: The score that becomes 1.
        unseen: Whether -1 says that no object was seen; it becomes 0, and 0 becomes 0.2.
    """

    name: str
    prompts: str
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    commands: tuple[str, ...]
    low: float = 0.0
    high: float = 1.0
    unseen: bool = False

    def normalised(self, score: float) -> float:
        """A score from 0 to 1, as the scorer's last line averages it.

        Raises:
            ValueError: It is out of range.

        Example:
            >>> CATEGORIES[0].normalised(3)
            0.5
        """
        if self.unseen and score == -1:
            return 0.0
        if not (isfinite(score) and self.low <= score <= self.high):
            raise ValueError(f"the score {score:g} is not within {self.low:g} to {self.high:g}")
        share = (score - self.low) / (self.high - self.low)
        return 0.2 + 0.8 * share if self.unseen else share


def _by_llava(
    name: str, prompts: str, meta: str, answers: str, ending: str = "", **scale: float
) -> Category:
    return Category(
        name=name,
        prompts=prompts,
        tables=(f"{ending or name}_score.csv",),
        columns=("name", "prompt", answers, "Score"),
        commands=(
            f'cd "$LLAVA" && python llava/eval/eval_{name}.py --video-path {{videos}} '
            f'--output-path {{out}} --read-prompt-file "$COMPBENCH"/meta_data/{meta}.json '
            "--t2v-model {model}",
        ),
        **scale,  # type: ignore[arg-type]
    )


def _in_code(script: str, meta: str, arguments: str) -> str:
    return (
        f'cd "$COMPBENCH" && python {script}.py --read-prompt-file '
        f'"$COMPBENCH"/meta_data/{meta}.json --t2v-model {{model}} {arguments}'
    )


_FRAMES = ("id", "Score_frame_1", "Score_1")
CATEGORIES = (
    _by_llava(
        "consistent_attr",
        "1_consistent_attr.txt",
        "consistent_attribute_binding",
        "answer_1",
        low=1,
        high=5,
    ),
    _by_llava("dynamic_attr", "2_dynamic_attr.txt", "dynamic_attribute_binding", "inter_answers"),
    Category(
        name="spatial_relationships",
        prompts="3_spatial_relationship.txt",
        tables=("2dvideo.csv", "3dvideo.csv"),
        columns=_FRAMES,
        commands=(
            _in_code(
                "Depth-Anything/run_depth",
                "spatial_relationships",
                "--video-path {videos} --outdir {out}/depth",
            ),
            _in_code(
                "Grounded-Segment-Anything/eval_spatial_relationships",
                "spatial_relationships",
                "--frame_folder {frames} --depth_folder {out}/depth --output-path {out} "
                "--output_dir_2d {out}/2d --output_dir_3d {out}/3d",
            ),
        ),
    ),
    Category(
        name="motion_binding",
        prompts="4_motion_binding.txt",
        tables=("score.csv",),
        columns=("id", "object_1", "d_1", "Score"),
        commands=(
            _in_code(
                "Grounded-Segment-Anything/motion_binding_seg",
                "motion_binding",
                "--video_folder {videos} --total_frame {count} --fps {fps} --output_dir "
                "{out}/masks",
            ),
            *(
                f'cd "$DOT" && python eval_motion_binding_{ground}.py --video_folder {{standard}} '
                "--mask_folder {out}/masks --read-prompt-file "
                '"$COMPBENCH"/meta_data/motion_binding.json --t2v_model {model} --output_path '
                "{out} --output_dir {out}/tracks"
                for ground in ("foreground", "background")
            ),
            'cd "$DOT" && python motion_binding_score_cal.py --t2v-model {model} --output_path '
            "{out}",
        ),
        unseen=True,
    ),
    _by_llava("action_binding", "5_action_binding.txt", "action_binding", "outputs_1", high=5),
    _by_llava(
        "interaction",
        "6_interaction.txt",
        "object_interactions",
        "outputs_1",
        "object_interactions",
        low=1,
        high=5,
    ),
    Category(
        name="generative_numeracy",
        prompts="7_numeracy.txt",
        tables=("numeracy_video.csv",),
        columns=_FRAMES,
        commands=(
            _in_code(
                "Grounded-Segment-Anything/GroundingDINO/demo/eval_numeracy",
                "generative_numeracy",
                "--video-path {videos} --output-path {out} --output_dir {out}/frames",
            ),
        ),
    ),
)


def read_samples(folder: Path, seed: int = 0) -> tuple[list[Sample], dict[str, Any]]:
    """The benchmark's videos, named by category and number: "consistent_attr-0001".

    Args:
        folder: The benchmark's folder `prompts`.
        seed: Every video has a seed of its own, counted on from here.

    Returns:
        The samples; and the SHA-256 of each list.

    Raises:
        FileNotFoundError: A list is not there.
        ValueError: A list has not 100 prompts.
    """
    samples: list[Sample] = []
    source = {}
    for category in CATEGORIES:
        path = folder / category.prompts
        prompts = read_prompts(None, path)
        texts_alone(prompts, "T2V-CompBench")
        if len(prompts) != PROMPTS:
            raise ValueError(
                f"{path} has {len(prompts)} prompts, expected {PROMPTS}: this is written for the "
                "benchmark's edition of 700 prompts."
            )
        source[category.prompts] = sha256(path.read_bytes()).hexdigest()
        for number, prompt in enumerate(prompts, 1):
            name = f"{category.name}-{number:04d}"
            samples.append(Sample(name, prompt.text, seed + len(samples), prompt.origin))
    return samples, source


def check_suite(run: BenchmarkRun) -> None:
    """Raise ValueError for a run of another benchmark."""
    if run.suite != "compbench":
        raise ValueError(f"{str(run.folder)!r} holds a run of {run.suite}, not of compbench.")


def write_layout(run: BenchmarkRun, setting: Setting) -> Path:
    """Have a setting's videos in the benchmark's layout, after all were checked.

    Returns:
        The folder with one folder a category, "0001.mp4" to "0100.mp4" in each.

    Raises:
        ValueError: The run is of another benchmark, videos are missing or not theirs, or a folder
            holds other files, which the scorers would take for videos.
    """
    check_suite(run)
    videos = run.check_videos(setting, [each.name for each in run.samples])
    folder = run.folder / LAYOUT / run.setting_folder(setting)
    places = {}
    for name, path in videos.items():
        category, _, number = name.rpartition("-")
        places[f"{category}/{number}.mp4"] = path
    there = {
        path.relative_to(folder).as_posix()
        for category in CATEGORIES
        for path in (folder / category.name).glob("*")
    }
    if others := sorted(there - set(places)):
        raise ValueError(
            f"{str(folder)!r} holds {others[0]!r}, which the scorers would take for a video: "
            "remove what is not the benchmark's."
        )
    lay_out(folder, places)
    return folder


def table_folder(run: BenchmarkRun, setting: Setting, category: Category) -> Path:
    """Where the printed commands have a category's CSVs written."""
    return run.folder / SCORES / run.setting_folder(setting) / category.name


def commands(run: BenchmarkRun, setting: Setting) -> list[str]:
    """The shell commands that score a setting, whose videos are laid out.

    $COMPBENCH is the folder of the benchmark's code, with Depth-Anything and
    Grounded-Segment-Anything in it, $LLAVA that of LLaVA and $DOT that of DOT, each with the
    benchmark's scripts in place as its README says.
    """
    folder = (run.folder / LAYOUT / run.setting_folder(setting)).absolute()
    manifest = run.finished[run.samples[0].name, setting.name].manifest
    lines = []
    for category in CATEGORIES:
        out = table_folder(run, setting, category).absolute()
        words = {
            "videos": folder / category.name,
            "standard": folder / "video_standard" / category.name,
            "frames": folder / "frames" / category.name,
            "out": out,
            "model": run.setting_folder(setting),
            "count": manifest.frames["count"],
            "fps": round(manifest.fps),
        }
        quoted = {name: shlex.quote(str(value)) for name, value in words.items()}
        lines.append(f"mkdir -p {quoted['out']}")
        lines += [f"({command.format(**quoted)})" for command in category.commands]
    return lines


@dataclass(frozen=True)
class CategoryScores:
    """What the CSVs of a category say of one setting.

    Args:
        category: Which.
        videos: By name of sample, its score from 0 to 1; those without one are left out.
        bad: Names of samples to which the scorer's model gave a bad reply.
        missing: Names of samples that have no row.
    """

    category: Category
    videos: Mapping[str, float]
    bad: Sequence[str]
    missing: Sequence[str]

    @property
    def score(self) -> float:
        """The mean, NaN where there is none."""
        return fmean(self.videos.values()) if self.videos else nan

    @property
    def text(self) -> str:
        """Score and gaps in short."""
        notes = [
            f"{len(names)} {what}"
            for names, what in ((self.bad, "bad replies"), (self.missing, "missing"))
            if names
        ]
        if not self.videos and not self.bad:
            return "not scored"
        return f"{self.score:.4f}" + (f" ({', '.join(notes)})" if notes else "")


def read_scores(run: BenchmarkRun, setting: Setting, category: Category) -> CategoryScores:
    """Read a category's CSVs row by row; the mean that scorers write last is not looked at.

    Raises:
        ValueError: A file is of another category or other prompts, has a row twice or a video that
            there isn't, or a score is out of range.
    """
    prompts = {
        each.name: each.prompt
        for each in run.samples
        if each.name.rpartition("-")[0] == category.name
    }
    found: dict[str, float | None] = {}
    folder = table_folder(run, setting, category)
    for ending in category.tables:
        path = folder / f"{run.setting_folder(setting)}_{ending}"
        if path.is_file():
            for name, value in _rows(path, category, prompts).items():
                if name in found:
                    raise ValueError(f"{path} has {name} once more than the other table.")
                found[name] = value
    return CategoryScores(
        category,
        {name: value for name, value in found.items() if value is not None},
        [name for name, value in found.items() if value is None],
        [name for name in prompts if name not in found],
    )


def _rows(path: Path, category: Category, prompts: Mapping[str, str]) -> dict[str, float | None]:
    """By name of sample, its score; None for a bad reply."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV: {error}") from error
    if not set(category.columns) <= set(header):
        raise ValueError(
            f"{path} is no table of {category.name}: expected the columns "
            f"{', '.join(category.columns)}, but got {', '.join(header) or 'none'}."
        )
    place = {name: header.index(name) for name in header}
    found: dict[str, float | None] = {}
    for number, line in enumerate(lines, 2):
        if not line or line[0].strip().lower().startswith("score"):
            continue
        where = f"{path}, line {number}"
        if len(line) != len(header):
            raise ValueError(f"{where}: expected {len(header)} cells, but got {len(line)}.")
        match = re.fullmatch(r"(\d+)(\.\w+)?", line[place[category.columns[0]]])
        name = f"{category.name}-{int(match[1]):04d}" if match else ""
        if name not in prompts:
            raise ValueError(f"{where}: there is no video {line[0]!r}.")
        if name in found:
            raise ValueError(f"{where}: {line[0]!r} is there twice.")
        if "prompt" in place and _words(line[place["prompt"]]) != _words(prompts[name]):
            raise ValueError(
                f"{where}: {line[0]!r} has the prompt {line[place['prompt']]!r}, but the run's is "
                f"{prompts[name]!r}."
            )
        try:
            score = float(line[place[category.columns[-1]]])
        except ValueError:
            found[name] = None
            continue
        try:
            found[name] = category.normalised(score)
        except ValueError as error:
            raise ValueError(f"{where}: {error}.") from error
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def compbench_rows(run: BenchmarkRun) -> list[Row]:
    """Each category: its scores, and each setting against the first.

    A difference is over the prompts that both have scores of.

    Raises:
        ValueError: The run is of another benchmark, or what `read_scores` refuses.
    """
    check_suite(run)
    base, *others = run.settings
    samples = {each.name: each for each in run.samples}
    rows = []
    for category in CATEGORIES:
        found = {each.name: read_scores(run, each, category) for each in run.settings}
        differences = []
        for setting in others:
            before, after = found[base.name].videos, found[setting.name].videos
            pairs = {name: (before[name], after[name]) for name in before if name in after}
            listed = [samples[name] for name in pairs]
            steered = run.steered(setting)
            differences.append(
                difference(category.name, setting.name, listed, pairs, steered=steered)
            )
        rows.append(
            Row(
                category.name,
                {name: each.text for name, each in found.items()},
                {name: each.score for name, each in found.items() if each.videos},
                differences,
            )
        )
    return rows


def write_commands(run: BenchmarkRun, setting: Setting) -> Path:
    """Write the commands of a setting as a shell script."""
    path = run.folder / LAYOUT / f"{run.setting_folder(setting)}.sh"
    text = "\n".join(["#!/bin/sh", "set -e", *commands(run, setting)])
    with whole_file(path, alone=True) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path
