"""A reader of all sites of a snapshot: of stored ones, and of those that follow from them.

What is computed has the surface of what is read, so that lazy tensors and SQL need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.files.gather import empty, words_of
from lazycache.cache.files.placed_rows import PlacedRows
from lazycache.cache.reading.costs import Once, Tally, summed
from lazycache.cache.reading.head_out import Needed, needed, project
from lazycache.cache.reading.matrices import Matrices, of_heads
from lazycache.cache.reading.reader import BLOCK_BYTES, Reader
from lazycache.cache.reading.stored_statistics import StoredStatistics
from lazycache.cache.selecting import units as unit_selection
from lazycache.cache.selecting.plan import Rows, as_array, blocks
from lazycache.cache.selecting.units import Units
from lazycache.catalog.computed import ComputedSite, computed_sites
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError
from lazycache.storage.store import Store
from lazycache.types import IoCounters, SiteSpec

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot


class SiteReader(Reader):
    """Reads rows of stored sites, and computes those of `head_out_L` from `z_L`.

    What is computed is rounded to the dtype of its source from float32 (from float64 if it is
    that); how a processor adds up float32 depends on how many rows it is given, so the last bit may
    too. Of the source only the rows and heads that are needed are read.
    """

    def __init__(self, store: Store, snapshot: Snapshot, *, io: IoCounters, **options: Any) -> None:
        super().__init__(store, snapshot, io=io, **options)
        self.computed: Mapping[str, ComputedSite] = computed_sites(snapshot)
        """The sites that are computed, by name."""
        self._matrices = Matrices(self._files, io)
        self._owners = {
            table: _Owners(snapshot, table)
            for table in {site.spec.table for site in self.computed.values()}
        }

    def spec(self, site: str) -> SiteSpec:
        """Return what a row of the site is; raises as `Reader.spec`."""
        one = self.computed.get(site)
        return super().spec(site) if one is None else one.spec

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return for each absolute row whether the site has it: bool[n]. Reads nothing."""
        one = self.computed.get(site)
        if one is None:
            return super().covered(site, rows)
        starts, stops = _spans(one)
        place = np.searchsorted(starts, rows, side="right") - 1
        there: np.ndarray = place >= 0
        there[there] = rows[there] < stops[place[there]]
        return there

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the longest runs of rows that the site has."""
        one = self.computed.get(site)
        return super().covered_spans(site) if one is None else _spans(one)

    def take(
        self, site: str, rows: np.ndarray, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return absolute rows in the order given; as `Reader.take`."""
        one = self.computed.get(site)
        if one is None:
            return super().take(site, rows, units=units)
        return self._compute(one, np.asarray(rows, dtype=np.int64), units)

    def slice(
        self, site: str, start: int, stop: int, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return absolute rows `start` to `stop`; as `Reader.slice`."""
        one = self.computed.get(site)
        if one is None:
            return super().slice(site, start, stop, units=units)
        return self._compute(one, range(start, max(start, stop)), units)

    def scan(
        self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = (), block_rows: int
    ) -> Iterator[torch.Tensor]:
        """Yield the rows in order, in blocks to be read and dropped; as `Reader.scan`."""
        if site not in self.computed:
            yield from super().scan(site, rows, units=units, block_rows=block_rows)
            return
        for start, stop in blocks(len(rows), size=block_rows):
            yield self.read(site, rows[start:stop], units=units)

    def cost(
        self,
        site: str,
        rows: Rows,
        *,
        units: tuple[Any, ...] | Units = (),
        block_rows: int | None = None,
    ) -> Tally:
        """Return what reading rows would read; as `Reader.cost`."""
        one = self.computed.get(site)
        if one is None:
            return super().cost(site, rows, units=units, block_rows=block_rows)
        if not isinstance(units, Units):
            units = unit_selection.select(one.spec.shape, units)
        self._check_there(one, rows)
        if not len(rows) or not units.count:
            return Tally()
        need = needed(one.spec.shape, units)
        return summed(
            self._cost_of_run(one, run, part if isinstance(at, slice) else as_array(part)[at], need)
            for start, stop in blocks(len(rows), size=block_rows or len(rows))
            for part in _pieces(rows[start:stop], need)
            for run, at in self._owners[one.spec.table].split(part)
        )

    def _cost_of_run(self, one: ComputedSite, run: str, rows: Rows, need: Needed) -> Tally:
        units = () if need.heads is None else (need.heads,)
        wide = by_name(one.spec.dtype).torch == torch.float64
        ref = one.arrays[run]
        lacks = self._matrices.lacks(ref, torch.float64 if wide else torch.float32)
        once = [Once((id(self), ref.path), requests=1, nbytes=lacks)] if lacks else []
        return super().cost(one.source, rows, units=units) + Tally(once=frozenset(once))

    def is_near(self, site: str) -> bool:
        """Whether shards are files of this machine: those that a computed site is computed from."""
        one = self.computed.get(site)
        return super().is_near(site if one is None else one.source)

    def will_need(self, site: str, spans: Sequence[tuple[int, int]]) -> Callable[[], None] | None:
        """Have rows read from the disk; of a computed site those it is computed from."""
        one = self.computed.get(site)
        return super().will_need(site if one is None else one.source, spans)

    def place(
        self, site: str, rows: np.ndarray, *, units: Units, scattered: bool
    ) -> PlacedRows | None:
        """Look up where rows are; None of a computed site. As `Reader.place`."""
        if site in self.computed:
            return None
        return super().place(site, rows, units=units, scattered=scattered)

    def statistics(self, site: str) -> StoredStatistics | None:
        """Return what is stored of the rows of a site; None of a computed one."""
        return None if site in self.computed else super().statistics(site)

    def close(self) -> None:
        """Drop maps and matrices; as `Reader.close`."""
        super().close()
        self._matrices.clear()

    def _compute(
        self, one: ComputedSite, rows: Rows, units: tuple[Any, ...] | Units
    ) -> torch.Tensor:
        if not isinstance(units, Units):
            units = unit_selection.select(one.spec.shape, units)
        self._check_there(one, rows)
        dtype = by_name(one.spec.dtype).torch
        out = empty((len(rows), *units.shape), dtype)
        if not out.numel():
            return out
        need = needed(one.spec.shape, units)
        target = words_of(out).reshape(len(rows), -1)
        stop = 0
        for part in _pieces(rows, need):
            start, stop = stop, stop + len(part)
            for run, members in self._owners[one.spec.table].split(part):
                mine = part if isinstance(members, slice) else as_array(part)[members]
                target[start:stop][members] = self._of_run(one, run, mine, need)
        return out

    def _of_run(self, one: ComputedSite, run: str, rows: Rows, need: Needed) -> np.ndarray:
        z = self.read(one.source, rows, units=() if need.heads is None else (need.heads,))
        dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
        ref = one.arrays[run]
        shape = (one.spec.shape[0], z.shape[2], one.spec.shape[1])
        matrix = of_heads(self._matrices.get(ref, dtype), ref, heads=one.heads[run], shape=shape)
        return project(z, matrix, need)

    def _check_there(self, one: ComputedSite, rows: Rows) -> None:
        numbers = as_array(rows)
        there = self.covered(one.spec.name, numbers)
        if not there.all():
            raise SelectionError(
                f"site {one.spec.name!r} has no value for row {int(numbers[~there][0]):,} of "
                f"{one.spec.table}: it is computed from {one.source!r} where that was stored and "
                "its run kept the output projection. .covered says which rows there are."
            )


class _Owners:
    """Which run each row of a table belongs to."""

    def __init__(self, snapshot: Snapshot, table: str) -> None:
        files = snapshot.table_files(table)
        self._starts = np.array([file.row_start for file in files], dtype=np.int64)
        self._names = list(dict.fromkeys(file.run for file in files))
        self._run = np.array([self._names.index(file.run) for file in files], dtype=np.int64)

    def split(self, rows: Rows) -> Iterator[tuple[str, slice | np.ndarray]]:
        """Yield the runs of rows, and which of the rows are theirs."""
        if len(self._names) == 1:
            yield self._names[0], slice(None)
            return
        owner = self._run[np.searchsorted(self._starts, as_array(rows), side="right") - 1]
        for run in np.unique(owner).tolist():
            yield self._names[run], np.flatnonzero(owner == run)


def _pieces(rows: Rows, need: Needed) -> Iterator[Rows]:
    """Yield the rows that are computed at a time."""
    for start, stop in blocks(len(rows), size=BLOCK_BYTES // (4 * need.size[0] * need.size[1])):
        yield rows[start:stop]


def _spans(one: ComputedSite) -> tuple[np.ndarray, np.ndarray]:
    starts, stops = np.array(one.spans, dtype=np.int64).reshape(-1, 2).T
    return starts, stops
