"""Recording one transformer: statistics of its blocks' outputs, never changing a bit of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import nn

from stas.activations.stats import ActivationStats
from stas.activations.sums import (
    SURFACE_BINS,
    partial_sums,
    partial_sums_of_part,
    region_sizes,
    surface_sums,
)
from stas.hooks.handle import Handle
from stas.hooks.loop import Loop
from stas.hooks.registry import BlockHook
from stas.hooks.targets import (
    block_numbers,
    check_dims,
    dtype_of,
    find_transformers,
    follow,
    pipeline_of,
    refuse_a_second,
    source_of,
    token_group,
)
from stas.hooks.transformer import TransformerHooks, config_of, outside_graphs
from stas.method.config import Blocks, Branch, RowBranch, STASConfig
from stas.method.shards import Split, TokenGroup
from stas.method.steerer import Branches
from stas.method.tokens import VideoTokens
from stas.method.window import Window
from stas.models.spec import ModelSpec


@dataclass(eq=False)
class _Forward:
    """What one forward showed, on its way from the device."""

    step: int
    num_steps: int
    video: VideoTokens
    split: Split | None
    samples: list[RowBranch]
    partials: list[tuple[int, RowBranch, torch.Tensor]] = field(default_factory=list)  # by block
    maps: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)  # tokens of each region, by process
    devices: set[torch.device] = field(default_factory=set)
    copied: list[torch.Event] = field(default_factory=list)


class TransformerRecording(TransformerHooks[_Forward]):
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
        loop: Loop,
        stats: ActivationStats,
        group: TokenGroup | None = None,
    ) -> None:
        super().__init__(name, transformer, spec, block_numbers, loop, group)
        self._stats = stats
        self._pending: list[_Forward] = []

    @property
    def stats(self) -> ActivationStats:
        """All that was recorded so far."""
        self._merge()
        return self._stats

    @outside_graphs
    def begin(self, video: VideoTokens, branches: Branches, device: torch.device) -> _Forward:
        """Prepare for the samples of a forward."""
        clock = self.loop.clock
        num_steps = clock.num_steps or 1
        self._stats.check_steps(num_steps)
        samples: list[RowBranch] = ["other"] * video.batch
        for branch, rows in branches:
            for sample in range(video.batch)[rows or slice(None)]:
                samples[sample] = branch
        return _Forward(clock.step, num_steps, video, self.split, samples)

    @outside_graphs
    def act(
        self,
        forward: _Forward,
        hook: BlockHook,
        tokens: torch.Tensor,
        present: slice | None,
        part: range | None,
    ) -> None:
        """Take the sums of each sample and send them to the host."""
        block, grid = self.block_numbers[hook.index], forward.video.grid
        branches: Sequence[RowBranch] = forward.samples
        if present is not None:
            branches = branches[present] or ["other"] * tokens.shape[0]
        forward.devices.add(tokens.device)
        with torch.no_grad():
            if part is not None:
                self._act_on_part(forward, block, branches, tokens, part)
                return
            for branch, values in zip(branches, forward.video.raster(tokens), strict=True):
                partial = partial_sums(values, grid, self._stats.boundary)
                forward.partials.append((block, branch, _to_host(partial)))
                if block in self._stats.map_blocks:
                    chosen = values[:, list(self._stats.map_dims)].abs().float().T
                    chosen = chosen.unflatten(1, (grid.frames, grid.height, grid.width))
                    forward.maps.append((block, _to_host(surface_sums(values)), _to_host(chosen)))

    def _act_on_part(
        self,
        forward: _Forward,
        block: int,
        branches: Sequence[RowBranch],
        tokens: torch.Tensor,
        part: range,
    ) -> None:
        """The same of the tokens that this process holds: the sums stay on the device."""
        video, mapped = forward.video, block in self._stats.map_blocks
        if not forward.sizes:
            forward.sizes = [
                region_sizes(video, self._stats.boundary, video.part(shard))
                for shard in self._processes.held
            ]
        for branch, values in zip(branches, tokens, strict=True):
            partial = partial_sums_of_part(values, video, self._stats.boundary, part)
            forward.partials.append((block, branch, partial))
            if mapped:
                places = _places(video, values.device)[part.start : part.stop]
                count, bins = video.grid.num_tokens, min(video.grid.num_tokens, SURFACE_BINS)
                magnitudes = values.abs().float()
                surface = magnitudes.new_zeros(bins, values.shape[1])
                surface.index_add_(0, places * bins // count, magnitudes)
                chosen = magnitudes.new_zeros(len(self._stats.map_dims), count)
                chosen[:, places] = magnitudes[:, list(self._stats.map_dims)].T
                forward.maps.append((block, surface, chosen))

    def _share(self, forward: _Forward, split: Split) -> None:
        """Give all processes the sums of each: one collective, two more where there are maps."""
        video, group = forward.video, split.group
        rows = torch.stack([partial for _, _, partial in forward.partials])
        gathered = _to_host(group.gather(rows))
        forward.partials = [
            (block, branch, gathered[:, number])
            for number, (block, branch, _) in enumerate(forward.partials)
        ]
        if not forward.maps:
            return
        blocks, *parts = zip(*forward.maps, strict=True)
        surfaces, chosen = (group.total_(torch.stack(each)) for each in parts)
        count, bins = video.grid.num_tokens, surfaces.shape[1]
        sizes = torch.bincount(torch.arange(count) * bins // count)[:, None]
        shape = video.grid.frames, video.grid.height, video.grid.width
        surfaces = _to_host(surfaces / sizes.to(surfaces.device))
        chosen = _to_host(torch.unflatten(chosen, 2, shape))
        forward.maps = list(zip(blocks, surfaces, chosen, strict=True))

    def forget(self, forward: _Forward) -> None:
        """Leave out what was recorded of a forward."""
        if forward in self._pending:
            self._pending.remove(forward)
        for found in (forward.partials, forward.maps, forward.devices, forward.copied):
            found.clear()

    @outside_graphs
    def end(self, forward: _Forward, found: object) -> bool:
        """Merge what earlier forwards sent."""
        self._merge()
        if forward.split is not None and forward.partials:
            self._share(forward, forward.split)
        for device in forward.devices:
            if device.type != "cpu":
                event = torch.Event(device)
                event.record(torch.accelerator.current_stream(device))
                forward.copied.append(event)
        self._pending.append(forward)
        return True

    def _merge(self) -> None:
        while self._pending:
            forward = self._pending.pop(0)
            for event in forward.copied:
                event.synchronize()
            step, num_steps = forward.step, forward.num_steps
            for block, branch, partial in forward.partials:
                key = step, num_steps, branch, block
                if forward.sizes:
                    self._stats.add_parts(*key, partial, forward.sizes)
                else:
                    self._stats.add(*key, partial, forward.video.grid)
            for block, surface, values in forward.maps:
                self._stats.add_maps(block, surface, values)


@lru_cache(maxsize=8)
def _places(video: VideoTokens, device: torch.device) -> torch.Tensor:
    """In raster order, the place of each token of the sequence."""
    return video.arrange(torch.arange(video.grid.num_tokens)).to(device)


def _to_host(values: torch.Tensor) -> torch.Tensor:
    return values.to("cpu", non_blocking=True)


class RecordingHandle(Handle):
    """What ends a `record`, and what was recorded; also a context manager.

    Made by `record` and not by hand.
    """

    def __init__(self, recordings: Mapping[str, TransformerRecording]) -> None:
        super().__init__(recordings)
        self._recordings = dict(recordings)

    @property
    def stats(self) -> ActivationStats:
        """What was recorded so far, after `remove` too.

        Raises:
            ValueError: Several transformers were recorded: see `stats_of`.
        """
        if len(self._recordings) > 1:
            raise ValueError(
                f"Several transformers were recorded: {', '.join(self._recordings)}. Their "
                "statistics are in stats_of, by name."
            )
        return next(iter(self.stats_of.values()))

    @property
    def stats_of(self) -> dict[str, ActivationStats]:
        """What was recorded so far, for each transformer by its name in the pipeline."""
        return {name: recording.stats for name, recording in self._recordings.items()}


def record(
    target: Any,
    *,
    blocks: Blocks = "all",
    boundary: float = 0.08,
    map_blocks: Blocks | None = None,
    map_dims: Sequence[int] = (),
    metadata: Mapping[str, str] | None = None,
    group: Any = None,
    branch: Branch | None = None,
) -> RecordingHandle:
    """Record statistics of a video transformer's hidden states while it samples.

    Reads what the blocks return, after steering if that is on, and changes no bit of it. The
    sums are taken on the device and come to the host in the background. A block that a cache
    skips is not recorded in that step. A compiled model breaks its graph at each recorded block.

    Args:
        target: A diffusers pipeline, or a bare transformer, whose steps `set_step` tells.
        blocks: "all", "middle", or block numbers, as in `STASConfig`.
        boundary: r, the head and tail share of each latent frame that counts as boundary, 0 to
            0.5.
        map_blocks: Recorded blocks of which mean |h| is also kept over the tokens: for all
            dimensions over at most 256 groups of neighbouring tokens, and for `map_dims` over
            the whole grid. None keeps no map.
        map_dims: Dimensions of the maps over the whole grid.
        metadata: Text that travels with the statistics; model, transformer and versions are
            added.
        group: As of `steer`; every process has the statistics of all tokens then.
        branch: As of `steer`.

    Returns:
        A handle with the statistics. Use it as a context manager or call `remove`.

    Raises:
        UnsupportedModelError: No transformer of the target is known to stas.
        RuntimeError: The transformer is recorded already.
        ValueError: A number is out of range for this model.
        TypeError: An argument has the wrong type.

    Example:
        >>> from diffusers import WanTransformer3DModel
        >>> transformer = WanTransformer3DModel(
        ...     num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        ...     text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2
        ... )
        >>> with record(transformer) as recording:
        ...     _ = transformer(torch.ones(1, 4, 2, 4, 4), torch.ones(1), torch.ones(1, 3, 16))
        >>> recording.stats
        ActivationStats(2 blocks, width 24, 1 steps, 1 samples)
    """
    # The same fields as for steering, so the same checks.
    chosen = STASConfig(blocks=blocks, boundary=boundary)
    mapped = STASConfig(blocks=map_blocks) if map_blocks is not None else None
    dims = STASConfig(dims=tuple(map_dims)).dims if map_dims else ()
    target = pipeline_of(target)
    transformers = find_transformers(target, "record")
    loop = follow(target, transformers, Window(0.0, 1.0), branch)
    shared = token_group(group)
    recordings = {}
    for name, (transformer, spec) in transformers.items():
        all_blocks = spec.blocks(transformer)
        refuse_a_second(name, spec, all_blocks, TransformerRecording)
        width = spec.feature_width(config_of(transformer))
        check_dims(dims or (), width, name, spec)
        numbers = block_numbers(chosen, len(all_blocks), name)
        map_numbers = block_numbers(mapped, len(all_blocks), name) if mapped else []
        if missing := sorted(set(map_numbers) - set(numbers)):
            raise ValueError(
                f"map_blocks must be among the recorded blocks, but {missing} are not."
            )
        stats = ActivationStats(
            blocks=numbers,
            width=width,
            boundary=chosen.boundary,
            map_blocks=map_numbers,
            map_dims=dims or (),
            metadata={
                "model": source_of(transformer) or "",
                "transformer": spec.transformer,
                "config": _fingerprint(config_of(transformer)),
                "torch": torch.__version__,
                "diffusers": version("diffusers"),
                "dtype": str(dtype_of(transformer)),
            }
            | dict(metadata or {}),
        )
        recordings[name] = TransformerRecording(
            name, transformer, spec, numbers, loop, stats, shared
        )
    handle = RecordingHandle(recordings)
    handle._attach()
    return handle


def _fingerprint(config: Mapping[str, Any]) -> str:
    """A short hash of a transformer's architecture, the same wherever it was loaded from."""
    fields = {key: value for key, value in config.items() if not key.startswith("_")}
    return sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]
