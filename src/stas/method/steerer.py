"""STAS on the tokens of one forward, knowing no model and no hook system.

Whoever reaches the blocks of a transformer (diffusers' hooks, ComfyUI's patches, a loop of one's
own) drives one `Steerer` a transformer:

    forward = steerer.begin(video, branches, device)  # before a forward; None: leave it alone
    found = steerer.act(forward, tokens, axes)        # at each steered block's output
    steerer.end(forward, [found, ...])                # after the forward, if any block ran
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from stas.checks import StasWarning
from stas.method.config import RowBranch, STASConfig
from stas.method.detection import (
    MASSIVE_RATIO,
    WEAK_RATIO,
    MassiveActivations,
    describe_ratios,
    massive_from_magnitudes,
    median_ratios,
)
from stas.method.operators import steer_tokens_
from stas.method.shards import Split
from stas.method.tokens import Axes, VideoTokens
from stas.method.window import StepClock

DimsOrigin = Literal["given", "profile", "detected"]
# The branches of a forward, each with its rows of the batch, None for all; empty when nobody says.
Branches = Sequence[tuple[RowBranch, slice | None]]
# [our choice] With so few steps in the window, detection may not take one of them: it is given a
# forward of its own.
FEW_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class SteeredDims:
    """The steered dimensions of one transformer, and where they come from.

    Args:
        numbers: The dimensions; None until they are detected, empty when none is massive.
        origin: Given by the user, of a profile, or detected.
        source: That in words.
    """

    numbers: tuple[int, ...] | None
    origin: DimsOrigin
    source: str


@dataclass(kw_only=True)
class SteeredForward:
    """What was decided of one forward; recomputation under checkpointing reads it again.

    Args:
        video: Where the video's tokens are.
        dims: What is steered; None to read magnitudes and steer nothing.
        reads: Whether magnitudes are read, before anything is written.
        rows: Rows of the batch that are steered; None for all.
        split: How the tokens are split over processes; None where they are whole.
        masks: By axes, true at the tokens that are steered.
    """

    video: VideoTokens
    dims: tuple[int, ...] | None
    reads: bool
    rows: slice | None
    split: Split | None = None
    masks: dict[Axes, torch.Tensor] = field(default_factory=dict, repr=False)


class Steerer:
    """Steers the tokens of one transformer's blocks as a config says.

    Args:
        config: How to steer.
        dims: What to steer; `numbers` None detects them.
        clock: Which step it is; both experts of a pipeline share one.
        name: The transformer's, for messages.
        axes: The layouts of what its blocks return.

    Example:
        >>> from stas.method.tokens import TokenGrid
        >>> from stas.method.window import Window
        >>> given = SteeredDims(numbers=(0,), origin="given", source="given")
        >>> steerer = Steerer(STASConfig(), given, StepClock(Window()))
        >>> video, h = VideoTokens(TokenGrid(1, 1, 3)), torch.tensor([[[1.0], [-4.0], [2.0]]])
        >>> forward = steerer.begin(video, (), h.device)
        >>> steerer.act(forward, h, "BND")
        >>> h[0, :, 0]
        tensor([ 4., -4.,  4.])
    """

    def __init__(
        self,
        config: STASConfig,
        dims: SteeredDims,
        clock: StepClock,
        name: str = "transformer",
        axes: Iterable[Axes] = ("BND",),
    ) -> None:
        self.config = config
        self.dims = dims
        self.clock = clock
        self.name = name
        self.axes = tuple(dict.fromkeys(axes))
        self.steered_forwards = 0
        self._checked = dims.origin != "profile"  # whether a profile's dims are massive here
        self._masks: tuple[VideoTokens, torch.device, dict[Axes, torch.Tensor]] | None = None
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"Steerer({self.name}: dims {self.dims.numbers}, {self.dims.origin})"

    def wants_a_look(self, video: VideoTokens, branches: Branches) -> bool:
        """Whether detection needs a forward of its own: one that the window has no step for."""
        if self.dims.numbers is not None or self.clock.num_steps is None or not self.clock.active:
            return False
        few = len(self.clock.window.steps(self.clock.num_steps)) <= FEW_STEPS
        tokens = video.grid.count(self.config.regions, self.config.boundary)
        return few and tokens > 0 and self._steered_rows(branches) != slice(0, 0)

    @property
    def steps_text(self) -> str:
        """How many steps the window has."""
        count = len(self.clock.window.steps(self.clock.num_steps or 1))
        return f"{count} step{'s' * (count != 1)}"

    def begin(
        self,
        video: VideoTokens,
        branches: Branches,
        device: torch.device,
        split: Split | None = None,
    ) -> SteeredForward | None:
        """Decide whether a forward is steered, where, and in which rows of the batch.

        Args:
            video: Where the video's tokens are in what the blocks return.
            branches: The branches in it, as far as anybody says.
            device: Of the latents.
            split: How the tokens are split over processes.

        Returns:
            What to hand to `act`; None when the forward is to be left alone.

        Raises:
            RuntimeError: One branch is to be steered, and nobody says which one this is.
        """
        dims = self.dims.numbers
        if self.clock.never:
            self.warn(f"No step is steered: {self.clock.never}")
        rows = self._steered_rows(branches)
        if not self.clock.active or rows == slice(0, 0) or dims == ():
            return None
        grid, config = video.grid, self.config
        if grid.count(config.regions, config.boundary) == 0:
            self.warn(
                f"No token is steered: {' + '.join(config.regions)} (boundary {config.boundary:g}) "
                f"has no token in {grid}."
            )
            return None
        reads = dims is None or not self._checked
        masks = {} if dims is None else self._find_masks(video, device)
        return SteeredForward(
            video=video, dims=dims, reads=reads, rows=rows, split=split, masks=masks
        )

    def look(self, video: VideoTokens, split: Split | None = None) -> SteeredForward:
        """A forward that is only read: magnitudes, of all rows."""
        return SteeredForward(video=video, dims=None, reads=True, rows=None, split=split)

    def act(
        self,
        forward: SteeredForward,
        tokens: torch.Tensor,
        axes: Axes,
        present: slice | None = None,
        part: range | None = None,
    ) -> torch.Tensor | None:
        """Steer tokens in place as the config says, and read their magnitudes where that is due.

        Args:
            forward: What `begin` returned.
            tokens: A view of what a block returned, (B, N, D) or (B, F, S, D); see
                `VideoTokens.of`.
            axes: The layout of the block's output.
            present: Which rows of the batch these are; None for all of them.
            part: Which of the video's tokens these are; None for all of them.

        Returns:
            (D,), mean |h| over samples and tokens as they came (of a part, what it adds to that),
            to be handed to `end`; or None.

        Raises:
            RuntimeError: Gradients are wanted through tokens that are split over processes.
        """
        if forward.split is not None and tokens.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"Gradients through the steered {self.name} are not known where its tokens are "
                "split over processes. Use torch.no_grad(), or train without context parallelism."
            )
        count = None if part is None else forward.video.grid.num_tokens
        found = _mean_magnitudes(tokens, count) if forward.reads else None
        if forward.dims is None:
            return found
        rows = forward.rows
        if rows is not None:
            if present is not None:
                rows = _overlap(rows, present)
            tokens = tokens[rows]
            if tokens.shape[0] == 0:
                return found
        mask = forward.masks[axes]
        if part is not None:
            mask = mask[part.start : part.stop]
        if mask.device != tokens.device:  # blocks of one model on several devices
            mask = mask.to(tokens.device)
        config = self.config
        steer_tokens_(
            tokens,
            mask,
            forward.dims,
            op=config.op,
            scale=config.scale,
            reference=config.reference,
            split=forward.split,
        )
        return found

    def end(
        self, forward: SteeredForward, found: Sequence[torch.Tensor | None], *, whole: bool = False
    ) -> bool:
        """A steered forward is over: count it, and decide what its magnitudes say.

        Args:
            forward: What `begin` returned.
            found: What `act` returned, by block; None for blocks that did not run.
            whole: Whether to detect only when no block is missing, as caches leave them out.

        Returns:
            Whether the forward holds; False when it was steered by a profile whose dimensions are
            not massive in these weights: its output is to be thrown away and the forward made
            again.
        """
        if forward.dims is None:
            if self.dims.numbers is None:
                self.detect(found, whole=whole, split=forward.split)
            return True
        self.steered_forwards += 1
        magnitudes = _whole_means(found, forward.split) if forward.reads else ()
        if not magnitudes or self._checked or self._holds(magnitudes):
            return True
        self.steered_forwards -= 1
        return False

    def detect(
        self,
        found: Sequence[torch.Tensor | None],
        *,
        whole: bool = False,
        how: str = "",
        split: Split | None = None,
    ) -> None:
        """Keep the dimensions that the blocks' mean magnitudes show.

        Args:
            found: By block, (D,); None for blocks that did not run.
            whole: Whether to detect only when no block is missing.
            how: The forward in words when it was one of its own. Otherwise nothing more of its step
                is steered, so that both branches of guidance are alike in every step.
            split: How the tokens were split over processes, which all decide alike.
        """
        magnitudes = _whole_means(found, split)
        missing = len(found) - len(magnitudes)
        if not magnitudes or (whole and missing):
            self.warn(
                f"{self.name}: nothing is steered yet: {missing} of the {len(found)} blocks to "
                "read were skipped, as caches do. The next forward is looked at."
            )
            return
        massive = massive_from_magnitudes(magnitudes)
        if not massive.strongest:
            self.warn(
                f"{self.name}: nothing is steered yet: the hidden states of the first forward were "
                "not finite, so no massive dimension could be detected. The next one is looked at."
            )
            return
        self.dims = SteeredDims(
            numbers=massive.dims, origin="detected", source=_detection_text(massive, how)
        )
        self._checked = True
        if not how:
            self.clock.rest()
        if not massive.dims:
            self.warn(f"{self.name}: {self.dims.source}")

    def _holds(self, magnitudes: Sequence[torch.Tensor]) -> bool:
        """Whether a profile's dimensions are massive here: a profile is a claim about weights.

        [our choice] What contradicts it is a dimension that is ordinary, or one that is weak where
        another is massive. A dimension that is weak where none is massive does not: an unusual
        prompt weakens them all.
        """
        every = median_ratios(magnitudes)
        if every is None:  # not finite: the next forward is asked
            return True
        self._checked = True
        dims = self.dims.numbers or ()
        ratios = every[list(dims)].tolist()
        others = set((every >= MASSIVE_RATIO).nonzero().flatten().tolist()) - set(dims)
        if min(ratios) >= (MASSIVE_RATIO if others else WEAK_RATIO):
            return True
        self.warn(
            f"{self.name}: the dimensions of the {self.dims.source.partition(':')[0]} are not "
            f"massive in these weights: {describe_ratios(dims, ratios)}. They are detected anew. "
            "To steer the profile's all the same, name them with dims=."
        )
        self.dims = replace(self.dims, numbers=None)
        return False

    def _steered_rows(self, branches: Branches) -> slice | None:
        """The rows of the batch that are steered, an empty slice for none, or None for all."""
        if len(self.config.branches) == 2:
            return None
        wanted = self.config.branches[0]
        if branches:
            return next((rows for branch, rows in branches if branch == wanted), slice(0, 0))
        raise RuntimeError(
            f"Only the {wanted} branch is to be steered, but nobody says which branch a forward "
            "belongs to. Steer both branches, or steer the bare transformer and tell the branch by "
            f'handle.set_step(i, n, branch="{wanted}") before each forward. branch="cond_uncond" '
            "is for one batch of both with the uncond rows first, and for classes whose pipelines "
            "call them so: others are told one branch, in a forward of its own."
        )

    def _find_masks(self, video: VideoTokens, device: torch.device) -> dict[Axes, torch.Tensor]:
        # dynamo can't compare grids; a graph makes its own masks.
        compiling = torch.compiler.is_compiling()
        if not compiling and self._masks is not None and self._masks[:2] == (video, device):
            return self._masks[2]
        with torch.inference_mode(False):  # it is kept, and autograd may want it later
            mask = video.grid.mask(self.config.regions, self.config.boundary, device)
            masks = {axes: video.arrange(mask, axes) for axes in self.axes}
        self._masks = (video, device, masks)
        return masks

    def warn(self, text: str) -> None:
        """Warn, once."""
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, StasWarning, stacklevel=2)


def _mean_magnitudes(tokens: torch.Tensor, count: int | None = None) -> torch.Tensor:
    """Mean |h| over samples and tokens; what some of `count` tokens a sample add to it."""
    over = tuple(range(tokens.ndim - 1))
    total: torch.Tensor = torch.linalg.vector_norm(
        tokens.detach(), ord=1, dim=over, dtype=torch.float32
    )
    return total / (tokens[..., 0].numel() if count is None else count * tokens.shape[0])


def _whole_means(
    found: Sequence[torch.Tensor | None], split: Split | None
) -> Sequence[torch.Tensor]:
    """What blocks found, without those that did not run; of all processes, in one collective."""
    means = [each for each in found if each is not None]
    if split is None or not means:
        return means
    return list(split.group.total_(torch.stack(means)))


def _overlap(rows: slice, present: slice) -> slice:
    """The steered rows among those that are present, counted from the first of these."""
    first = max(rows.start, present.start) - present.start
    return slice(first, max(first, min(rows.stop, present.stop) - present.start))


def _detection_text(found: MassiveActivations, how: str) -> str:
    how = how or "on the first forward"
    if found.dims:
        return f"detected {how}: {found.describe()}"
    return (
        f"nothing is steered: no dimension reaches {found.threshold:g} times the mean magnitude "
        f"{how}. Strongest: {found.describe()}. Name dimensions with dims= to steer them all "
        "the same."
    )
