"""Bytes of shards from a store in the distance: ranged reads, many at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import attrgetter

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, empty, rows_of_bytes, words_of
from lazycache.cache.files.parallel import ordered
from lazycache.cache.files.shards import verify
from lazycache.cache.selecting.plan import Rows, SitePlan, Span, as_array
from lazycache.cache.selecting.units import Units
from lazycache.late_bars import fed_late_bar
from lazycache.storage.known_files import KnownFiles, checked
from lazycache.storage.ranges import batches, bridged, coalesce
from lazycache.types import IoCounters, ShardRef

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
        bar, row_bytes = fed_late_bar(), out.nbytes // max(1, len(out))
        for i, _ in enumerate(ordered(fill, range(len(groups)), workers=workers)):
            if workers > 1:  # else `_fill` has said so, batch by batch
                bar.advance(sum(span.rows for span in groups[i]) * row_bytes)

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
        ref, bar = plan.shards[spans[0].shard], fed_late_bar()
        for i, part in self._fetched(ref, ranges, max_gap=self._max_gap):
            if len(part) == plan.nbytes[pieces[i].chunk]:
                verify(plan, pieces[i].chunk, part)
            target[rows[i] : rows[i + 1]] = rows_of_bytes(
                part, itemsize=itemsize, rows=pieces[i].rows, row_elements=elements,
                units=units, skip=first,
            )  # fmt: skip
            bar.advance(pieces[i].rows * units.count * itemsize)
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


def _run_bounds(rows: np.ndarray, chunk: np.ndarray) -> list[tuple[int, int]]:
    """Return (start, stop) of the runs of consecutive rows of one chunk."""
    breaks = np.flatnonzero((rows[1:] - rows[:-1] != 1) | (chunk[1:] != chunk[:-1])) + 1
    return list(pairwise([0, *breaks.tolist(), len(rows)]))
