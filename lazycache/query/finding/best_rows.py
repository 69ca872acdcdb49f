"""The k best rows of each of some queries, as they are found."""

from __future__ import annotations

import numpy as np

NOWHERE = np.iinfo(np.int64).max
"""Row of a rank that no row has."""


class BestRows:
    """Keeps the k best values of each query and their rows; of equal values the lower rows.

    More is better; NaN is never kept.

    Example:
        >>> best = BestRows(1, 2)
        >>> zeros = np.zeros(3, dtype=np.int64)
        >>> best.add(zeros, np.array([1.0, 3.0, 3.0]), np.array([7, 6, 5]))
        >>> best.of(0)
        (array([3., 3.]), array([5, 6]))
    """

    def __init__(self, queries: int, k: int) -> None:
        self._values = np.full((queries, k), -np.inf)
        self._rows = np.full((queries, k), NOWHERE)
        self.bars = (self._values[:, -1].copy(), NOWHERE)
        """float64[queries], the least of the best of each query, -inf until it has k; and a row
        after which there is none of the best. Replaced as a whole: others may read it any time."""

    def add(self, queries: np.ndarray, values: np.ndarray, rows: np.ndarray) -> None:
        """Take in pairs: int64[n], float64[n], int64[n]."""
        kept = ~np.isnan(values)
        queries, values, rows = queries[kept], values[kept], rows[kept]
        met, member = np.unique(queries, return_inverse=True)
        if not len(met):
            return
        k = self._values.shape[1]
        everyone = np.concatenate([np.repeat(np.arange(len(met)), k), member])
        values = np.concatenate([self._values[met].ravel(), values])
        rows = np.concatenate([self._rows[met].ravel(), rows])
        order = np.lexsort((rows, -values, everyone))
        first = np.searchsorted(everyone[order], np.arange(len(met)))
        best = order[first[:, None] + np.arange(k)]
        self._values[met], self._rows[met] = values[best], rows[best]
        self.bars = (self._values[:, -1].copy(), int(self._rows.max(initial=-1)))

    def of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of a query, best first, and their rows."""
        there = self._rows[query] != NOWHERE
        return self._values[query][there], self._rows[query][there]
