"""Blocks, zones and ranks of a shard to its statistics file, as far as they are worth it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

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
from lazycache.types import SiteSpec, StatsPart, StatsRef
from lazycache.writer.greatest import Greatest
from lazycache.writer.moments import BlockNumbers

SMALL = 64 << 10
"""Bytes that a part may always have."""

_SHARE = 16  # and otherwise this part of the shard's values
_PENDING = 128 << 10  # bytes of zones that wait in memory


def allowed(values_nbytes: int) -> int:
    """Bytes that a part of the statistics of so many bytes of values may have.

    Example:
        >>> allowed(1 << 10), allowed(256 << 20)
        (65536, 16777216)
    """
    return max(SMALL, values_nbytes // _SHARE)


class StatisticsParts:
    """Holds blocks and the last zones back, and writes the file.

    Args:
        spec: The site.
        path: Where the file will be.
        create: Begins the file, once there is something to write.
        stored: Turns numbers into the site's values.
    """

    def __init__(
        self,
        spec: SiteSpec,
        path: str,
        *,
        create: Callable[[str], Upload],
        stored: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self._spec, self._path, self._create, self._stored = spec, path, create, stored
        self._rows = 0
        self._blocks: list[BlockNumbers] = []
        self._open: tuple[np.ndarray, np.ndarray] | None = None  # extremes of a zone that goes on
        self._zones: list[tuple[np.ndarray, np.ndarray]] = []  # of some each, not written
        self._zone_parts: list[StatsPart] = []
        self._file: StatisticsEncoder | None = None
        self._upload: Upload | None = None

    def add_block(self, block: BlockNumbers) -> None:
        """Take the next block."""
        self._blocks.append(block)

    def add_zones(self, low: np.ndarray, high: np.ndarray, *, rows: int) -> None:
        """Take the extremes of a chunk, zone by zone; the first and the last may be parts of one.

        Args:
            low: [zones, units]: the least.
            high: The greatest.
            rows: Of the shard, with this chunk.
        """
        self._rows = rows
        if self._open is not None:
            np.minimum(low[0], self._open[0], out=low[0])
            np.maximum(high[0], self._open[1], out=high[0])
        whole = len(low) - (rows % ZONE_ROWS > 0)
        self._open = None if whole == len(low) else (low[-1].copy(), high[-1].copy())
        if whole:
            self._zones.append((self._stored(low[:whole]), self._stored(high[:whole])))
        self._write_zones(least=-(-_PENDING // sum(part_sizes(self._spec, ZONE_COLUMNS))))

    def finish(self, chunks: Sequence[int], greatest: Greatest | None) -> StatsRef | None:
        """Write the rest; None if there is no file.

        Args:
            chunks: How many each block has.
            greatest: The greatest values; None if they are not wanted.
        """
        zones, blocks, top = self._last_zones(), self._write_blocks(), self._write_top(greatest)
        if self._file is None or self._upload is None:
            return None
        self._file.finish()
        self._upload.finish()
        kept = tuple(chunks) if blocks else ()
        return StatsRef(self._path, self._file.length, kept, blocks, zones, top)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._upload is not None:
            self._upload.abort()

    def _last_zones(self) -> tuple[StatsPart, ...]:
        if self._open is not None:
            low, high = (self._stored(part[None]) for part in self._open)
            self._zones.append((low, high))
        size = sum(low.nbytes + high.nbytes for low, high in self._zones)
        if self._zone_parts or size <= self._room:
            self._write_zones(least=1)
        return tuple(self._zone_parts)

    def _write_zones(self, *, least: int) -> None:
        """Write what waits, if there are so many zones."""
        waiting = sum(len(low) for low, _ in self._zones)
        if waiting < least:
            return
        low, high = (np.concatenate(matrix) for matrix in zip(*self._zones, strict=True))
        self._zones = []
        done = sum(part.rows for part in self._zone_parts)
        starts = [ZONE_ROWS * (done + n) for n in range(waiting)]
        rows = [min(ZONE_ROWS, self._rows - start) for start in starts]
        self._zone_parts.append(self._write(ZONE, starts, rows, {"min": low, "max": high}))

    def _write_blocks(self) -> StatsPart | None:
        blocks = self._blocks
        if len(blocks) * sum(part_sizes(self._spec, BLOCK_COLUMNS)) > self._room:
            return None
        rows = [block.rows for block in blocks]
        starts = [sum(rows[:n]) for n in range(len(rows))]
        names = ("min", "max", "sum", "mean", "m2")
        matrices = {name: np.stack([getattr(b, name) for b in blocks]) for name in names}
        return self._write(BLOCK, starts, rows, {**_counts(blocks), **matrices})

    def _write_top(self, greatest: Greatest | None) -> StatsPart | None:
        ranks = min(TOP_ROWS, self._rows)
        if greatest is None or ranks * sum(part_sizes(self._spec, TOP_COLUMNS)) > self._room:
            return None
        values, rows = greatest.take()
        values[rows < 0] = 0
        matrices = {"top_value": self._stored(values), "top_row": rows}
        return self._write(TOP, [0] * ranks, [self._rows] * ranks, matrices)

    @property
    def _room(self) -> int:
        return allowed(self._rows * self._spec.row_bytes)

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
        stored = {
            name: np.ascontiguousarray(matrix).view(np.uint8).data.cast("B")
            for name, matrix in matrices.items()
        }
        return self._file.add(kind, starts, rows, stored)


def _counts(blocks: Sequence[BlockNumbers]) -> dict[str, np.ndarray]:
    """Return how many values are NaN, +Inf and -Inf; nothing for those that no block has."""
    none = np.zeros((3, len(blocks[0].sum)), np.int32)
    odd = np.stack([none if block.odd is None else block.odd for block in blocks], axis=1)
    names = ("nans", "pos_infs", "neg_infs")
    return {name: counts for name, counts in zip(names, odd, strict=True) if counts.any()}
