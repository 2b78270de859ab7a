"""Recording one transformer: statistics of its blocks' outputs, never changing a bit of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from stas.hooks import TransformerHooks, outside_graphs
from stas.loop import LoopListener
from stas.models import ModelSpec
from stas.schedule import StepClock
from stas.stats import ActivationStats, RecordedBranch, partial_sums, surface_sums
from stas.tokens import Axes, TokenGrid


@dataclass
class _Forward:
    """What one forward showed, on its way from the device."""

    step: int
    num_steps: int
    grid: TokenGrid
    samples: list[RecordedBranch]
    partials: list[tuple[int, int, torch.Tensor]] = field(default_factory=list)  # block, sample
    maps: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    devices: set[torch.device] = field(default_factory=set)
    copied: list[torch.Event] = field(default_factory=list)


class TransformerRecording(TransformerHooks):
    """Records one transformer while attached.

    Sums are taken on the device. They come to the host in the background and are merged there
    when the next forward has been started, so that no forward waits.
    """

    hook_name: ClassVar[str] = "stas_record"
    verb = "record"

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        spec: ModelSpec,
        block_numbers: Sequence[int],
        clock: StepClock,
        listener: LoopListener | None,
        stats: ActivationStats,
    ) -> None:
        super().__init__(name, transformer, spec, block_numbers, clock, listener)
        self._stats = stats
        self._forward: _Forward | None = None
        self._pending: list[_Forward] = []

    @property
    def stats(self) -> ActivationStats:
        """All that was recorded so far."""
        self._merge()
        return self._stats

    @outside_graphs
    def begin(self, device: torch.device) -> bool:
        """Prepare for the samples of a forward."""
        num_steps = self.clock.num_steps or 1
        self._stats.check_steps(num_steps)
        samples: list[RecordedBranch] = ["other"] * self.video.batch
        for branch, rows in self.branch_rows():
            for sample in range(self.video.batch)[rows or slice(None)]:
                samples[sample] = branch
        self._forward = _Forward(self.clock.step, num_steps, self.video.grid, samples)
        return True

    @outside_graphs
    def act(self, index: int, tokens: torch.Tensor, axes: Axes) -> None:
        """Take the sums of each sample and send them to the host."""
        forward, block = self._forward, self.block_numbers[index]
        if forward is None:
            return
        forward.devices.add(tokens.device)
        with torch.no_grad():
            # Where FasterCache leaves the uncond rows out, the last ones are there.
            left_out = self.video.batch - tokens.shape[0]
            for sample, values in enumerate(self.video.raster(tokens), start=left_out):
                partial = partial_sums(values, forward.grid, self._stats.boundary)
                forward.partials.append((block, sample, _to_host(partial)))
                if block in self._stats.map_blocks:
                    grid = (forward.grid.frames, forward.grid.height, forward.grid.width)
                    chosen = values[:, list(self._stats.map_dims)].abs().float().T
                    forward.maps.append(
                        (block, _to_host(surface_sums(values)), _to_host(chosen.unflatten(1, grid)))
                    )

    @outside_graphs
    def end(self) -> None:
        """Merge what earlier forwards sent."""
        forward, self._forward = self._forward, None
        self._merge()
        if forward is not None:
            for device in forward.devices:
                if device.type != "cpu":
                    event = torch.Event(device)
                    event.record(torch.accelerator.current_stream(device))
                    forward.copied.append(event)
            self._pending.append(forward)

    def _merge(self) -> None:
        while self._pending:
            forward = self._pending.pop(0)
            for event in forward.copied:
                event.synchronize()
            step, num_steps = forward.step, forward.num_steps
            for block, sample, partial in forward.partials:
                branch = forward.samples[sample]
                self._stats.add(step, num_steps, branch, block, partial, forward.grid)
            for block, surface, values in forward.maps:
                self._stats.add_maps(block, surface, values)


def _to_host(values: torch.Tensor) -> torch.Tensor:
    return values.to("cpu", non_blocking=True)
