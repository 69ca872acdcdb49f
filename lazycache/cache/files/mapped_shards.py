"""Bytes of shards that are files of this machine: memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, gather_rows, rows_view, words_of
from lazycache.cache.files.maps import MapCache, MappedShard
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.files.readahead import (
    SAMPLED,
    is_resident,
    read_ahead,
    read_ahead_ranges,
)
from lazycache.cache.files.shards import verify
from lazycache.cache.selecting.plan import SitePlan, Span, blocks, count_ranges
from lazycache.cache.selecting.units import Units
from lazycache.types import IoCounters

COPIED_BYTES = 256 << 10
"""Loads below this are copied: half the price of a map, whose pages fault when they are read, and
of which a process may have 65,530 only."""


class MappedShards:
    """Shards that are files of this machine: memory-mapped, no byte copied more than once."""

    def __init__(self, maps: MapCache, io: IoCounters, *, check: bool) -> None:
        self._maps = maps
        self._io = io
        self._checked: dict[str, np.ndarray] | None = {} if check else None

    def open(self, plan: SitePlan, shard: int) -> MappedShard:
        """Return the maps of a shard of the plan."""
        return self._maps.get(plan.shards[shard], plan.dtype.torch)

    def view(self, plan: SitePlan, span: Span, *, units: Units) -> torch.Tensor:
        """Return the rows of a span as a view of the reader's own map: to be read and dropped."""
        mapped = self.open(plan, span.shard)
        self.check(plan, np.array([span.chunk]))
        self._count(plan, units, requests=1, rows=span.rows)
        return _rows(mapped.values, plan, span, units=units, offset=span.offset)

    def lend(self, plan: SitePlan, span: Span, *, units: Units) -> torch.Tensor | None:
        """Return the rows of a span as a map of the caller's own; None where a copy is better.

        What is too small for a map is copied here, since there are so many small loads.
        """
        row_bytes = plan.spec.row_bytes
        wanted = span.rows * units.count * plan.dtype.itemsize
        if wanted < COPIED_BYTES:
            view = self.view(plan, span, units=units)
            return view.clone(memory_format=torch.contiguous_format)
        # of less than half of each row, a copy is smaller than the pages that a map would hold
        if 2 * wanted < span.rows * row_bytes or units.strides is None:
            return None
        self.check(plan, np.array([span.chunk]))
        ref, stop = plan.shards[span.shard], span.offset + span.rows * row_bytes
        raw = self._maps.lend(ref, span.offset, stop)
        if raw is None:
            return None
        self._count(plan, units, requests=1, rows=span.rows)
        values = torch.from_numpy(raw).view(plan.dtype.torch)
        return _rows(values, plan, span, units=units, offset=0)

    def will_need(self, plan: SitePlan, rows: Sequence[tuple[int, int]]) -> None:
        """Have rows of the plan read from the disk, (first, stop) each; waits for nothing."""
        few = rows[:: max(1, len(rows) // SAMPLED)]
        if len(few) < len(rows) and is_resident(self._ranges(plan, few)):
            return
        read_ahead_ranges(self._ranges(plan, rows))

    def _ranges(self, plan: SitePlan, rows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return addresses and bytes of rows in the maps."""
        spans = [span for first, stop in rows for span in plan.spans(first, stop)]
        bases = {i: self.open(plan, i).raw.ctypes.data for i in {span.shard for span in spans}}
        size = plan.spec.row_bytes
        return [(bases[span.shard] + span.offset, span.rows * size) for span in spans]

    def copy(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        """Fill `out` with consecutive rows, span after span."""
        target = words_of(out)
        stops = np.cumsum([span.rows for span in spans])

        def fill(i: int) -> None:
            values = self.view(plan, spans[i], units=units)
            np.copyto(target[stops[i] - spans[i].rows : stops[i]], words_of(values))

        for _ in ordered(fill, range(len(spans)), workers=threads(out.nbytes)):
            pass

    def take(self, plan: SitePlan, rows: np.ndarray, *, units: Units) -> torch.Tensor:
        """Return rows in the order given, at least one."""
        chunk, offsets = plan.locate(rows)
        self.check(plan, chunk)
        raw = self.gather(plan, plan.shard.take(chunk), offsets, units=units)
        self._io.add(requests=0, rows=len(rows), nbytes=0)
        return as_tensor(raw, plan.dtype.torch, (len(rows), *units.shape))

    def gather(
        self, plan: SitePlan, shard: np.ndarray, offsets: np.ndarray, *, units: Units
    ) -> np.ndarray:
        """Copy the units of rows that begin at these bytes of shards: uint8[bytes], one at least.

        `offsets` is the caller's no more. Counts ranges, but no rows; compares no checksum.
        """
        bases, addresses = np.zeros(len(plan.shards), dtype=np.int64), offsets
        # these references keep the maps until the rows are copied, whatever is evicted meanwhile
        maps = {int(i): self.open(plan, int(i)) for i in np.flatnonzero(np.bincount(shard))}
        for i, mapped in maps.items():
            bases[i] = mapped.values.data_ptr()
        addresses += bases.take(shard)
        ascending = np.sort(addresses)
        read_ahead(ascending, row_bytes=plan.spec.row_bytes)
        raw = self._gathered(plan, addresses, units=units)
        maps.clear()
        requests = count_ranges(ascending, row_bytes=plan.spec.row_bytes)
        self._io.add(requests=requests, rows=0, nbytes=raw.nbytes)
        return raw

    def _gathered(self, plan: SitePlan, addresses: np.ndarray, *, units: Units) -> np.ndarray:
        """Copy rows from memory: uint8[n * bytes of the units]; no more resident than may be."""
        residency, row_bytes, itemsize = (
            self._maps.residency,
            plan.spec.row_bytes,
            plan.dtype.itemsize,
        )
        at_once, size = residency.ranges_at_once(), units.count * itemsize
        if len(addresses) <= at_once:
            raw = gather_rows(addresses, row_bytes=row_bytes, itemsize=itemsize, units=units)
            residency.touched(0, ranges=len(addresses))
            return raw
        raw = np.empty(len(addresses) * size, dtype=np.uint8)
        for start, stop in blocks(len(addresses), size=at_once):
            gather_rows(
                addresses[start:stop],
                row_bytes=row_bytes,
                itemsize=itemsize,
                units=units,
                out=raw[start * size : stop * size],
            )
            residency.touched(0, ranges=stop - start)
        return raw

    def _count(self, plan: SitePlan, units: Units, *, requests: int, rows: int) -> None:
        nbytes = rows * units.count * plan.dtype.itemsize
        self._io.add(requests=requests, rows=rows, nbytes=nbytes)
        # of few units of each row, the pages around them come with them
        self._maps.residency.touched(rows * plan.spec.row_bytes, ranges=requests)

    def check(self, plan: SitePlan, chunks: np.ndarray) -> None:
        """Compare the checksum of chunks that are touched for the first time, if it is asked for.

        Raises:
            CorruptShardError: one differs.
        """
        if self._checked is None:
            return
        done = self._checked.setdefault(plan.spec.name, np.zeros(len(plan.starts), dtype=np.bool_))
        for i in np.unique(chunks[~done[chunks]]).tolist():
            mapped = self.open(plan, int(plan.shard[i]))
            start = int(plan.offsets[i])
            verify(plan, i, mapped.raw[start : start + int(plan.nbytes[i])].data)
            done[i] = True


def _rows(
    values: torch.Tensor, plan: SitePlan, span: Span, *, units: Units, offset: int
) -> torch.Tensor:
    """Return the rows of a span that begins `offset` bytes into the values."""
    itemsize = plan.dtype.itemsize
    return rows_view(
        values,
        offset=offset // itemsize,
        rows=span.rows,
        row_elements=plan.spec.row_bytes // itemsize,
        units=units,
    )
