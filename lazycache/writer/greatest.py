"""The greatest values of each unit and their rows, while chunks go by. For one thread.

The 32 greatest values of a chunk lie in the 32 groups of rows with the greatest maxima; of equal
ones, in the first. So whatever the order of the values, few of them are looked at, and of units
that had greater ones before, next to none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lazycache.codec.statistics import TOP_ROWS
from lazycache.writer.numbers import Numbers
from lazycache.writer.tiles import GROUP_ROWS, parts_of

_VALUES = 1 << 17  # that are looked at at once, so that they stay in the processor's cache
_MOST_GROUPS = 2 * TOP_ROWS  # of a unit, where some are equal
_WITHIN = np.arange(GROUP_ROWS)


class Greatest:
    """Keeps the greatest values of each unit, the first rows of equal ones.

    Args:
        units: How many units.
        numbers: Makes numbers of values.

    Example:
        >>> greatest = Greatest(2, Numbers("float32"))
        >>> rows = np.array([[1, 5], [3, 5], [2, -np.inf]], np.float32)
        >>> greatest.add([rows], rows.max(axis=0, keepdims=True), row=0)
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
        # no two are equal, or partitions become slow
        self._rows = np.tile(-1 - np.arange(TOP_ROWS, dtype=np.int32), (units, 1))
        self._least = self._values[:, 0].copy()  # of those that are kept
        self._seen = 0

    def add(self, runs: Sequence[np.ndarray], maxima: np.ndarray, *, row: int) -> None:
        """Look at the next chunk.

        Args:
            runs: Its rows.
            maxima: [groups, units]: the greatest finite value of every `GROUP_ROWS` rows of each
                run; -Inf where there is none.
            row: The first row.

        Cost: one look at every maximum, and at 512 values of a unit at most.
        """
        wanted = maxima > self._least
        if self._values.dtype.kind != "f" and self._seen < TOP_ROWS:
            wanted[:] = True  # the least integer is above nothing
        counts = np.count_nonzero(wanted, axis=0)
        parts = -(-int(np.minimum(counts, _MOST_GROUPS).sum()) * GROUP_ROWS // _VALUES)
        for units in np.array_split(np.flatnonzero(counts), max(1, parts)):
            if len(units):
                self._part(runs, wanted[:, units], maxima, units, row)
        self._seen += sum(len(run) for run in runs)

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return values and rows, [ranks, units] each, descending; the row of none is -1."""
        ranks = min(TOP_ROWS, self._seen)
        order = np.lexsort((_unsigned(self._rows), _falling(self._values)), axis=1)[:, :ranks]
        ordered = (np.take_along_axis(kept, order, axis=1) for kept in (self._values, self._rows))
        values, rows = (np.ascontiguousarray(matrix.T) for matrix in ordered)
        rows[(rows < 0) | (values == -np.inf)] = -1
        return values, rows

    def _part(
        self,
        runs: Sequence[np.ndarray],
        wanted: np.ndarray,
        maxima: np.ndarray,
        units: np.ndarray,
        row: int,
    ) -> None:
        """Take the values of wanted groups of some units."""
        _narrow(wanted, maxima, units)
        group, line = np.divmod(np.flatnonzero(wanted), len(units))
        place, most = _places(line)
        shape = (len(units), TOP_ROWS + most * GROUP_ROWS)
        values = np.full(shape, self._lowest, self._values.dtype)
        rows = np.broadcast_to(-1 - np.arange(shape[1], dtype=np.int32), shape).copy()
        values[:, :TOP_ROWS], rows[:, :TOP_ROWS] = self._values[units], self._rows[units]
        start = 0
        for run in runs:
            stop = start + parts_of(len(run), GROUP_ROWS)
            mine = slice(*np.searchsorted(group, (start, stop)))
            if mine.start < mine.stop:
                found = self._of_run(run, group[mine] - start, units[line[mine]], row)
                for matrix, part in zip((values, rows), found, strict=True):
                    groups = matrix[:, TOP_ROWS:].reshape(len(units), most, GROUP_ROWS)
                    groups[line[mine], place[mine]] = part
            row, start = row + len(run), stop
        kept = _first(values, rows)
        self._values[units] = best = np.take_along_axis(values, kept, axis=1)
        self._rows[units] = np.take_along_axis(rows, kept, axis=1)
        self._least[units] = best.min(axis=1)

    def _of_run(
        self, run: np.ndarray, group: np.ndarray, unit: np.ndarray, row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and rows of groups; what does not count is the lowest value."""
        flat, units = run.reshape(-1), run.shape[1]
        at = (group * (GROUP_ROWS * units) + unit)[:, None] + _WITHIN * units
        values = self._numbers.exact(flat.take(at, mode="clip"))
        rows = (group * GROUP_ROWS + row).astype(np.int32)[:, None] + _WITHIN.astype(np.int32)
        if len(run) % GROUP_ROWS:
            behind = at >= len(flat)
            values[behind] = self._lowest
            rows[behind] |= np.int32(-(1 << 31))  # negative, and still no two are equal
        if self._numbers.is_float:
            finite = np.isfinite(values)
            if not finite.all():
                values[~finite] = -np.inf
        return values, rows


def _places(line: np.ndarray) -> tuple[np.ndarray, int]:
    """Return how many of the same were before, and how many there are at most."""
    counts = np.bincount(line)
    order = np.argsort(line.astype(np.uint16) if len(counts) < 1 << 16 else line, kind="stable")
    place = np.empty_like(line)
    place[order] = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place, int(counts.max())


def _narrow(wanted: np.ndarray, maxima: np.ndarray, units: np.ndarray) -> None:
    """Of units that want too many groups leave the greatest, in place; of equal ones, the first."""
    crowded = np.flatnonzero(np.count_nonzero(wanted, axis=0) > TOP_ROWS)
    if not len(crowded):
        return
    columns = np.ascontiguousarray(maxima[:, units[crowded]].T)
    least = len(maxima) - TOP_ROWS
    chosen = columns >= np.partition(columns, least, axis=1)[:, least, None]
    tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > _MOST_GROUPS)
    if len(tied):
        groups = np.arange(len(maxima), dtype=np.int32)
        first = _first(columns[tied], np.broadcast_to(groups, (len(tied), len(groups))))
        chosen[tied] = False
        chosen[tied[:, None], first] = True
    wanted[:, crowded] = chosen.T


def _first(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return where in each line the greatest are, in any order; of equal ones, those first in row.

    A negative row is behind all others of that value.
    """
    if values.dtype != np.float32:
        order: np.ndarray = np.lexsort((_unsigned(rows), _falling(values)), axis=1)
        return order[:, :TOP_ROWS]
    # one number that sorts as value and row: much faster
    bits = (values + np.float32(0)).view(np.int32)  # there are two zeros
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32
    rising |= ~_unsigned(rows)
    most = values.shape[1] - TOP_ROWS
    return np.argpartition(rising, most, axis=1)[:, most:]


def _falling(values: np.ndarray) -> np.ndarray:
    """Return numbers that fall where values rise, without overflow."""
    falling: np.ndarray = -values if values.dtype.kind == "f" else ~values
    return falling


def _unsigned(rows: np.ndarray) -> np.ndarray:
    """Return row numbers that sort with negative ones behind."""
    return np.ascontiguousarray(rows).view(np.uint32)
