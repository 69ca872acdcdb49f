"""Aggregates of rows that arrive in blocks: exact to float64, in memory that does not grow.

Every accumulator takes matrices [rows, units] and reduces the rows. Floats are accumulated in
float64 in tiles that stay in the processor's cache; variances are merged by Chan's rule, so that
neither many rows nor a large mean costs digits. NaN and infinities go through as in torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol, Self

import torch

from lazycache.cache.files.parallel import PIECE_VALUES
from lazycache.cache.reading.known import Known
from lazycache.cache.reading.ordering import comparable, original
from lazycache.errors import SelectionError

TRUTHS = ("all", "any", "count_nonzero")
"""What asks of values only whether they are zero."""

OPS = ("mean", "sum", "min", "max", "std", "var", "norm", *TRUTHS)
"""What can be reduced."""

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


class Accumulator(Protocol):
    """Reduces rows, matrix after matrix."""

    def add(self, matrix: torch.Tensor) -> Self:
        """Take [rows, units] in. The matrix is not kept."""
        ...

    def add_known(self, known: Known) -> Self:
        """Take in rows of which these numbers are known."""
        ...

    def merge(self, other: Self) -> None:
        """Take in what another accumulator of the same kind has taken in."""
        ...

    def result(self) -> torch.Tensor:
        """Return [units]."""
        ...


def accumulator(
    op: str, units: int, dtype: torch.dtype, *, device: torch.device, correction: float
) -> Accumulator:
    """Return an accumulator of values of `dtype`: one of `OPS`."""
    if op in {"min", "max"}:
        return _Extreme(op, dtype)
    if op in TRUTHS:
        return _Truth(op, units, device)
    zeros = torch.zeros(units, dtype=accumulated(dtype), device=device)
    if op == "sum" and not dtype.is_floating_point:
        return _IntegerSum(zeros)
    zeros = zeros.to(torch.float64)
    if op in {"sum", "norm", "mean"}:
        return _Sum(op, zeros)
    return _Variance(op, zeros, correction=correction)


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which values of `dtype` are summed."""
    return torch.float64 if dtype.is_floating_point else torch.int64


class _Sum:
    """Sum, mean, or root of the sum of squares, in float64."""

    def __init__(self, op: str, zeros: torch.Tensor) -> None:
        self._op = op
        self._total = zeros
        self._rows = 0

    def add(self, matrix: torch.Tensor) -> Self:
        for tile in _wide_tiles(matrix):
            self._total += (tile.square() if self._op == "norm" else tile).sum(0)
        self._rows += len(matrix)
        return self

    def add_known(self, known: Known) -> Self:
        total = known.squares() if self._op == "norm" else known.total(self._total.dtype)
        self._total += total.to(self._total.device)
        self._rows += known.count
        return self

    def merge(self, other: Self) -> None:
        self._total += other._total
        self._rows += other._rows

    def result(self) -> torch.Tensor:
        if self._op == "mean":
            return self._total / self._rows
        return self._total.sqrt() if self._op == "norm" else self._total


class _IntegerSum:
    """Sums of integers and bools, in int64."""

    def __init__(self, zeros: torch.Tensor) -> None:
        self._total = zeros

    def add(self, matrix: torch.Tensor) -> Self:
        for tile in tiles(matrix):
            self._total += tile.to(torch.int64).sum(0)
        return self

    def add_known(self, known: Known) -> Self:
        self._total += known.total(torch.int64).to(self._total.device)
        return self

    def merge(self, other: Self) -> None:
        self._total += other._total

    def result(self) -> torch.Tensor:
        return self._total


class _Extreme:
    """Smallest or largest values, in the dtype of the values."""

    def __init__(self, op: str, dtype: torch.dtype) -> None:
        self._op = op
        self._dtype = dtype
        self._best: list[torch.Tensor] = []

    def add(self, matrix: torch.Tensor) -> Self:
        found = [_extreme(comparable(tile), self._op, dim=(0,)) for tile in tiles(matrix)]
        self._keep(found)
        return self

    def add_known(self, known: Known) -> Self:
        self._keep([known.extreme(self._op)])
        return self

    def merge(self, other: Self) -> None:
        self._keep(other._best)

    def _keep(self, found: list[torch.Tensor]) -> None:
        candidates = [*self._best, *found]
        if candidates:
            here = [one.to(candidates[-1].device) for one in candidates]
            self._best = [_extreme(torch.stack(here), self._op, dim=(0,))]

    def result(self) -> torch.Tensor:
        if not self._best:
            raise no_rows(self._op)
        return original(self._best[0], self._dtype)


