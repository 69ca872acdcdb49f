"""What reading rows of a site costs, told from where they lie: the counts of `IoCounters`. Pure.

Mirrors the reader: one request for each run of rows in a chunk, or in the distance for each range
after near ones were merged. Nothing is read, and nothing as long as the values is made.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from lazycache.cache.selecting.plan import Rows, SitePlan, as_array, blocks, count_ranges
from lazycache.cache.selecting.tilings import TileUnits, cut_units, tile_gap
from lazycache.cache.selecting.units import Units
from lazycache.storage.ranges import bridged


@dataclass(frozen=True, slots=True)
class Once:
    """What is read the first time and then kept: statistics, matrices, values that are shared."""

    key: Hashable
    """What it is."""
    requests: int = 0
    """As of `Tally`."""
    nbytes: int = 0
    """As of `Tally`."""
    rows: int = 0
    """As of `Tally`."""
    statistics: int = 0
    """Bytes of stored statistics."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What is read, as `IoCounters` count it."""

    requests: int = 0
    """Ranges."""
    rows: int = 0
    """Rows."""
    nbytes: int = 0
    """Bytes."""
    once: frozenset[Once] = frozenset()
    """What is read once, however often it is needed."""
    exact: bool = True
    """Whether it is exactly that; else it is no more."""

    def __add__(self, other: Self) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.rows + other.rows,
            self.nbytes + other.nbytes,
            self.once | other.once,
            self.exact and other.exact,
        )

    def times(self, count: int) -> Tally:
        """Return it that many times."""
        numbers = (count * self.requests, count * self.rows, count * self.nbytes)
        return Tally(*numbers, self.once, self.exact)

    def in_blocks(self, extra_bytes: int) -> Tally:
        """Return it as a bound where each range is read with bytes around it, or is there."""
        return replace(self.at_most(), nbytes=self.nbytes + self.requests * extra_bytes)

    def at_most(self) -> Tally:
        """Return it as a bound."""
        return replace(self, exact=False)

    def total(self) -> Once:
        """Return the sums, with what is read once."""
        return Once(
            None,
            self.requests + sum(one.requests for one in self.once),
            self.nbytes + sum(one.nbytes for one in self.once),
            self.rows + sum(one.rows for one in self.once),
            sum(one.statistics for one in self.once),
        )


