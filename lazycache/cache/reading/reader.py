"""Rows of sites as tensors: the one place that turns row numbers into bytes read.

Used by lazy tensors and by SQL. Everything here is by absolute row of a site's table; what an
example or a position is, is told by `examples.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from lazycache.cache.files.fetched_tiles import FetchedTiles
from lazycache.cache.files.gather import empty, words_of
from lazycache.cache.files.mapped_shards import MappedShards
from lazycache.cache.files.maps import MOST_MAPS, MapCache, mappable_bytes
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.files.placed_rows import PlacedRows
from lazycache.cache.files.ragged_rows import Block, Wanted
from lazycache.cache.files.ragged_shards import FetchedRagged, MappedRagged, RaggedShards
from lazycache.cache.files.shards import Shards
from lazycache.cache.files.tiled_shards import MappedTiles, RangesOnly
from lazycache.cache.reading.costs import Layout, Once, Tally, read_cost, scan_cost
from lazycache.cache.reading.kept_statistics import Kept
from lazycache.cache.reading.stored_statistics import StoredStatistics, of_plan
from lazycache.cache.selecting import plan as planning
from lazycache.cache.selecting import units as unit_selection
from lazycache.cache.selecting.plan import Rows, SitePlan, as_array
from lazycache.cache.selecting.units import Units
from lazycache.errors import SelectionError, SiteNotFoundError, StorageError, nearest
from lazycache.late_bars import fed_late_bar, hush
from lazycache.storage.known_files import KnownFiles, StoredFiles
from lazycache.storage.ranges import MAX_GAP
from lazycache.storage.store import Store
from lazycache.types import RAGGED, IoCounters, SiteSpec

BLOCK_BYTES = 8 << 20
"""More scattered rows than this are gathered block by block, on several threads."""


class SnapshotShards(Protocol):
    """What the reader asks of a snapshot."""

    @property
    def sites(self) -> Any:
        """Site name to `SiteSpec`."""
        ...

    def shards(self, site: str) -> Any:
        """Shards of a site in row order, each with `.ref` and `.row_start`."""
        ...


class Reader:
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
        self.io = io
        self._store = store
        self._snapshot = snapshot
        self._max_gap = max_gap
        self._maps = MapCache(store, max_maps=max_maps, max_bytes=map_bytes or mappable_bytes())
        self._mapped = MappedShards(self._maps, io, check=check)
        self._files = files or StoredFiles(store)
        tiles = MappedShards(self._maps, RangesOnly(io), check=check)
        self._mapped_tiles = MappedTiles(self._mapped, tiles, io)
        self._fetched = FetchedTiles(self._files, io, check=check, max_gap=max_gap)
        self._mapped_ragged = MappedRagged(self._mapped, io)
        self._fetched_ragged = FetchedRagged(self._fetched, self._files, io, max_gap=max_gap)
        self._kept_statistics = Kept(self._files, io)
        self._statistics: dict[str, StoredStatistics | None] = {}
        self._plans: dict[str, SitePlan] = {}
        self._local: bool | None = None
        self._closed = False

    def spec(self, site: str) -> SiteSpec:
        """Return what a row of the site is.

        Raises:
            SiteNotFoundError: there is no such site.
        """
        spec: SiteSpec | None = self._snapshot.sites.get(site)
        if spec is None:
            there = nearest(site, self._snapshot.sites)
            raise SiteNotFoundError(f"there is no site {site!r} in {self._store.url}. {there}")
        return spec

    def plan(self, site: str) -> SitePlan:
        """Return where the rows of a site lie; built when first asked for (O(its chunks))."""
        plan = self._plans.get(site)
        if plan is None:
            plan = planning.build(self.spec(site), self._snapshot.shards(site))
            self._plans[site] = plan
        return plan

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return for each absolute row whether the site has it: bool[n]. Reads nothing."""
        return self.plan(site).covered(np.asarray(rows, dtype=np.int64))

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the longest runs of rows that the site has."""
        return self.plan(site).covered_spans()

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
        source, shape = self._source(plan), (len(rows), *chosen.shape)
        size = max(1, BLOCK_BYTES // max(1, chosen.count * plan.dtype.itemsize))
        if not math.prod(shape):
            plan.locate(rows)
            return empty(shape, plan.dtype.torch)
        # torch gathers whole runs on its own threads, straight into the result
        if len(rows) <= size or (chosen.is_run and self._is_local(plan)):
            return source.take(plan, rows, units=chosen)
        out = empty(shape, plan.dtype.torch)
        target = words_of(out)

        def fill(block: tuple[int, int]) -> None:
            part = source.take(plan, rows[slice(*block)], units=chosen)
            target[slice(*block)] = words_of(part)

        pieces, workers = list(planning.blocks(len(rows), size=size)), threads(out.nbytes)
        bar = fed_late_bar()
        for (start, stop), _ in zip(pieces, ordered(fill, pieces, workers=workers), strict=True):
            if workers > 1 or self._is_local(plan):  # else whoever has fetched it has said so
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
        if len(spans) == 1 and self._is_local(plan):
            lent = self._on_this_machine(plan).lend(plan, spans[0], units=chosen)
            if lent is not None:
                return lent
        rows = max(0, stop - start)
        out = empty((rows, *chosen.shape), plan.dtype.torch)
        self._source(plan).copy(plan, spans, units=chosen, out=out)
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
            if isinstance(part, range) and part.step == 1 and self._is_local(plan):
                for span in plan.spans(part.start, part.stop):
                    yield self._on_this_machine(plan).view(plan, span, units=chosen)
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
        layout = Layout(plan, self._is_local(plan), self._max_gap, BLOCK_BYTES)
        if block_rows is None:
            found = read_cost(layout, rows, chosen)
        else:
            found = scan_cost(layout, rows, chosen, block_rows=block_rows)
        if self._files.extra_bytes and not layout.local:
            found = found.in_blocks(self._files.extra_bytes)
        new = () if layout.local or not chosen.count else self._fetched.checks(plan, rows, chosen)
        checks = (
            Once((id(self), part.spec.name, i), requests=1, nbytes=int(part.nbytes[i]))
            for part, i in new
        )
        return found + Tally(once=frozenset(checks))

    def is_near(self, site: str) -> bool:
        """Whether a site's shards are files of this machine. Reads nothing."""
        return self._is_local(self._open_plan(site))

    def will_need(self, site: str, spans: Sequence[tuple[int, int]]) -> Callable[[], None] | None:
        """Have rows read from the disk, (first, stop) each, while the caller does other things.

        Sites that are elsewhere or in tiles are passed over. Returns what waits until the rows are
        in memory; None: there is nothing to wait for.

        Cost: some ten microseconds where the rows are in the page cache.
        """
        plan = self._open_plan(site)
        if not self._is_local(plan) or plan.tilings:
            return None
        return self._mapped.will_need(plan, spans)

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
        plan = self._open_plan(site)
        if not self._is_local(plan) or plan.tilings or plan.spec.layout == RAGGED:
            return None
        return self._mapped.place(plan, rows, units=units, scattered=scattered)

    def widths(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return the width of each row of a ragged site: int64[n].

        Cost: four bytes for every row of the chunks they are in, once; kept in memory up to 64 MiB.

        Raises:
            SelectionError: the site does not have one of the rows.
            CorruptShardError: a shard is not what the log recorded.
        """
        plan = self._open_plan(site)
        return self._ragged(plan).widths(plan, np.asarray(rows, dtype=np.int64))

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
        return self._ragged(plan).blocks(plan, wanted)

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

    def _ragged(self, plan: SitePlan) -> RaggedShards:
        return self._mapped_ragged if self._is_local(plan) else self._fetched_ragged

    def _source(self, plan: SitePlan) -> Shards:
        return self._on_this_machine(plan) if self._is_local(plan) else self._fetched

    def _on_this_machine(self, plan: SitePlan) -> MappedShards | MappedTiles:
        return self._mapped_tiles if plan.tilings else self._mapped

    def _is_local(self, plan: SitePlan) -> bool:
        if self._local is None and plan.shards:
            # a store is on this machine or it is not: asked once
            self._local = self._store.local_path(plan.shards[0].path) is not None
        return bool(self._local)
