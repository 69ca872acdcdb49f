"""Absolute rows of a selection by position, in the memory of their runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from lazycache.cache.selecting.plan import Rows, as_range

_WORTH = 4


@dataclass(frozen=True, slots=True, eq=False)
class RowNumbers:
    """The row at each position: of long runs the runs are kept, of scattered rows the rows."""

    count: int
    """How many rows."""
    step: int
    """From a row to the next in a run."""
    starts: np.ndarray
    """int64[runs]: the first row of each run; without `begins`, every row."""
    begins: np.ndarray | None
    """int64[runs]: the position at which each run begins."""

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Return the numbers of rows. Those of an array that has long runs are not kept.

        Example:
            >>> numbers = RowNumbers.of(np.array([3, 4, 5, 6, 7, 9, 10, 11, 12, 13]))
            >>> numbers.starts.tolist(), numbers.at(np.array([0, 4, 5, 9])).tolist()
            ([3, 9], [3, 7, 9, 13])
        """
        if isinstance(rows, range):
            return cls(len(rows), rows.step, np.array([rows.start]), np.zeros(1, dtype=np.int64))
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        if len(breaks) * _WORTH >= len(rows):
            return cls(len(rows), 1, rows.copy(), None)
        begins = np.concatenate([np.zeros(1, dtype=np.int64), breaks])
        return cls(len(rows), 1, rows[begins], begins)

    def at(self, positions: np.ndarray) -> Rows:
        """Return the rows at positions: a range where they are consecutive."""
        if self.begins is None:
            rows = self.starts.take(positions)
        elif len(self.begins) == 1:
            rows = positions * self.step + self.starts[0]
        else:
            run = np.searchsorted(self.begins, positions, side="right") - 1
            rows = self.starts.take(run) + (positions - self.begins.take(run))
        span = as_range(rows)
        return rows if span is None else span

    def fingerprint(self) -> bytes:
        """Return bytes that tell these rows from others."""
        head = np.array([self.count, self.step], dtype=np.int64)
        begins = np.empty(0, dtype=np.int64) if self.begins is None else self.begins
        return b"".join(part.tobytes() for part in (head, self.starts, begins))
