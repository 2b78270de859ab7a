"""Attaching to a ComfyUI model: whose sampling, which step, which rows, which tokens.

Three wrappers of ComfyUI's are used: OUTER_SAMPLE is called once a sampling, PREDICT_NOISE once
for each evaluation of the sampler, APPLY_MODEL for each forward. Blocks are reached in the last
one, by `patches_replace`, so that whatever else replaces a block is there already; where ComfyUI
lets none be replaced, by torch's hooks, which are gone when the forward ends. State belongs
to one sampling: ComfyUI keeps what nodes return, and a run must not depend on the one before.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any

import torch

from stas.comfyui.schedule import step_of, window_on
from stas.comfyui.table import ComfyModel, Forward, Place, find_model
from stas.method.config import Blocks, RowBranch
from stas.method.steerer import Branches
from stas.method.tokens import VideoTokens
from stas.method.window import StepClock, Window

log = logging.getLogger("stas")

# The values of comfy.patcher_extension.WrappersMP, and our methods.
WRAPPERS = ("outer_sample", "predict_noise", "apply_model")
PRE_RUN = "on_pre_run"  # of CallbacksMP: a sampling is about to use the model
DIFFUSION_MODEL = "diffusion_model"  # what caches of whole forwards are wrapped around
# Keys of our wrappers: the last acts first, at the block itself, so recording sees what steering
# did, in whatever order the nodes are.
KEYS = ("stas_record", "stas")
Run = Callable[..., Any]

# What ComfyUI's guiders call their conditions, by index in `cond_or_uncond`.
GUIDERS: dict[str, tuple[RowBranch, ...]] = {
    "CFGGuider": ("cond", "uncond"),
    "Guider_Basic": ("cond", "uncond"),
    "Guider_PerpNeg": ("cond", "uncond", "other"),
    "Guider_DualCFG": ("uncond", "other", "cond"),
    "Guider_LTXAVDualCFG": ("cond", "uncond"),
}


class Sampling(ABC):
    """What is done in one sampling.

    Args:
        attachment: What it is of.
        window: When it acts.
    """

    def __init__(self, attachment: Attachment, window: Window) -> None:
        self.attachment = attachment
        self.clock = StepClock(window, waits=True)
        self.cached = False  # whether the present forward may be skipped or remembered
        self._window = window
        self._sigmas: list[float] = []
        self._guider = ""
        # Of the forward that runs: what acts, where, its samples, what blocks found.
        self._now: tuple[Any, Place, int, dict[int, Any]] | None = None
        self._found: dict[int, Any] = {}  # of the last one that ended

    @abstractmethod
    def forward(
        self, video: VideoTokens, branches: Branches, device: torch.device, run: Run
    ) -> Any:
        """Make one forward while the clock is active.

        Args:
            video: Its grid and samples.
            branches: Those in it, as far as anybody says.
            device: Of the latents.
            run: Runs the model. Given something, its blocks act with that.

        Returns:
            What `run` returned.
        """

    @abstractmethod
    def act(self, forward: Any, number: int, tokens: torch.Tensor, whole: bool) -> Any:
        """Act on the video's tokens at a block's output.

        Args:
            forward: What `run` was given.
            number: The block.
            tokens: (B, N, D), a view.
            whole: Whether they are those of all samples of the forward.
        """

    @abstractmethod
    def finish(self) -> None:
        """The sampling ended without an error."""

    def evaluate(self, guider: Any, sigma: float, sigmas: Sequence[float]) -> None:
        """The sampler evaluates the model."""
        self._guider = type(guider).__name__
        if self._sigmas != sigmas:
            self._sigmas = list(sigmas)
            sampling = guider.inner_model.model_sampling
            self.clock.window = window_on(self._window, sampling, self._sigmas)
        self.clock.set(step_of(sigma, self._sigmas), len(self._sigmas) - 1)

    def branches(self, cond_or_uncond: Sequence[int], batch: int) -> Branches:
        """The branches in a forward with their rows; empty when nobody says."""
        names = GUIDERS.get(self._guider, ())
        if not cond_or_uncond or batch % len(cond_or_uncond) or max(cond_or_uncond) >= len(names):
            return ()
        size = batch // len(cond_or_uncond)
        found: list[tuple[RowBranch, slice | None]] = []
        for place, index in enumerate(cond_or_uncond):
            if found and found[-1][0] == names[index]:  # several conditions of one branch
                first = found.pop()[1]
                begin = first.start if first else 0
            else:
                begin = place * size
            found.append((names[index], slice(begin, (place + 1) * size)))
        apart = len({branch for branch, _ in found}) < len(found)
        return () if apart else found

    def run_with(self, forward: Any, place: Place, batch: int, run: Callable[[], Any]) -> Any:
        """Run the model while its blocks act."""
        found: dict[int, Any] = {}
        before, self._now = self._now, (forward, place, batch, found)
        try:
            return run()
        finally:
            self._now, self._found = before, found

    def block_returned(self, number: int, text: bool, hidden_states: torch.Tensor) -> None:
        """A block that is attached to returned."""
        if self._now is None:
            return
        forward, place, batch, found = self._now
        tokens = place.of(hidden_states, text)
        whole = tokens.shape[0] == batch
        found[number] = self.act(forward, number, tokens, whole)

    @property
    def found(self) -> list[Any]:
        """What the blocks found, in order; None for those that did not run."""
        return [self._found.get(number) for number in self.attachment.numbers]

    @property
    def acted(self) -> bool:
        """Whether any block did."""
        return bool(self._found)


class Attachment:
    """What a node puts on a model: the blocks, and what is done at them in each sampling.

    Args:
        key: One of `KEYS`.
        transformer: ComfyUI's.
        blocks: Those that are attached to, as of STASConfig.
        start: Makes what is done in one sampling.

    Raises:
        ValueError: The transformer is not known, or has no such block.
    """

    def __init__(
        self,
        key: str,
        transformer: Any,
        blocks: Blocks,
        start: Callable[[Attachment], Sampling],
    ) -> None:
        self.key = key
        self.row: ComfyModel = find_model(transformer)
        self.num_blocks = len(self.row.blocks(transformer))
        self.numbers = block_numbers(blocks, self.num_blocks)
        self._start = start
        self._sampling: Sampling | None = None
        # Graphs of torch.compile are kept as long as a block's patch is the same object.
        self._patches: dict[Any, tuple[Any, Callable[..., Any]]] = {}
        self._lock = RLock()  # several GPUs run their forwards in threads

    def attach(self, model: Any) -> Any:
        """A clone of a ModelPatcher with this on it, in place of another with its key."""
        patched = model.clone()
        for kind in WRAPPERS:
            there = {key: list(patched.get_wrappers(kind, key)) for key in KEYS}
            there[self.key] = [getattr(self, kind)]
            for key in KEYS:
                patched.remove_wrappers_with_key(kind, key)
                for wrapper in there[key]:
                    patched.add_wrapper_with_key(kind, key, wrapper)
        patched.remove_callbacks_with_key(PRE_RUN, self.key)
        patched.add_callback_with_key(PRE_RUN, self.key, self.pre_run)
        return patched

    def pre_run(self, model: Any) -> None:
        """A sampling is about to use the model, which is ours if it asked our wrappers."""
        if self._sampling is None:
            log.warning(
                "STAS: the node on this %s does nothing: it is the second model of a guider (Dual "
                "Model CFG Guider), which asks the nodes on the first one alone and has both do as "
                "these say.",
                self.row.transformer,
            )

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """One sampling."""
        before, self._sampling = self._sampling, self._start(self)
        try:
            samples = executor(*args, **kwargs)
            self._sampling.finish()
            return samples
        finally:
            self._sampling = before

    def predict_noise(
        self, executor: Any, x: Any, timestep: Any, model_options: Any = None, seed: Any = None
    ) -> Any:
        """One evaluation of the sampler: all branches."""
        options = model_options or {}
        if self._sampling is not None:
            sigmas = options.get("transformer_options", {}).get("sample_sigmas")
            if sigmas is None:
                raise RuntimeError(
                    "This sampler does not say its sigmas (sample_sigmas), so which denoising step "
                    "it is at is not known. Use one of ComfyUI's own samplers, or bypass the STAS "
                    "nodes."
                )
            steps = [float(sigma) for sigma in sigmas]
            self._sampling.evaluate(executor.class_obj, float(timestep.max()), steps)
        return executor(x, timestep, options, seed)

    def apply_model(
        self,
        executor: Any,
        x: torch.Tensor,
        t: Any,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """One forward."""
        options = dict(transformer_options or {})

        def run_plain() -> Any:
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        sampling = self._sampling
        if sampling is None or not sampling.clock.active:
            return run_plain()
        transformer = executor.class_obj.diffusion_model
        transformer = getattr(transformer, "_orig_mod", transformer)  # compiled
        self._check(transformer)
        # Several streams are packed into one row; the video's is the first.
        packed = kwargs.get("latent_shapes")
        latents = torch.Size(packed[0]) if packed is not None else x.shape
        # Of a long video that ComfyUI makes in context windows, one window.
        window = options.get("context_window")
        anchor = getattr(window, "causal_anchor_index", None)
        place = self.row.place(
            Forward(
                transformer=transformer,
                latents=latents,
                conds=kwargs,
                start=0 if window is None else int(window.index_list[0]),
                anchored=anchor is not None and anchor >= 0,
            )
        )
        batch = x.shape[0]
        others = self._replace_blocks(transformer, options)
        cached = any(options.get("wrappers", {}).get(DIFFUSION_MODEL, {}).values())
        branches = sampling.branches(options.get("cond_or_uncond") or (), batch)

        def run(forward: Any = None) -> Any:
            if forward is None:
                return run_plain()
            with self._hooked(transformer):
                output = sampling.run_with(forward, place, batch, run_plain)
            if not (sampling.acted or cached or others):
                raise RuntimeError(
                    f"None of the blocks {self.numbers} of {self.row.transformer} ran as ComfyUI "
                    "runs them: another pack replaces the model's forward. Bypass that pack's "
                    "node, or the STAS nodes."
                )
            return output

        with self._lock:
            sampling.cached = cached or self.row.remembers
            return sampling.forward(VideoTokens(place.grid, batch=batch), branches, x.device, run)

    def _check(self, transformer: Any) -> None:
        """Raise RuntimeError when a guider's second model is not as the one that this is on."""
        name = type(transformer).__name__
        count = len(self.row.blocks(transformer)) if name == self.row.transformer else None
        if count != self.num_blocks:
            other = name if count is None else f"{name} of {count} blocks"
            raise RuntimeError(
                f"The node is on a {self.row.transformer} of {self.num_blocks} blocks, but the "
                f"guider runs a {other} as well (Dual Model CFG Guider does). Give it two models "
                "of one architecture, or bypass the STAS nodes."
            )

    def _replace_blocks(self, transformer: Any, options: dict[str, Any]) -> bool:
        """Put our patches on the blocks; whether others were there."""
        replace = options["patches_replace"] = dict(options.get("patches_replace", {}))
        patches = replace["dit"] = dict(replace.get("dit", {}))
        blocks, others = self.row.blocks(transformer), False
        for number in self.numbers:
            stack, index, block = blocks[number]
            if stack.key is None:
                continue
            beneath = patches.get((stack.key, index))
            others = others or beneath is not None
            patches[stack.key, index] = self._patch(number, beneath, stack.text, block)
        return others

    @contextmanager
    def _hooked(self, transformer: Any) -> Iterator[None]:
        """Hooks, for one forward, on blocks that can't be replaced; the last hook acts first."""
        blocks = self.row.blocks(transformer)
        with ExitStack() as hooks:
            for number in self.numbers:
                stack, _, block = blocks[number]
                if stack.key is None:
                    returned = self._hook(number, stack.text)
                    hooks.callback(block.register_forward_hook(returned, prepend=True).remove)
            yield

    def _hook(self, number: int, text: bool) -> Callable[..., None]:
        return lambda module, args, output: self._returned(number, text, output)

    # It reads and writes this sampling's state, which no compiled block may keep.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no type for it
    def _returned(self, number: int, text: bool, output: Any) -> None:
        if self._sampling is not None:
            self._sampling.block_returned(number, text, self.row.tokens(output))

    def _patch(self, number: int, beneath: Any, text: bool, block: Any) -> Callable[..., Any]:
        """The patch of a block, the same one for the same patch beneath it."""
        known = self._patches.get(block)
        if known is not None and known[0] is beneath:
            return known[1]
        row = self.row

        def patch(args: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
            # Acted on within the block's own call, whatever a patch beneath does with it: one that
            # skips the block finds nothing done. Its output can't tell, as some blocks return the
            # tensor that they were given.
            def original_block(args: Mapping[str, Any]) -> Any:
                result = row.call(block, args) if row.call else extra["original_block"](args)
                self._returned(number, text, result[row.output])
                return result

            if beneath is None:
                return original_block(args)
            return beneath(args, {**extra, "original_block": original_block})

        self._patches[block] = (beneath, patch)
        return patch


def block_numbers(blocks: Blocks, count: int) -> list[int]:
    """The blocks that a config means, of so many.

    Raises:
        ValueError: There is no such block.

    Example:
        >>> block_numbers("middle", 30), block_numbers((-1, 0), 30)
        ([15], [0, 29])
    """
    if blocks == "all":
        return list(range(count))
    if blocks == "middle":
        return [count // 2]
    if unknown := [number for number in blocks if not -count <= int(number) < count]:
        raise ValueError(
            f"The model has {count} blocks, numbered 0 to {count - 1} (or {-count} to -1 from the "
            f"end), but blocks names {unknown}."
        )
    return sorted({int(number) % count for number in blocks})


def check_dims(dims: Sequence[int], row: ComfyModel, transformer: Any) -> None:
    """Raise ValueError when a dimension is not one of the model's."""
    width = row.feature_width(transformer)
    if dims and max(dims) >= width:
        raise ValueError(
            f"dims must be from 0 to {width - 1}, the feature width of {row.transformer} being "
            f"{width}, but got {max(dims)}."
        )
