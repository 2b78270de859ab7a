"""Pixel frames and latent frames of a video VAE."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FrameMap:
    """Pixel frames and latent frames of a video VAE.

    A causal VAE encodes the first pixel frame alone: P = 1 + t * (F - 1), and latent frame f >= 1
    covers pixel frames 1 + t * (f - 1) ... t * f. Otherwise P = t * F.

    Args:
        ratio: t, pixel frames per latent frame, at least 1.
        causal: Whether the first pixel frame has a latent frame of its own.
        step: Videos have 1 + step * n pixel frames (step * n if not causal); None when that is t.

    Raises:
        ValueError: A ratio below 1, or a step that is no multiple of it.

    Example:
        >>> wan = FrameMap(ratio=4, causal=True)
        >>> wan.latent_frame(28), wan.latent_frame(29), wan.is_cross_chunk(28)
        (7, 8, True)
    """

    ratio: int
    causal: bool = True
    step: int | None = None

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise ValueError(f"ratio must be at least 1, but got {self.ratio}.")
        if self.step is not None and (self.step < 1 or self.step % self.ratio):
            raise ValueError(f"step must be a multiple of {self.ratio}, but got {self.step}.")

    def num_latent_frames(self, pixel_frames: int) -> int:
        """F for a video of `pixel_frames` frames.

        Raises:
            ValueError: The VAE can't make that number; the message names the nearest two.
        """
        lead = 1 if self.causal else 0
        step = self.step or self.ratio
        steps, rest = divmod(pixel_frames - lead, step)
        if rest or pixel_frames < 1:
            below = max(steps, 1 - lead) * step + lead
            form = f"1 + {step} * n" if self.causal else f"{step} * n"
            raise ValueError(
                f"The VAE can't make a video of {pixel_frames} frames: it makes {form}. "
                f"The nearest are {below} and {below + step}."
            )
        return (pixel_frames - lead) // self.ratio + lead

    def latent_frame(self, pixel_frame: int) -> int:
        """The latent frame that holds pixel frame `pixel_frame` (both from 0)."""
        if not self.causal:
            return pixel_frame // self.ratio
        return -(-pixel_frame // self.ratio)

    def pixel_frames(self, latent_frame: int) -> range:
        """The pixel frames that latent frame `latent_frame` covers (both from 0)."""
        if not self.causal:
            return range(self.ratio * latent_frame, self.ratio * (latent_frame + 1))
        if latent_frame == 0:
            return range(1)
        return range(1 + self.ratio * (latent_frame - 1), 1 + self.ratio * latent_frame)

    def video_frames(self, latent_frames: int) -> range:
        """The pixel frames of a video of `latent_frames` latent frames."""
        return range(self.pixel_frames(latent_frames - 1).stop)

    def is_cross_chunk(self, pixel_frame: int) -> bool:
        """Whether the transition `pixel_frame` -> `pixel_frame + 1` crosses latent frames."""
        return self.latent_frame(pixel_frame) != self.latent_frame(pixel_frame + 1)
