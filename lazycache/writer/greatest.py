"""The greatest values of each unit and their rows, while chunks go by. For one thread.

The 32 greatest values of a chunk lie in the 32 groups of rows with the greatest maxima; of equal
ones, in the first. So whatever the order of the values, few of them are looked at, and of units
that had greater ones before, next to none: of zones that have none of the greatest, not even the
maxima of groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lazycache.codec.statistics import TOP_ROWS
from lazycache.writer.numbers import Numbers
from lazycache.writer.rank_groups import (
    CROWDED,
    ZONE_GROUPS,
    chosen,
    group_starts,
    within_zones,
)
from lazycache.writer.rank_keys import from_keys, to_keys, turned
from lazycache.writer.tiles import GROUP_ROWS, parts_of

_VALUES = 1 << 16  # that are looked at at once, so that they stay in the processor's cache
_FEW = 4  # of so many values one is new: the others are dropped before
_SPARSE = 4  # of so many zones one is wanted: only their groups are looked at
_DENSE = 2  # of so many zones one is wanted: their maxima say what is too small
_WITHIN = np.arange(GROUP_ROWS, dtype=np.int32)


class Greatest:
    """Keeps the greatest values of each unit, the first rows of equal ones.

    Args:
        units: How many units.
        numbers: Makes numbers of values.

    Example:
        >>> greatest = Greatest(2, Numbers("float32"))
        >>> rows = np.array([[1, 5], [3, 5], [2, -np.inf]], np.float32)
        >>> high = rows.max(axis=0, keepdims=True)  # of one group, in one zone
        >>> greatest.add([rows], high, high, row=0)
        >>> values, rows = greatest.take()
        >>> rows
        array([[ 1,  0],
               [ 2,  1],
               [ 0, -1]], dtype=int32)
    """

    def __init__(self, units: int, numbers: Numbers) -> None:
        self._numbers = numbers
        dtype = numbers.dtype
        self._lowest = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
        self._values = np.full((units, TOP_ROWS), self._lowest, dtype)
        self._rows = np.tile(_no_rows(TOP_ROWS), (units, 1))
        self._least = self._values[:, 0].copy()  # of those that are kept
        self._seen = 0

    def add(
        self, runs: Sequence[np.ndarray], maxima: np.ndarray, high: np.ndarray, *, row: int
    ) -> None:
        """Look at the next chunk.

        Args:
            runs: Its rows.
            maxima: [groups, units]: the greatest finite value of every `GROUP_ROWS` rows of each
                run; -Inf where there is none.
            high: [zones, units]: of every `ZONE_ROWS` rows of each run.
            row: The first row.

        Cost: one look at the maxima of zones, at those of the groups of zones that may have one of
        the greatest, and at 256 values of a unit at most.
        """
        wanted = high > self._least
        if self._takes_all:
            wanted[:] = True
        least = self._bound(wanted, high)
        groups = min(ZONE_GROUPS * int(np.count_nonzero(wanted)), TOP_ROWS * len(self._least))
        most = groups * GROUP_ROWS
        size = -(-len(self._least) // max(1, -(-most // _VALUES)))
        starts = group_starts(runs)
        for first in range(0, len(self._least) if most else 0, size):
            units = slice(first, first + size)
            group, unit = self._groups(wanted[:, units], maxima[:, units], starts, least[units])
            if len(group):
                self._take(runs, (group, unit + first), least, row)
        self._seen += sum(len(run) for run in runs)

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values and rows, [ranks, units] each, descending; the row of none is -1."""
        ranks = min(TOP_ROWS, self._seen)
        if self._values.dtype == np.float32:  # a number each: much faster to sort
            found = from_keys(to_keys(self._values, self._rows)[:, : -ranks - 1 : -1])
            values, rows = (np.ascontiguousarray(matrix.T) for matrix in found)
            return values, rows
        order = np.lexsort((_unsigned(self._rows), _falling(self._values)), axis=1)[:, :ranks]
        ordered = (np.take_along_axis(kept, order, axis=1) for kept in (self._values, self._rows))
        values, rows = (np.ascontiguousarray(matrix.T) for matrix in ordered)
        rows[(rows < 0) | (values == -np.inf)] = -1
        return values, rows

    @property
    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """The greatest values so far and their rows, [units, ranks], in any order."""
        return self._values, self._rows

    def keep(self, values: np.ndarray, rows: np.ndarray, *, seen: int) -> None:
        """Go on from values and rows that somebody else kept, of so many rows in all."""
        self._values, self._rows, self._seen = values, rows, seen
        self._least = values.min(axis=1)

    @property
    def _takes_all(self) -> bool:
        """Whether even the least integer counts, which is above nothing."""
        return self._values.dtype.kind != "f" and self._seen < TOP_ROWS

    def _bound(self, wanted: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return, of each unit, what its greatest values are above after this chunk.

        Where there are 32 zones, one value of each is at least the 32nd of their maxima.
        """
        is_known = _DENSE * np.count_nonzero(wanted) < wanted.size
        if is_known or len(high) < TOP_ROWS or high.dtype.kind != "f":
            return self._least
        place = len(high) - TOP_ROWS
        bound = np.partition(np.ascontiguousarray(high.T), place, axis=1)[:, place]
        below = np.nextafter(bound, -np.inf, dtype=high.dtype)  # equal ones count
        least: np.ndarray = np.maximum(below, self._least)
        return least

    def _groups(
        self, zones: np.ndarray, maxima: np.ndarray, starts: np.ndarray, least: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return groups of wanted zones that may have one of the greatest, and their units."""
        if _SPARSE * np.count_nonzero(zones) <= zones.size and not self._takes_all:
            group, unit = within_zones(zones, maxima, starts, least)
            if np.bincount(unit, minlength=1).max() <= CROWDED:
                return group, unit
        wanted = maxima > least
        if self._takes_all:
            wanted[:] = True
        return chosen(wanted, maxima)

    def _take(
        self,
        runs: Sequence[np.ndarray],
        groups: tuple[np.ndarray, np.ndarray],
        least: np.ndarray,
        row: int,
    ) -> None:
        """Take the values of some groups and units."""
        unit = groups[1]
        values, rows = self._looked_at(runs, *groups, row)
        new = np.flatnonzero(values > least[unit][:, None])
        if _FEW * len(new) < values.size and not self._takes_all:
            unit = unit[new // GROUP_ROWS]
            values, rows = (of.reshape(-1)[new][:, None] for of in (values, rows))
        if len(unit):
            self._merge(unit, values, rows)

    def _merge(self, unit: np.ndarray, values: np.ndarray, rows: np.ndarray) -> None:
        """Find the greatest among those that there were and new ones; `unit` is of each line."""
        units, line, place = _places(unit)
        most = int(place.max()) + 1
        width = TOP_ROWS + most * values.shape[1]
        lowest = np.full(width, self._lowest, values.dtype)
        values = _beside(self._values[units], values, line, place, lowest)
        rows = _beside(self._rows[units], rows, line, place, _no_rows(width))
        kept = _first(values, rows)
        self._values[units] = best = np.take_along_axis(values, kept, axis=1)
        kept_rows = np.take_along_axis(rows, kept, axis=1)
        self._rows[units] = np.where(kept_rows < 0, _no_rows(TOP_ROWS), kept_rows)
        self._least[units] = best.min(axis=1)

    def _looked_at(
        self, runs: Sequence[np.ndarray], group: np.ndarray, unit: np.ndarray, row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and rows of groups; those of a run come before those of the next."""
        found, start = [], 0
        for run in runs:
            stop = start + parts_of(len(run), GROUP_ROWS)
            mine = slice(*np.searchsorted(group, (start, stop)))
            if mine.start < mine.stop:
                found.append(self._of_run(run, group[mine] - start, unit[mine], row))
            row, start = row + len(run), stop
        if len(found) == 1:
            return found[0]
        values, rows = (np.concatenate(part) for part in zip(*found, strict=True))
        return values, rows

    def _of_run(
        self, run: np.ndarray, group: np.ndarray, unit: np.ndarray, row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and rows of groups; what does not count is the lowest value."""
        flat, units = run.reshape(-1), run.shape[1]
        at = (group * (GROUP_ROWS * units) + unit)[:, None] + _WITHIN * units
        values = self._numbers.exact(flat.take(at, mode="clip"))
        rows = (group * GROUP_ROWS + row).astype(np.int32)[:, None] + _WITHIN
        if len(run) % GROUP_ROWS:
            behind = at >= len(flat)
            values[behind] = self._lowest
            rows[behind] |= np.int32(-(1 << 31))  # negative, and still no two are equal
        if self._numbers.is_float:
            finite = np.isfinite(values)
            if not finite.all():
                values[~finite] = -np.inf
        return values, rows


def _no_rows(count: int) -> np.ndarray:
    """Return row numbers that stand for none; no two are equal, or partitions become slow."""
    rows: np.ndarray = -1 - np.arange(count, dtype=np.int32)
    return rows


def _beside(
    kept: np.ndarray, groups: np.ndarray, line: np.ndarray, place: np.ndarray, rest: np.ndarray
) -> np.ndarray:
    """Return what is kept of units and, behind that, their groups; `rest` where there is none."""
    matrix = np.empty((len(kept), len(rest)), kept.dtype)
    matrix[:] = rest
    matrix[:, :TOP_ROWS] = kept
    matrix[:, TOP_ROWS:].reshape(len(kept), -1, groups.shape[1])[line, place] = groups
    return matrix


def _places(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the units there are, and for each one its number and how many were before it."""
    first = int(unit.min())
    counts = np.bincount(unit - first)
    units = np.flatnonzero(counts)
    line = (np.cumsum(counts > 0) - 1)[unit - first]
    counts = counts[units]
    place = np.empty_like(line)
    small = line.astype(np.min_scalar_type(len(units)))  # sorted in linear time
    place[np.argsort(small, kind="stable")] = np.arange(len(line)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    return units + first, line, place


def _first(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return where in each line the greatest are, in any order; of equal ones, those first in row.

    A negative row is behind all others of that value.
    """
    if values.dtype != np.float32:
        order: np.ndarray = np.lexsort((_unsigned(rows), _falling(values)), axis=1)
        return order[:, :TOP_ROWS]
    # one number that sorts as value and row: much faster
    bits = (values + np.float32(0)).view(np.int32)  # there are two zeros
    rising = turned(bits).astype(np.int64) << 32
    rising |= ~_unsigned(rows)
    most = values.shape[1] - TOP_ROWS
    least = np.partition(rising, most, axis=1)[:, most, None]
    found = np.flatnonzero(rising >= least).reshape(-1, TOP_ROWS)  # so many, as no two are equal
    first: np.ndarray = found - np.arange(len(values))[:, None] * values.shape[1]
    return first


def _falling(values: np.ndarray) -> np.ndarray:
    """Return numbers that fall where values rise, without overflow."""
    falling: np.ndarray = -values if values.dtype.kind == "f" else ~values
    return falling


def _unsigned(rows: np.ndarray) -> np.ndarray:
    """Return row numbers that sort with negative ones behind."""
    return np.ascontiguousarray(rows).view(np.uint32)
