"""The command line: `stas generate` and the rest. A thin shell over the library.

torch and diffusers are imported inside the commands, so that `stas --help` answers at once, and
after all that can be checked without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from stas.cli.say import _step_bar, _video_bar, console, notes
from stas.method.config import STASConfig
from stas.pipelines.manifest import Manifest

if TYPE_CHECKING:
    from stas.activations.stats import ActivationStats
    from stas.hooks.steer import SteeringHandle
    from stas.pipelines.options import PipelineOptions


class _Maker:
    """Makes videos with one loaded pipeline."""

    def __init__(self, options: PipelineOptions, *, threads: int | None = None) -> None:
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        for logging in (diffusers_logging, transformers_logging):
            logging.disable_progress_bar()
            logging.set_verbosity_error()
        import torch

        from stas.pipelines.load import load_pipeline

        self._said: list[str] = []
        self.options = options.resolved()
        if threads and self.options.device == "cpu":
            torch.set_num_threads(threads)  # it decides the order of additions
        with notes.status(f"Loading {self.options.model}"):
            self.pipeline = load_pipeline(self.options)

    def _say(self, handle: SteeringHandle | None) -> None:
        """Say what was steered, where that is news."""
        lines = [] if handle is None else handle.summary().splitlines()[1:-1]
        if lines != self._said:
            for line in lines:
                notes.print(escape(line))
        self._said = lines

    @property
    def transformer(self) -> Any:
        """The transformer, the first of two experts."""
        return self.pipeline.transformer or self.pipeline.transformer_2

    def profile_dims(self) -> tuple[int, ...]:
        """The massive dimensions of the model's profile, none without a profile."""
        from stas.activations.profiles import find_profile

        config, name = self.transformer.config, type(self.transformer).__name__
        found = find_profile(getattr(self.pipeline, "name_or_path", None), name, config)
        return found.dims if found else ()

    def record(
        self, prompts: list[str], arguments: dict[str, Any], path: Path, **options: Any
    ) -> ActivationStats:
        """Record videos with a bar of them and their steps."""
        from stas.pipelines.recorder import record_videos

        with _video_bar(len(prompts)) as report:
            return record_videos(
                self.pipeline,
                prompts,
                arguments,
                path,
                revision=self.options.revision,
                report=report,
                **options,
            )

    def check(self, arguments: dict[str, Any], steering: STASConfig | None) -> None:
        """Raise what is wrong with a request before anything is computed."""
        from stas.hooks.steer import steer
        from stas.pipelines.arguments import call_arguments
        from stas.pipelines.model import frames_per_second

        call_arguments(self.pipeline, arguments)
        frames_per_second(self.pipeline)
        if steering is not None:
            with steer(self.pipeline, steering):
                pass

    def make(
        self,
        arguments: dict[str, Any],
        seed: int,
        steering: STASConfig | None,
        place: Path,
        *,
        prompt_file: Any,
        fps: float | None,
        label: str,
    ) -> Manifest:
        """Make one video, its strip and its manifest."""
        from contextlib import nullcontext

        from stas.files import whole_file
        from stas.hooks.steer import steer
        from stas.media.pictures import strip
        from stas.media.video import write_mp4
        from stas.pipelines.arguments import call_arguments
        from stas.pipelines.prompts import Sample
        from stas.pipelines.sample import make_sample

        arguments = call_arguments(self.pipeline, arguments)
        sample = Sample(place.stem, arguments["prompt"], seed, prompt_file)
        with (
            nullcontext() if steering is None else steer(self.pipeline, steering) as handle,
            _step_bar(label, handle) as report,
        ):
            frames, record = make_sample(
                self.pipeline,
                sample,
                arguments,
                handle,
                options=self.options,
                fps=fps,
                report=report,
            )
        self._say(handle)
        place.parent.mkdir(parents=True, exist_ok=True)
        # The last to open is the first to appear: a manifest only beside its video and strip.
        with (
            whole_file(place.with_suffix(".json")) as manifest,
            whole_file(place.with_suffix(".png")) as poster,
            whole_file(place) as video,
        ):
            write_mp4(video, frames, record.fps)
            strip(frames).save(poster)
            manifest.write_text(record.to_json(), encoding="utf-8")
        count, height, width = frames.shape[:3]
        length = f"{count} frame{'' if count == 1 else 's'}"
        steered = "steered" if _was_steered(record) else "not steered"
        console.print(
            f"{escape(str(place))} ({length}, {width}x{height}, {record.fps:g} fps) "
            f"made in {record.seconds:.1f} s, {steered}"
        )
        return record


def _was_steered(record: Manifest) -> bool:
    return any(entry["steered_forwards"] for entry in (record.dims or {}).values())