class _Variance:
    """Count, mean and sum of squared deviations, merged by Chan's rule.

    Means are kept as distances from the first row, so that a mean which is large beside the
    deviations costs no digits.
    """

    def __init__(self, op: str, zeros: torch.Tensor, *, correction: float) -> None:
        self._op = op
        self._correction = correction
        self._rows = 0
        self._shift = zeros
        self._mean = zeros
        self._m2 = zeros.clone()

    def add(self, matrix: torch.Tensor) -> Self:
        for tile in _wide_tiles(matrix):
            if not self._rows:
                self._shift = tile[0].clone()
            near = tile - self._shift
            mean = near.mean(0)
            self._merge(len(tile), mean - self._mean, (near - mean).square_().sum(0))
        return self

    def merge(self, other: Self) -> None:
        if not self._rows:
            self._shift = other._shift
        if other._rows:
            delta = (other._mean - self._mean) + (other._shift - self._shift)
            self._merge(other._rows, delta, other._m2)

    def add_known(self, known: Known) -> Self:
        mean, m2 = known.spread()
        mean = mean.to(self._m2.device)
        if not self._rows:
            self._shift = mean
        self._merge(known.count, (mean - self._shift) - self._mean, m2.to(self._m2.device))
        return self

    def _merge(self, rows: int, delta: torch.Tensor, m2: torch.Tensor) -> None:
        total = self._rows + rows
        self._m2 += m2 + delta.square() * (self._rows * rows / total)
        self._mean = self._mean + delta * (rows / total)
        self._rows = total

    def result(self) -> torch.Tensor:
        # torch: nan for no rows or a zero over zero, inf where the deviations are not zero
        divisor = max(0.0, self._rows - self._correction)
        var = self._m2 / divisor if self._rows else torch.full_like(self._m2, torch.nan)
        return var.sqrt() if self._op == "std" else var


class _Truth:
    """Whether all or any values differ from zero, or how many do; NaN differs, as in torch."""

    def __init__(self, op: str, units: int, device: torch.device) -> None:
        self._op = op
        kind = torch.int64 if op == "count_nonzero" else torch.bool
        self._found = torch.full((units,), op == "all", dtype=kind, device=device)

    def add(self, matrix: torch.Tensor) -> Self:
        for tile in tiles(matrix):
            self._take(truth(self._op, nonzero(tile), (0,)))
        return self

    def add_known(self, known: Known) -> Self:
        self._take(known.truth(self._op).to(self._found.device))
        return self

    def merge(self, other: Self) -> None:
        self._take(other._found)

    def _take(self, found: torch.Tensor) -> None:
        if self._op == "count_nonzero":
            self._found += found
        else:
            self._found = self._found & found if self._op == "all" else self._found | found

    def result(self) -> torch.Tensor:
        return self._found


def nonzero(values: torch.Tensor) -> torch.Tensor:
    """Return which values are not zero; NaN is not."""
    if values.dtype in _SIGNED:
        values = values.contiguous().view(_SIGNED[values.dtype])
    return comparable(values) != 0


def truth(op: str, flags: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    """Return one of `TRUTHS` over dimensions of flags."""
    if op == "count_nonzero":
        return flags.sum(dim)
    return flags.all(dim) if op == "all" else flags.any(dim)


def _extreme(values: torch.Tensor, op: str, *, dim: tuple[int, ...]) -> torch.Tensor:
    return values.amin(dim) if op == "min" else values.amax(dim)


def direct(
    op: str, values: torch.Tensor, dim: tuple[int, ...], *, correction: float
) -> torch.Tensor:
    """Reduce dimensions of a tensor that is in memory, with the dtypes of the accumulators."""
    if op in {"min", "max"}:
        if any(values.shape[d] == 0 for d in dim):
            raise no_rows(op)
        return original(_extreme(comparable(values), op, dim=dim), values.dtype)
    if op in TRUTHS:
        return truth(op, nonzero(values), dim)
    if op == "sum":
        return values.to(accumulated(values.dtype)).sum(dim)
    wide = values.to(torch.float64)
    if op == "mean":
        return wide.mean(dim)
    if op == "norm":
        return wide.square().sum(dim).sqrt()
    var = wide.sub(wide.mean(dim, keepdim=True)).square_().sum(dim)
    rows = math.prod(values.shape[d] for d in dim)
    var = var / max(0.0, rows - correction) if rows else torch.full_like(var, torch.nan)
    return var.sqrt() if op == "std" else var


def no_rows(op: str) -> SelectionError:
    """Return the error for the extreme of nothing."""
    return SelectionError(f"{op} of no rows has no value; .count() says how many there are.")


def tiles(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield rows in pieces that stay in the processor's cache and on the calling thread."""
    size = max(1, PIECE_VALUES // max(1, math.prod(matrix.shape[1:])))
    for start in range(0, len(matrix), size):
        yield matrix[start : start + size]


def _wide_tiles(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    return (tile.to(torch.float64) for tile in tiles(matrix))
