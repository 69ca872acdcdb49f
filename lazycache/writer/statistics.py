"""The statistics of one shard while its chunks are written. For one worker thread.

All numbers of a chunk are gathered in one pass over tiles that stay in the processor's cache; see
`docs/format` for what is kept and what is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from lazycache.codec.dtypes import by_name
from lazycache.codec.statistics import BLOCK_COLUMNS, TOP_COLUMNS, TOP_ROWS, ZONE_ROWS, part_sizes
from lazycache.one_thread import one_thread
from lazycache.storage.store import Upload
from lazycache.types import RAGGED, SiteSpec, StatsRef
from lazycache.writer.fused import COMPILER, Fused
from lazycache.writer.greatest import Greatest
from lazycache.writer.moments import Moments
from lazycache.writer.numbers import Numbers
from lazycache.writer.statistics_parts import SMALL, StatisticsParts, allowed
from lazycache.writer.tiles import runs
from lazycache.writer.zone_numbers import ZoneNumbers

SMALLEST_SHARD = 16 << 10
"""Bytes of values below which a shard has no statistics: it is read as fast itself."""

_BLOCK_BYTES = 2 << 10  # values of one unit that are worth a block
_MOST_BLOCKS = 64  # of a shard: they wait in memory until its end
_ROWS_FOR_TOP = 8192  # shards of fewer rows would keep much of their values
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
    return sum(part_sizes(spec, BLOCK_COLUMNS)) <= allowed(shard_bytes)


class ShardStatistics:
    """Takes the chunks of one shard, and writes what they amount to.

    Memory: of each unit up to 256 bytes of ranks (512 where they are compiled) and 1.8 KiB of
    blocks, and 1/8 MiB of zones; an eighth of a chunk while one is taken.

    Args:
        spec: The site; one that `has_statistics`.
        path: Where the file will be.
        create: Begins the file, once there is something to write.
        shard_bytes: Bytes after which a shard ends.
    """

    def __init__(
        self, spec: SiteSpec, path: str, *, create: Callable[[str], Upload], shard_bytes: int
    ) -> None:
        self._spec = spec
        units = math.prod(spec.shape)
        self._numbers = Numbers(spec.dtype)
        self._moments = Moments(self._numbers)
        self._block_bytes = max(_BLOCK_BYTES, shard_bytes // units // _MOST_BLOCKS)
        self._greatest = self._ranks(units, shard_bytes)
        self._parts = StatisticsParts(spec, path, create=create, stored=self._numbers.stored)
        self._rows = 0
        self._two_steps = False  # for deviations; as was good for the chunk before
        self._fused: Fused | None = None  # from some chunk on
        self._chunks = [0]  # of each block; the last one is open

    def _ranks(self, units: int, shard_bytes: int) -> Greatest | None:
        most = TOP_ROWS * sum(part_sizes(self._spec, TOP_COLUMNS))
        if most > SMALL and shard_bytes // self._spec.row_bytes < _ROWS_FOR_TOP:
            return None
        return Greatest(units, self._numbers)

    def add(self, pieces: Sequence[tuple[memoryview, int]]) -> None:
        """Take the values of a chunk: pieces of rows, in order.

        Cost: one pass over the values, two to three nanoseconds each, and another look at few
        of them.
        """
        rows = runs([self._raw(*piece) for piece in pieces], first=self._rows % ZONE_ROWS)
        first, self._rows = self._rows, self._rows + sum(map(len, rows))
        if self._rows > _MOST_ROWS:
            self._greatest = None
            if self._fused is not None:
                self._fused.forget()
        if self._fused is None:
            self._fused = self._compiled(sum(run.nbytes for run in rows))
        with one_thread():  # cores are the model's
            self._add(rows, first)
        self._chunks[-1] += 1
        if self._moments.rows * by_name(self._spec.dtype).itemsize >= self._block_bytes:
            self._close_block()

    def _add(self, rows: Sequence[np.ndarray], first: int) -> None:
        zones = ZoneNumbers(
            rows,
            self._numbers,
            with_groups=self._greatest is not None,
            two_steps=self._two_steps,
            fused=self._fused,
            row=first,
        )
        self._two_steps = zones.wants_two_steps
        self._moments.add(zones)
        if self._greatest is not None and zones.maxima is not None:
            self._greatest.add(rows, zones.maxima, zones.high, row=first)
        self._parts.add_zones(zones.low, zones.high, rows=self._rows)

    def _compiled(self, nbytes: int) -> Fused | None:
        """Return what computes from here on, going on from what there is; None: as so far."""
        kernel = COMPILER.kernel(self._spec.dtype, nbytes)
        if kernel is None:
            return None
        kept = None if self._greatest is None else self._greatest.kept
        return Fused(kernel, self._spec.dtype, kept, units=math.prod(self._spec.shape))

    def finish(self) -> StatsRef | None:
        """Write what is worth it; None if nothing is."""
        if self._moments.rows:
            self._close_block()
        if self._fused is not None and self._greatest is not None:
            self._greatest.keep(*self._fused.kept(), seen=self._rows)
        if self._rows * self._spec.row_bytes < SMALLEST_SHARD:
            self.abort()
            return None
        return self._parts.finish(self._chunks[:-1], self._greatest)

    def abort(self) -> None:
        """Leave nothing behind."""
        self._parts.abort()

    def _raw(self, values: memoryview, rows: int) -> np.ndarray:
        raw = np.frombuffer(values, np.uint8).view(self._numbers.raw)
        return raw.reshape(rows, math.prod(self._spec.shape))

    def _close_block(self) -> None:
        self._parts.add_block(self._moments.close())
        self._chunks.append(0)
