"""The best row of each example, over rows that come in any order."""

from __future__ import annotations

import numpy as np
import torch

from lazycache.cache.aggregates.extremes import NOWHERE
from lazycache.cache.reading.ordering import keys_of, values_of_keys

_LEAST = -(1 << 63)


class BestOfExamples:
    """Accumulates the largest or smallest value of each example and its row; 16 bytes for each.

    Of equal values the lower row. NaN shall not come in.
    """

    def __init__(self, examples: int, *, largest: bool) -> None:
        self._largest = largest
        self._score = np.full(examples, _LEAST, dtype=np.int64)
        self._row = np.full(examples, NOWHERE, dtype=np.int64)

    def add(self, example: np.ndarray, values: torch.Tensor, rows: np.ndarray) -> None:
        """Take rows in: int64[n] examples, [n] values, int64[n] numbers."""
        if not len(rows):
            return
        keys = keys_of(values).numpy()
        scores = keys if self._largest else ~keys
        # rows of one example mostly follow each other: of each such run the best first
        new = np.ones(len(rows), dtype=np.bool_)
        new[1:] = example[1:] != example[:-1]
        starts = np.flatnonzero(new)
        best = np.maximum.reduceat(scores, starts)
        sizes = np.diff(np.append(starts, len(rows)))
        tied = np.where(scores == np.repeat(best, sizes), rows, NOWHERE)
        self._take(example[starts], best, np.minimum.reduceat(tied, starts))

    def _take(self, example: np.ndarray, score: np.ndarray, row: np.ndarray) -> None:
        order = np.lexsort((row, ~score, example))
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = np.diff(example[order]) != 0
        one = order[first]
        at, score, row = example[one], score[one], row[one]
        better = score > self._score[at]
        better |= (score == self._score[at]) & (row < self._row[at])
        self._score[at[better]], self._row[at[better]] = score[better], row[better]

    def result(self, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, np.ndarray]:
        """Return the values and rows of the k best examples, best first; of fewer if there are."""
        there = np.flatnonzero(self._row != NOWHERE)
        score, row = self._score[there], self._row[there]
        best = np.lexsort((row, ~score))[:k]
        keys = torch.from_numpy(score[best] if self._largest else ~score[best])
        return values_of_keys(keys, dtype), row[best]
