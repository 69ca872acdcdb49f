"""Where rows lie: row numbers of one site to shards and byte offsets. Pure.

Built once per site from the snapshot, as columns; every question is a binary search over the
chunks' first rows, so a read costs the chunks it touches and not the chunks there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lazycache.cache.selecting.plan_checks import Placed, check_spec, check_values, check_widths
from lazycache.cache.selecting.tilings import NO_TILES, Tilings, tilings_of
from lazycache.codec.dtypes import Dtype, by_name
from lazycache.errors import SelectionError
from lazycache.types import RAGGED, ChunkRef, ShardRef, SiteSpec

Rows = range | np.ndarray
"""Absolute rows of a table: a range, or int64 in any order."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of one chunk: one byte range."""

    shard: int
    """Place of the shard in `SitePlan.shards`."""
    chunk: int
    """Place of the chunk in the columns of the plan."""
    offset: int
    """First byte in the shard."""
    rows: int
    """How many rows."""


@dataclass(frozen=True, slots=True, eq=False)
class SitePlan:
    """The chunks of one site in row order, as columns."""

    spec: SiteSpec
    """What a row is."""
    shards: tuple[ShardRef, ...]
    """The shards, in row order."""
    starts: np.ndarray
    """int64[chunks]: first absolute row."""
    stops: np.ndarray
    """int64[chunks]: the row after the last."""
    sizes: np.ndarray
    """uint64[chunks]: rows in the chunk."""
    offsets: np.ndarray
    """int64[chunks]: byte offset of the first row's values in the shard."""
    crcs: np.ndarray
    """int64[chunks]: CRC-32 of the values."""
    nbytes: np.ndarray
    """int64[chunks]: bytes of the values."""
    widths_at: np.ndarray
    """int64[chunks]: of a ragged site, byte offset of the rows' widths in the shard; else -1."""
    dtype: Dtype
    """What the values are."""
    shard: np.ndarray
    """int64[chunks]: place in `shards`."""
    table: np.ndarray
    """int64[n]: the chunk in which every 2**shift-th row from the first lies."""
    shift: int
    """See `table`."""
    tile: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """int64[chunks]: units of its tiles; 0: rows are whole. Empty where `tilings` is."""
    tilings: Tilings = field(default_factory=lambda: NO_TILES)
    """Where the tiles are; empty where all rows are whole."""
    _tile_plans: dict[tuple[int, int], SitePlan] = field(default_factory=dict, repr=False)

    def of_tile(self, tile: int, number: int) -> SitePlan:
        """Return the plan of one tile of the rows, over all chunks that have tiles of `tile` units.

        Of other chunks it knows the rows, but must not be asked for their place.
        """
        known = self._tile_plans.get((tile, number))
        if known is None:
            tiling = self.tilings[tile]
            width, first = tiling.widths[number], number * tile
            known = replace(
                self,
                spec=replace(
                    self.spec,
                    name=f"{self.spec.name}, units {first} to {first + width}",
                    shape=(width,),
                    row_bytes=width * self.dtype.itemsize,
                ),
                offsets=tiling.offsets[number],
                crcs=tiling.crcs[number],
                nbytes=(self.stops - self.starts) * (width * self.dtype.itemsize),
                tile=np.empty(0, np.int64),
                tilings=NO_TILES,
                _tile_plans={},
            )
            self._tile_plans[tile, number] = known
        return known

    @property
    def rows(self) -> int:
        """Rows that the site has."""
        return int((self.stops - self.starts).sum())

    def covered_spans(self) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the longest runs of rows that the site has."""
        if not self.starts.size:
            return self.starts, self.stops
        breaks = self.starts[1:] != self.stops[:-1]
        return self.starts[np.r_[True, breaks]], self.stops[np.r_[breaks, True]]

    def covered(self, rows: np.ndarray) -> np.ndarray:
        """Return for each row whether the site has it: bool[n]."""
        if not self.starts.size:
            return np.zeros(rows.shape, dtype=np.bool_)
        return self._find(rows)[2]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the chunk of each row and the byte offset of its values in the chunk's shard.

        Not of ragged sites. Raises as `places` does.
        """
        chunk, place = self.places(rows)
        place *= self.spec.row_bytes
        place += self.offsets.take(chunk)
        return chunk, place

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the chunk of each row and its place in the chunk; arrays of the caller's own.

        Raises:
            SelectionError: the site does not have one of the rows.
        """
        if not self.starts.size and rows.size:
            raise self.missing(int(rows[0]))
        chunk, place, holds = self._find(rows)
        if not holds.all():
            raise self.missing(int(rows[~holds][0]))
        return chunk, place

    def _find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the chunk each row can only be in, its place there, and whether that is inside.

        A table gives the chunk, nearly always: six times faster than a binary search per row, which
        is left for irregular chunks and holes.
        """
        if not self.starts.size:
            return rows.copy(), rows.copy(), np.zeros(rows.shape, dtype=np.bool_)
        chunk = self.table.take((rows - self.starts[0]) >> self.shift, mode="clip")
        place = rows - self.starts.take(chunk)
        holds = self._holds(chunk, place)
        if not holds.all():
            rest = np.flatnonzero(~holds)
            found = np.searchsorted(self.starts, rows[rest], side="right") - 1
            chunk[rest] = np.maximum(found, 0)
            place[rest] = rows[rest] - self.starts.take(chunk[rest])
            holds[rest] = self._holds(chunk[rest], place[rest])
        return chunk, place, holds

    def _holds(self, chunk: np.ndarray, place: np.ndarray) -> np.ndarray:
        # as unsigned numbers, places before the chunk are beyond its end: one comparison for both
        holds: np.ndarray = place.view(np.uint64) < self.sizes.take(chunk)
        return holds

    def spans(self, start: int, stop: int) -> list[Span]:
        """Return the byte ranges of rows `start` to `stop`, in row order. Not of ragged sites.

        Raises:
            SelectionError: the site does not have one of the rows.
        """
        found: list[Span] = []
        row = start
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        for chunk in range(max(first, 0), len(self.starts)):
            low, high = int(self.starts[chunk]), int(self.stops[chunk])
            if row >= stop or not low <= row < high:
                break
            offset = int(self.offsets[chunk]) + (row - low) * self.spec.row_bytes
            rows = min(stop, high) - row
            found.append(Span(int(self.shard[chunk]), chunk, offset, rows))
            row += rows
        if row < stop:
            raise self.missing(row)
        return found

    def missing(self, row: int) -> SelectionError:
        """Return the error for a row that the site does not have."""
        name, table = self.spec.name, self.spec.table
        return SelectionError(
            f"site {name!r} has no value for row {row:,} of {table} (it has {self.rows:,} rows). "
            "Rows that were not captured are missing, not zero: .covered says which there are."
        )


