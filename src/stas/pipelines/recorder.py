"""Recording many videos into one file, which can be stopped and gone on with; and profiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from stas.activations.massive import RecordedMassiveActivations, find_massive_activations
from stas.activations.profiles import Profile
from stas.activations.stats import ActivationStats
from stas.hooks.record import record
from stas.method.config import Blocks
from stas.models.registry import find_spec
from stas.pipelines.model import LoadedPipeline

# Fields of a transformer's config that tell one size of a model from another.
ARCHITECTURE = ("num_layers", "num_attention_heads", "attention_head_dim", "hidden_size", "dim")


def record_videos(
    loaded: LoadedPipeline,
    prompts: Sequence[str],
    arguments: Mapping[str, Any],
    path: Path,
    *,
    seed: int = 0,
    blocks: Blocks = "all",
    boundary: float = 0.08,
    map_blocks: Blocks | None = None,
    map_dims: Sequence[int] = (),
    resume: bool = False,
    report: Callable[[int, int, int], None] | None = None,
) -> ActivationStats:
    """Record one video per prompt; after each, the file at `path` holds all that is finished.

    Args:
        loaded: A pipeline with one supported transformer.
        prompts: One video each, with seeds `seed`, `seed` + 1, ...
        arguments: Further arguments of the pipeline's call.
        path: The file of the statistics.
        seed: Of the first video.
        blocks: See `stas.record`, like those that follow.
        boundary: r.
        map_blocks: Blocks of which maps are kept.
        map_dims: Dimensions of the maps.
        resume: Go on with the file at `path`, which was recorded with the same of everything.
        report: Called with (finished videos, finished steps, steps) as it goes on.

    Returns:
        The statistics of all videos.

    Raises:
        ValueError: No prompts, or the file to go on with was recorded otherwise.
        OSError: The file can't be read or written.
    """
    if not prompts:
        raise ValueError("There are no prompts to record.")
    calls = [loaded.arguments({**arguments, "prompt": prompt}) for prompt in prompts]
    metadata = {
        "prompts": sha256("\n".join(prompts).encode()).hexdigest()[:16],
        "seed": str(seed),
        "arguments": str({k: v for k, v in sorted(calls[0].items()) if k != "prompt"}),
        "videos": str(len(prompts)),
        "revision": loaded.options.revision or "",
    }
    options: dict[str, Any] = {
        "blocks": blocks,
        "boundary": boundary,
        "map_blocks": map_blocks,
        "map_dims": map_dims,
        "metadata": metadata,
    }
    with record(loaded.pipeline, **options) as empty:
        total = empty.stats
    finished = 0
    if resume and path.exists():
        total, finished = _resumed(ActivationStats.load(path), total, path)
    for number in range(finished, len(prompts)):

        def tell(done: int, steps: int, number: int = number) -> None:
            if report is not None:
                report(number, done, steps)

        # A video that is broken off must leave nothing behind, so each has statistics of its own.
        with record(loaded.pipeline, **options) as recording:
            loaded.generate(calls[number], seed + number, report=tell)
        total.merge(recording.stats)
        total.metadata["finished"] = str(number + 1)
        total.save(path)
    return total


def _resumed(
    old: ActivationStats, empty: ActivationStats, path: Path
) -> tuple[ActivationStats, int]:
    """The statistics of an earlier run and how many videos they hold, if it is the same run."""
    wanted, found = dict(empty.metadata), dict(old.metadata)
    finished = int(found.pop("finished", "0"))
    for name in sorted(set(wanted) | set(found)):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{path} can't be gone on with: its {name} is {found.get(name)}, but now it is "
                f"{wanted.get(name)}. Record into another file."
            )
    old.merge(empty)  # refuses other blocks, boundary or maps
    return old, finished


def make_profile(
    stats: ActivationStats, transformer: Any, model: str
) -> tuple[Profile | None, RecordedMassiveActivations]:
    """The profile of a recorded model, None when no dimension of it is massive.

    Args:
        stats: What was recorded.
        transformer: The recorded transformer.
        model: Hub id, or the name that the profile is to give.
    """
    found = find_massive_activations(stats)
    spec = find_spec(transformer)
    if not found.dims or spec is None:
        return None, found
    config = transformer.config
    return (
        Profile(
            model=model,
            transformer=spec.transformer,
            config={name: config[name] for name in ARCHITECTURE if config.get(name) is not None},
            dims=found.dims,
            ratios=tuple(round(found.all_ratios[dim], 2) for dim in found.dims),
            source="measured",
            note=f"median over blocks and steps of mean |h| over its mean over dimensions; "
            f"{stats.metadata.get('finished', '?')} videos, prompts "
            f"{stats.metadata.get('prompts', '?')}",
        ),
        found,
    )
