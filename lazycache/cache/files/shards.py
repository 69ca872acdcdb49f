"""Bytes of shards, from the maps of this machine or from a store in the distance."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Protocol

import numpy as np
import torch

from lazycache.cache.files.gather import (
    as_tensor,
    empty,
    gather_rows,
    rows_of_bytes,
    rows_view,
    words_of,
)
from lazycache.cache.files.maps import MapCache, MappedShard
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.files.readahead import read_ahead
from lazycache.cache.selecting.plan import Rows, SitePlan, Span, as_array, blocks, count_ranges
from lazycache.cache.selecting.units import Units
from lazycache.errors import CorruptShardError
from lazycache.storage.known_files import KnownFiles, checked
from lazycache.storage.ranges import batches, bridged, coalesce
from lazycache.types import IoCounters, ShardRef

COPIED_BYTES = 64 << 10
"""Loads below this are copied: cheaper than a map, of which a process may have 65,530 only."""

FETCHERS = 16
"""Shards of a store in the distance that are read at a time."""

FETCHED_BYTES = 64 << 20
"""Bytes that they may hold together; what is larger is read by itself."""


def fetchers(shards: int, *, most_bytes: int) -> int:
    """Return how many shards to read at a time, of the largest of which so many bytes are wanted.

    Example:
        >>> fetchers(40, most_bytes=1 << 20), fetchers(40, most_bytes=1 << 30)
        (16, 1)
    """
    return max(1, min(shards, FETCHERS, FETCHED_BYTES // max(1, most_bytes)))


class Shards(Protocol):
    """Where the bytes of shards come from."""

    def copy(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        """Fill `out` with consecutive rows, span after span."""
        ...

    def take(self, plan: SitePlan, rows: np.ndarray, *, units: Units) -> torch.Tensor:
        """Return rows in the order given, at least one."""
        ...


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
        size, residency = units.count * plan.dtype.itemsize, self._maps.residency
        raw = np.empty(len(addresses) * size, dtype=np.uint8)
        for start, stop in blocks(len(addresses), size=residency.ranges_at_once()):
            gather_rows(
                addresses[start:stop],
                row_bytes=plan.spec.row_bytes,
                itemsize=plan.dtype.itemsize,
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


class FetchedShards:
    """Shards behind a store: ranged reads, near ranges merged into one request."""

    def __init__(self, files: KnownFiles, io: IoCounters, *, check: bool, max_gap: int) -> None:
        self._files = files
        self._io = io
        self._max_gap = max_gap
        self._checked: set[tuple[str, int]] | None = set() if check else None
        self._lock = threading.Lock()

    def copy(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        """Fill `out` with consecutive rows, span after span.

        Spans of one shard in one call; small ones of some shards at once, since a store in the
        distance answers each in its time.
        """
        groups = [list(group) for _, group in groupby(spans, key=attrgetter("shard"))]
        stops = np.cumsum([sum(span.rows for span in group) for group in groups]).tolist()

        def fill(i: int) -> None:
            part, ref = out[stops[i - 1] if i else 0 : stops[i]], plan.shards[groups[i][0].shard]
            checked(self._files, ref, lambda: self._fill(plan, groups[i], units=units, out=part))

        most = max((self._bytes(plan, group, units) for group in groups), default=0)
        workers = fetchers(len(groups), most_bytes=most)
        for _ in ordered(fill, range(len(groups)), workers=workers):
            pass

    def _bytes(self, plan: SitePlan, spans: Sequence[Span], units: Units) -> int:  # noqa: ARG002  # whole rows
        """Return about how much is fetched for spans of one shard, with the gaps between them."""
        starts = np.array([span.offset for span in spans], dtype=np.int64)
        nbytes = np.array([span.rows for span in spans], dtype=np.int64) * plan.spec.row_bytes
        gaps = starts[1:] - starts[:-1] - nbytes[:-1]
        return int(nbytes.sum() + gaps[bridged(gaps, max_gap=self._max_gap)].sum())

    def take(self, plan: SitePlan, rows: np.ndarray, *, units: Units) -> torch.Tensor:
        """Return rows in the order given; a row that is asked for twice is read once."""
        distinct, place = np.unique(rows, return_inverse=True)
        chunk, offsets = plan.locate(distinct)
        spans = [
            Span(int(plan.shard[chunk[a]]), int(chunk[a]), int(offsets[a]), b - a)
            for a, b in _run_bounds(distinct, chunk)
        ]
        unique = empty((len(distinct), *units.shape), plan.dtype.torch)
        self.copy(plan, spans, units=units, out=unique)
        if len(distinct) == len(rows) and (place[1:] > place[:-1]).all():
            return unique
        raw = words_of(unique)[place].reshape(-1).view(np.uint8)
        return as_tensor(raw, plan.dtype.torch, (len(rows), *units.shape))

    def _fill(
        self, plan: SitePlan, spans: Sequence[Span], *, units: Units, out: torch.Tensor
    ) -> None:
        if not out.numel():
            return
        itemsize = out.element_size()
        elements = plan.spec.row_bytes // itemsize
        first, last = units.span
        pieces = list(self._pieces(plan, spans, narrow=last - first < elements))
        ranges = [
            (s.offset + first * itemsize, s.offset + ((s.rows - 1) * elements + last) * itemsize)
            for s in pieces
        ]
        self.check(plan, sorted({s.chunk for s in spans}))
        target, rows = words_of(out), np.cumsum([0, *(piece.rows for piece in pieces)])
        ref = plan.shards[spans[0].shard]
        for i, part in self._fetched(ref, ranges, max_gap=self._max_gap):
            if len(part) == plan.nbytes[pieces[i].chunk]:
                verify(plan, pieces[i].chunk, part)
            target[rows[i] : rows[i + 1]] = rows_of_bytes(
                part, itemsize=itemsize, rows=pieces[i].rows, row_elements=elements,
                units=units, skip=first,
            )  # fmt: skip
        self._io.add(requests=0, rows=len(out), nbytes=0)

    def _fetched(
        self, ref: ShardRef, ranges: Sequence[tuple[int, int]], *, max_gap: int
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield place and bytes of each range of a shard, in order of their bytes."""
        for some in batches(coalesce(ranges, max_gap=max_gap), nbytes=FETCHED_BYTES):
            got = self._files.get_ranges(ref, [(one.start, one.stop) for one in some])
            self._io.add(requests=got.requests, rows=0, nbytes=got.nbytes, cached=got.cached)
            for one, buffer in zip(some, got.parts, strict=True):
                for i in one.members:
                    yield i, buffer[ranges[i][0] - one.start : ranges[i][1] - one.start]

    def _pieces(self, plan: SitePlan, spans: Sequence[Span], *, narrow: bool) -> list[Span]:
        """Cut spans into rows where only a part of rows is wanted that are wider than the gap."""
        if not narrow or plan.spec.row_bytes <= self._max_gap:
            return list(spans)
        size = plan.spec.row_bytes
        return [
            Span(s.shard, s.chunk, s.offset + i * size, 1) for s in spans for i in range(s.rows)
        ]

    def unchecked(self, plan: SitePlan, rows: Rows) -> list[int]:
        """Return the chunks of rows that `check` would read. Reads nothing."""
        if self._checked is None:
            return []
        chunks: list[int] = np.unique(plan.places(as_array(rows))[0]).tolist()
        return [i for i in chunks if (plan.spec.name, i) not in self._checked]

    def check(self, plan: SitePlan, chunks: Sequence[int]) -> None:
        """Read chunks that are touched for the first time whole, if it is asked for.

        Raises:
            CorruptShardError: the checksum of one differs.
        """
        for i in chunks if self._checked is not None else ():
            assert self._checked is not None
            with self._lock:
                if (plan.spec.name, i) in self._checked:
                    continue
            start, size = int(plan.offsets[i]), int(plan.nbytes[i])
            got = self._files.get_ranges(plan.shards[int(plan.shard[i])], [(start, start + size)])
            self._io.add(requests=got.requests, rows=0, nbytes=got.nbytes, cached=got.cached)
            verify(plan, i, got.parts[0])
            with self._lock:
                self._checked.add((plan.spec.name, i))


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


def _run_bounds(rows: np.ndarray, chunk: np.ndarray) -> list[tuple[int, int]]:
    """Return (start, stop) of the runs of consecutive rows of one chunk."""
    breaks = np.flatnonzero((rows[1:] - rows[:-1] != 1) | (chunk[1:] != chunk[:-1])) + 1
    return list(pairwise([0, *breaks.tolist(), len(rows)]))


def verify(plan: SitePlan, chunk: int, data: memoryview) -> None:
    """Compare a chunk's values with the checksum that the log recorded.

    Raises:
        CorruptShardError: they differ.
    """
    if zlib.crc32(data) != int(plan.crcs[chunk]):
        ref = plan.shards[int(plan.shard[chunk])]
        raise CorruptShardError(
            f"shard {ref.path} of site {plan.spec.name!r}: the values of rows "
            f"{plan.starts[chunk]:,} to {plan.stops[chunk]:,} do not have the checksum that was "
            "recorded when they were written: restore the file from a copy."
        )
