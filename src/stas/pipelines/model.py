"""LoadedPipeline: a diffusers pipeline with how it was loaded, and what can be asked of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stas.activations.profiles import Profile, find_profile
from stas.checks import FRAMES, check_fps, expect
from stas.hooks.steer import SteeringHandle, steer
from stas.hooks.targets import source_of
from stas.media.video import Frames, to_frames
from stas.method.config import STASConfig
from stas.method.frames import FrameMap
from stas.models.registry import find_spec, supported_text
from stas.models.spec import ModelSpec, UnsupportedModelError
from stas.pipelines.arguments import call_arguments, default_arguments
from stas.pipelines.inputs import opened
from stas.pipelines.options import PipelineOptions, absolute
from stas.pipelines.progress import progress_to

DEFAULTS_FILE = "defaults.json"  # a model folder may say what its pipeline is best called with


class LoadedPipeline:
    """A diffusers pipeline with how it was loaded, by `stas.load_pipeline` or by yourself.

    Args:
        pipeline: The diffusers pipeline.
        options: How it was loaded; of your own pipeline what it says of itself.

    Raises:
        TypeError: It is no pipeline.

    Example:
        >>> from stas import load_pipeline
        >>> loaded = load_pipeline("bundled", device="cpu")
        >>> loaded
        LoadedPipeline(WanPipeline, 'bundled', cpu, float32)
        >>> loaded.fps, loaded.frame_map.num_latent_frames(81)
        (8.0, 21)
    """

    def __init__(self, pipeline: Any, options: PipelineOptions | None = None) -> None:
        if isinstance(pipeline, type | str | torch.nn.Module) or not callable(pipeline):
            raise TypeError(f"Expected a diffusers pipeline, but got {pipeline!r:.80}.")
        self.pipeline = pipeline
        named = str(getattr(pipeline, "name_or_path", None) or "")
        if options is None:
            dtype = str(getattr(pipeline, "dtype", torch.float32)).removeprefix("torch.")
            options = PipelineOptions(
                model=absolute(named or self.name),
                device=str(getattr(pipeline, "device", "cpu")),
                dtype=dtype,  # type: ignore[arg-type]  # any that a pipeline may have
            )
        self.options = options
        # At once: a path that was given relative is another one when the working folder changes.
        self._folder = Path(named).absolute() if named else None
        self.warned: set[str] = set()  # what was warned of already

    def __repr__(self) -> str:
        options = self.options
        return f"LoadedPipeline({self.name}, {options.model!r}, {options.device}, {options.dtype})"

    @property
    def name(self) -> str:
        """The pipeline's class."""
        return type(self.pipeline).__name__

    @property
    def transformer(self) -> Any:
        """The first transformer that has a row, a compiled one unwrapped; None if there is none."""
        components = getattr(self.pipeline, "components", {})
        parts = [getattr(part, "_orig_mod", part) for part in components.values()]
        return next((part for part in parts if find_spec(part) is not None), None)

    @property
    def spec(self) -> ModelSpec:
        """The row of the transformer.

        Raises:
            UnsupportedModelError: It has no transformer with a row.
        """
        spec = find_spec(self.transformer)
        if spec is None:
            raise UnsupportedModelError(f"{self.name} has no known transformer. {supported_text()}")
        return spec

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """What the model's folder says that its pipeline is best called with, and its fps.

        Raises:
            ValueError: The folder's `defaults.json` is not an object with a number for fps.
        """
        if self._folder is None or not (path := self._folder / DEFAULTS_FILE).is_file():
            return {}
        try:
            defaults = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(defaults, dict):
                raise ValueError("expected an object")
            check_fps(defaults.get("fps", 1))
        except (RecursionError, ValueError) as error:
            raise ValueError(f"{path} does not hold a model's defaults: {error}") from error
        return defaults

    @property
    def fps(self) -> float:
        """What videos of this model are meant to be played at."""
        if (stated := self.defaults.get("fps")) is not None:
            return float(stated)
        return 8 if self.transformer is None else self.spec.loading.fps

    @property
    def vae_frame_map(self) -> FrameMap | None:
        """The map of the VAE, whatever the pipeline decodes at once; None where it doesn't say."""
        loading = self.spec.loading
        ratio = self.compression("temporal") or loading.frame_step
        return None if ratio is None else FrameMap(ratio, loading.causal, loading.frame_step)

    @property
    def frame_map(self) -> FrameMap:
        """Which pixel frames the latent frames of the pipeline's videos cover.

        Raises:
            UnsupportedModelError: It has no transformer with a row.
            ValueError: It decodes its videos part by part, so that each part has a map of its own,
                or neither it nor its VAE says how many pixel frames a latent frame has.
        """
        if self.name in self.spec.loading.chunked:
            raise ValueError(
                f"{self.name} decodes its videos part by part, so one map does not hold for a "
                "whole video."
            )
        found = self.vae_frame_map
        if found is None:
            raise ValueError(
                f"{self.name} does not say how many pixel frames a latent frame has. Give its VAE "
                "a temporal_compression_ratio, or its row a frame_step."
            )
        return found

    def compression(self, axis: Literal["temporal", "spatial"]) -> int | None:
        """Pixel frames, or rows, of one latent one; None when the pipeline does not say."""
        names = (
            f"vae_scale_factor_{axis}",
            f"vae_{axis}_compression_ratio",
            f"vae_{axis}_scale_factor",
            *(["vae_scale_factor"] if axis == "spatial" else []),
        )
        vae = getattr(self.pipeline, "vae", None)
        config = getattr(vae, "config", None)
        places = [(self.pipeline, name) for name in names]
        # The config before the VAE: diffusers warns of reading the config's fields through the VAE.
        places += [(config, f"scale_factor_{axis}"), (config, f"{axis}_compression_ratio")]
        places += [(vae, f"{axis}_compression_ratio")]
        for owner, name in places:
            if (value := getattr(owner, name, None)) is not None:
                expect(
                    int(value) >= 1,
                    f"{name} of {self.options.model!r} must be 1 or more, but got {value}: the "
                    "config.json of its VAE is damaged",
                )
                return int(value)
        return None

    def profile(self) -> Profile | None:
        """The profile of the transformer's checkpoint, None without one."""
        transformer = self.transformer
        return find_profile(source_of(transformer), self.spec.transformer, transformer.config)

    def arguments(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments to call the pipeline with, checked before anything is computed.

        Args:
            wanted: Arguments by the pipeline's own names; None stands for the default: what the
                model's `defaults.json` says, else the pipeline's own. `num_frames` also stands for
                what the pipeline calls its frames, and `guidance_scale` for the scale of
                classifier-free guidance (HunyuanVideo: `true_cfg_scale`, unless that is given too).
                A picture or a video may be a file's path; `image` and `control` also stand for what
                the pipeline calls them.

        Returns:
            The arguments that are not left to the pipeline, by its own names; of files, see
            `stas.pipelines.inputs.with_records`.

        Raises:
            FileNotFoundError: There is no such picture or video.
            ValueError: The pipeline takes no such argument, needs one that is not given, or its VAE
                and patches can't make that size or number of frames.

        Example:
            >>> from stas import load_pipeline
            >>> loaded = load_pipeline("bundled", device="cpu")
            >>> loaded.arguments({"prompt": "a red circle", "num_frames": 9})["num_frames"]
            9
            >>> loaded.arguments({"prompt": "a red circle", "num_frames": 10})
            Traceback (most recent call last):
            ...
            ValueError: The VAE can't make a video of 10 frames: it makes 1 + 4 * n. The nearest \
are 9 and 13.
        """
        return call_arguments(self, wanted)

    def check(self, wanted: Mapping[str, Any], config: STASConfig | None = None) -> dict[str, Any]:
        """See that a video can be made and steered, and computes nothing.

        Args:
            wanted: As for `arguments`.
            config: How to steer; None for not at all.

        Returns:
            The arguments of the call.

        Raises:
            ValueError: What `arguments`, `fps` or `stas.steer` refuses.
        """
        arguments, _ = self.arguments(wanted), self.fps
        with self.steered(config):
            return arguments

    def check_comparable(self, arguments: Mapping[str, Any]) -> None:
        """See that a call makes a video that can be measured from frame to frame.

        Raises:
            ValueError: It makes one frame, or `frame_map` refuses.
        """
        if any(arguments.get(name) == 1 for name in FRAMES):
            raise ValueError("One frame has no transition to be compared: ask for more frames.")
        _ = self.frame_map

    @contextmanager
    def steered(self, config: STASConfig | None) -> Iterator[SteeringHandle | None]:
        """Steer the pipeline within; with None for a config it is left as it is."""
        if config is None:
            yield None
        else:
            with steer(self.pipeline, config) as handle:
                yield handle

    def check_batch(self, size: int) -> None:
        """See that the pipeline makes so many videos in one call.

        Raises:
            ValueError: It refuses that, or makes other videos of it than of each prompt alone.
        """
        if size > 1 and self.name not in self.spec.loading.batched:
            raise ValueError(
                f"{self.name} can't make {size} videos in one call, or does not make them as it "
                "makes each alone. Leave the batch out."
            )

    def generate(
        self,
        arguments: Mapping[str, Any],
        seed: int,
        *,
        report: Callable[[int, int], None] | None = None,
    ) -> Frames:
        """Make one video; the noise comes from the CPU, so that a seed means the same everywhere.

        Args:
            arguments: What `arguments` returned.
            seed: Of the noise, 0 or more.
            report: Called with (finished steps, all steps) as denoising goes on, in place of the
                pipeline's own progress bar.

        Returns:
            (T, H, W, 3), uint8.

        Raises:
            ValueError: The video has NaN or infinite pixels, or the pipeline returned none.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        return to_frames(self._call({**arguments, "generator": generator}, report)[0])

    def generate_batch(
        self,
        calls: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        *,
        report: Callable[[int, int], None] | None = None,
    ) -> list[Frames]:
        """Make several videos in one call; each as alone, but for the noise of floating point.

        Args:
            calls: What `arguments` returned for each; they differ in their prompts and negative
                prompts alone.
            seeds: One each.
            report: As of `generate`.

        Returns:
            For each, (T, H, W, 3), uint8. Of one call what `generate` returns, bit for bit.

        Raises:
            ValueError: What `check_batch` and `generate` refuse, or the pipeline returned another
                number of videos.
        """
        if len(calls) == 1:
            return [self.generate(calls[0], seeds[0], report=report)]
        self.check_batch(len(calls))
        negative = {call.get("negative_prompt") for call in calls}
        if len(negative) > 1 and None in negative:
            raise ValueError(
                "Some of the prompts have a negative prompt and others have none, so they can't be "
                "made in one call. Leave the batch out, or give all one."
            )
        texts = ["prompt", *(["negative_prompt"] if len(negative) > 1 else [])]
        videos = self._call(
            {
                **calls[0],
                **{name: [call[name] for call in calls] for name in texts},
                "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            },
            report,
        )
        if len(videos) != len(calls):
            raise ValueError(
                f"{self.name} returned {len(videos)} videos for {len(calls)} prompts. Leave the "
                "batch out."
            )
        return [to_frames(video) for video in videos]

    def _call(
        self, arguments: Mapping[str, Any], report: Callable[[int, int], None] | None
    ) -> Sequence[Any]:
        with progress_to(self.pipeline, report or (lambda done, total: None)):
            return _videos(self.pipeline(**opened(arguments), output_type="np"))


def defaults(pipeline: Any) -> dict[str, Any]:
    """The arguments that a model is best called with, as `stas generate` calls it.

    Args:
        pipeline: A diffusers pipeline, or what `stas.load_pipeline` returned.

    Returns:
        What the model's folder says in its `defaults.json`: size, frames, steps, guidance, by the
        pipeline's own names; empty where it leaves all to the pipeline, as models of the hub do.

    Raises:
        TypeError: It is no pipeline.
        ValueError: That file is not what it should be.

    Example:
        >>> from stas import load_pipeline
        >>> defaults(load_pipeline("bundled", device="cpu"))["num_inference_steps"]
        30
    """
    loaded = pipeline if isinstance(pipeline, LoadedPipeline) else LoadedPipeline(pipeline)
    if not isinstance(getattr(loaded.pipeline, "components", None), Mapping):
        raise TypeError(f"Expected a diffusers pipeline, but got {pipeline!r:.80}.")
    return default_arguments(loaded)


def _videos(result: Any) -> Sequence[Any]:
    """The videos of what a pipeline returned: each (T, H, W, 3), one frame for an image."""
    for name, axes in (("frames", 5), ("video", 5), ("images", 4)):
        found = getattr(result, name, None)
        if found is not None:
            found = np.asarray(found)
            if found.ndim < axes:  # Cosmos 3 returns its one video without a batch
                found = found[None]
            return list(found if name != "images" else found[:, None])
    raise ValueError(f"The pipeline returned no video but a {type(result).__name__}.")
