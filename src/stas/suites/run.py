"""The videos of a benchmark: a run under settings, which goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

from stas.checks import expect
from stas.files import whole_file
from stas.media.video import write_mp4
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample
from stas.pipelines.sample import MANIFEST, VIDEO, VideoFiles
from stas.studies.plan import Setting, folder_name
from stas.studies.run import PROBES, Run, seconds_per_video

Suite = Literal["vbench", "compbench"]
SCORES = "scores"


@dataclass(repr=False)
class BenchmarkRun(Run):
    """The videos of a benchmark in their folder.

    Args:
        suite: Which benchmark.
        model: Id or folder of the model.
        revision: Of a hub id.
        source: What the prompts were read from: names and SHA-256.
        info: VBench's list, which goes into the folder; None for a run that was made before.
    """

    noun: ClassVar[str] = "benchmark"
    suite: Suite = field(kw_only=True)
    model: str = field(kw_only=True)
    revision: str | None = field(default=None, kw_only=True)
    source: Mapping[str, Any] = field(kw_only=True)
    info: Path | None = field(default=None, kw_only=True)

    def plan(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "source": dict(self.source),
            "model": self.model,
            "revision": self.revision,
            "settings": [[each.name, each.config] for each in self.settings],
            "arguments": dict(self.arguments),
            "fps": self.fps,
            "samples": [
                [each.name, each.prompt, each.seed, each.prompt_file] for each in self.samples
            ],
        }

    def setting_folder(self, setting: Setting) -> str:
        """The name of the folder of a setting's videos, and of what is made of them."""
        return folder_name(self.settings.index(setting), setting)

    def files(self, number: int, sample: Sample) -> VideoFiles:
        folder = self.folder / folder_name(number, self.settings[number])
        return VideoFiles(folder / sample.name, (VIDEO, MANIFEST))

    def begin(self, options: PipelineOptions) -> None:
        super().begin(options)
        if self.info is not None:
            with whole_file(self.folder / self.info.name, alone=True) as temporary:
                temporary.write_bytes(self.info.read_bytes())

    def setting(self, name: str) -> Setting:
        """A setting by name.

        Raises:
            ValueError: There is none.
        """
        for setting in self.settings:
            if setting.name == name:
                return setting
        names = ", ".join(each.name for each in self.settings)
        raise ValueError(f"The benchmark has no setting {name!r}. Known: {names}.")

    def check_videos(self, setting: Setting, names: Sequence[str]) -> dict[str, Path]:
        """See that samples have their videos, whole and their own.

        Args:
            setting: The setting.
            names: Of the samples.

        Returns:
            By name, the video.

        Raises:
            ValueError: Some are missing, half-written, or of another prompt, seed or setting; the
                message says which, and what lies there instead.
        """
        number, samples = self.settings.index(setting), {each.name: each for each in self.samples}
        config = setting.steering()
        steering = None if config is None else config.to_dict()
        videos, missing, foreign = {}, [], []
        for name in names:
            found = self.finished.get((name, setting.name))
            files = self.files(number, samples[name])
            if found is None:
                missing.append(name)
                continue
            made = found.manifest
            ours = made.arguments.get("prompt"), made.seed, made.steering
            if ours != (samples[name].prompt, samples[name].seed, steering):
                foreign.append(name)
            videos[name] = files.path(VIDEO)
        folder = self.folder / self.setting_folder(setting)
        if missing:
            strays = self.strays(setting)
            there = f" There are others: {_some(strays)}." if strays else ""
            raise ValueError(
                f"{len(missing)} of {len(names)} videos are missing or can't be read in "
                f"{str(folder)!r}: {_some(missing)}.{there} The command that made the others makes "
                "them."
            )
        if foreign:
            raise ValueError(
                f"Videos in {str(folder)!r} are of another prompt, seed or setting than their name "
                f"says: {_some(foreign)}. Remove them, and have them made again."
            )
        return videos

    def strays(self, setting: Setting) -> list[str]:
        """Names of files in a setting's folder that are no video of the run."""
        number = self.settings.index(setting)
        known = {path for sample in self.samples for path in self.files(number, sample).paths}
        folder = self.folder / self.setting_folder(setting)
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path.name for path in found if path not in known and path.name[0] != "."]


def read_run(folder: Path) -> BenchmarkRun:
    """A benchmark whose making was begun in a folder, and what is finished of it.

    Raises:
        FileNotFoundError: There is none in that folder.
        ValueError: Its record can't be read.
    """
    run = BenchmarkRun(folder, [], [], {}, (), suite="vbench", model="", source={})
    if not run.record.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no benchmark: `stas bench make` begins one there."
        )
    plan = run._load_record()[run.noun]
    try:
        expect(plan["suite"] in ("vbench", "compbench"), f"the suite {plan['suite']!r} is unknown")
        run = replace(
            run,
            settings=[Setting(*each) for each in plan["settings"]],
            samples=[Sample(*each) for each in plan["samples"]],
            **{name: plan[name] for name in ("suite", "source", "model", "revision", "arguments")},
            fps=plan["fps"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.record} is no record of a benchmark: {error!r}") from error
    run.read()
    return run


def check_settings(settings: Sequence[Setting]) -> list[Setting]:
    """The settings, if their names differ.

    Raises:
        ValueError: Two have one name.
    """
    names = [each.name for each in settings]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two settings have the name {twice[0]!r}: their videos would be one.")
    return list(settings)


def size_of(run: BenchmarkRun, loaded: LoadedPipeline) -> tuple[float, float]:
    """About how much is left of a run: hours here, and GB.

    Videos are as large as those that are finished, or as one of two denoising steps, which is
    larger, since noise compresses badly.

    Raises:
        ValueError: What `Run.check` refuses.
    """
    call, seed = run.check(loaded)[0], run.samples[0].seed
    seconds = seconds_per_video(loaded, call, seed)
    sizes = [
        run.files(number, sample).path(VIDEO).stat().st_size
        for number, setting in enumerate(run.settings)
        for sample in run.samples
        if (sample.name, setting.name) in run.finished
    ]
    if not sizes:
        frames = loaded.generate({**call, "num_inference_steps": PROBES[0]}, seed)
        with TemporaryDirectory() as folder:
            path = Path(folder, f"probe{VIDEO}")
            write_mp4(path, frames, loaded.fps if run.fps is None else run.fps)
            sizes = [path.stat().st_size]
    return run.left * seconds / 3600, run.left * fmean(sizes) / 1e9


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: It is none; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5:,} more"
