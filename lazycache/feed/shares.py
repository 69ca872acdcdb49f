"""How many of so many rows come from each of several sources, by their weights. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class Shares:
    """Rows that are dealt to sources one by one, so that each always has its share.

    Row `j` of source `i` has its turn at time (j + 1/2) / share of `i`; rows are dealt by their
    times. After any number of rows a source is at most 1/2 + share * sources / 2 rows away from its
    exact share, and what it has never becomes less.

    Example:
        >>> shares = Shares([3, 1])
        >>> [shares.after(n).tolist() for n in (1, 2, 4, 400)]
        [[1, 0], [2, 0], [3, 1], [300, 100]]
    """

    def __init__(self, weights: Sequence[float]) -> None:
        given = np.asarray(weights, dtype=np.float64)
        self.shares = given / given.sum()
        """What part of the rows each source has: float64[sources], their sum 1."""

    def after(self, rows: int) -> np.ndarray:
        """Return how many of the first `rows` rows are of each source: int64[sources].

        Cost: the same for any number.
        """
        sources = len(self.shares)
        # all that are surely among them by a time at which fewer have had their turn
        time = max(0, rows - 2 * sources)
        counts = np.floor(time * self.shares + 0.5).astype(np.int64)
        left = rows - int(counts.sum())
        turns = (counts[:, None] + np.arange(left) + 0.5) / self.shares[:, None]
        # of one time, the source that was named first
        next_ones = np.argsort(turns, axis=None, kind="stable")[:left] // max(1, left)
        found: np.ndarray = counts + np.bincount(next_ones, minlength=sources)
        return found

    def until_first(self, rows: Sequence[int]) -> int:
        """Return how many rows are dealt before one is asked of a source that has no more.

        Example:
            >>> Shares([1, 1]).until_first([2, 100]), Shares([2, 100]).until_first([2, 100])
            (4, 102)
        """
        there = np.asarray(rows, dtype=np.int64)
        return _least(lambda n: bool((self.after(n) > there).any()), most=sum(rows) + 1) - 1

    def until_all(self, rows: Sequence[int]) -> int:
        """Return how many rows are dealt until every source has given all of its rows.

        Example:
            >>> Shares([1, 1]).until_all([2, 100])
            200
        """
        there = np.asarray(rows, dtype=np.int64)
        most = int((there / self.shares).max()) + 2 * len(there) + 2
        return _least(lambda n: bool((self.after(n) >= there).all()), most=most)


def _least(holds: Callable[[int], bool], *, most: int) -> int:
    """Return the least number for which something holds that stays so; it does at `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
