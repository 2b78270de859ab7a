"""Scoring the videos of a VBench run: each dimension in a process of its own, by VBench's code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from hashlib import sha256
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stas.checks import expect
from stas.files import whole_file
from stas.studies.plan import Setting
from stas.suites.environment import Environment
from stas.suites.names import lay_out
from stas.suites.run import SCORES, BenchmarkRun, load_json
from stas.suites.vbench import (
    DIMENSIONS,
    DINO_WEIGHTS,
    FILTERED_FROM,
    FLICKERING,
    INFO,
    RAFT,
    VIDEOS,
    Dimension,
    Entry,
    read_entries,
    videos_of,
)
from stas.workers.leases import Leases

FORMAT = "stas.vbench/1"
STATIC = ".static"  # of the file of temporal_flickering by its filter


@dataclass(frozen=True, kw_only=True)
class Score:
    """One dimension's score of one setting.

    Args:
        dimension: Its name.
        setting: Name of the setting.
        static: Whether VBench's filter chose the videos.
        score: What VBench returned.
        videos: By name of the sample, its own number on the scale of `score`; None where VBench
            leaves the video out.
        frames: By name of the sample, the SHA-256 of the frames that it was made with.
        versions: Of the packages in VBench's environment.
        device: Where it was scored.
        created: Local time, ISO 8601.
    """

    dimension: str
    setting: str
    static: bool
    score: float
    videos: Mapping[str, float | None]
    frames: Mapping[str, str]
    versions: Mapping[str, str | None]
    device: str
    created: str

    def __post_init__(self) -> None:
        expect(self.dimension in DIMENSIONS, f"there is no dimension {self.dimension!r}")
        dimension = DIMENSIONS[self.dimension]
        dimension.check(self.score)
        expect(bool(self.videos), "there is no video")
        for name, value in self.videos.items():
            expect(value is not None or dimension.partial, f"the video {name} has no score")
            expect(value is None or isfinite(value), f"the video {name} has the score {value}")
        expect(set(self.videos) == set(self.frames), "videos and frames are of other samples")

    @classmethod
    def load(cls, path: Path) -> Score:
        """Read a score.

        Raises:
            ValueError: Not a score; the message names the file.
        """
        data = load_json(path)
        try:
            expect(data.pop("format") == FORMAT, f'expected "format": "{FORMAT}"')
            expect(set(data) == {each.name for each in fields(cls)}, "keys are missing or unknown")
            return cls(**data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no score of VBench: {error}") from error

    def save(self, path: Path) -> None:
        """Write it; the file appears whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, alone=True) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def score_path(
    run: BenchmarkRun, setting: Setting, dimension: str, *, static: bool = False
) -> Path:
    """The file of a score."""
    name = f"{dimension}{STATIC if static else ''}.json"
    return run.folder / SCORES / run.setting_folder(setting) / name


def run_entries(run: BenchmarkRun) -> list[Entry]:
    """VBench's list as the run was made from it.

    Raises:
        ValueError: The run is of another benchmark, or its list was changed.
    """
    if run.suite != "vbench":
        raise ValueError(f"{str(run.folder)!r} holds a run of {run.suite}, not of vbench.")
    path = run.folder / INFO
    entries = read_entries(path)
    if sha256(path.read_bytes()).hexdigest() != run.source.get(INFO):
        raise ValueError(f"{path} is not the list that the run was made from.")
    return entries


def frames_of(run: BenchmarkRun, setting: Setting, names: Sequence[str]) -> dict[str, str]:
    """By name of sample, the SHA-256 of its frames; those that are not finished are left out."""
    return {
        name: str(found.manifest.frames["sha256"])
        for name in names
        if (found := run.finished.get((name, setting.name))) is not None
    }


@contextmanager
def claim_scores(run: BenchmarkRun) -> Iterator[None]:
    """Make the folder of scores this process's own.

    Raises:
        RuntimeError: Another process scores there.
    """
    folder = run.folder / SCORES
    folder.mkdir(exist_ok=True)
    leases = Leases(folder, "")
    leases.forget_failures()
    if (lease := leases.take(SCORES)) is None:
        other = (
            f"Another process scores the videos in {str(run.folder)!r}. Wait for it, or stop it."
        )
        raise RuntimeError(leases.failures().get(SCORES, other))
    with lease:
        yield
    leases.clear()


