"""The statistics of one shard while its chunks are written. For one worker thread.

A block of chunks, a zone of 128 rows and the greatest values are gathered in one pass over tiles
that stay in the processor's cache; see `docs/format` for what is kept and what is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from lazycache.codec.dtypes import as_bytes, by_name
from lazycache.codec.statistics import (
    BLOCK_COLUMNS,
    TOP_COLUMNS,
    TOP_ROWS,
    ZONE_COLUMNS,
    ZONE_ROWS,
    part_sizes,
)
from lazycache.codec.statistics_file import BLOCK, TOP, ZONE, StatisticsEncoder
from lazycache.storage.store import Upload
from lazycache.types import RAGGED, SiteSpec, StatsPart, StatsRef
from lazycache.writer.greatest import Greatest
from lazycache.writer.moments import BlockNumbers, Moments
from lazycache.writer.tiles import Tiles

SMALLEST_SHARD = 16 << 10
"""Bytes of values below which a shard has no statistics: it is read as fast itself."""

_SMALL = 64 << 10  # bytes that a part may always have
_SHARE = 16  # and otherwise this part of the shard's values
_BLOCK_BYTES = 2 << 10  # values of one unit that are worth a block
_MOST_BLOCKS = 64  # of a shard: they wait in memory until its end
_PENDING = 256 << 10  # bytes of zones that wait in memory
_ROWS_FOR_TOP = 8192  # shards of fewer rows would keep much of their values
_GROUPS = 8 * TOP_ROWS  # of a chunk: enough to foresee what its greatest values exceed
_GROUP_ROWS = 16  # fewer cost more than they show
_MOST_ROWS = (1 << 31) - 1  # row numbers of ranks have 32 bits


def has_statistics(spec: SiteSpec, *, shard_bytes: int) -> bool:
    """Whether shards of a site have statistics: not ragged ones, nor rows too wide for a file.

    Example:
        >>> logits = SiteSpec("logits", "tokens", "bfloat16", (49152,), 98304)
        >>> [has_statistics(logits, shard_bytes=mib << 20) for mib in (256, 1)]
        [True, False]
    """
    if spec.layout == RAGGED:
        return False
    return sum(part_sizes(spec, BLOCK_COLUMNS)) <= _allowed(shard_bytes)


class ShardStatistics:
    """Takes the chunks of one shard, and writes what they amount to.

    Memory: of each unit some hundred bytes, of the ranks up to 1.3 KiB, and 1 MiB of zones.

    Args:
        spec: The site; one that `has_statistics`.
        path: Where the file will be.
        create: Begins the file, once there is something to write.
        shard_bytes: Bytes after which a shard ends.
    """

    def __init__(
        self, spec: SiteSpec, path: str, *, create: Callable[[str], Upload], shard_bytes: int
    ) -> None:
        self._spec, self._path, self._create = spec, path, create
        units = math.prod(spec.shape)
        self._tiles = Tiles(spec)
        self._moments = Moments(units)
        self._block_bytes = max(_BLOCK_BYTES, shard_bytes // units // _MOST_BLOCKS)
        self._greatest = self._ranks(units, shard_bytes)
        self._rows = 0  # that tiles had
        self._chunks = [0]  # of each block; the last one is open
        self._block, self._zone = _Extremes(), _Extremes()
        self._blocks: list[BlockNumbers] = []
        self._zones: list[tuple[np.ndarray, np.ndarray]] = []  # not written
        self._zone_parts: list[StatsPart] = []
        self._file: StatisticsEncoder | None = None
        self._upload: Upload | None = None

    def _ranks(self, units: int, shard_bytes: int) -> Greatest | None:
        spec = self._spec
        most = TOP_ROWS * sum(part_sizes(spec, TOP_COLUMNS))
        if most > _SMALL and shard_bytes // spec.row_bytes < _ROWS_FOR_TOP:
            return None
        return Greatest(units, self._tiles.dtype)

    def add(self, pieces: Sequence[tuple[memoryview, int]]) -> None:
        """Take the values of a chunk: pieces of rows, in order.

        Cost: one pass over the values; about a nanosecond and a half each.
        """
        if self._greatest is not None and self._greatest.is_busy:
            self._greatest.expect(_maxima(Tiles(self._spec), pieces))
        for tile in self._tiles.of(pieces):
            self._tile(tile)
        if self._greatest is not None:
            self._greatest.settle()
        self._chunks[-1] += 1
        if self._moments.rows * by_name(self._spec.dtype).itemsize >= self._block_bytes:
            self._close_block()

    def finish(self) -> StatsRef | None:
        """Write what is worth it; None if nothing is."""
        if self._moments.rows:
            self._close_block()
        if self._rows % ZONE_ROWS:
            self._close_zone()
        if self._rows * self._spec.row_bytes < SMALLEST_SHARD:
            self.abort()
            return None
        zones, blocks, top = self._last_zones(), self._write_blocks(), self._write_top()
        if self._file is None or self._upload is None:
            return None
        self._file.finish()
        self._upload.finish()
        chunks = tuple(self._chunks[:-1]) if blocks else ()
        return StatsRef(self._path, self._file.length, chunks, blocks, zones, top)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._upload is not None:
            self._upload.abort()

    def _tile(self, tile: np.ndarray) -> None:
        clean = self._moments.add(tile)
        low = clean.filled(np.inf).min(axis=0)
        countable = clean.filled(-np.inf)
        high = countable.max(axis=0)
        if self._greatest is not None:
            self._greatest.add(countable, high, row=self._rows)
        self._block.add(low, high)
        self._zone.add(low, high)
        self._rows += len(tile)
        if self._rows > _MOST_ROWS:
            self._greatest = None
        if self._rows % ZONE_ROWS == 0:
            self._close_zone()

    def _close_block(self) -> None:
        self._blocks.append(self._moments.close(*self._block.take()))
        self._chunks.append(0)

    def _close_zone(self) -> None:
        self._zones.append(self._zone.take())
        size = sum(part_sizes(self._spec, ZONE_COLUMNS))
        if len(self._zones) * size >= _PENDING and self._rows % ZONE_ROWS == 0:
            self._write_zones()

    def _last_zones(self) -> tuple[StatsPart, ...]:
        size = len(self._zones) * sum(part_sizes(self._spec, ZONE_COLUMNS))
        if self._zones and (self._zone_parts or size <= self._room):
            self._write_zones()
        return tuple(self._zone_parts)

    def _write_zones(self) -> None:
        zones, self._zones = self._zones, []
        done = sum(part.rows for part in self._zone_parts)
        starts = [ZONE_ROWS * (done + n) for n in range(len(zones))]
        rows = [min(ZONE_ROWS, self._rows - start) for start in starts]
        low, high = (np.stack(matrix) for matrix in zip(*zones, strict=True))
        self._zone_parts.append(self._write(ZONE, starts, rows, {"min": low, "max": high}))

    def _write_blocks(self) -> StatsPart | None:
        blocks = self._blocks
        if len(blocks) * sum(part_sizes(self._spec, BLOCK_COLUMNS)) > self._room:
            return None
        rows = [block.rows for block in blocks]
        starts = [sum(rows[:n]) for n in range(len(rows))]
        matrices = {name: np.stack([getattr(b, name) for b in blocks]) for name in BLOCK_COLUMNS}
        for name in ("nans", "pos_infs", "neg_infs"):
            if not matrices[name].any():
                del matrices[name]
        return self._write(BLOCK, starts, rows, matrices)

    def _write_top(self) -> StatsPart | None:
        ranks = min(TOP_ROWS, self._rows)
        if self._greatest is None or ranks * sum(part_sizes(self._spec, TOP_COLUMNS)) > self._room:
            return None
        values, rows = self._greatest.take()
        values[rows < 0] = 0
        matrices = {"top_value": values, "top_row": rows}
        return self._write(TOP, [0] * ranks, [self._rows] * ranks, matrices)

    @property
    def _room(self) -> int:
        return _allowed(self._rows * self._spec.row_bytes)

    def _write(
        self,
        kind: str,
        starts: Sequence[int],
        rows: Sequence[int],
        matrices: Mapping[str, np.ndarray],
    ) -> StatsPart:
        if self._file is None:
            self._upload = self._create(self._path)
            self._file = StatisticsEncoder(self._spec, write=self._upload.write)
        stored = {name: _stored(name, matrix, self._spec) for name, matrix in matrices.items()}
        return self._file.add(kind, starts, rows, stored)


class _Extremes:
    """Least and greatest of each unit over some tiles."""

    def __init__(self) -> None:
        self._low: np.ndarray | None = None
        self._high = np.empty(0)

    def add(self, low: np.ndarray, high: np.ndarray) -> None:
        """Take those of a tile, which are never changed."""
        if self._low is None:
            self._low, self._high = low, high
        else:
            self._low = np.minimum(self._low, low)
            self._high = np.maximum(self._high, high)

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return them, and begin anew."""
        low, self._low = self._low, None
        assert low is not None, "there was a tile"
        return low, self._high


