"""One video of a prompt and a seed, with the record to make it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from stas.api import SteeringHandle
from stas.manifest import (
    Manifest,
    device_name,
    dims_record,
    frames_record,
    model_record,
    versions_record,
)
from stas.pipelines import PipelineOptions, frames_per_second, generate
from stas.video import Frames


@dataclass(frozen=True)
class Sample:
    """One prompt and seed. `name` is that of its files; `prompt_file` goes into the manifests."""

    name: str
    prompt: str
    seed: int
    prompt_file: Mapping[str, Any] | None = None


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
