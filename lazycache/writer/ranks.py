"""Which of several processes this one is, and what follows: ids, batches, sessions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from lazycache.errors import CaptureError
from lazycache.types import Session

T = TypeVar("T")

_MOST = 1 << 31


@dataclass(frozen=True, slots=True)
class Ranks:
    """The number of this process among those that write one run.

    Example:
        >>> second = Ranks(1, 4)
        >>> second.first_id(100), list(second.share(range(10)))
        (101, [1, 5, 9])
    """

    rank: int = 0
    """Its number, from 0."""
    world_size: int = 1
    """How many there are."""
    has_group: bool = False
    """Whether they can wait for each other: numbers of `torch.distributed`, not given ones."""
    is_said: bool = False
    """Whether the numbers were given."""

    def first_id(self, base: int) -> int:
        """Return the first id that this process counts, of a run that counts from `base`.

        Process r of W counts base + r, base + r + W, ...: what
        `torch.utils.data.DistributedSampler` deals to it.
        """
        return base + self.rank

    def share(self, items: Iterable[T]) -> Iterator[T]:
        """Give what this process gets of what is dealt to all, one by one."""
        return islice(items, self.rank, None, self.world_size)

    def session(self) -> Session | None:
        """Return a new session for the log; None of a process that writes alone, by default."""
        if self.world_size == 1 and not self.is_said:
            return None
        return Session(self.rank, uuid.uuid4().hex)


def ranks_of(rank: int | None, world_size: int | None) -> Ranks:
    """Return the numbers that were given, else those of `torch.distributed`, else 0 of 1.

    Raises:
        CaptureError: one without the other, or numbers that cannot be.

    Example:
        >>> ranks_of(None, None)
        Ranks(rank=0, world_size=1, has_group=False, is_said=False)
        >>> ranks_of(3, 8).rank
        3
    """
    if rank is None and world_size is None:
        return _ranks_of_torch()
    if rank is None or world_size is None:
        raise CaptureError(
            f"rank={rank!r}, world_size={world_size!r}: give both, or neither under "
            "torch.distributed."
        )
    for name, value in (("rank", rank), ("world_size", world_size)):
        if type(value) is not int:
            raise CaptureError(f"{name}={value!r}: a whole number.")
    if not 0 <= rank < world_size < _MOST:
        raise CaptureError(
            f"rank={rank} of world_size={world_size}: ranks count from 0 to world_size - 1."
        )
    return Ranks(rank, world_size, is_said=True)


def _ranks_of_torch() -> Ranks:
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return Ranks()
    size = distributed.get_world_size()
    return Ranks(distributed.get_rank(), size, has_group=size > 1)
