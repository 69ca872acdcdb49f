"""Where extremes are: places of the largest and smallest values, and the k largest, in a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from lazycache.cache.aggregates.reduce import no_rows, tiles
from lazycache.cache.aggregates.row_stream import RowStream
from lazycache.cache.reading.ordering import comparable, keys_of, values_of_keys

NOWHERE = 1 << 62
"""Row of a rank that no row has."""

_LEAST = -(1 << 63)
_KEPT = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """The reduction to the place of the first of the largest or smallest values."""

    name: str
    """`argmax` or `argmin`."""
    in_order: bool = True
    """As `Kernel.in_order`."""

    def direct(self, values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
        """Return places along one dimension, or in all of them flattened: int64.

        Raises:
            SelectionError: of no values.
        """
        if any(values.shape[d] == 0 for d in dims):
            raise no_rows(self.name)
        whole = len(dims) == values.ndim
        flat = comparable(values).reshape(-1) if whole else comparable(values)
        dim = 0 if whole else dims[0]
        return flat.argmax(dim) if self.name == "argmax" else flat.argmin(dim)

    def streamed(self, stream: RowStream) -> torch.Tensor:
        """Return places in the rows of a stream, counted through its reduced units: int64[units].

        Raises:
            SelectionError: of no rows.
        """
        if not stream.rows:
            raise no_rows(self.name)
        total = Places(self.name)
        for part in stream.map(lambda matrix: Places(self.name).add(matrix)):
            total.merge(part)
        return total.result()


class Places:
    """Accumulates places; NaN is beyond every value, as in torch."""

    def __init__(self, name: str) -> None:
        self._sign = name
        self._best: torch.Tensor | None = None
        self._place = torch.zeros(0)
        self._rows = 0

    def add(self, matrix: torch.Tensor) -> Self:
        """Take [rows, units] in."""
        for tile in tiles(matrix):
            values = comparable(tile)
            found = values.argmax(0) if self._sign == "argmax" else values.argmin(0)
            self._take(values.gather(0, found[None])[0], found)
            self._rows += len(tile)
        return self

    def merge(self, other: Places) -> None:
        """Take in rows that come after all that were taken in."""
        if other._best is not None:
            self._take(other._best, other._place)
        self._rows += other._rows

    def _take(self, values: torch.Tensor, place: torch.Tensor) -> None:
        if self._best is None:
            self._best, self._place = values, place + self._rows
            return
        better = values > self._best if self._sign == "argmax" else values < self._best
        if values.dtype.is_floating_point:
            better = (better | values.isnan()) & ~self._best.isnan()
        self._best = torch.where(better, values, self._best)
        self._place = torch.where(better, place + self._rows, self._place)

    def result(self) -> torch.Tensor:
        """Return places: int64[units]."""
        return self._place


class Top:
    """Accumulates the k largest or smallest values of each unit and the rows that have them.

    Of equal values, the lower rows. As in torch NaN is the largest.
    """

    def __init__(self, k: int, units: int, dtype: torch.dtype, *, largest: bool) -> None:
        self._k = k
        self._units = units
        self._dtype = dtype
        self._largest = largest
        # descending scores, of each unit: keys, or their complements where the smallest are best
        self._score = np.full((units, k), _LEAST, dtype=np.int64)
        self._row = np.full((units, k), NOWHERE, dtype=np.int64)
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self._bar: torch.Tensor | None = None
        """The least of the best, unit by unit, once there are k of each."""
        self._bar_nan: torch.Tensor | None = None
        """Where the bar is NaN; None: nowhere."""
        self._latest = -1
        """No row of the best that are known comes after this one."""

    def like(self) -> Top:
        """Return one of nothing, that leaves out what cannot be in this one."""
        other = Top(self._k, self._units, self._dtype, largest=self._largest)
        other._bar, other._bar_nan, other._latest = self._bar, self._bar_nan, self._latest
        return other

    def add(
        self, matrix: torch.Tensor, rows: np.ndarray, *, valid: np.ndarray | None = None
    ) -> Self:
        """Take [rows, units] in, whose numbers are int64[rows], or int64[rows, units] unit by unit.

        `valid` says which values count; None is all.
        """
        begin = 0
        for tile in tiles(matrix):
            part = slice(begin, begin + len(tile))
            self._look(tile, rows[part], None if valid is None else valid[part])
            begin += len(tile)
        return self

    def merge(self, other: Top) -> None:
        """Take in what another one has taken in."""
        unit, rank = np.nonzero(other._row != NOWHERE)
        if len(unit):
            self._wait(unit, other._score[unit, rank], other._row[unit, rank])
        for found in other._found:
            self._wait(*found)
        if self._bar is None or self._is_full:
            self._settle()

    def last(self) -> tuple[int, int] | None:
        """Return score and row of the last of the best of the first unit; None: there are fewer.

        A score is a key (`keys_of`), or its complement where the smallest are best.
        """
        self._settle()
        score, row = int(self._score[0, -1]), int(self._row[0, -1])
        return None if row == NOWHERE else (score, row)

    def result(self) -> tuple[torch.Tensor, np.ndarray]:
        """Return values and their rows: [k, units] each."""
        self._settle()
        score = torch.from_numpy(np.ascontiguousarray(self._score.T))
        values = values_of_keys(score if self._largest else ~score, self._dtype)
        return values, np.ascontiguousarray(self._row.T)

    def _look(self, tile: torch.Tensor, rows: np.ndarray, valid: np.ndarray | None) -> None:
        there = self._candidates(tile, later=int(rows.min(initial=NOWHERE)) > self._latest)
        if valid is not None:
            there = there & torch.from_numpy(valid)
        place, unit = (index.numpy() for index in there.nonzero(as_tuple=True))
        if not len(place):
            return
        keys = keys_of(tile[there]).numpy()
        numbers = rows[place] if rows.ndim == 1 else rows[place, unit]
        self._wait(unit, keys if self._largest else ~keys, numbers)
        if self._is_full:
            self._settle()

    def _candidates(self, tile: torch.Tensor, *, later: bool) -> torch.Tensor:
        """Return which values may be among the best: bool[rows, units].

        Of values equal to the bar a later row is not among them, an earlier one may be.
        """
        bar, values = self._bar, comparable(tile)
        if bar is None:
            return torch.ones(tile.shape, dtype=torch.bool)
        if self._largest:
            # NaN is not below anything, so it is a candidate
            above = ~(values <= bar) if later else ~(values < bar)
        else:
            above = values < bar if later else values <= bar
        if self._bar_nan is None:
            return above
        return torch.where(self._bar_nan, self._beside_nan(values.isnan(), later=later), above)

    def _beside_nan(self, nan: torch.Tensor, *, later: bool) -> torch.Tensor:
        """Return the candidates beside a bar that is NaN, the largest of all."""
        if self._largest:
            return torch.zeros_like(nan) if later else nan
        return ~nan if later else torch.ones_like(nan)

    @property
    def _is_full(self) -> bool:
        return self._waiting > max(_KEPT, 4 * self._score.size)

    def _wait(self, unit: np.ndarray, score: np.ndarray, row: np.ndarray) -> None:
        self._found.append((unit, score, row))
        self._waiting += len(unit)

    def _settle(self) -> None:
        """Sort what is waiting into what is known."""
        if not self._waiting:
            return
        known = np.repeat(np.arange(self._units), self._k)
        waiting = zip(*self._found, (known, self._score.ravel(), self._row.ravel()), strict=True)
        unit, score, row = (np.concatenate(parts) for parts in waiting)
        order = np.lexsort((row, ~score, unit))
        first = np.searchsorted(unit[order], np.arange(self._units))
        best = order[first[:, None] + np.arange(self._k)]
        self._score, self._row = score[best], row[best]
        self._found, self._waiting = [], 0
        self._raise_bar()

    def _raise_bar(self) -> None:
        if (self._row[:, -1] == NOWHERE).any():
            return
        last = torch.from_numpy(self._score[:, -1].copy())
        bar = comparable(values_of_keys(last if self._largest else ~last, self._dtype))
        if self._bar is not None:
            # what others had found stays true
            better = _before(self._bar, bar) if self._largest else _before(bar, self._bar)
            bar = torch.where(better, self._bar, bar)
        nan = bar.isnan() if bar.dtype.is_floating_point else torch.zeros(1, dtype=torch.bool)
        self._bar, self._bar_nan = bar, nan if bool(nan.any()) else None
        self._latest = max(self._latest, int(self._row.max(initial=-1)))


def _before(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return where `a` is larger than `b`, NaN larger than all else."""
    if not a.dtype.is_floating_point:
        return a > b
    return (a > b) | (a.isnan() & ~b.isnan())
