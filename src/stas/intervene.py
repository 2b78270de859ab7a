"""Steering one transformer: what happens at its blocks, forward by forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from stas.config import STASConfig
from stas.hooks import TransformerHooks, outside_graphs
from stas.loop import LoopListener
from stas.massive import MassiveActivations, massive_from_magnitudes
from stas.models import ModelSpec
from stas.schedule import StepClock
from stas.steering import steer_tokens_
from stas.tokens import Axes, VideoTokens

NO_ROWS = slice(0, 0)
DimsOrigin = Literal["given", "profile", "detected"]


class TransformerSteering(TransformerHooks):
    """Steers one transformer while attached: what a handle holds per component."""

    hook_name: ClassVar[str] = "stas"
    verb = "steer"

    def __init__(
        self,
        name: str,
        transformer: nn.Module,
        spec: ModelSpec,
        config: STASConfig,
        block_numbers: Sequence[int],
        dims: tuple[int, ...] | None,
        origin: DimsOrigin,
        source: str,
        clock: StepClock,
        listener: LoopListener | None,
    ) -> None:
        super().__init__(name, transformer, spec, block_numbers, clock, listener)
        self.config = config
        self.dims = dims
        self.origin = origin
        self.source = source  # the origin in words
        self.rows: slice | None = None  # of the batch; None for all of them
        self.tokens: dict[Axes, torch.Tensor] = {}  # masks, true where steered
        self.magnitudes: list[torch.Tensor] = []  # (D,) a block: mean |h| over samples and tokens
        self.steered_forwards = 0
        self.handle: Any = None  # the SteeringHandle, for stas.find_handle
        self._masked: tuple[VideoTokens, torch.device] | None = None

    def begin(self, device: torch.device) -> bool:
        """Decide whether this forward is steered, where, and in which rows of the batch."""
        rows = self._steered_rows()
        if self.clock.never:
            self.warn(f"No step is steered: {self.clock.never}")
        if not self.clock.active or rows == NO_ROWS or self.dims == ():
            return False
        self.rows = rows
        self._find_tokens(device)
        grid = self.video.grid
        if grid.count(self.config.regions, self.config.boundary) == 0:
            self.warn(
                f"No token is steered: {' + '.join(self.config.regions)} (boundary "
                f"{self.config.boundary:g}) has no token in {grid}."
            )
            return False
        if self.dims is None:
            self.magnitudes = []
        else:
            self.steered_forwards += 1
        return True

    def _find_tokens(self, device: torch.device) -> None:
        # dynamo can't compare grids; a graph makes its own masks.
        if not torch.compiler.is_compiling() and self._masked == (self.video, device):
            return
        with torch.inference_mode(False):  # it is kept, and autograd may want it later
            mask = self.video.grid.mask(self.config.regions, self.config.boundary, device)
            self.tokens = {
                axes: self.video.arrange(mask, axes) for axes in {hook.axes for hook in self._hooks}
            }
        self._masked = (self.video, device)

    def _steered_rows(self) -> slice | None:
        """The rows of the batch that are steered, NO_ROWS, or None for all."""
        if len(self.config.branches) == 2:
            return None
        wanted, present = self.config.branches[0], self.branch_rows()
        if present:
            return next((rows for branch, rows in present if branch == wanted), NO_ROWS)
        who = "a bare transformer" if self.listener is None else "this pipeline"
        name = "cond_uncond" if self.spec.guidance == "batched" else "cond"
        raise RuntimeError(
            f"Only the {wanted} branch is to be steered, but {who} does not say which branch a "
            "forward belongs to. Steer both branches, or steer the bare transformer and tell the "
            f'branch by handle.set_step(i, n, branch="{name}") before each forward.'
        )

    def act(self, index: int, tokens: torch.Tensor, axes: Axes) -> None:
        """Steer the tokens in place as the config says, or read their magnitudes."""
        config, dims = self.config, self.dims
        if dims is None:
            over = tuple(range(tokens.ndim - 1))
            total = torch.linalg.vector_norm(tokens.detach(), ord=1, dim=over, dtype=torch.float32)
            self.magnitudes.append(total / tokens[..., 0].numel())
            return
        if tokens.shape[0] < self.video.batch:  # FasterCache leaves the uncond rows out
            if "cond" not in config.branches:
                return
        elif self.rows is not None:
            tokens = tokens[self.rows]
        mask = self.tokens[axes]
        if mask.device != tokens.device:  # blocks of one model on several devices
            mask = mask.to(tokens.device)
        steer_tokens_(
            tokens, mask, dims, op=config.op, scale=config.scale, reference=config.reference
        )

    def end(self) -> None:
        """After the forward that was read, decide."""
        if self.dims is None:
            self._decide()

    @outside_graphs
    def _decide(self) -> None:
        """Keep the dimensions that the forward showed; the rest of its step is not steered.

        So both branches of guidance are alike in every step.
        """
        read, blocks = len(self.magnitudes), len(self.blocks)
        if read == 0 or (read < blocks and getattr(self.transformer, "is_cache_enabled", False)):
            self.warn(
                f"{self.name}: nothing is steered yet: {blocks - read} of the {blocks} blocks to "
                "read were skipped, as caches do. The next forward is looked at."
            )
            return
        found = massive_from_magnitudes(self.magnitudes)
        if not found.strongest:
            self.warn(
                f"{self.name}: nothing is steered yet: the hidden states of the first forward were "
                "not finite, so no massive dimension could be detected. The next one is looked at."
            )
            return
        self.dims = found.dims
        self.source = _detection_text(found)
        self.clock.rest()
        if not found.dims:
            self.warn(f"{self.name}: {self.source}")


def _detection_text(found: MassiveActivations) -> str:
    if found.dims:
        return f"detected on the first forward: {found.describe()}"
    return (
        f"nothing is steered: no dimension reaches {found.threshold:g} times the mean magnitude "
        f"on the first forward. Strongest: {found.describe()}. Name dimensions with dims= to steer "
        "them all the same."
    )
