"""The record beside each video: all that is needed to make it again, bit for bit.

torch is imported where it is asked for its version, so that a manifest is read without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stas import __version__
from stas.checks import check_arguments, check_fps, expect, is_whole
from stas.method.config import STASConfig
from stas.pipelines.places import input_files

if TYPE_CHECKING:
    from stas.hooks.steer import SteeringHandle
    from stas.media.video import Frames


FORMAT = "stas.manifest/1"


PACKAGES = ("torch", "diffusers", "transformers")  # beside stas


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """How one video was made.

    Args:
        pipeline: Arguments of `stas.pipelines.load.load_pipeline`.
        model: What they loaded: pipeline class, and the commit of a hub model.
        arguments: Arguments of the pipeline's call, the prompt among them.
        prompt_file: Name and SHA-256 of the prompt list, if there was one, and as `line` where in
            it the prompt is, from 1; of a study, as `prompt` which of its prompts it is.
        seed: Of the noise.
        fps: Frames per second of the file.
        steering: The STASConfig as a dict, or None when nothing was steered.
        dims: For each transformer, the steered dimensions, their origin ("given", "profile" or
            "detected"), that in words, how many forwards were steered, and where, in words.
        frames: Number of frames, their size, and the SHA-256 of their 8-bit pixels.
        versions: Of the packages, of Python and of the machine's kind; CPU threads.
        device: Where it ran.
        seconds: How long the pipeline's call took.
        created: Local time, ISO 8601.
        batch: How many videos the call made and which of them this is, from 0: a batch's size
            changes the last bits. None for one alone.
    """

    pipeline: Mapping[str, Any]
    model: Mapping[str, Any]
    arguments: Mapping[str, Any]
    prompt_file: Mapping[str, Any] | None
    seed: int
    fps: float
    steering: Mapping[str, Any] | None
    dims: Mapping[str, Any] | None
    frames: Mapping[str, Any]
    versions: Mapping[str, Any]
    device: str
    seconds: float
    created: str
    batch: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for name in ("pipeline", "model", "arguments", "frames", "versions"):
            expect(isinstance(getattr(self, name), Mapping), f"{name} must be an object")
        seed_fits = is_whole(self.seed, 0, 2**63)
        expect(seed_fits, "seed must be an integer, 0 or more and below 2**63")
        check_fps(self.fps)
        threads = self.versions.get("threads", 1)
        expect(is_whole(threads, 1), "threads must be an integer above 0")
        expect(isinstance(self.arguments.get("prompt"), str), "arguments must hold a prompt")
        check_arguments(self.arguments)
        expect(isinstance(self.pipeline.get("loras", {}), Mapping), "loras must be an object")
        expect(isinstance(self.frames.get("sha256"), str), "frames must hold their sha256")
        if self.steering is not None:
            STASConfig.from_dict(self.steering)
            entries = self.dims.values() if isinstance(self.dims, Mapping) else [None]
            for entry in entries:
                known = isinstance(entry, Mapping) and isinstance(entry.get("dims"), list)
                expect(known, "dims must say which dimensions of each transformer were steered")

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a manifest.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Not a manifest; the message names the file and what is wrong with it.
        """
        names = {field.name for field in fields(cls)}
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            found = data.pop("format", None) if isinstance(data, dict) else None
            expect(found == FORMAT, f'expected an object with "format": "{FORMAT}"')
            unknown, missing = sorted(set(data) - names), sorted(names - {"batch"} - set(data))
            expect(not unknown, f"unknown keys {', '.join(unknown)}")
            expect(not missing, f"missing keys {', '.join(missing)}")
            manifest = cls(**data)
            input_files(manifest.arguments)  # refuses what names no file
            return manifest
        except (RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a manifest of stas generate: {error}") from error

    @property
    def steered(self) -> bool:
        """Whether any forward was steered."""
        # One that does not say is older than the count.
        return any(entry.get("steered_forwards", 1) for entry in (self.dims or {}).values())

    @property
    def known_dims(self) -> dict[str, Any] | None:
        """What `known_dims` said then; None where nothing was to be steered."""
        if self.steering is None:
            return None
        return {
            name: entry.get("known", None if entry.get("origin") == "detected" else entry["dims"])
            for name, entry in (self.dims or {}).items()
        }

    def dims_text(self) -> list[str]:
        """What was steered where, in words, a line for each transformer."""
        return [
            f"{entry.get('where', name)}, dims {', '.join(map(str, entry['dims'])) or 'none'}: "
            f"{entry.get('source', '')}"
            for name, entry in (self.dims or {}).items()
        ]

    def steering_config(self) -> STASConfig | None:
        """How to steer to get the same video: with the dimensions that a profile had then.

        Detected dimensions are detected again, since the forward that detects them is steered
        differently from one that knows them.
        """
        if self.steering is None:
            return None
        steering = dict(self.steering)
        profiles = {
            tuple(d["dims"]) for d in (self.dims or {}).values() if d.get("origin") == "profile"
        }
        if len(profiles) == 1:
            steering["dims"] = profiles.pop()
        return STASConfig.from_dict(steering)


def known_dims(handle: SteeringHandle) -> dict[str, Any]:
    """The dimensions that each transformer's steering began with; None of what is detected."""
    return {name: dims and list(dims) for name, dims in handle.known.items()}


def dims_record(handle: SteeringHandle) -> dict[str, Any]:
    """What a handle steered, and where it knew that from."""
    known = known_dims(handle)
    return {
        name: {
            "dims": list(dims or ()),
            "known": known[name],
            "origin": handle.origins[name],
            "source": handle.sources[name],
            "steered_forwards": handle.steered_forwards[name],
            "where": handle.where[name],
        }
        for name, dims in handle.dims.items()
    }


def frames_record(frames: Frames) -> dict[str, Any]:
    """Number, size and SHA-256 of a video's pixels."""
    count, height, width = frames.shape[:3]
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    return {"count": count, "height": height, "width": width, "sha256": digest}


def model_record(pipeline: Any, revision: str | None) -> dict[str, Any]:
    """The class of a pipeline and the commit of its hub model, if it has one."""
    from huggingface_hub import try_to_load_from_cache

    commit = None
    name = str(pipeline.name_or_path)
    if not Path(name).is_dir():
        cached = try_to_load_from_cache(name, "model_index.json", revision=revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else None
    return {"class": type(pipeline).__name__, "commit": commit}


def device_name(device: str) -> str:
    """What a device is called by its maker."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device} ({platform.processor() or platform.machine()})"


def versions_record() -> dict[str, Any]:
    """Versions of what decides the bits of a video."""
    import torch

    return package_versions() | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def package_versions() -> dict[str, str]:
    """Versions of stas and of the packages beneath it that decide a video's bits."""
    return {"stas": __version__} | {name: version(name) for name in PACKAGES}