def summed(parts: Iterable[Tally]) -> Tally:
    """Return the sum of parts.

    Example:
        >>> summed([Tally(1, 2, 8), Tally(1, 2, 8, exact=False)]).nbytes
        16
    """
    requests = rows = nbytes = 0
    once: set[Once] = set()
    exact = True
    for part in parts:
        requests, rows, nbytes = (
            requests + part.requests,
            rows + part.rows,
            nbytes + part.nbytes,
        )
        once |= part.once
        exact = exact and part.exact
    return Tally(requests, rows, nbytes, frozenset(once), exact)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the rows of a site are, and how they are read from there."""

    plan: SitePlan
    """The chunks."""
    local: bool
    """Whether they are mapped; else they are fetched."""
    max_gap: int
    """Bytes between ranges that are fetched as one."""
    block_bytes: int
    """What is gathered at a time."""


class Runs(NamedTuple):
    """Consecutive rows of a chunk each, as columns: int64[runs]."""

    group: np.ndarray
    """Runs of one group are asked for together."""
    chunk: np.ndarray
    """Place of the chunk in the columns of the plan."""
    offsets: np.ndarray
    """Of the first row, as `SitePlan.locate` gives it."""
    counts: np.ndarray
    """Rows."""

    def where(self, mask: np.ndarray) -> Runs:
        """Return some of them."""
        return Runs(*(column[mask] for column in self))


def read_cost(layout: Layout, rows: Rows, units: Units) -> Tally:
    """Return the cost of `Reader.read`: of a slice, or of a gather of rows."""
    found = _consecutive(rows)
    if found is not None:
        return _of_range(layout, found, units, block_rows=max(1, len(found)))
    return _gathered(layout, as_array(rows), units)


def scan_cost(layout: Layout, rows: Rows, units: Units, *, block_rows: int) -> Tally:
    """Return the cost of `Reader.scan`, block by block."""
    if isinstance(rows, range) and rows.step == 1:
        return _of_range(layout, rows, units, block_rows=max(1, block_rows))
    return summed(
        read_cost(layout, rows[start:stop], units)
        for start, stop in blocks(len(rows), size=block_rows)
    )


def _consecutive(rows: Rows) -> range | None:
    if isinstance(rows, range):
        return rows if rows.step == 1 else None
    if not rows.size or int(rows[-1]) - int(rows[0]) != rows.size - 1:
        return None
    return range(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else None


def _of_range(layout: Layout, rows: range, units: Units, *, block_rows: int) -> Tally:
    """Return the cost of consecutive rows that are read block by block."""
    if not len(rows):
        return Tally()
    plan = layout.plan
    inside = (plan.starts > rows.start) & (plan.starts < rows.stop)
    cuts = np.arange(rows.start, rows.stop, block_rows, dtype=np.int64)
    begins = np.union1d(cuts, plan.starts[inside])
    counts = np.diff(np.append(begins, rows.stop))
    chunk, offsets = plan.locate(begins)
    if (begins + counts > plan.stops[chunk]).any():
        place = int(np.flatnonzero(begins + counts > plan.stops[chunk])[0])
        raise plan.missing(int(plan.stops[chunk[place]]))
    if layout.local:
        requests = int(_parts(plan, units, chunk).sum())
        return _mapped(plan, units, requests=requests, rows=len(rows))
    group = (begins - rows.start) // block_rows * len(plan.shards) + plan.shard[chunk]
    runs = Runs(group, chunk, offsets, counts)
    return _fetched(layout, units, runs)


def _gathered(layout: Layout, rows: np.ndarray, units: Units) -> Tally:
    """Return the cost of rows in any order."""
    plan = layout.plan
    nbytes = units.count * plan.dtype.itemsize
    if not rows.size or not nbytes:
        plan.locate(rows)
        return Tally()
    size = max(1, layout.block_bytes // nbytes)
    if len(rows) <= size or (units.is_run and layout.local):
        return _taken(layout, rows, units)
    parts = blocks(len(rows), size=size)
    return summed(_taken(layout, rows[start:stop], units) for start, stop in parts)


def _taken(layout: Layout, rows: np.ndarray, units: Units) -> Tally:
    plan = layout.plan
    distinct = np.unique(rows)
    chunk, offsets = plan.locate(distinct)
    if layout.local:
        # the same order as that of their addresses: a map lies behind no other of its rows
        shard, parts = plan.shard[chunk], _parts(plan, units, chunk)
        members = [np.flatnonzero(shard == one) for one in np.unique(shard)]
        requests = sum(
            count_ranges(offsets[here], row_bytes=plan.spec.row_bytes) * int(parts[here[0]])
            for here in members
        )
        return _mapped(plan, units, requests=requests, rows=len(rows))
    breaks = (np.diff(distinct) != 1) | (np.diff(chunk) != 0)
    first = np.flatnonzero(np.append(True, breaks))
    counts = np.diff(np.append(first, len(distinct)))
    runs = Runs(plan.shard[chunk[first]], chunk[first], offsets[first], counts)
    return _fetched(layout, units, runs)


def _mapped(plan: SitePlan, units: Units, *, requests: int, rows: int) -> Tally:
    return Tally(requests, rows, rows * units.count * plan.dtype.itemsize)


def _parts(plan: SitePlan, units: Units, chunk: np.ndarray) -> np.ndarray:
    """Return in how many parts a run of rows in each of these chunks is: one, or tiles."""
    parts = np.ones(len(chunk), dtype=np.int64)
    for tile, tiling in plan.tilings.items():
        parts[plan.tile[chunk] == tile] = len(cut_units(units, tiling.widths))
    return parts


def _fetched(layout: Layout, units: Units, runs: Runs) -> Tally:
    """Return the cost of runs of rows: runs of one group are asked for together."""
    plan = layout.plan
    if not units.count:
        return Tally()
    if not plan.tilings:
        return _of_rows(layout, units, runs)
    of_run = plan.tile[runs.chunk]
    parts = [_of_rows(layout, units, runs.where(of_run == 0))]
    for tile, tiling in plan.tilings.items():
        cuts = cut_units(units, tiling.widths)
        parts.append(_of_tiles(layout, tile, cuts, runs.where(of_run == tile)))
    return summed(parts)


def _of_rows(layout: Layout, units: Units, runs: Runs) -> Tally:
    """Return the cost of runs of rows that are whole."""
    row, size = layout.plan.spec.row_bytes, layout.plan.dtype.itemsize
    first, last = (place * size for place in units.span)
    apart = row - (last - first)
    # of rows wider than the gap, each is a range of its own
    single = bool(apart) and row > layout.max_gap and apart > layout.max_gap
    ranges = runs.counts if single else np.ones_like(runs.counts)
    nbytes = runs.counts * (last - first) if single else (runs.counts - 1) * row + last - first
    starts = runs.offsets + first
    stops = starts + (runs.counts - 1) * row + last - first
    between = _gaps(runs.group, starts, stops, max_gap=layout.max_gap)
    return Tally(
        int(ranges.sum()) - len(between),
        int(runs.counts.sum()),
        int(nbytes.sum()) + int(between.sum()),
    )


def _of_tiles(layout: Layout, tile: int, cuts: Sequence[TileUnits], runs: Runs) -> Tally:
    """Return the cost of runs of rows in tiles: of each tile a range."""
    plan, starts, stops = layout.plan, [], []
    row = (runs.offsets - plan.offsets[runs.chunk]) // plan.spec.row_bytes
    for cut in cuts:
        part = plan.of_tile(tile, cut.number)
        first, last = (place * plan.dtype.itemsize for place in cut.units.span)
        begin = part.offsets[runs.chunk] + row * part.spec.row_bytes
        starts.append(begin + first)
        stops.append(begin + (runs.counts - 1) * part.spec.row_bytes + last)
    low, high = np.concatenate(starts), np.concatenate(stops)
    max_gap = tile_gap(layout.max_gap, tiles=len(cuts))
    between = _gaps(np.tile(runs.group, len(cuts)), low, high, max_gap=max_gap)
    nbytes = int((high - low).sum()) + int(between.sum())
    return Tally(len(low) - len(between), int(runs.counts.sum()), nbytes)


def _gaps(group: np.ndarray, starts: np.ndarray, stops: np.ndarray, *, max_gap: int) -> np.ndarray:
    """Return the bytes between ranges of one group that are so near that they are one request."""
    order = np.lexsort((starts, group))
    gaps = starts[order][1:] - stops[order][:-1]
    same = group[order][1:] == group[order][:-1]
    near = bridged(np.where(same, np.maximum(gaps, 0), -1), max_gap=max_gap)
    return np.compress(near, gaps)
