"""Settings: what one video is made from, and its forms: link, Python, command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from stas.activations.profiles import default_steering
from stas.assets import BUNDLED
from stas.checks import (
    FRAMES,
    DType,
    check_arguments,
    check_fps,
    dtype_name,
    expect,
    is_whole,
    one_of,
)
from stas.method.config import STASConfig
from stas.pipelines.arguments import GUIDANCE
from stas.pipelines.manifest import Manifest

Make = Literal["both", "on", "off"]
_CALL = {
    "negative_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "width": "width",
    "height": "height",
    "frames": "num_frames",
}
# What pipelines call them, the first that a manifest has.
_NAMES = {own: (name,) for own, name in _CALL.items()} | {"guidance": GUIDANCE, "frames": FRAMES}
_READ: dict[str, Any] = {"steps": int, "width": int, "height": int, "frames": int, "seed": int}
_READ |= {"guidance": float, "fps": float}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one video is made from; None leaves a value to the model.

    Args:
        prompt: What it shows.
        negative_prompt: What it is not to show.
        seed: Of the noise, 0 or more and below 2 ** 63.
        steps: Denoising steps.
        guidance: Scale of classifier-free guidance, 0 to 100.
        width, height: In pixels, both or neither.
        frames: Pixel frames.
        fps: Frames per second of the file.
        model: "bundled", a folder in diffusers' format, or a hub id.
        dtype: Of its weights, as of `stas.load_pipeline`.
        steering: How to steer.
        make: The video with steering, the one without, or both, side by side.

    Raises:
        ValueError: No prompt, half a size, or a value out of its range.

    Example:
        >>> settings = Settings(prompt="a red circle", steps=6)
        >>> Settings.from_query(settings.to_query()) == settings
        True
    """

    prompt: str
    negative_prompt: str | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    model: str = BUNDLED
    dtype: DType = "auto"
    steering: STASConfig = field(default_factory=STASConfig)
    make: Make = "both"

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("The prompt is empty: say what the video is to show.")
        fits = is_whole(self.seed, 0, 2**63)
        expect(fits, f"The seed must be 0 or more and below 2 ** 63, but got {self.seed}")
        if self.fps is not None:
            check_fps(self.fps)
        check_arguments(self.arguments)
        fits = self.guidance is None or 0 <= self.guidance <= 100
        expect(fits, f"guidance must be from 0 to 100, but got {self.guidance}")
        dtype_name(self.dtype)
        if (self.width is None) != (self.height is None):
            raise ValueError("Give width and height both, or neither.")
        one_of("make", self.make, get_args(Make))

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the pipeline's call, by its own names, the prompt left out."""
        return {name: getattr(self, own) for own, name in _CALL.items()}

    def _given(self) -> dict[str, Any]:
        found = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value for name, value in found.items() if name != "steering"}

    def _steering(self) -> dict[str, Any]:
        default = STASConfig().to_dict()
        now = self.steering.to_dict()
        return {name: value for name, value in now.items() if value != default[name]}

    def to_query(self) -> str:
        """As the query of a link to the app."""
        steering = self._steering()
        return urlencode(self._given() | ({"steering": json.dumps(steering)} if steering else {}))

    @classmethod
    def from_query(cls, query: str | Mapping[str, str]) -> Settings:
        """Read what `to_query` wrote.

        Raises:
            ValueError: A name that Settings does not have, or a value out of its range.
        """
        given = (
            dict(parse_qsl(query, keep_blank_values=True))
            if isinstance(query, str)
            else dict(query)
        )
        unknown = sorted(set(given) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"The link has unknown settings: {', '.join(unknown)}.")
        if "prompt" not in given:
            raise ValueError("The link has no prompt.")
        steering = STASConfig.from_dict(json.loads(given.pop("steering", "{}")))
        read: dict[str, Any] = {name: _READ.get(name, str)(text) for name, text in given.items()}
        return cls(**read, steering=steering)

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Settings:
        """The settings that a video was made from.

        Raises:
            ValueError: It says something that Settings does not have, which would be lost.
        """
        given = {name: each for name, each in manifest.arguments.items() if each is not None}
        prompt, call = given.pop("prompt"), {}
        for own, names in _NAMES.items():
            if name := next((each for each in names if each in given), None):
                call[own] = given.pop(name)
        lost = sorted(given)
        lost += [name for name in ("loras", "revision") if manifest.pipeline.get(name)]
        if lost:
            raise ValueError(
                f"This manifest has {', '.join(lost)}, of which there is no field here. "
                "`stas generate --manifest` makes its video again."
            )
        return cls(
            **call,
            prompt=prompt,
            seed=manifest.seed,
            fps=manifest.fps,
            model=manifest.pipeline.get("model", BUNDLED),
            dtype=manifest.pipeline.get("dtype", "auto"),
            steering=manifest.steering_config() or STASConfig(),
            make="off" if manifest.steering is None else "both",
        )

    def to_command(self, device: str = "auto") -> str:
        """The `stas generate` command for a device that makes the video: of both, the steered."""
        given = self._given() | ({} if device == "auto" else {"device": device})
        del given["make"]
        prompt, words = given.pop("prompt"), ["stas", "generate"]
        if self.width is not None:
            given["size"] = f"{given.pop('width')}x{given.pop('height')}"
        # Of a model whose steering was tuned, what is left out is as that says.
        default, steering = default_steering(self.model).to_dict(), self.steering.to_dict()
        if self.make != "off":
            given |= {name: each for name, each in steering.items() if each != default[name]}
        for name, value in given.items():
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{name.replace('_', '-')}={text}")
        words += ["--no-steer"] if self.make == "off" else []
        return shlex.join([*words, "--", prompt])  # a prompt may begin with a dash

    def to_python(self, device: str = "auto") -> str:
        """Python that makes the video on a device: of both, the steered one."""
        call = {"prompt": self.prompt} | self.arguments
        call = {name: value for name, value in call.items() if value is not None}
        made = f"frames = loaded.generate(arguments, {self.seed})\n"
        if self.make != "off":
            made = (
                f"config = stas.STASConfig.from_dict({self._steering()!r})\n"
                f"with stas.steer(loaded.pipeline, config):\n    {made}"
            )
        how = f"device={device!r}, dtype={self.dtype!r}"
        fps = "loaded.fps" if self.fps is None else repr(self.fps)
        return (
            "import stas\n\n"
            f"loaded = stas.load_pipeline({self.model!r}, {how})\n"
            f"arguments = loaded.arguments({call!r})\n"
            f"{made}"
            f'stas.write_mp4("video.mp4", frames, {fps})\n'
        )
