"""Tokens that are split over processes: what one of them holds, and what all of them agree on.

Context parallelism gives each process a run of neighbouring tokens, and attention is where they
meet. Steering meets once a block, as the maximum of |h| is over all tokens: one small collective,
which every process of the group makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Shard:
    """The run of a sequence's tokens that one process holds.

    Args:
        start: The first token.
        stop: One past the last; padding behind the sequence's end is not counted.
        total: Tokens of the whole sequence.
    """

    start: int
    stop: int
    total: int

    @classmethod
    def of(cls, present: int, total: int, rank: int, size: int) -> Shard:
        """What a process holds, from how many tokens are there: nothing is asked of others.

        `torch.tensor_split` gives the first processes one token more when they don't divide; equal
        parts of a sequence that is padded at its end (xDiT) are ceil(total / size) long.

        Args:
            present: Tokens that the process holds.
            total: Tokens of the whole sequence.
            rank: Which process of the group, from 0.
            size: Processes of the group.

        Raises:
            RuntimeError: It is neither.

        Example:
            >>> Shard.of(3, 8, rank=1, size=3), Shard.of(2, 8, rank=2, size=3)
            (Shard(start=3, stop=6, total=8), Shard(start=6, stop=8, total=8))
        """
        least, rest = divmod(total, size)
        padded = -(-total // size)
        if present == least + (rank < rest):
            start = rank * least + min(rank, rest)
        elif present == padded:
            start = rank * padded
        else:
            raise RuntimeError(
                f"Process {rank} of {size} holds {present} of {total} tokens, which is neither an "
                "equal part of them nor of the padded sequence."
            )
        return cls(min(start, total), min(start + present, total), total)


@dataclass(frozen=True)
class TokenGroup:
    """The processes that share the tokens of each forward.

    Args:
        process_group: Of torch.distributed; None for all processes.
        rank: Which of them this is.
        size: How many they are.
    """

    process_group: Any
    rank: int
    size: int

    @classmethod
    def over(cls, process_group: Any) -> TokenGroup:
        """The group of a `torch.distributed.ProcessGroup`."""
        return cls(process_group, dist.get_rank(process_group), dist.get_world_size(process_group))

    def maximum_(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """The elementwise maximum over the processes, in place; NaN where one is NaN.

        Args:
            magnitudes: float32, none of them below 0, nor a NaN with a sign.
        """
        # Not below 0, floats order as their bits do, with NaN above infinity; NCCL's maximum of
        # floats may drop a NaN.
        dist.all_reduce(magnitudes.view(torch.int32), dist.ReduceOp.MAX, self.process_group)
        return magnitudes

    def total_(self, values: torch.Tensor) -> torch.Tensor:
        """The elementwise sum over the processes, in place."""
        dist.all_reduce(values, dist.ReduceOp.SUM, self.process_group)
        return values

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Every process's values, by rank on a new first axis; all of one shape."""
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous(), self.process_group)
        return torch.stack(parts)


@dataclass(frozen=True)
class Split:
    """How the tokens of one forward are split.

    Args:
        group: Over which processes.
        total: Tokens of the whole sequence that is split.
    """

    group: TokenGroup
    total: int

    @property
    def longest(self) -> int:
        """As many tokens as no process holds more of."""
        return -(-self.total // self.group.size)

    def shard(self, present: int) -> Shard:
        """What this process holds of the sequence; see `Shard.of`."""
        return Shard.of(present, self.total, self.group.rank, self.group.size)
