"""Rows as ranges: what a condition keeps of a table. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lazycache.cache.selecting.examples import ragged_arange
from lazycache.cache.selecting.plan import Rows


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """A set of rows: 16 bytes for each run of consecutive ones, however long."""

    starts: np.ndarray
    """int64[n]: first rows, ascending."""
    stops: np.ndarray
    """int64[n]: the row after the last; not more than the next start."""

    @property
    def count(self) -> int:
        """How many rows."""
        return int((self.stops - self.starts).sum())

    def rows(self) -> Rows:
        """Return the rows, ascending; a range where they are consecutive."""
        if len(self.starts) == 1:
            return range(int(self.starts[0]), int(self.stops[0]))
        return ragged_arange(self.starts, self.stops - self.starts)

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Say of each row whether it is one of them: bool[n]."""
        if len(rows) > len(self.starts) and bool((rows[1:] >= rows[:-1]).all()):
            return self._marked(rows)
        at = np.searchsorted(self.starts, rows, side="right") - 1
        inside = at >= 0
        inside[inside] = rows[inside] < self.stops[at[inside]]
        return inside

    def _marked(self, rows: np.ndarray) -> np.ndarray:
        """Say it of ascending rows: the ranges are looked for among them, which are fewer."""
        ends = np.stack([self.starts, self.stops], 1).reshape(-1)
        sizes = np.diff(np.searchsorted(rows, ends), prepend=0, append=len(rows))
        # outside, inside, outside, ... of any number of rows
        return np.repeat(np.arange(len(sizes)) % 2 > 0, sizes)

    def touches(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Say of each range that is not empty whether one of its rows is here: bool[n]."""
        low = np.searchsorted(self.stops, starts, side="right")
        touched: np.ndarray = low < np.searchsorted(self.starts, stops, side="left")
        return touched

    def __and__(self, other: Spans) -> Spans:
        low = np.searchsorted(other.stops, self.starts, side="right")
        counts = np.searchsorted(other.starts, self.stops, side="left") - low
        mine, theirs = np.repeat(np.arange(len(low)), counts), ragged_arange(low, counts)
        starts = np.maximum(self.starts[mine], other.starts[theirs])
        return Spans(starts, np.minimum(self.stops[mine], other.stops[theirs]))


def of_ranges(starts: np.ndarray, stops: np.ndarray) -> Spans:
    """Return the rows of ranges that are given in any order and may overlap.

    Example:
        >>> spans = of_ranges(np.array([7, 0, 3]), np.array([9, 3, 5]))
        >>> spans.starts.tolist(), spans.stops.tolist()
        ([0, 7], [5, 9])
    """
    there = stops > starts
    order = np.argsort(starts[there], kind="stable")
    starts, stops = starts[there][order], np.maximum.accumulate(stops[there][order])
    new = np.ones(len(starts), dtype=np.bool_)
    new[1:] = starts[1:] > stops[:-1]
    last = np.ones(len(starts), dtype=np.bool_)
    last[:-1] = new[1:]
    return Spans(starts[new], stops[last])


def of_rows(rows: np.ndarray) -> Spans:
    """Return rows that are given in any order, perhaps twice.

    Example:
        >>> spans = of_rows(np.array([4, 5, 1, 5]))
        >>> spans.starts.tolist(), spans.stops.tolist()
        ([1, 4], [2, 6])
    """
    if (rows[1:] < rows[:-1]).any():
        rows = np.sort(rows)
    breaks = rows[1:] > rows[:-1] + 1
    first, last = np.r_[rows[:1], rows[1:][breaks]], np.r_[rows[:-1][breaks], rows[-1:]]
    return Spans(first, last + 1)
