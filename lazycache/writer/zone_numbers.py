"""Counts, extremes, sums and squared deviations of every zone of a chunk. For one thread.

The sum of squares minus the square of the sum is the fastest way to squared deviations, and good as
long as the mean is not large beside them. So all units are computed in this way, and the few of a
tile for which it is not, or that have NaN or Inf, once more in two steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lazycache.codec.statistics import ZONE_ROWS
from lazycache.writer.desk import Desk, group_reduced, zone_reduced
from lazycache.writer.fused import Fused
from lazycache.writer.numbers import Numbers
from lazycache.writer.scratch import aligned, scratch
from lazycache.writer.tiles import GROUP_ROWS, Tile, parts_of, tiles

_SURE = 64  # times the deviations, squares still leave them more than 12 digits
_SURE_NARROW = 16  # and those that were added as float32 more than 4
_TINY = 2.0**-120  # below, squares of float32 lose digits


class ZoneNumbers:
    """What a chunk amounts to, zone by zone; its first and its last zone may be parts of one.

    Args:
        runs: The rows of the chunk, as `tiles.runs` has them.
        numbers: Makes numbers of them.
        with_groups: Whether the maxima of groups are wanted as well.
        two_steps: Whether to compute the deviations of all units in two steps at once.
        fused: Computes all of it in one pass, and the ranks; None: numpy does, operation by
            operation.
        row: The first row of the chunk in its shard.

    Cost: four passes over tiles in the cache; for units with NaN or Inf, or of a mean eight times
    their deviation, twice as many.
    """

    def __init__(
        self,
        runs: Sequence[np.ndarray],
        numbers: Numbers,
        *,
        with_groups: bool,
        two_steps: bool = False,
        fused: Fused | None = None,
        row: int = 0,
    ) -> None:
        self._numbers, self.in_two_steps = numbers, two_steps
        self.largest = numbers.largest
        zones = [parts_of(len(run), ZONE_ROWS) for run in runs]
        groups = [parts_of(len(run), GROUP_ROWS) for run in runs]
        shape = sum(zones), runs[0].shape[1]
        self.rows = np.array(
            [
                min(ZONE_ROWS, len(run) - row)
                for run in runs
                for row in range(0, len(run), ZONE_ROWS)
            ]
        )
        """int64[zones]: how many rows."""
        self.low, self.high = aligned((2, *shape), numbers.dtype)
        """[zones, units]: the extremes of the finite values; +Inf and -Inf where there is none."""
        self._both = aligned((2, *shape), np.dtype(np.float64))
        self.sum, self.m2 = self._both
        """float64[zones, units]: of the finite values, and their squared deviations."""
        self.exact = np.empty(shape, np.int64) if numbers.dtype.kind != "f" else None
        """int64[zones, units]: the sums of integers of 64 bits, modulo 2**64."""
        self.missing: np.ndarray | None = None
        """int64[zones, units]: how many values are not finite; None: all are."""
        self.odd: np.ndarray | None = None
        """int32[3, units]: how many of the chunk are NaN, +Inf, -Inf; None: none."""
        self.wants_two_steps = two_steps
        """Whether two steps at once would have been faster."""
        size = (sum(groups), shape[1])
        self.maxima = scratch("maxima", size, numbers.dtype) if with_groups and not fused else None
        """[groups, units]: the greatest finite value of every `GROUP_ROWS` rows of a run."""
        self._runs = [
            *zip(runs, _starts(zones), _starts(groups), strict=True)
        ]  # and their first zone and group
        with np.errstate(all="ignore"):  # Inf - Inf; and sums of float64 may overflow, as in torch
            if fused is None:
                self._compute(runs)
            else:
                fused.fill(self, runs, row=row)
            self._check()

    def _tiles(self) -> Iterator[Tile]:
        for run, zone, group in self._runs:
            yield from tiles(run, zone=zone, group=group)

    def _compute(self, runs: Sequence[np.ndarray]) -> None:
        """Fill everything in by numpy, tile by tile."""
        desks: dict[tuple[int, int, int], Desk] = {}
        for tile in self._tiles():
            lines, units = tile.values.shape
            cuts = lines, units, tile.zones.stop - tile.zones.start
            if cuts not in desks:
                desks[cuts] = Desk(*cuts, self._numbers.dtype)
            self._tile(tile, desks[cuts])
        if self.maxima is not None:
            zone_reduced(np.maximum, self.maxima, runs, self.high)

    def _tile(self, tile: Tile, desk: Desk) -> None:
        values = self._extremes(tile, desk)
        if self._numbers.is_narrow and desk.has_groups and not self.in_two_steps:
            desk.moments(values, self._both[:, tile.zones, tile.units])
            return
        wide = self._widened(values, desk)
        total = self.sum[tile.zones, tile.units]
        desk.reduce(np.add, wide, total)
        if self.in_two_steps:
            wide -= (total / wide.shape[1])[:, None]
        desk.squares(wide, self.m2[tile.zones, tile.units])

    def _extremes(self, tile: Tile, desk: Desk) -> np.ndarray:
        """Fill in the extremes of a tile, and the sums of integers; return its numbers."""
        zones, units = tile.zones, tile.units
        values = self._numbers.of(tile.values, desk.numbers)
        zoned = desk.zoned(values)
        if self.maxima is None:
            desk.reduce(np.maximum, zoned, self.high[zones, units])
        else:
            group_reduced(np.maximum, values, self.maxima[tile.groups, units])
        desk.reduce(np.minimum, zoned, self.low[zones, units])
        if self.exact is not None:
            np.add.reduce(zoned.view(np.int64), axis=1, out=self.exact[zones, units])
        return values

    def _widened(self, values: np.ndarray, desk: Desk) -> np.ndarray:
        """Return numbers of a tile as float64[zones, rows of each, units]."""
        zoned = desk.zoned(values)
        if values.dtype == np.float64 and not self.in_two_steps:
            return zoned
        np.copyto(desk.wide, zoned, casting="unsafe")  # uint64 to float64 rounds
        return desk.wide

    def _check(self) -> None:
        """Make deviations of squares, and compute once more what they are not good for."""
        odd, again = self._odd(), np.zeros(self.m2.shape, np.bool_)
        if not self.in_two_steps:
            squares, self.m2 = self.m2, self.m2 - self.sum * self.sum / self.rows[:, None]
            again = ~self._is_sure(squares)
            self.wants_two_steps = bool(2 * np.count_nonzero(again & ~odd) > again.size)
        if not again.any() and not odd.any():
            return
        for tile in self._tiles():
            at, _ = _place(tile)
            is_odd = odd[at].any(axis=0)
            is_unsure = again[at].any(axis=0) & ~is_odd
            for columns, compute in ((is_odd, self._set_apart), (is_unsure, self._shift)):
                if columns.any():
                    compute(tile, np.flatnonzero(columns))

    def _is_sure(self, squares: np.ndarray) -> np.ndarray:
        """Whether sums of squares are good for deviations; not where they are NaN."""
        if not self._numbers.is_narrow:
            sure: np.ndarray = (squares < _SURE * self.m2) | (squares == 0)
            return sure
        sure = (squares < _SURE_NARROW * self.m2) & (squares > _TINY)
        if not sure.all():
            sure |= (self.low == 0) & (self.high == 0)
        return sure

    def _odd(self) -> np.ndarray:
        """Whether there are NaN or Inf: they are at the ends, or make both of them NaN."""
        if not self._numbers.is_float:
            return np.zeros(self.low.shape, np.bool_)
        largest = self._numbers.largest
        odd: np.ndarray = ~((self.low >= -largest) & (self.high <= largest))
        return odd

    def _shift(self, tile: Tile, columns: np.ndarray) -> None:
        """Compute the deviations of some columns in a second step."""
        at, count = _place(tile, columns)
        wide = _zoned(_wide(self._numbers.of(_taken(tile, columns)), copy=True), count)
        if self._numbers.is_narrow:  # those of float32 may have overflown
            self.sum[at] = np.add.reduce(wide, axis=1)
        wide -= (self.sum[at] / wide.shape[1])[:, None]
        self.m2[at] = np.einsum("zij,zij->zj", wide, wide)

    def _set_apart(self, tile: Tile, columns: np.ndarray) -> None:
        """Compute some columns without what is not finite, and count that."""
        values = self._numbers.exact(_taken(tile, columns))
        finite = np.isfinite(values)
        self._count(tile, columns, values, finite)
        at, count = _place(tile, columns)
        zoned = _zoned(finite, count)
        infinity = values.dtype.type(np.inf)
        self.low[at] = _zoned(np.where(finite, values, infinity), count).min(axis=1)
        below = np.where(finite, values, -infinity)
        self.high[at] = _zoned(below, count).max(axis=1)
        if self.maxima is not None:
            maxima = np.empty((tile.groups.stop - tile.groups.start, len(columns)), below.dtype)
            group_reduced(np.maximum, below, maxima)
            self.maxima[tile.groups, at[1]] = maxima
        wide = _zoned(np.where(finite, values, 0.0), count).astype(np.float64)
        self.sum[at] = total = np.add.reduce(wide, axis=1)
        wide -= (total / np.maximum(zoned.sum(axis=1), 1))[:, None]
        wide[~zoned] = 0.0
        self.m2[at] = np.einsum("zij,zij->zj", wide, wide)

    def _count(
        self, tile: Tile, columns: np.ndarray, values: np.ndarray, finite: np.ndarray
    ) -> None:
        if self.missing is None or self.odd is None:
            self.missing = np.zeros(self.sum.shape, np.int64)
            self.odd = np.zeros((3, self.sum.shape[1]), np.int32)
        at, count = _place(tile, columns)
        self.missing[at] = _zoned(~finite, count).sum(axis=1)
        kinds = np.isnan(values), np.isposinf(values), np.isneginf(values)
        self.odd[:, at[1]] += np.stack([kind.sum(axis=0, dtype=np.int32) for kind in kinds])


def _starts(counts: Sequence[int]) -> list[int]:
    return [sum(counts[:n]) for n in range(len(counts))]


def _place(
    tile: Tile, columns: np.ndarray | None = None
) -> tuple[tuple[slice, slice | np.ndarray], int]:
    """Return where the numbers of a tile, or of some of its columns, belong, and how many zones."""
    units = tile.units if columns is None else tile.units.start + columns
    return (tile.zones, units), tile.zones.stop - tile.zones.start


def _taken(tile: Tile, columns: np.ndarray) -> np.ndarray:
    if len(columns) == tile.values.shape[1]:
        return tile.values
    return tile.values.take(columns, axis=1)


def _zoned(values: np.ndarray, zones: int) -> np.ndarray:
    """Return a view [zones, rows of each, units]."""
    return values.reshape(zones, len(values) // zones, values.shape[1])


def _wide(values: np.ndarray, *, copy: bool = False) -> np.ndarray:
    """Return numbers as float64, in memory that is used again."""
    if values.dtype == np.float64 and not copy:
        return values
    wide = scratch("float64", values.shape, np.dtype("float64"))
    np.copyto(wide, values, casting="unsafe")  # uint64 to float64 rounds
    return wide
