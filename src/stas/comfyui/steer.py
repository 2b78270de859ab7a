"""Steering in ComfyUI, and finding the dimensions to steer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stas.activations.profiles import Profile, cache_folder
from stas.assets import shipped
from stas.comfyui.attach import Attachment, Run, Sampling, check_dims, log
from stas.comfyui.table import ComfyModel
from stas.method.config import STASConfig
from stas.method.detection import massive_from_magnitudes
from stas.method.steerer import Branches, SteeredDims, SteeredForward, Steerer
from stas.method.tokens import VideoTokens
from stas.method.window import Window


class _Steerer(Steerer):
    """Warns where ComfyUI's users look."""

    def warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("STAS: %s", text)


class SteeredSampling(Sampling):
    """Steers one sampling.

    Args:
        attachment: What it is of.
        config: How to steer.
        dims: What to steer; `numbers` None detects them.
    """

    def __init__(self, attachment: Attachment, config: STASConfig, dims: SteeredDims) -> None:
        super().__init__(attachment, config.window)
        self.steerer = _Steerer(config, dims, self.clock, attachment.row.transformer)
        self._steps: set[int] = set()

    def forward(
        self, video: VideoTokens, branches: Branches, device: torch.device, run: Run
    ) -> Any:
        """Steer one forward, or detect; with a forward of its own where no step can be spared."""
        steerer = self.steerer
        if not branches and len(steerer.config.branches) == 1:
            raise RuntimeError(
                f"Only the {steerer.config.branches[0]} branch is to be steered, but which rows of "
                "the batch it has under this guider is not known. Set branches to both."
            )
        if steerer.wants_a_look(video, branches) and not self.cached:
            run(steerer.look(video))
            how = "on an extra forward, as the window has few steps"
            steerer.detect(self.found, how=how)
        forward = steerer.begin(video, branches, device)
        output = run(forward)
        if forward is None or not self.acted:
            return output
        if not steerer.end(forward, self.found, whole=self.cached):
            if not self.cached:  # made again, to find what is massive here
                return self.forward(video, branches, device, run)
            steerer.detect(self.found, whole=True)
        if forward.dims:
            self._steps.add(self.clock.step)
        return output

    def act(
        self, forward: SteeredForward, number: int, tokens: torch.Tensor, whole: bool
    ) -> torch.Tensor | None:
        """Steer the tokens in place, or read their magnitudes."""
        if forward.rows is not None and not whole:
            raise RuntimeError(
                f"Only the {self.steerer.config.branches[0]} branch is to be steered, but another "
                f"node splits the batch at block {number}, and which rows it runs is not known. "
                "Set branches to both."
            )
        return self.steerer.act(forward, tokens, "BND")

    def finish(self) -> None:
        """Say what was steered."""
        attachment, dims = self.attachment, self.steerer.dims
        if not self._steps:
            log.warning("STAS: no step of this sampling was steered: %s.", self._why_not())
            return
        steps = sorted(self._steps)
        log.info(
            "STAS: steered %d of %d steps (%d to %d) at %d of %d blocks (%s), dims %s: %s",
            len(steps),
            self.clock.num_steps,
            steps[0],
            steps[-1],
            len(attachment.numbers),
            attachment.num_blocks,
            ", ".join(map(str, attachment.numbers)),
            ", ".join(map(str, dims.numbers or ())),
            dims.source,
        )

    def _why_not(self) -> str:
        dims = self.steerer.dims
        if self.clock.never:
            return "the window of start_percent and end_percent has none of its steps"
        if dims.numbers == ():
            return dims.source
        if dims.numbers is None:
            return "no dimension was detected"
        return "no block ran in a steered step, as caches of whole steps do"


class LookingSampling(Sampling):
    """Reads mean magnitudes at every block, and changes nothing."""

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment, Window(0.0, 1.0))
        nothing = SteeredDims(numbers=None, origin="detected", source="")
        self._steerer = _Steerer(STASConfig(), nothing, self.clock, attachment.row.transformer)

    def forward(
        self, video: VideoTokens, branches: Branches, device: torch.device, run: Run
    ) -> Any:
        """Read one forward."""
        return run(self._steerer.look(video))

    def act(
        self, forward: SteeredForward, number: int, tokens: torch.Tensor, whole: bool
    ) -> torch.Tensor | None:
        """Mean |h| of each dimension."""
        return self._steerer.act(forward, tokens, "BND")

    def finish(self) -> None:
        """What was read is told by `report`."""

    def report(self) -> tuple[str, str]:
        """The massive dimensions at the middle block for `dims` of STAS Steer, and all in words."""
        found, row = self.found, self.attachment.row.transformer
        middle = len(found) // 2
        here, everywhere = (
            massive_from_magnitudes([each for each in some if each is not None])
            for some in (found[middle : middle + 1], found)
        )
        dims = ", ".join(map(str, here.dims)) or "none"
        lines = [f"{row}, {len(found)} blocks", f"massive at the middle block ({middle}): {dims}"]
        for name, each in ((f"block {middle}", here), ("median of all blocks", everywhere)):
            lines.append(f"{name}: {each.describe() or 'not finite'}")
        if not here.dims:
            lines.append(
                f"No dimension reaches {here.threshold:g} times the mean: none is steered."
            )
        return dims, "\n".join(lines)


def steer_model(model: Any, config: STASConfig, dims: SteeredDims) -> Any:
    """A clone of a ModelPatcher whose samplings are steered.

    Args:
        model: The ModelPatcher.
        config: How to steer.
        dims: What to steer.

    Raises:
        ValueError: The model is not known, or has no such block or dimension.
    """
    transformer = transformer_of(model)
    attachment = Attachment(
        "stas", transformer, config.blocks, lambda own: SteeredSampling(own, config, dims)
    )
    check_dims(dims.numbers or (), attachment.row, transformer)
    return attachment.attach(model)


def transformer_of(model: Any) -> Any:
    """The transformer of a ModelPatcher, a compiled one unwrapped.

    Raises:
        ValueError: It makes images.
    """
    transformer = model.get_model_object("diffusion_model")
    if getattr(model.model.latent_format, "latent_dimensions", 3) == 2:
        raise ValueError(
            f"{type(model.model).__name__} makes images, and STAS steers videos. Connect a video "
            "model: Wan, HunyuanVideo, LTX-Video, Mochi, Cosmos, CogVideoX, Kandinsky 5 or MiniMax "
            "H3."
        )
    return getattr(transformer, "_orig_mod", transformer)


def profile_dims(row: ComfyModel, transformer: Any) -> SteeredDims:
    """The dimensions of the profile that fits a transformer's architecture.

    ComfyUI does not keep where weights came from, so several checkpoints may fit; the dimensions
    are checked on the first steered forward, and detected anew where they are not massive.

    Raises:
        ValueError: No profile fits, or several do that differ.
    """
    found = [
        profile
        for profile in map(Profile.load, _profiles())
        if row.diffusers and profile.fits(row.diffusers, row.config_of(transformer))
    ]
    if not found:
        raise ValueError(
            f"No profile fits this {row.transformer}. Set dims to auto, or to numbers that STAS "
            "Find Dims shows."
        )
    if len({profile.dims for profile in found}) > 1:
        text = "; ".join(profile.describe() for profile in found)
        raise ValueError(f"Several profiles fit, and they differ: {text}. Name the dims you want.")
    return SteeredDims(numbers=found[0].dims, origin="profile", source=found[0].describe())


def _profiles() -> list[Path]:
    return [*shipped("profiles", ".json").values(), *sorted(cache_folder().glob("*.json"))]