def build(spec: SiteSpec, placed: Sequence[Placed]) -> SitePlan:
    """Return the plan of a site whose shards are given in row order.

    Raises:
        CorruptShardError: a chunk lies outside its shard, its values are not aligned, or the site
            cannot be what the log says.
    """
    check_spec(spec)
    placed = [p for p in placed if p.ref.rows]
    shard, rows, offsets, crcs, units, widths_at = _columns(spec, placed)
    check_values(spec, placed, shard=shard, units=units, offsets=offsets)
    if spec.layout == RAGGED:
        check_widths(spec, placed, shard=shard, rows=rows, units=units, widths_at=widths_at)
    tilings = tilings_of(spec, placed, shard=shard)
    before = np.cumsum(rows) - rows
    first = np.searchsorted(shard, np.arange(len(placed)))
    bases = np.array([p.row_start for p in placed], dtype=np.int64)
    starts = before + (bases - before[first])[shard] if len(rows) else before
    table, shift = _table(starts, rows)
    return SitePlan(
        spec=spec,
        shards=tuple(p.ref for p in placed),
        starts=starts,
        stops=starts + rows,
        sizes=rows.astype(np.uint64),
        offsets=offsets,
        crcs=crcs,
        nbytes=units * spec.row_bytes,
        widths_at=widths_at,
        dtype=by_name(spec.dtype),
        shard=shard,
        table=table,
        shift=shift,
        tile=_tiles(placed, shard) if tilings else np.empty(0, np.int64),
        tilings=tilings,
    )


def _tiles(placed: Sequence[Placed], shard: np.ndarray) -> np.ndarray:
    return np.array([p.ref.tile or 0 for p in placed], dtype=np.int64).take(shard)


def _columns(spec: SiteSpec, placed: Sequence[Placed]) -> np.ndarray:
    """Return shard, rows, offset, checksum, units and place of widths of chunks: int64[6, n]."""
    ragged = spec.layout == RAGGED
    chunks = [
        (i, c.rows, c.value_offset, c.value_crc, *(_widths(c) if ragged else (c.rows, -1)))
        for i, p in enumerate(placed)
        for c in p.ref.chunks
        if c.rows
    ]
    return np.array(chunks, dtype=np.int64).reshape(-1, 6).T.copy()


def _widths(chunk: ChunkRef) -> tuple[int, int]:
    """Return the sum of a ragged chunk's widths and where they are; -1 where the log is silent."""
    total = -1 if chunk.width is None else chunk.width
    return total, chunk.index_offsets[-1] if chunk.index_offsets else -1


def _table(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, int]:
    if not rows.size:
        return starts, 0
    # as fine as most chunks: about twice as many entries as chunks, if there are no great holes
    span = int(starts[-1] - starts[0] + rows[-1])
    shift = max(int(np.median(rows)), span // (4 * len(rows)), 1).bit_length() - 1
    marks = starts[0] + (np.arange((span >> shift) + 1, dtype=np.int64) << shift)
    return np.searchsorted(starts, marks, side="right") - 1, shift


def as_array(rows: Rows) -> np.ndarray:
    """Return rows as int64[n].

    Example:
        >>> as_array(range(4, 8, 2)).tolist()
        [4, 6]
    """
    if isinstance(rows, range):
        return np.arange(rows.start, rows.stop, rows.step, dtype=np.int64)
    return rows


def as_range(rows: np.ndarray) -> range | None:
    """Return the rows as a range of consecutive rows, or None if they are not.

    Example:
        >>> as_range(np.array([4, 5, 6])), as_range(np.array([4, 6]))
        (range(4, 7), None)
    """
    if not rows.size or int(rows[-1]) - int(rows[0]) != rows.size - 1:
        return None
    if not bool((rows[1:] - rows[:-1] == 1).all()):
        return None
    return range(int(rows[0]), int(rows[-1]) + 1)


def count_ranges(offsets: np.ndarray, *, row_bytes: int) -> int:
    """Return how many contiguous byte ranges the ascending offsets of rows make.

    A row that is asked for twice is in one range. Chunks never touch: headers lie between them.

    Example:
        >>> count_ranges(np.array([64, 72, 72, 80, 200]), row_bytes=8)
        2
    """
    if not offsets.size:
        return 0
    return 1 + int(np.count_nonzero(offsets[1:] - offsets[:-1] > row_bytes))


def blocks(rows: int, *, size: int) -> Iterator[tuple[int, int]]:
    """Cut `rows` into pieces of at most `size`: (start, stop) pairs.

    Example:
        >>> list(blocks(5, size=2))
        [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, rows, max(1, size)):
        yield start, min(rows, start + max(1, size))
