"""Rows of sites as tensors: the one place that turns row numbers into bytes read.

Used by lazy tensors and by SQL. Everything here is by absolute row of a site's table; what an
example or a position is, is told by `examples.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lazycache.cache.files.gather import empty, words_of
from lazycache.cache.files.maps import MOST_MAPS, MapCache, mappable_bytes
from lazycache.cache.files.open_shards import OpenShards
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.files.placed_rows import PlacedRows
from lazycache.cache.files.ragged_rows import Block, Wanted
from lazycache.cache.reading.costs import Layout, Once, Tally, read_cost, scan_cost
from lazycache.cache.reading.kept_statistics import Kept
from lazycache.cache.reading.site_plans import SitePlans, SnapshotShards
from lazycache.cache.reading.stored_statistics import StoredStatistics, of_plan
from lazycache.cache.selecting import plan as planning
from lazycache.cache.selecting import units as unit_selection
from lazycache.cache.selecting.plan import Rows, SitePlan, as_array
from lazycache.cache.selecting.units import Units
from lazycache.errors import SelectionError, StorageError
from lazycache.late_bars import fed_late_bar, hush
from lazycache.storage.known_files import KnownFiles, StoredFiles
from lazycache.storage.ranges import MAX_GAP
from lazycache.storage.store import Store
from lazycache.types import RAGGED, IoCounters

BLOCK_BYTES = 8 << 20
"""More scattered rows than this are gathered block by block, on several threads."""


class Reader(SitePlans):
    """Reads rows of the sites of one snapshot, and counts what it reads in `io`.

    Thread-safe: no lock is held while bytes are read. `check` compares every chunk's checksum when
    it is first touched (2 GB/s locally, once; remotely the chunk is read whole for it). `files`
    gives ranges of what is not on this machine; without, the store does.
    """

    def __init__(
        self,
        store: Store,
        snapshot: SnapshotShards,
        *,
        io: IoCounters,
        check: bool = False,
        max_maps: int = MOST_MAPS,
        map_bytes: int | None = None,
        max_gap: int = MAX_GAP,
        files: KnownFiles | None = None,
    ) -> None:
        super().__init__(snapshot, url=store.url)
        self.io = io
        self._store = store
        self._max_gap = max_gap
        self._maps = MapCache(store, max_maps=max_maps, max_bytes=map_bytes or mappable_bytes())
        self._files = files or StoredFiles(store)
        self._shards = OpenShards(store, self._maps, self._files, io, check=check, max_gap=max_gap)
        self._kept_statistics = Kept(self._files, io)
        self._statistics: dict[str, StoredStatistics | None] = {}
        self._closed = False

    def take(
        self, site: str, rows: np.ndarray, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return absolute rows in the order given: [n, *units of the row], the caller's own copy.

        `units` is an index of the row's own dimensions by torch's rules; other units are not read.

        Cost: one allocation and one copy, whatever their order. Remotely, ranges closer than
        `max_gap` bytes are one request.

        Raises:
            SelectionError: the site does not have one of the rows, or `units` does not fit.
            CorruptShardError: a shard is not what the log recorded.
        """
        plan, chosen = self._resolve(site, units)
        rows = np.asarray(rows, dtype=np.int64)
        source, shape = self._shards.of(plan), (len(rows), *chosen.shape)
        size = max(1, BLOCK_BYTES // max(1, chosen.count * plan.dtype.itemsize))
        if not math.prod(shape):
            plan.locate(rows)
            return empty(shape, plan.dtype.torch)
        # torch gathers whole runs on its own threads, straight into the result
        if len(rows) <= size or (chosen.is_run and self._shards.are_near(plan)):
            return source.take(plan, rows, units=chosen)
        out = empty(shape, plan.dtype.torch)
        target = words_of(out)

        def fill(block: tuple[int, int]) -> None:
            part = source.take(plan, rows[slice(*block)], units=chosen)
            target[slice(*block)] = words_of(part)

        pieces, workers = list(planning.blocks(len(rows), size=size)), threads(out.nbytes)
        bar = fed_late_bar()
        for (start, stop), _ in zip(pieces, ordered(fill, pieces, workers=workers), strict=True):
            # what one thread alone fetches is told by who fetches it
            if workers > 1 or self._shards.are_near(plan):
                bar.advance((stop - start) * chosen.count * plan.dtype.itemsize)
        return out

    def slice(
        self, site: str, start: int, stop: int, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return absolute rows `start` to `stop`.

        Cost: 256 KiB or more of one chunk of a local shard, and at least half of each row, are not
        copied: a private, writable map of just these rows, whose changes reach neither the file
        nor other reads. Otherwise one allocation and one copy.

        Raises:
            SelectionError: the site does not have one of the rows, or `units` does not fit.
            CorruptShardError: a shard is not what the log recorded.
        """
        plan, chosen = self._resolve(site, units)
        spans = plan.spans(start, stop)
        if len(spans) == 1 and self._shards.are_near(plan):
            lent = self._shards.near(plan).lend(plan, spans[0], units=chosen)
            if lent is not None:
                return lent
        rows = max(0, stop - start)
        out = empty((rows, *chosen.shape), plan.dtype.torch)
        self._shards.of(plan).copy(plan, spans, units=chosen, out=out)
        return out

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Return rows by `slice` where they are consecutive, else by `take`."""
        span = rows if isinstance(rows, range) else planning.as_range(rows)
        if span is not None and span.step == 1:
            return self.slice(site, span.start, max(span.start, span.stop), units=units)
        return self.take(site, as_array(rows), units=units)

    def scan(
        self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = (), block_rows: int
    ) -> Iterator[torch.Tensor]:
        """Yield the rows in order, in blocks of at most `block_rows`, to be read and dropped.

        A block may be the reader's own memory map: it must not be written to or handed out.
        """
        plan, chosen = self._resolve(site, units)
        for start, stop in planning.blocks(len(rows), size=block_rows):
            part = rows[start:stop]
            if isinstance(part, range) and part.step == 1 and self._shards.are_near(plan):
                for span in plan.spans(part.start, part.stop):
                    yield self._shards.near(plan).view(plan, span, units=chosen)
            else:
                yield self.read(site, part, units=chosen)

    def cost(
        self,
        site: str,
        rows: Rows,
        *,
        units: tuple[Any, ...] | Units = (),
        block_rows: int | None = None,
    ) -> Tally:
        """Return what `read` would read, or with `block_rows` what `scan` would. Reads nothing."""
        plan, chosen = self._resolve(site, units)
        layout = Layout(plan, self._shards.are_near(plan), self._max_gap, BLOCK_BYTES)
        if block_rows is None:
            found = read_cost(layout, rows, chosen)
        else:
            found = scan_cost(layout, rows, chosen, block_rows=block_rows)
        if self._files.extra_bytes and not layout.local:
            found = found.in_blocks(self._files.extra_bytes)
        is_fetched = bool(chosen.count) and not layout.local
        new = self._shards.fetched.checks(plan, rows, chosen) if is_fetched else ()
        checks = (
            Once((id(self), part.spec.name, i), requests=1, nbytes=int(part.nbytes[i]))
            for part, i in new
        )
        return found + Tally(once=frozenset(checks))

    def is_near(self, site: str) -> bool:
        """Whether a site's shards are files of this machine. Reads nothing."""
        return self._shards.are_near(self._open_plan(site))

    def will_need(self, site: str, spans: Sequence[tuple[int, int]]) -> Callable[[], None] | None:
        """Have rows read from the disk, (first, stop) each, while the caller does other things.

        Sites that are elsewhere or in tiles are passed over. Returns what waits until the rows are
        in memory; None: there is nothing to wait for.

        Cost: some ten microseconds where the rows are in the page cache.
        """
        return self._shards.will_need(self._open_plan(site), spans)

    def place(
        self, site: str, rows: np.ndarray, *, units: Units, scattered: bool
    ) -> PlacedRows | None:
        """Look up where rows are, one at least, to be copied later in parts, in the order given.

        None where they are not simply in files of this machine. `scattered` ones are asked of the
        disk part by part; of others the caller has said so (`will_need`).

        Raises:
            SelectionError: the site does not have one of the rows.
            CorruptShardError: a shard is not what the log recorded.
        """
        return self._shards.place(self._open_plan(site), rows, units=units, scattered=scattered)

    def widths(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return the width of each row of a ragged site: int64[n].

        Cost: four bytes for every row of the chunks they are in, once; kept in memory up to 64 MiB.

        Raises:
            SelectionError: the site does not have one of the rows.
            CorruptShardError: a shard is not what the log recorded.
        """
        plan = self._open_plan(site)
        return self._shards.ragged(plan).widths(plan, np.asarray(rows, dtype=np.int64))

    def ragged(self, site: str, wanted: Wanted) -> Iterator[Block]:
        """Yield values of rows of a ragged site, in blocks to be copied and dropped.

        Cost: the widths of the rows' chunks (see `widths`) and the bytes of what is wanted. Of a
        local shard nothing but what is wanted is copied; remotely, ranges closer than `max_gap`
        bytes are one request, so heads of narrow rows are fetched with their neighbours.

        Raises:
            SelectionError: the site does not have one of the rows.
            CorruptShardError: a shard is not what the log recorded.
        """
        plan = self._open_plan(site)
        return self._shards.ragged(plan).blocks(plan, wanted)

    def statistics(self, site: str) -> StoredStatistics | None:
        """Return what is stored of the rows of a site beside them; None if there is nothing.

        Cost: reads nothing; what is asked of it is read then, and kept in memory up to 256 MiB.
        """
        plan = self._open_plan(site)
        if site not in self._statistics:
            self._statistics[site] = of_plan(plan, self._kept_statistics)
        return self._statistics[site]

    def close(self) -> None:
        """Drop the maps. Tensors that were handed out stay valid; further reads are refused."""
        self._closed = True
        self._maps.clear()
        self._kept_statistics.clear()

    def _resolve(self, site: str, units: tuple[Any, ...] | Units) -> tuple[SitePlan, Units]:
        plan = self._open_plan(site)
        if plan.spec.layout == RAGGED:
            raise SelectionError(
                f"rows of site {site!r} differ in width: read them with .ragged()."
            )
        if isinstance(units, Units):
            return plan, units
        return plan, unit_selection.select(plan.spec.shape, units)

    def _open_plan(self, site: str) -> SitePlan:
        if self._closed:
            raise StorageError(f"{self._store.url} was closed: open it again to read.")
        if not self.io.progress:
            hush()
        return self.plan(site)
