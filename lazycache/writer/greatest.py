"""The greatest values of each unit and their rows, while rows go by. For one thread.

Whoever has enough values of a unit needs only what is greater than the least of them: a look at the
maximum of 128 rows tells for nearly all units that they hold nothing new.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lazycache.codec.statistics import TOP_ROWS

_MANY = 2 * TOP_ROWS  # candidates of each unit, on average, that are sorted at once
_WORTH = TOP_ROWS // 2  # so few are left until there are more


class _Candidates(NamedTuple):
    """Values that may be among the greatest; rows ascend within each unit."""

    unit: np.ndarray
    value: np.ndarray
    row: np.ndarray


class Greatest:
    """Keeps the greatest values of each unit, the first rows of equal ones.

    Args:
        units: How many units.
        dtype: Of the tiles: float32, float64, int64 or uint64.

    Example:
        >>> greatest = Greatest(2, np.dtype("float32"))
        >>> tile = np.array([[1, 5], [3, 5], [2, -np.inf]], np.float32)
        >>> greatest.add(tile, tile.max(axis=0), row=0)
        >>> values, rows = greatest.take()
        >>> rows
        array([[ 1,  0],
               [ 2,  1],
               [ 0, -1]], dtype=int32)
    """

    def __init__(self, units: int, dtype: np.dtype) -> None:
        lowest = dtype.type(-np.inf if dtype.kind == "f" else np.iinfo(dtype).min)
        self._values = np.full((units, TOP_ROWS), lowest, dtype)
        self._rows = np.full((units, TOP_ROWS), -1, np.int32)
        self._above = np.full(units, lowest, dtype)  # what is not above it is not wanted
        self._fresh: list[_Candidates] = []
        self._waiting = 0  # candidates in `_fresh`
        self._met = 0  # candidates since `settle`
        self._seen = 0
        self.is_busy = True
        """Whether so much was new that it is worth to `expect`."""

    def expect(self, maxima: np.ndarray) -> None:
        """Say what is to come, so that less of it has to be looked at.

        Args:
            maxima: [groups, units]: maxima of disjoint groups of the rows that come next. As many
                values as there are groups are at least as large as the least of them.
        """
        if len(maxima) < TOP_ROWS:
            return
        bound = np.partition(maxima, len(maxima) - TOP_ROWS, axis=0)[len(maxima) - TOP_ROWS]
        np.maximum(self._above, _below(bound), out=self._above)

    def add(self, tile: np.ndarray, high: np.ndarray, *, row: int) -> None:
        """Look at the next rows.

        Args:
            tile: [rows, units]; -Inf where a value does not count.
            high: The maximum of each unit.
            row: The first row.
        """
        # the least integer is above nothing
        everything = tile.dtype.kind != "f" and self._seen < TOP_ROWS
        self._seen += len(tile)
        units = np.arange(len(high)) if everything else np.flatnonzero(high > self._above)
        if not len(units):
            return
        if 2 * len(units) > len(high):  # only of few columns a copy is faster
            units = np.arange(len(high))
        values = tile if len(units) == len(high) else tile.take(units, axis=1)
        wanted = np.ones(values.shape, np.bool_) if everything else values > self._above[units]
        place, column = np.divmod(np.flatnonzero(wanted), len(units))
        rows = (place + row).astype(np.int32)
        self._fresh.append(_Candidates(units[column], values[place, column], rows))
        self._waiting += len(rows)
        self._met += len(rows)
        if self._waiting > _MANY * len(high):
            self._sort()

    def settle(self) -> None:
        """Learn what later rows have to exceed; for now and then."""
        self.is_busy, self._met = self._met > _WORTH * len(self._above), 0
        if self._waiting > _WORTH * len(self._above):
            self._sort()

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values and rows, [ranks, units] each, descending; the row of none is -1."""
        self._sort()
        ranks = min(TOP_ROWS, self._seen)
        values, rows = self._values[:, :ranks], self._rows[:, :ranks]
        return np.ascontiguousarray(values.T), np.ascontiguousarray(rows.T)

    def _sort(self) -> None:
        """Find the greatest among those that there were and the candidates."""
        unit, value, row = (np.concatenate(part) for part in zip(*self._all(), strict=True))
        self._fresh, self._waiting = [], 0
        order = _descending(value, row)
        by_unit = unit[order].astype(np.min_scalar_type(len(self._above)))
        order = order[np.argsort(by_unit, kind="stable")]
        unit = unit[order]
        counts = np.bincount(unit, minlength=len(self._above))
        rank = np.arange(len(unit)) - (np.cumsum(counts) - counts)[unit]
        kept = rank < TOP_ROWS
        unit, rank, order = unit[kept], rank[kept], order[kept]
        self._values[unit, rank] = value[order]
        self._rows[unit, rank] = row[order]
        full = np.flatnonzero(counts >= TOP_ROWS)
        self._above[full] = self._values[full, TOP_ROWS - 1]

    def _all(self) -> list[_Candidates]:
        unit, rank = np.nonzero(self._rows >= 0)
        return [_Candidates(unit, self._values[unit, rank], self._rows[unit, rank]), *self._fresh]


def _below(bound: np.ndarray) -> np.ndarray:
    """Return the next smaller numbers; where there is none, the same."""
    if bound.dtype.kind == "f":
        below: np.ndarray = np.nextafter(bound, -np.inf, dtype=bound.dtype)
        return below
    lower: np.ndarray = bound - (bound > np.iinfo(bound.dtype).min).astype(bound.dtype)
    return lower


def _descending(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the order of values from the greatest on; of equal ones, as their rows ascend."""
    if values.dtype != np.float32:
        # rows of one unit ascend already, and nothing overflows
        falling = -values if values.dtype.kind == "f" else ~values
        order: np.ndarray = np.argsort(falling, kind="stable")
        return order
    # one number that sorts as value and row: five times as fast, since no two are equal
    bits = (values + np.float32(0)).view(np.int32)  # there are two zeros
    upper = (~(bits ^ ((bits >> 31) & 0x7FFFFFFF))).astype(np.int64) << 32
    return np.argsort(upper | rows)
