"""Which processes share the tokens of a transformer, and that all of them see the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import nn

from stas.method.shards import Shard, Split, TokenGroup
from stas.method.tokens import VideoTokens
from stas.models.spec import ModelSpec

_SPLITS = "cp_input---"  # how diffusers calls the hooks that split what a module is given


class Processes:
    """The processes that share the tokens of one transformer's forwards.

    Args:
        transformer: The transformer.
        spec: Its row.
        group: The processes where the user says; None for those of diffusers' context parallelism.
    """

    def __init__(self, transformer: nn.Module, spec: ModelSpec, group: TokenGroup | None) -> None:
        self._transformer = transformer
        self._spec = spec
        self._given = group
        self._found: tuple[Any, TokenGroup | None] = (None, None)  # and the config that says so
        self.held: list[Shard] = []  # what each process holds in the block that returned last
        self._agreed: dict[tuple[int, int, int], list[Shard]] = {}

    def split(self, video: VideoTokens, inputs: Mapping[str, Any]) -> Split | None:
        """How the tokens of a forward are split; None where each process has them all.

        Args:
            video: Where the video's tokens are.
            inputs: The forward's arguments by name, not split yet.

        Raises:
            RuntimeError: It is not known, on every process and before any has begun.
        """
        group = self._given or self._of_diffusers()
        if group is None:
            return None
        if any(axes != "BND" for axes in self._spec.block_axes(self._transformer)):
            self._refuse("its blocks fold axes into one, so they are not tokens that can be split")
        latents = inputs.get("hidden_states")
        if isinstance(latents, torch.Tensor) and latents.ndim == 3:
            return Split(group, latents.shape[1])  # packed: the sequence itself
        if video.place == "all":
            frames = video.lead + video.grid.frames
            return Split(group, frames * video.grid.tokens_per_frame)
        self._refuse("how many tokens its whole sequence has is not known")

    def shard(self, split: Split, hidden_states: torch.Tensor) -> Shard:
        """What this process holds of hidden states (B, N, D).

        Of each shape the processes ask each other once: what fails on one fails on all of them,
        and none waits for another that has stopped.

        Raises:
            RuntimeError: A process holds another part than was expected, or other inputs.
        """
        if torch.compiler.is_compiling():
            return split.shard(hidden_states.shape[1])
        batch, present = hidden_states.shape[:2]
        key = batch, present, split.total
        if key not in self._agreed:
            mine = torch.tensor(key, device=hidden_states.device)
            every = split.group.gather(mine).tolist()
            for rank, (samples, _, total) in enumerate(every):
                if (samples, total) != (batch, split.total):
                    raise RuntimeError(
                        f"Process {rank} has {samples} samples of {total} tokens, and process "
                        f"{split.group.rank} has {batch} of {split.total}: processes that share a "
                        "video's tokens must be given the same inputs."
                    )
            self._agreed[key] = [
                Shard.of(held, total, rank, split.group.size)
                for rank, (_, held, total) in enumerate(every)
            ]
        self.held = self._agreed[key]
        return self.held[split.group.rank]

    def _of_diffusers(self) -> TokenGroup | None:
        config = getattr(self._transformer, "_parallel_config", None)
        if config is not self._found[0]:
            self._found = config, self._find(config)
        return self._found[1]

    def _find(self, config: Any) -> TokenGroup | None:
        """Those over which diffusers splits the tokens between the blocks.

        A plan that splits within blocks and gathers again at once (Helios) leaves what each block
        returns whole.
        """
        mesh = getattr(getattr(config, "context_parallel_config", None), "_flattened_mesh", None)
        if mesh is None or mesh.size() == 1:
            return None
        blocks = self._spec.blocks(self._transformer)
        inner = {id(part) for block in blocks for part in block.modules() if part is not block}
        for module in self._transformer.modules():
            registry = getattr(module, "_diffusers_hook", None)
            if registry is None or id(module) in inner:
                continue
            for name, hook in registry.hooks.items():
                if name.startswith(_SPLITS) and "hidden_states" in hook.metadata:
                    return TokenGroup.over(mesh.get_group())
        return None

    def _refuse(self, why: str) -> NoReturn:
        raise RuntimeError(
            f"{type(self._transformer).__name__} is split over processes by context parallelism, "
            f"and {why}. Call handle.remove(), and use it on one process."
        )
