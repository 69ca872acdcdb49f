"""What a mixture hands out in which batch, by numbers alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lazycache.feed.order import Permutation, key_of
from lazycache.feed.shares import Shares

UNTIL = ("first", "all")
"""When an epoch ends: with the first source that has no more rows, or when all were seen whole."""


@dataclass(frozen=True)
class MixturePlan:
    """How rows of several sources become batches. Without slots, for what is worked out once."""

    rows: tuple[int, ...]
    """Rows of an epoch of each source."""
    weights: tuple[float, ...]
    """How many rows of a mixture are of each, in proportion."""
    batch_size: int
    """Rows of a batch."""
    seed: int
    """Chooses the places of rows in a batch."""
    until: str
    """One of `UNTIL`."""
    drop_last: bool
    """Whether a last batch that is not full is left out."""

    @cached_property
    def shares(self) -> Shares:
        """The share of each source."""
        return Shares(self.weights)

    @cached_property
    def total(self) -> int:
        """Rows of an epoch."""
        if self.until == "first":
            dealt = self.shares.until_first(self.rows)
        else:
            dealt = self.shares.until_all(self.rows)
        return dealt - dealt % self.batch_size if self.drop_last else dealt

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.total // self.batch_size)

    def before(self, batch: int) -> np.ndarray:
        """Return how many rows of each source come before a batch: int64[sources].

        Example:
            >>> plan = MixturePlan((6, 6), (2.0, 1.0), 3, 0, "first", False)
            >>> plan.batches, [plan.before(batch).tolist() for batch in range(4)]
            (3, [[0, 0], [2, 1], [4, 2], [6, 3]])
        """
        return self.shares.after(min(self.total, batch * self.batch_size))

    def passes(self, source: int) -> int:
        """Return how many times an epoch begins a source: once, or again and again with `all`."""
        return max(1, -(-int(self.before(self.batches)[source]) // self.rows[source]))

    def places(self, epoch: int, batch: int, count: int) -> np.ndarray:
        """Return where the rows of a batch go, source after source: int64[count], a permutation."""
        key = key_of(self.seed, epoch, batch)
        return Permutation(count, key)(np.arange(count, dtype=np.int64))