def score_run(
    run: BenchmarkRun,
    environment: Environment,
    *,
    dimensions: Sequence[Dimension] | None = None,
    settings: Sequence[Setting] | None = None,
    device: str = "cuda",
    static: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Score what is not scored yet.

    Args:
        run: A run of VBench that was read.
        environment: VBench's.
        dimensions: What is scored; by default all that the run has videos of.
        settings: Of the run; all of them by default.
        device: Where VBench's models run.
        static: Whether temporal_flickering is scored by VBench's filter too.
        report: Told what is in work, in words.

    Returns:
        What failed, in words; the others are scored.

    Raises:
        FileNotFoundError: There is no environment, or it is without the package.
        RuntimeError: Another process scores.
        ValueError: The run is of another benchmark, or its list of prompts is another version's.
    """
    entries, failed = run_entries(run), []
    info = environment.info
    if sha256(info.read_bytes()).hexdigest() != run.source.get(INFO):
        raise ValueError(
            f"{info} is another version than the list that {str(run.folder)!r} was made from."
        )
    if dimensions is None:
        names = {each.name for each in run.samples}
        dimensions = [
            each
            for each in DIMENSIONS.values()
            if any(videos_of(entries, each.name, names).values())
        ]
    with claim_scores(run):
        for setting in run.settings if settings is None else settings:
            for dimension in dimensions:
                for filtered in (
                    (False, True) if static and dimension.name == FLICKERING else (False,)
                ):
                    what = (
                        f"{dimension.name}{' by its filter' if filtered else ''} of {setting.name}"
                    )
                    report(what)
                    work = _Work(run, setting, dimension, entries, environment, device)
                    try:
                        work.do(static=filtered)
                    except (RuntimeError, ValueError) as error:
                        failed.append(f"{what}: {error}")
    return failed


@dataclass(frozen=True)
class _Work:
    run: BenchmarkRun
    setting: Setting
    dimension: Dimension
    entries: Sequence[Entry]
    environment: Environment
    device: str

    def do(self, *, static: bool) -> None:
        """Score one dimension of one setting, if it isn't scored.

        Raises:
            ValueError: Videos are missing or not theirs, a file of VBench is missing, or what
                VBench returned is no score of all videos.
            RuntimeError: VBench failed.
        """
        names = {each.name for each in self.run.samples}
        most = FILTERED_FROM if static else VIDEOS
        rows = videos_of(self.entries, self.dimension.name, names, most)
        wanted = list(dict.fromkeys(name for listed in rows.values() for name in listed))
        if not wanted:
            raise ValueError("the run has no video of it")
        if lacking := self.environment.missing(self.dimension):
            raise ValueError("; ".join(lacking))
        if static and not (self.environment.models / RAFT.path).exists():
            raise ValueError(f"{self.environment.models / RAFT.path} is missing")
        videos = self.run.check_videos(self.setting, wanted)
        path = score_path(self.run, self.setting, self.dimension.name, static=static)
        if self._is_scored(path, wanted):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            path.with_suffix(".log").open("w+b") as log,
            TemporaryDirectory(dir=path.parent) as folder,
        ):
            if static:
                chosen = self._static(videos, log)
                rows = {
                    row: [name for name in listed if name in chosen][:VIDEOS]
                    for row, listed in rows.items()
                }
                if not any(rows.values()):
                    raise ValueError("the filter takes no video for static")
            found, places = self._score(rows, videos, Path(folder), log)
        numbers = self._numbers(found, places)
        Score(
            dimension=self.dimension.name,
            setting=self.setting.name,
            static=static,
            score=self.dimension.check(float(found["score"])),
            videos=numbers,
            frames=frames_of(self.run, self.setting, list(numbers)),
            versions=found["versions"],
            device=self.device,
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
        ).save(path)

    def _is_scored(self, path: Path, wanted: Sequence[str]) -> bool:
        """Whether a file holds the score of these very videos; another's gives way."""
        if not path.is_file():
            return False
        try:
            score = Score.load(path)
        except ValueError:
            return False
        frames = frames_of(self.run, self.setting, wanted)
        if score.static:  # some of them
            return score.frames.items() <= frames.items()
        return dict(score.frames) == frames

    def _static(self, videos: Mapping[str, Path], log: Any) -> set[str]:
        places = {str(path.absolute()): name for name, path in videos.items()}
        found = self.environment.run(
            {
                "task": "filter",
                "device": self.device,
                "videos": list(places),
                "raft_weights": RAFT.path,
            },
            log,
        )
        return {places[path] for path in found["static"]}

    def _score(
        self, rows: Mapping[int, Sequence[str]], videos: Mapping[str, Path], folder: Path, log: Any
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """VBench's answer, and by path the name of the sample of each video that it was given."""
        info: list[dict[str, Any]] = []
        places: dict[str, str] = {}
        for entry in self.entries:
            if entry.row not in rows:
                continue
            paths = {name: videos[name] for name in rows[entry.row]}
            if self.dimension.named:
                laid = lay_out(
                    folder,
                    {
                        f"{entry.row:04d}/{entry.prompt}-{index}.mp4": path
                        for index, path in enumerate(paths.values())
                    },
                )
                paths = dict(zip(paths, laid.values(), strict=True))
            places |= {str(path.absolute()): name for name, path in paths.items()}
            info.append(
                {
                    "prompt_en": entry.prompt,
                    "dimension": [self.dimension.name],
                    "video_list": [str(path.absolute()) for path in paths.values()],
                    "auxiliary_info": entry.auxiliary,
                }
            )
        listed = folder / "info.json"
        listed.write_text(json.dumps(info), encoding="utf-8")
        job = {
            "task": "score",
            "dimension": self.dimension.name,
            "device": self.device,
            "info": str(listed.absolute()),
            "dino_weights": DINO_WEIGHTS.path,
        }
        return self.environment.run(job, log), places

    def _numbers(
        self, found: Mapping[str, Any], places: Mapping[str, str]
    ) -> dict[str, float | None]:
        numbers: dict[str, float | None] = {}
        for each in found["videos"]:
            name = places.get(each["video_path"])
            expect(name is not None, f"VBench scored {each['video_path']!r}, which it wasn't given")
            assert name is not None
            numbers[name] = float(each["video_results"]) / self.dimension.scale
        for name in places.values():
            if name not in numbers:
                expect(self.dimension.partial, f"VBench could not score the video {name}")
                numbers[name] = None
        return numbers
