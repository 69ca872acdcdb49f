"""Some vectors that rows are compared with, as fast and as exact arithmetic take them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, TypeAlias

import numpy as np
import torch

from lazycache.query.finding.score_bounds import BFLOAT16, FLOAT32, FLOAT64, HIGH, LOW, Arithmetic

Metric: TypeAlias = Literal["cosine", "l2", "dot"]
"""How rows are compared with a vector."""

_PAIRS_BYTES = 4 << 20


class QueryTile:
    """Vectors of one metric, [queries, units]: finite."""

    def __init__(self, vectors: torch.Tensor, metric: Metric) -> None:
        self.metric = metric
        """How rows are compared."""
        self.units = vectors.shape[1]
        """Units of each."""
        exact = vectors.to(torch.float64)
        # of the cosine the length does not matter: none is too long for float32
        exact = _scaled(exact) if metric == "cosine" else exact
        self.norms = torch.linalg.vector_norm(exact, dim=1)
        """float64[queries]."""
        self.odd = ~((self.norms >= LOW) & (self.norms <= HIGH) | (self.norms == 0))
        """bool[queries]: fast arithmetic says nothing of these."""
        self.any_odd = bool(self.odd.any())
        """Whether there are any."""
        self._latest: tuple[tuple[Hashable, ...], tuple[torch.Tensor, ...]] = ((), ())
        self._exact = exact.numpy()
        self._in = {one.dtype: exact.to(one.dtype) for one in (BFLOAT16, FLOAT32, FLOAT64)}
        self._lost = {
            dtype: torch.linalg.vector_norm(exact - fast.to(torch.float64), dim=1)
            for dtype, fast in self._in.items()
        }

    def __len__(self) -> int:
        return len(self._exact)

    def vectors(self, arithmetic: Arithmetic) -> torch.Tensor:
        """Return them in the dtype of an arithmetic."""
        found: torch.Tensor = self._in[arithmetic.dtype]
        return found

    def error(self, arithmetic: Arithmetic) -> torch.Tensor:
        """Return the error of a product with a row, without rounding, over its norm: float64[q]."""
        lost = self._lost[arithmetic.dtype] * (1 + 1e-6)
        error: torch.Tensor = lost + self.norms * arithmetic.slack(self.units)
        return error

    def kept(
        self, key: tuple[Hashable, ...], work: Callable[[], tuple[torch.Tensor, ...]]
    ) -> tuple[torch.Tensor, ...]:
        """Return what `work` gives, or what it gave for this key if that was asked for last.

        Bars seldom change from one block to the next, and what follows from them is many small
        operations.
        """
        known, found = self._latest  # replaced as a whole: others may do so at any time
        if known != key:
            found = work()
            self._latest = key, found
        return found

    def bars(self, values: torch.Tensor) -> torch.Tensor:
        """Return exact values, of which more is better, as fast scores: float64[queries]."""
        if self.metric == "cosine":
            values = values * self.norms.where(self.norms > 0, 1.0)
        return -values.square() if self.metric == "l2" else values

    def exact(self, block: torch.Tensor, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Return values of pairs of a row of the block and a query: float64[n], more is better.

        The cosine, the product, or minus the distance. A pair's value follows from its row and its
        query alone, whatever is computed beside it: equal rows have equal values.
        """
        found = np.empty(len(rows))
        step = max(1, _PAIRS_BYTES // (8 * max(1, self.units)))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            chosen = block[torch.from_numpy(rows[part])].to(torch.float64).numpy()
            with np.errstate(all="ignore"):  # what is not finite gives what it gives
                found[part] = self._values(chosen, self._exact[queries[part]], queries[part])
        return found

    def _values(self, x: np.ndarray, q: np.ndarray, queries: np.ndarray) -> np.ndarray:
        if self.metric == "dot":
            return _sums(x * q)
        if self.metric == "l2":
            return -_lengths(x - q)
        scaled, _ = _powers(x)
        lengths = np.sqrt(_sums(scaled * scaled)) * self.norms.numpy()[queries]
        # what has no direction is like nothing
        zero = lengths == 0
        cosines = np.clip(_sums(scaled * q) / np.where(zero, 1.0, lengths), -1.0, 1.0)
        return np.where(zero, 0.0, cosines)


def _sums(values: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.add.reduce(values, axis=1)
    return total


def _powers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with a greatest value of about 1, and the powers of two that they are short of.

    Squares of what is tiny or huge would be lost; a power of two rounds nothing.
    """
    most = np.abs(x).max(axis=1, initial=0.0)
    _, power = np.frexp(np.where(np.isfinite(most), most, 1.0))
    return np.ldexp(x, -power[:, None]), power


def _lengths(x: np.ndarray) -> np.ndarray:
    scaled, power = _powers(x)
    lengths: np.ndarray = np.ldexp(np.sqrt(_sums(scaled * scaled)), power)
    return lengths


def _scaled(vectors: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(_powers(vectors.numpy())[0])