def _maxima(tiles: Tiles, pieces: Sequence[tuple[memoryview, int]]) -> np.ndarray:
    """Return maxima of some groups of rows; of a group with NaN or Inf, less than that."""
    size = max(_GROUP_ROWS, sum(rows for _, rows in pieces) // _GROUPS)
    groups = [
        tile[row : row + size].max(axis=0)
        for tile in tiles.of(pieces)
        for row in range(0, len(tile), size)
    ]
    maxima = np.stack(groups)
    return np.where(np.isfinite(maxima), maxima, -np.inf) if maxima.dtype.kind == "f" else maxima


def _allowed(values_nbytes: int) -> int:
    """Bytes that a part of the statistics of so many bytes of values may have."""
    return max(_SMALL, values_nbytes // _SHARE)


def _stored(name: str, matrix: np.ndarray, spec: SiteSpec) -> memoryview:
    """Return the bytes of a matrix as the file has them."""
    if name not in ("min", "max", "top_value"):
        return np.ascontiguousarray(matrix).data.cast("B")
    dtype = by_name(spec.dtype)
    if matrix.dtype.kind == "f":
        matrix = np.where(np.isfinite(matrix), matrix, np.nan)  # no finite value
    if dtype.numpy is not None:
        return np.ascontiguousarray(matrix, dtype.numpy).view(np.uint8).data.cast("B")
    return as_bytes(torch.from_numpy(matrix).to(dtype.torch))
