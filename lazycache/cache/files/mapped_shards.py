"""Bytes of shards that are files of this machine: memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, rows_view, words_of
from lazycache.cache.files.maps import MapCache, MappedShard
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.files.placed_rows import PlacedRows, copy_rows
from lazycache.cache.files.readahead import (
    SAMPLED,
    fault_in_ranges,
    is_resident,
    read_ahead,
    read_ahead_ranges,
)
from lazycache.cache.files.shards import verify
from lazycache.cache.selecting.plan import SitePlan, Span, count_ranges
from lazycache.cache.selecting.units import Units
from lazycache.late_bars import fed_late_bar
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
            # by numpy: torch starts threads from 64 KiB of bfloat16 on, and waits for them
            copy = torch.empty(view.shape, dtype=view.dtype, device="cpu")
            np.copyto(words_of(copy), words_of(view))
            return copy
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

    def will_need(
        self, plan: SitePlan, rows: Sequence[tuple[int, int]]
    ) -> Callable[[], None] | None:
        """Have rows of the plan read from the disk, (first, stop) each; waits for nothing.

        Returns what waits until they are in memory; None: they are.
        """
        few = rows[:: max(1, len(rows) // SAMPLED)]
        if not few or is_resident(self._ranges(plan, few)[1]):
            return None
        maps, ranges = self._ranges(plan, rows)
        read_ahead_ranges(ranges)

        def wait() -> None:
            fault_in_ranges(ranges)
            maps.clear()  # they are kept until then

        return wait

    def _ranges(
        self, plan: SitePlan, rows: Sequence[tuple[int, int]]
    ) -> tuple[dict[int, MappedShard], list[tuple[int, int]]]:
        """Return addresses and bytes of rows, and the maps in which they are."""
        ends = np.array(rows, dtype=np.int64).reshape(-1, 2)
        (chunk, offsets), (last, _) = plan.locate(ends[:, 0]), plan.locate(ends[:, 1] - 1)
        maps, addresses = self._addresses(plan, plan.shard.take(chunk), offsets)
        sizes = (ends[:, 1] - ends[:, 0]) * plan.spec.row_bytes
        inside = chunk == last
        found = list(zip(addresses[inside].tolist(), sizes[inside].tolist(), strict=True))
        for first, stop in ends[~inside].tolist():
            for span in plan.spans(first, stop):
                mapped = maps.setdefault(span.shard, self.open(plan, span.shard))
                address = mapped.values.data_ptr() + span.offset
                found.append((address, span.rows * plan.spec.row_bytes))
        return maps, found

    def copy(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        """Fill `out` with consecutive rows, span after span."""
        target = words_of(out)
        stops = np.cumsum([span.rows for span in spans])

        def fill(i: int) -> None:
            values = self.view(plan, spans[i], units=units)
            np.copyto(target[stops[i] - spans[i].rows : stops[i]], words_of(values))

        bar, row_bytes = fed_late_bar(), out.nbytes // max(1, len(out))
        for i, _ in enumerate(ordered(fill, range(len(spans)), workers=threads(out.nbytes))):
            bar.advance(spans[i].rows * row_bytes)

    def take(self, plan: SitePlan, rows: np.ndarray, *, units: Units) -> torch.Tensor:
        """Return rows in the order given, at least one."""
        chunk, offsets = plan.locate(rows)
        self.check(plan, chunk)
        raw = self.gather(plan, plan.shard.take(chunk), offsets, units=units)
        self._io.add(requests=0, rows=len(rows), nbytes=0)
        return as_tensor(raw, plan.dtype.torch, (len(rows), *units.shape))

    def place(
        self, plan: SitePlan, rows: np.ndarray, *, units: Units, scattered: bool
    ) -> PlacedRows:
        """Look up where rows are, one at least, to be copied later, in parts.

        `scattered` rows are asked of the disk part by part; others the caller has asked for.
        """
        chunk, offsets = plan.locate(rows)
        self.check(plan, chunk)
        maps, addresses = self._addresses(plan, plan.shard.take(chunk), offsets)
        return PlacedRows(
            plan,
            addresses,
            units=units,
            held=[(plan.shards[i], mapped) for i, mapped in maps.items()],
            maps=self._maps,
            io=self._io,
            scattered=scattered,
        )

    def _addresses(
        self, plan: SitePlan, shard: np.ndarray, offsets: np.ndarray
    ) -> tuple[dict[int, MappedShard], np.ndarray]:
        """Return the maps of shards and, in `offsets`, where bytes of them are in memory."""
        bases = np.zeros(len(plan.shards), dtype=np.int64)
        maps = {int(i): self.open(plan, int(i)) for i in np.flatnonzero(np.bincount(shard))}
        for i, mapped in maps.items():
            bases[i] = mapped.values.data_ptr()
        offsets += bases.take(shard)
        return maps, offsets

    def gather(
        self, plan: SitePlan, shard: np.ndarray, offsets: np.ndarray, *, units: Units
    ) -> np.ndarray:
        """Copy the units of rows that begin at these bytes of shards: uint8[bytes], one at least.

        `offsets` is the caller's no more. Counts ranges, but no rows; compares no checksum.
        """
        # these references keep the maps until the rows are copied, whatever is evicted meanwhile
        maps, addresses = self._addresses(plan, shard, offsets)
        ascending = np.sort(addresses)
        read_ahead(ascending, row_bytes=plan.spec.row_bytes)
        raw = copy_rows(addresses, plan, units=units, maps=self._maps)
        maps.clear()
        requests = count_ranges(ascending, row_bytes=plan.spec.row_bytes)
        self._io.add(requests=requests, rows=0, nbytes=raw.nbytes)
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
