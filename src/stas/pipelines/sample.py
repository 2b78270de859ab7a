"""One video of a prompt and a seed, with the record to make it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from time import monotonic
from typing import Any

from stas.hooks.steer import SteeringHandle
from stas.media.video import Frames
from stas.pipelines.manifest import (
    Manifest,
    device_name,
    dims_record,
    frames_record,
    model_record,
    versions_record,
)
from stas.pipelines.model import frames_per_second, generate
from stas.pipelines.options import PipelineOptions
from stas.pipelines.prompts import Sample


def make_sample(
    pipeline: Any,
    sample: Sample,
    arguments: Mapping[str, Any],
    handle: SteeringHandle | None,
    *,
    options: PipelineOptions,
    fps: float | None = None,
    report: Callable[[int, int], None] | None = None,
) -> tuple[Frames, Manifest]:
    """Make one video.

    Args:
        pipeline: A pipeline from `load_pipeline`.
        sample: What to make.
        arguments: What `call_arguments` returned, the sample's prompt among them.
        handle: What steers the pipeline, None for nothing.
        options: What the pipeline was loaded with.
        fps: Of the file; the model's own by default.
        report: Called with (finished steps, all steps) as denoising goes on.

    Returns:
        The frames (T, H, W, 3), uint8, and their manifest.
    """
    started = monotonic()
    frames = generate(pipeline, arguments, sample.seed, report=report)
    seconds = monotonic() - started
    return frames, Manifest(
        pipeline=asdict(options),
        model=model_record(pipeline, options.revision),
        arguments=arguments,
        prompt_file=sample.prompt_file,
        seed=sample.seed,
        fps=frames_per_second(pipeline) if fps is None else fps,
        steering=None if handle is None else handle.config.to_dict(),
        dims=None if handle is None else dims_record(handle),
        frames=frames_record(frames),
        versions=versions_record(),
        device=device_name(options.device),
        seconds=round(seconds, 2),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
    )
