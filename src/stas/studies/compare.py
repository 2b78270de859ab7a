"""The same prompts and seeds under several settings: videos, curves and paired differences.

The first setting is what the others are compared with. Every number is taken from the exact frames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, ClassVar

from stas.checks import check_fps
from stas.files import identity, whole_file
from stas.measures.measure import NAMES, Measures, measure_name
from stas.measures.result import VideoMetrics
from stas.media.pictures import side_by_side, strips
from stas.media.video import write_mp4
from stas.method.config import STASConfig
from stas.method.presets import INTERVENTIONS, preset
from stas.pipelines.inputs import with_records
from stas.pipelines.job import options_of
from stas.pipelines.manifest import Manifest
from stas.pipelines.model import LoadedPipeline
from stas.pipelines.options import PipelineOptions
from stas.pipelines.places import check_comparison_folder
from stas.pipelines.prompts import Prompt, Sample, samples_of
from stas.pipelines.sample import EXACT, MANIFEST, METRICS, VIDEO, VideoFiles
from stas.studies.differences import Difference, all_names, difference
from stas.studies.plan import OFF, Setting
from stas.studies.run import Run, carry_out
from stas.workers.executors import HERE, Workers
from stas.workers.job import Report
from stas.workers.leases import Leases

ON = "on"


@dataclass(repr=False)
class Comparison(Run):
    """What is made and measured. Made by `stas.compare`.

    Args:
        model: Id or folder of the model.
        measures: What is measured.
        replaced: The record of a comparison in whose place this one is made.
    """

    noun: ClassVar[str] = "comparison"
    model: str = field(kw_only=True)
    measures: Measures = field(kw_only=True)
    replaced: tuple[int, int, int] | None = None

    def plan(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "settings": [[each.name, each.config] for each in self.settings],
            "samples": [
                [each.name, each.prompt, each.seed, *filter(None, [each.negative_prompt])]
                for each in self.samples
            ],
            "arguments": dict(self.arguments),
            "fps": self.fps,
            "encoders": [each.name for each in self.measures.encoders],
            "own_measures": [measure_name(own) for own in self.measures.own],
            "aesthetic": self.measures.aesthetic is not None,
        }

    def files(self, number: int, sample: Sample) -> VideoFiles:
        stem = self.folder / "videos" / f"{sample.name}-{self.settings[number].name}"
        return VideoFiles(stem, (VIDEO, EXACT, METRICS, MANIFEST))

    def shown(self, sample: Sample) -> tuple[Path, Path]:
        """The video and the picture with all settings of a sample side by side."""
        # `Path.with_suffix` would cut a name with a dot.
        return self.folder / f"{sample.name}.mp4", self.folder / f"{sample.name}.png"

    def is_finished(self, samples: Sequence[Sample]) -> bool:
        shown = [path for sample in samples for path in self.shown(sample)]
        return all(path.is_file() for path in shown) and super().is_finished(samples)

    def sample_made(self, sample: Sample) -> None:
        """Put the videos of a sample side by side."""
        video, picture = self.shown(sample)
        if video.is_file() and picture.is_file():
            return
        frames = {
            setting.name: self.files(number, sample).read_exact()
            for number, setting in enumerate(self.settings)
        }
        fps = Manifest.load(self.files(0, sample).path(MANIFEST)).fps
        with (
            whole_file(picture, alone=True) as strip_file,
            whole_file(video, alone=True) as video_file,
        ):
            write_mp4(video_file, side_by_side(frames), fps)
            strips(frames).save(strip_file)

    def metrics(self, sample: Sample, setting: Setting) -> VideoMetrics:
        """What was measured on a finished video."""
        found = self.finished[sample.name, setting.name].metrics
        assert found is not None  # one without is not finished
        return found

    def replace(self) -> None:
        """Have all made anew, once it is known that it can be; what else is there stays.

        Raises:
            RuntimeError: Another process works in it.
        """
        if working := Leases(self.folder, "").working():
            raise RuntimeError(
                f"{working[0].worker} is at work in {str(self.folder)!r}: wait for it, or give "
                "another -o."
            )
        self.beside_others, self.replaced = True, identity(self.record)

    def begin(self, options: PipelineOptions) -> None:
        # Not the one that another process of this comparison has begun since.
        if self.replaced is not None and self.replaced == identity(self.record):
            self._forget()
        super().begin(options)

    def _forget(self) -> None:
        for sample in self.samples:
            for path in self.shown(sample):
                path.unlink(missing_ok=True)
            for number, _ in enumerate(self.settings):
                self.files(number, sample).path(MANIFEST).unlink(missing_ok=True)
        self.record.unlink()  # last: with it, what is left counts

    @property
    def missing(self) -> list[str]:
        """Measures that were not taken because the extra `metrics` is not installed."""
        return [name for name in NAMES if name not in self.measured]

    def identical(self, setting: Setting) -> int:
        """How many videos of a setting equal those of the first one in every pixel."""
        first = self.settings[0].name
        return sum(
            self.finished[sample.name, setting.name].manifest.frames["sha256"]
            == self.finished[sample.name, first].manifest.frames["sha256"]
            for sample in self.whole_samples()
        )

    def steered_text(self, setting: Setting) -> str:
        """What was steered where in the last video, in words."""
        made = [key for key in self.finished if key[1] == setting.name]
        if setting.config is None or not made:
            return "nothing"
        return "\n".join(self.finished[made[-1]].manifest.dims_text())

    def differences(self) -> list[Difference]:
        """The table: each measure of each setting against the first one, over the whole pairs."""
        samples, base = self.whole_samples(), self.settings[0].name
        names = {(each.name, setting.name) for each in samples for setting in self.settings}
        numbers = {key: found for key, found in self.numbers().items() if key in names}
        return [
            difference(
                measure,
                setting.name,
                samples,
                {
                    sample.name: (
                        numbers[sample.name, base].get(measure, nan),
                        numbers[sample.name, setting.name].get(measure, nan),
                    )
                    for sample in samples
                },
                steered=self.steered(setting),
            )
            for setting in self.settings[1:]
            for measure in all_names(numbers.values())
        ]


def read_setting(text: str) -> Setting:
    """A setting from its name on the command line.

    Args:
        text: "off"; "on", the defaults of STASConfig; an intervention of `stas.method.presets`; or
            the path of a config that `STASConfig.save` wrote, which is named by its stem.

    Raises:
        ValueError: None of those, or the file is not a config.

    Example:
        >>> read_setting("off").config, read_setting("boundary").config["regions"]
        (None, ['boundary'])
    """
    if text == OFF:
        return Setting(OFF, None)
    if text == ON:
        return Setting(ON, STASConfig().to_dict())
    if text in INTERVENTIONS:
        return Setting(text, preset(text).to_dict())
    path = Path(text)
    if path.is_file():
        return Setting(path.stem, STASConfig.load(path).to_dict())
    raise ValueError(
        f"There is no run {text!r}: expected {OFF}, {ON}, one of {', '.join(INTERVENTIONS)}, or "
        "the JSON file of a STASConfig."
    )


def compare(
    pipeline: LoadedPipeline | PipelineOptions | str | Any,
    prompts: str | Sequence[str] | Sequence[Sample],
    folder: str | os.PathLike[str] = "comparison",
    *,
    settings: Sequence[str | Setting | STASConfig] = (OFF, ON),
    seeds: Sequence[int] = (0,),
    arguments: Mapping[str, Any] | None = None,
    fps: float | None = None,
    measures: Measures | None = None,
    resume: bool = False,
    force: bool = False,
    workers: Workers = HERE,
    batch: int = 1,
    report: Report | None = None,
) -> Comparison:
    """Make the same videos with steering off and on, measure, and show what differs.

    Into `folder` go, for each prompt and seed, one video with the settings side by side (.mp4) and
    a strip of frames (.png); `videos/` with each video for people (.mp4), exact to the bit (.mkv,
    H.264 in RGB without loss), its numbers and its manifest (.json); `curves.png` and `curves.csv`,
    `values.csv`, `differences.csv`, and `report.html`, one file that holds all to look at.

    Ctrl-C keeps the finished videos and writes tables and report of the samples that are whole.

    Args:
        pipeline: What `stas.load_pipeline` returned, a diffusers pipeline, a model's name, or its
            PipelineOptions; several workers need one of the last two.
        prompts: One prompt or several; or samples, with names that differ.
        folder: Where all goes; made if it isn't there.
        settings: Two or more of different names; the first is what the others are compared with.
            "off", "on", a named intervention, the JSON file of a STASConfig, or a STASConfig.
        seeds: Of each prompt, 0 or more.
        arguments: Further arguments of the pipeline's call.
        fps: Of the videos; the model's own by default.
        measures: What is measured; by default all that needs no weights.
        resume: Go on with a comparison that was stopped: no video is made twice.
        force: Replace what is in the folder.
        workers: How many processes make it, and where.
        batch: How many samples are made in one call of the pipeline.
        report: Called with how far all is.

    Returns:
        What was made and measured.

    Raises:
        ValueError: Fewer than two settings, a name twice, nothing to compare, another comparison in
            the folder, or what the pipeline or `steer` refuses; all before the first video.
        FileExistsError: The folder is not empty, and neither `resume` nor `force` is given.
        OSError: The folder can't be written to.

    Example:
        >>> from tempfile import mkdtemp
        >>> size = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
        >>> found = compare("bundled", "a red circle", mkdtemp() + "/c", arguments=size)
        >>> [row.words for row in found.differences()][0]
        'too few pairs to tell'
    """
    loaded: LoadedPipeline | PipelineOptions
    if isinstance(pipeline, str | PipelineOptions):
        given = PipelineOptions(model=pipeline) if isinstance(pipeline, str) else pipeline
        loaded = given.resolved()
    else:
        loaded = pipeline if isinstance(pipeline, LoadedPipeline) else LoadedPipeline(pipeline)
    if fps is not None:
        check_fps(fps)
    chosen = [_setting(each) for each in settings]
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    samples = [each for each in listed if isinstance(each, Sample)] or samples_of(
        [Prompt(str(each)) for each in listed], seeds
    )
    for what, names in (("run", [s.name for s in chosen]), ("sample", [s.name for s in samples])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Two {what}s have the name {twice[0]!r}: their files would be one.")
    if len(chosen) < 2 or not samples:
        raise ValueError(
            f"A comparison needs two runs and one sample at least, but got {len(chosen)} and "
            f"{len(samples)}."
        )
    measures = measures or Measures()
    run = Comparison(
        folder=Path(folder),
        settings=chosen,
        samples=samples,
        arguments=with_records(arguments or {}),
        measured=measures.names,
        fps=fps,
        model=options_of(loaded).model,
        measures=measures,
    )
    check_comparison_folder(run.folder, resume=resume, force=force)
    if force:
        run.replace()
    else:
        run.read()
    try:
        carry_out(run, loaded, measures, workers=workers, batch=batch, report=report)
    finally:
        # After an error or Ctrl-C too: what is whole is worth its tables.
        if run.whole_samples():
            from stas.studies.page import write_report

            write_report(run)
    return run


def _setting(given: str | Setting | STASConfig) -> Setting:
    if isinstance(given, STASConfig):
        return Setting("config", given.to_dict())
    return given if isinstance(given, Setting) else read_setting(given)
