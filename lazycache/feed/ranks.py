"""Which part of the rows is a process's own, where several train together."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch

from lazycache.errors import SelectionError


@dataclass(frozen=True, slots=True)
class Rank:
    """One of several processes."""

    rank: int
    """Its number, from 0."""
    world_size: int
    """How many there are."""

    def rows(self, total: int) -> int:
        """Return how many of `total` rows are its own.

        Example:
            >>> [Rank(rank, 3).rows(10) for rank in range(3)]
            [3, 3, 4]
        """
        return (self.rank + 1) * total // self.world_size - self.rank * total // self.world_size

    def batches(self, total: int, *, batch_size: int, drop_last: bool) -> int:
        """Return how many batches it hands out; with `drop_last` as many as every other rank.

        Example:
            >>> rank = Rank(2, 3)
            >>> rank.batches(10, batch_size=3, drop_last=False)
            2
            >>> rank.batches(10, batch_size=3, drop_last=True)
            1
        """
        if drop_last:
            return total // self.world_size // batch_size
        return -(-self.rows(total) // batch_size)

    def most_batches(self, total: int, batch_size: int) -> int:
        """Return how many batches the rank with most rows hands out.

        Example:
            >>> Rank(0, 3).most_batches(10, 3)
            2
        """
        most = -(-total // self.world_size)
        return -(-most // batch_size)


def of_process(rank: int | None, world_size: int | None) -> Rank:
    """Return the rank that is given, that of `torch.distributed` if it runs, or the only one.

    Raises:
        SelectionError: one of the two without the other, or a rank that is none of the world's.
    """
    if rank is None and world_size is None:
        group = torch.distributed
        if group.is_available() and group.is_initialized():
            return Rank(group.get_rank(), group.get_world_size())
        return Rank(0, 1)
    if rank is None or world_size is None:
        raise SelectionError("rank and world_size go together: loader(..., rank=0, world_size=8).")
    rank, world_size = whole_number("rank", rank), whole_number("world_size", world_size)
    if not 0 <= rank < world_size:
        raise SelectionError(f"rank {rank} of {world_size}: ranks are 0 to world_size - 1.")
    return Rank(rank, world_size)


def whole_number(name: str, given: object) -> int:
    """Return a number that is whole.

    Raises:
        SelectionError: it is not; names what it is for.
    """
    try:
        return operator.index(given)  # type: ignore[arg-type]  # that is the question
    except TypeError as exc:
        raise SelectionError(f"{name} is a whole number, not {given!r}.") from exc
