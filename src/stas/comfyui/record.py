"""Recording in ComfyUI: statistics of one sampling, and the library's pictures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from stas.activations import plots
from stas.activations.stats import ActivationStats
from stas.activations.sums import partial_sums, surface_sums
from stas.comfyui.attach import Attachment, Run, Sampling, block_numbers, check_dims
from stas.comfyui.steer import transformer_of
from stas.method.config import Blocks, RowBranch, STASConfig
from stas.method.detection import massive_from_magnitudes
from stas.method.steerer import Branches
from stas.method.tokens import TokenGrid, VideoTokens
from stas.method.window import Window


class Recording:
    """What the last sampling of a recorded model showed.

    Args:
        settings: How to record: the arguments of ActivationStats.
        name: What pictures call the model.
    """

    def __init__(self, settings: Mapping[str, Any], name: str) -> None:
        self.settings = settings
        self.name = name
        self.filename_prefix = ""
        self._stats: ActivationStats | None = None

    @property
    def stats(self) -> ActivationStats:
        """The statistics.

        Raises:
            ValueError: Nothing was recorded: no sampling ran to its end with this model.
        """
        if self._stats is None or not self._stats.cells:
            raise ValueError(
                "Nothing was recorded. Sample with the model that STAS Record gives, and connect "
                "the sampler's output to after, so that the plots are made when it has ended."
            )
        return self._stats

    def start(self, attachment: Attachment) -> RecordedSampling:
        """Record a sampling; what an earlier one showed is forgotten."""
        self._stats = None
        return RecordedSampling(attachment, self)

    def keep(self, stats: ActivationStats) -> None:
        """A sampling ran to its end."""
        self._stats = stats


class RecordedSampling(Sampling):
    """Records one sampling, changing no bit of it."""

    def __init__(self, attachment: Attachment, recording: Recording) -> None:
        super().__init__(attachment, Window(0.0, 1.0))
        self._recording = recording
        self._stats = ActivationStats(**recording.settings)

    def forward(
        self, video: VideoTokens, branches: Branches, device: torch.device, run: Run
    ) -> Any:
        """Record one forward."""
        samples: list[RowBranch] = ["other"] * video.batch
        for branch, rows in branches:
            for sample in range(video.batch)[rows or slice(None)]:
                samples[sample] = branch
        return run((video.grid, samples))

    def act(
        self,
        forward: tuple[TokenGrid, Sequence[RowBranch]],
        number: int,
        tokens: torch.Tensor,
        whole: bool,
    ) -> bool:
        """Take the sums of each sample at a block."""
        grid, samples = forward
        branches: Sequence[RowBranch] = samples if whole else ["other"] * tokens.shape[0]
        stats = self._stats
        if number in stats.map_blocks and not stats.map_dims:
            magnitudes = tokens.abs().float().mean(dim=(0, 1))
            found = massive_from_magnitudes([magnitudes])
            stats.map_dims = found.dims[:3] or found.strongest[:1]
        step, num_steps = self.clock.step, self.clock.num_steps or 1
        for branch, values in zip(branches, tokens, strict=True):
            partial = partial_sums(values, grid, stats.boundary).cpu()
            stats.add(step, num_steps, branch, number, partial, grid)
            if number in stats.map_blocks:
                chosen = values[:, list(stats.map_dims)].abs().float().T
                chosen = chosen.unflatten(1, (grid.frames, grid.height, grid.width))
                stats.add_maps(number, surface_sums(values).cpu(), chosen.cpu())
        return True

    def finish(self) -> None:
        """Keep what was recorded."""
        self._recording.keep(self._stats)


def record_model(
    model: Any, *, blocks: Blocks, map_blocks: Blocks, map_dims: Sequence[int]
) -> tuple[Any, Recording]:
    """A clone of a ModelPatcher whose samplings are recorded, and what they show.

    Args:
        model: The ModelPatcher.
        blocks: Blocks to record, as of STASConfig.
        map_blocks: Recorded blocks of which maps over the tokens are kept.
        map_dims: Dimensions of these maps; empty for the strongest in the first forward.

    Raises:
        ValueError: The model is not known, has no such block or dimension, or a mapped block is not
            recorded.
    """
    transformer = transformer_of(model)
    # Known before the attachment: the blocks that it counts are those of the statistics.
    attachment = Attachment("stas_record", transformer, blocks, lambda own: recording.start(own))
    check_dims(map_dims, attachment.row, transformer)
    mapped = block_numbers(map_blocks, attachment.num_blocks)
    if missing := sorted(set(mapped) - set(attachment.numbers)):
        raise ValueError(
            f"map_blocks must be among the recorded blocks, but {missing} are not. Recorded are "
            f"{attachment.numbers}."
        )
    row = attachment.row.transformer
    settings = {
        "blocks": attachment.numbers,
        "width": attachment.row.feature_width(transformer),
        "boundary": STASConfig().boundary,
        "map_blocks": mapped,
        "map_dims": tuple(map_dims),
        "metadata": {"transformer": row, "torch": torch.__version__, "attached": "ComfyUI"},
    }
    recording = Recording(settings, row)
    return attachment.attach(model), recording


def pictures(stats: ActivationStats, name: str) -> torch.Tensor:
    """The map over the latent frames, the ratios and the steps, as ComfyUI's images.

    Args:
        stats: What was recorded, with a map of one dimension at least.
        name: What the titles call the model.

    Returns:
        (3, height, width, 3), float32 from 0 to 1, padded with white to one size.
    """
    block = stats.map_blocks[0]
    figures = [
        plots.token_map(stats, name=name, dims=stats.map_dims, block=block),
        plots.ratios(stats, name=name),
        plots.steps(stats, name=name, block=block),
    ]
    drawn = [_pixels(figure) for figure in figures]
    height, width = (max(each.shape[axis] for each in drawn) for axis in (0, 1))
    images = torch.ones(len(drawn), height, width, 3)
    for image, each in zip(images, drawn, strict=True):
        image[: each.shape[0], : each.shape[1]] = each
    return images


def _pixels(figure: Figure) -> torch.Tensor:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    pixels = np.array(Image.open(buffer).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels) / 255
