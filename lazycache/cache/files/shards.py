"""What all readers of shards have in common, wherever the bytes are."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from lazycache.cache.selecting.plan import SitePlan, Span
from lazycache.cache.selecting.units import Units
from lazycache.errors import CorruptShardError


class Shards(Protocol):
    """Where the bytes of shards come from."""

    def copy(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        """Fill `out` with consecutive rows, span after span."""
        ...

    def take(self, plan: SitePlan, rows: np.ndarray, *, units: Units) -> torch.Tensor:
        """Return rows in the order given, at least one."""
        ...


def verify(plan: SitePlan, chunk: int, data: memoryview) -> None:
    """Compare a chunk's values with the checksum that the log recorded.

    Raises:
        CorruptShardError: they differ.
    """
    if zlib.crc32(data) != int(plan.crcs[chunk]):
        ref = plan.shards[int(plan.shard[chunk])]
        raise CorruptShardError(
            f"shard {ref.path} of site {plan.spec.name!r}: the values of rows "
            f"{plan.starts[chunk]:,} to {plan.stops[chunk]:,} do not have the checksum that was "
            "recorded when they were written: restore the file from a copy."
        )
