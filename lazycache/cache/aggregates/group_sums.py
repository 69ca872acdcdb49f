"""Aggregates of all groups of rows at once, as rows pass: exact to float64, one pass.

What is held is a number or three per group and unit. Rows of a block are added to their groups by
one operation, however many groups there are and in whatever order they come.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

from lazycache.cache.aggregates.reduce import accumulated, tiles
from lazycache.cache.reading.ordering import comparable, original

HELD = {"var": 3, "std": 3}
"""Numbers that are held per group and unit; 1 of the others."""


class GroupAccumulator(Protocol):
    """Reduces the rows of each group, matrix after matrix."""

    def add(self, matrix: torch.Tensor, groups: torch.Tensor) -> None:
        """Take in [rows, units] whose groups are int64[rows]. The matrix is not kept."""
        ...

    def result(self) -> torch.Tensor:
        """Return [groups, units]."""
        ...


def group_accumulator(
    op: str, counts: torch.Tensor, units: int, dtype: torch.dtype, *, correction: float
) -> GroupAccumulator:
    """Return an accumulator of `op` for groups that have `counts` rows: int64[groups], none 0."""
    if op in {"min", "max"}:
        return _Extremes(op, len(counts), units, dtype, device=counts.device)
    if op in {"var", "std"}:
        return _Variances(op, counts, units, correction=correction)
    wide = accumulated(dtype) if op == "sum" else torch.float64
    return _Sums(op, counts, torch.zeros(len(counts), units, dtype=wide, device=counts.device))


class _Sums:
    """Sum, mean, or root of the sum of squares."""

    def __init__(self, op: str, counts: torch.Tensor, zeros: torch.Tensor) -> None:
        self._op = op
        self._counts = counts
        self._total = zeros

    def add(self, matrix: torch.Tensor, groups: torch.Tensor) -> None:
        done = 0
        for tile in tiles(matrix):
            self._total.index_add_(0, groups[done : done + len(tile)], self._wide(tile))
            done += len(tile)

    def _wide(self, tile: torch.Tensor) -> torch.Tensor:
        wide = tile.to(self._total.dtype)
        return wide.square() if self._op == "norm" else wide

    def result(self) -> torch.Tensor:
        if self._op == "mean":
            return self._total / self._counts[:, None]
        return self._total.sqrt() if self._op == "norm" else self._total


class _Extremes:
    """Smallest or largest values, in the dtype of the values; NaN wins, as in torch."""

    def __init__(
        self, op: str, groups: int, units: int, dtype: torch.dtype, *, device: torch.device
    ) -> None:
        self._op = "amin" if op == "min" else "amax"
        self._dtype = dtype
        compared = comparable(torch.empty(0, dtype=dtype)).dtype
        last = _last(compared, largest=op == "min")
        self._best = torch.full((groups, units), last, dtype=compared, device=device)

    def add(self, matrix: torch.Tensor, groups: torch.Tensor) -> None:
        values = comparable(matrix)
        index = groups[:, None].expand(values.shape)
        self._best.scatter_reduce_(0, index, values, self._op)

    def result(self) -> torch.Tensor:
        return original(self._best, self._dtype)


def _last(dtype: torch.dtype, *, largest: bool) -> float:
    """Return the value after or before which all others come."""
    if dtype.is_floating_point:
        return math.inf if largest else -math.inf
    return torch.iinfo(dtype).max if largest else torch.iinfo(dtype).min


class _Variances:
    """Mean and sum of squared deviations of each group, merged by Chan's rule.

    Means are kept as distances from the first row of their group: a mean that is large beside the
    deviations costs no digits.
    """

    def __init__(self, op: str, counts: torch.Tensor, units: int, *, correction: float) -> None:
        self._op = op
        self._left = (counts - correction).clamp(min=0)[:, None]
        self._rows = torch.zeros_like(counts, dtype=torch.float64)
        zeros = torch.zeros(len(counts), units, dtype=torch.float64, device=counts.device)
        self._shift, self._mean, self._m2 = zeros, zeros.clone(), zeros.clone()

    def add(self, matrix: torch.Tensor, groups: torch.Tensor) -> None:
        done = 0
        for tile in tiles(matrix):
            self._add(tile.to(torch.float64), groups[done : done + len(tile)])
            done += len(tile)

    def _add(self, tile: torch.Tensor, groups: torch.Tensor) -> None:
        met, member, rows = torch.unique(groups, return_inverse=True, return_counts=True)
        order = torch.arange(len(groups), device=met.device)
        first = torch.full_like(met, len(groups)).scatter_reduce_(0, member, order, "amin")
        new = self._rows[met] == 0
        self._shift[met[new]] = tile[first[new]]
        near = tile - self._shift[groups]
        zeros = torch.zeros(len(met), tile.shape[1], dtype=torch.float64, device=met.device)
        mean = zeros.index_add(0, member, near) / rows[:, None]
        m2 = zeros.index_add(0, member, (near - mean[member]).square_())
        self._merge(met, rows, mean, m2)

    def _merge(
        self, met: torch.Tensor, rows: torch.Tensor, mean: torch.Tensor, m2: torch.Tensor
    ) -> None:
        before, rows = self._rows[met], rows.double()
        total = before + rows
        delta = mean - self._mean[met]
        self._m2[met] += m2 + delta.square() * (before * rows / total)[:, None]
        self._mean[met] += delta * (rows / total)[:, None]
        self._rows[met] = total

    def result(self) -> torch.Tensor:
        # torch: nan for a zero over zero, inf where the deviations are not zero
        var = self._m2 / self._left
        return var.sqrt() if self._op == "std" else var
