"""Stored statistics beside the values that they are of: computed again, and compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lazycache.codec.dtypes import by_name
from lazycache.codec.statistics import (
    ZONE_ROWS,
    ChunkStatistics,
    TopRows,
    read_blocks,
    read_top,
    read_zones,
)
from lazycache.storage.store import Store
from lazycache.types import ShardRef, SiteSpec

_PIECE_BYTES = 1 << 20
"""Bytes of float64 that are looked at in one go: what a processor's cache holds."""

_MANY = 64
"""Groups of rows in a piece from which on a loop over them is slow."""

_SUMS = 1e-9
"""Sums of the same float64 numbers in another order differ by less of their magnitudes."""

_SQUARES = 1e-6
"""Squared deviations differ by less of themselves, since they are computed in another way."""


class StatisticsCheck:
    """Takes the values of a shard chunk by chunk, and says where its statistics differ.

    Counts, extremes and ranks must be exact; sums, means and deviations as near as float64 allows.

    Memory: a few times the statistics of the shard, and a few pieces of 4 MiB.

    Raises:
        CorruptShardError: the statistics cannot be read at all.
    """

    def __init__(self, store: Store, shard: ShardRef, spec: SiteSpec) -> None:
        self._spec = spec
        self._row = 0
        self._units = spec.row_bytes // by_name(spec.dtype).itemsize
        blocks = read_blocks(shard, spec, store.get_ranges)
        self._blocks = None if blocks is None else _Blocks(blocks)
        zones = read_zones(shard, spec, store.get_ranges)
        self._zones = None if zones is None else _Zones(numbers(zones.min), numbers(zones.max))
        top = read_top(shard, spec, store.get_ranges)
        self._top = None if top is None else _Top(top, rows=shard.rows)

    def add(self, values: torch.Tensor) -> None:
        """Take the next rows: [rows, units] in the site's dtype."""
        size = max(1, _PIECE_BYTES // (8 * self._units))
        for start in range(0, len(values), size):
            x = numbers(values[start : start + size])
            finite = _finite(x)
            for part in (self._blocks, self._zones, self._top):
                if part is not None:
                    part.add(x, finite, row=self._row)
            self._row += len(x)

    def differences(self) -> Iterator[str]:
        """Yield what differs, after all rows were taken."""
        for part in (self._blocks, self._zones, self._top):
            if part is not None:
                yield from part.differences()


def numbers(values: torch.Tensor) -> np.ndarray:
    """Return values as numbers that numpy compares exactly: floats as float32 at least."""
    if values.dtype.is_floating_point and values.dtype != torch.float64:
        values = values.to(torch.float32)
    found: np.ndarray = values.numpy()
    return found


def _finite(x: np.ndarray) -> np.ndarray | None:
    """Return which values are finite; None where all are, as nearly always."""
    if x.dtype.kind != "f":
        return None
    finite = np.isfinite(x)
    return None if finite.all() else finite


def _extremes(
    x: np.ndarray, finite: np.ndarray | None, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return least and greatest finite values between the rows `at`; +Inf and -Inf of none."""
    low = high = x
    if finite is not None:
        low, high = np.where(finite, x, np.inf), np.where(finite, x, -np.inf)
    if len(at) > _MANY:
        return np.minimum.reduceat(low, at, axis=0), np.maximum.reduceat(high, at, axis=0)
    stops = [*at[1:].tolist(), len(x)]  # a loop is several times as fast while groups are long
    groups = [slice(*ends) for ends in zip(at.tolist(), stops, strict=True)]
    lowest, highest = (
        [low[group].min(0) for group in groups],
        [high[group].max(0) for group in groups],
    )
    return np.stack(lowest), np.stack(highest)


def _same(mine: np.ndarray, stored: np.ndarray) -> bool:
    """Whether extremes are the stored ones, where NaN stands for those of no finite value."""
    if mine.dtype.kind != "f":
        return bool(np.array_equal(mine, stored))
    return bool(np.array_equal(np.where(np.isinf(mine), np.nan, mine), stored, equal_nan=True))


class _Extremes:
    """Least and greatest of consecutive groups of rows."""

    def __init__(self, low: np.ndarray, high: np.ndarray, starts: np.ndarray) -> None:
        self._stored = low, high
        self._starts = starts
        is_float = low.dtype.kind == "f"
        info = None if is_float or low.dtype == np.bool_ else np.iinfo(low.dtype)
        least, most = (-np.inf, np.inf) if is_float else (False, True)
        if info is not None:
            least, most = info.min, info.max
        self._low, self._high = np.full_like(low, most), np.full_like(high, least)

    def add(self, x: np.ndarray, finite: np.ndarray | None, *, row: int) -> None:
        """Take the next rows."""
        first = int(np.searchsorted(self._starts, row, side="right")) - 1
        last = int(np.searchsorted(self._starts, row + len(x), side="left"))
        at = np.maximum(self._starts[first:last] - row, 0)
        low, high = _extremes(x, finite, at)
        np.minimum(self._low[first:last], low, out=self._low[first:last])
        np.maximum(self._high[first:last], high, out=self._high[first:last])

    def is_right(self) -> bool:
        """Whether the stored ones are those of the rows."""
        return _same(self._low, self._stored[0]) and _same(self._high, self._stored[1])


class _Zones(_Extremes):
    """Least and greatest of every 128 rows."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        super().__init__(low, high, np.arange(len(low), dtype=np.int64) * ZONE_ROWS)

    def differences(self) -> Iterator[str]:
        """Yield what differs."""
        if not self.is_right():
            yield "least and greatest of its zones are not those of its values"


class _Blocks:
    """Counts and moments of blocks."""

    def __init__(self, stored: ChunkStatistics) -> None:
        self._stored = stored
        shape = stored.nans.shape
        low, high = numbers(stored.min), numbers(stored.max)
        self._extremes = _Extremes(low, high, stored.starts)
        self._counts = np.zeros((3, *shape), np.int64)
        self._is_float = stored.sum.dtype.is_floating_point
        self._whole = np.zeros(shape, np.int64)  # sums of integers, modulo 2**64
        mean = stored.mean.numpy()
        self._center = np.where(np.isfinite(mean), mean, 0.0)
        self._first, self._second = np.zeros(shape), np.zeros(shape)

    def add(self, x: np.ndarray, finite: np.ndarray | None, *, row: int) -> None:
        """Take the next rows."""
        self._extremes.add(x, finite, row=row)
        starts = self._stored.starts
        first = int(np.searchsorted(starts, row, side="right")) - 1
        stops = np.append(starts[first + 1 :], np.iinfo(np.int64).max) - row
        at = 0
        for block, stop in enumerate(stops.tolist(), first):
            self._add(x[at:stop], None if finite is None else finite[at:stop], block)
            at = stop
            if at >= len(x):
                return

    def _add(self, x: np.ndarray, finite: np.ndarray | None, block: int) -> None:
        if finite is not None:
            odd = [np.isnan(x), np.isposinf(x), np.isneginf(x)]
            self._counts[:, block] += np.array([each.sum(0) for each in odd])
        if not self._is_float:
            self._whole[block] += x.sum(0, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            apart = x.astype(np.float64)
            apart -= self._center[block]
            if finite is not None:
                apart[~finite] = 0.0
            self._first[block] += apart.sum(0)
            self._second[block] += np.square(apart, out=apart).sum(0)

    def differences(self) -> Iterator[str]:
        """Yield what differs."""
        stored = self._stored
        counts = np.stack([stored.nans, stored.pos_infs, stored.neg_infs])
        if not np.array_equal(counts, self._counts):
            yield "its counts of NaN and infinite values are not those of its values"
        elif not self._extremes.is_right():
            yield "least and greatest of its blocks are not those of its values"
        else:
            yield from self._of_moments()

    def _of_moments(self) -> Iterator[str]:
        stored, count = self._stored, self._stored.finite
        with np.errstate(over="ignore", invalid="ignore"):
            apart = self._first / np.maximum(count, 1)
            mean, total = self._center + apart, self._center * count + self._first
            m2 = self._second - apart * self._first
            square = self._second + self._center * (2 * self._first + count * self._center)
            size = np.sqrt(np.abs(square) * count)  # at least the sum of the magnitudes
            if self._is_float:
                right = _near(stored.sum.numpy(), total, _SUMS * size)
            else:
                right = np.array_equal(stored.sum.numpy(), self._whole)
            some = count > 0
            room = (_SUMS * size / np.maximum(count, 1))[some]
            right &= _near(stored.mean.numpy()[some], mean[some], room)
            right &= _near(stored.m2.numpy(), m2, _SQUARES * np.abs(m2) + 1e-10 * np.abs(square))
        if not right:
            yield "sums, means or deviations of its blocks are not those of its values"


def _near(stored: np.ndarray, mine: np.ndarray, room: np.ndarray) -> bool:
    """Whether numbers agree; where mine is not finite, the float64 sum has overflowed."""
    close = np.abs(stored - mine) <= room + np.finfo(np.float64).tiny
    return bool(np.all(close | ~np.isfinite(mine)))


class _Top:
    """The greatest values and their rows: are they there, and is nothing greater left out."""

    def __init__(self, stored: TopRows, *, rows: int) -> None:
        self._values = numbers(stored.values)
        self._rows = stored.rows
        self._there = stored.rows >= 0
        self._right = True
        ranks = self._there.sum(0)
        self._ranks = ranks
        units = np.arange(self._rows.shape[1])
        last = np.maximum(ranks - 1, 0)
        self._threshold = self._values[last, units]
        self._tied = self._there & (self._values == self._threshold)
        self._last_tie = np.where(self._tied, self._rows, -1).max(0)
        shape = (self._rows.shape[1],)
        self._greater, self._equal = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._finite = np.zeros(shape, np.int64)
        self._total = rows

    def add(self, x: np.ndarray, finite: np.ndarray | None, *, row: int) -> None:
        """Take the next rows."""
        mine = self._there & (self._rows >= row) & (self._rows < row + len(x))
        ranks, units = np.nonzero(mine)
        if len(ranks):
            values = x[self._rows[ranks, units] - row, units]
            self._right &= bool((values == self._values[ranks, units]).all())
        self._finite += len(x) if finite is None else finite.sum(0)
        known = x if finite is None else np.where(finite, x, -np.inf)
        high = np.flatnonzero(known.max(0) >= self._threshold)
        if not len(high):
            return
        some, least = known[:, high], self._threshold[high]
        early = np.arange(row, row + len(x))[:, None] <= self._last_tie[high]
        self._greater[high] += (some > least).sum(0)
        self._equal[high] += ((some == least) & early).sum(0)

    def differences(self) -> Iterator[str]:
        """Yield what differs."""
        wanted = np.minimum(self._finite, len(self._rows))
        some = self._ranks > 0
        complete = np.array_equal(self._ranks, wanted)
        above = (self._there & ~self._tied).sum(0)
        complete &= np.array_equal(self._greater[some], above[some])
        complete &= np.array_equal(self._equal[some], self._tied.sum(0)[some])
        falling = self._values[1:] <= self._values[:-1]
        if not (self._right and complete and bool((falling | ~self._there[1:]).all())):
            yield "its greatest values are not those of its rows"
