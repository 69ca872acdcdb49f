"""Bytes of ragged shards, from the maps of this machine or from a store in the distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from lazycache.cache.files.fetched_shards import FetchedShards, fetchers
from lazycache.cache.files.gather import words_of
from lazycache.cache.files.mapped_shards import MappedShards
from lazycache.cache.files.parallel import ordered
from lazycache.cache.files.ragged_rows import Block, Run, Wanted, Widths, placed, runs, summed
from lazycache.cache.files.shards import verify
from lazycache.cache.selecting.plan import SitePlan
from lazycache.cache.selecting.plan_checks import WIDTH_BYTES
from lazycache.storage.known_files import KnownFiles, checked
from lazycache.storage.ranges import Merged, coalesce, scatter
from lazycache.types import IoCounters

_WIDTH = np.dtype("<i4")


class RaggedShards(Protocol):
    """Where the bytes of ragged shards come from."""

    def widths(self, plan: SitePlan, rows: np.ndarray) -> np.ndarray:
        """Return the width of each row: int64[n]."""
        ...

    def blocks(self, plan: SitePlan, wanted: Wanted) -> Iterator[Block]:
        """Yield what is wanted, in any order; a row whose keys are all missing is in no block."""
        ...


class MappedRagged:
    """Ragged shards that are files of this machine: views of the reader's own map."""

    def __init__(self, mapped: MappedShards, io: IoCounters) -> None:
        self._mapped = mapped
        self._io = io
        self._widths = Widths()

    def widths(self, plan: SitePlan, rows: np.ndarray) -> np.ndarray:
        """Return the width of each row: int64[n]."""
        return placed(plan, self._ends, rows)[-1]

    def blocks(self, plan: SitePlan, wanted: Wanted) -> Iterator[Block]:
        """Yield what is wanted, in the order of its rows."""
        heads = _window(wanted.heads)
        for run in runs(plan, self._ends, wanted):
            self._mapped.check(plan, np.array([run.chunk]))
            values = words_of(self._mapped.open(plan, int(plan.shard[run.chunk])).values)
            first = run.offset // plan.dtype.itemsize
            rows = _strided(values[first:], plan, run, heads=plan.spec.shape[0], keys=run.width)
            part = rows[:, heads, run.low : run.high]
            self._io.add(requests=1, rows=run.rows, nbytes=part.nbytes)
            yield Block(run.at, slice(None), run.low, part)

    def _ends(self, plan: SitePlan, chunks: Sequence[int]) -> dict[int, np.ndarray]:
        return self._widths.ends(plan, chunks, self._read)

    def _read(self, plan: SitePlan, chunks: Sequence[int]) -> list[np.ndarray]:
        found = []
        for chunk in chunks:
            raw = self._mapped.open(plan, int(plan.shard[chunk])).raw
            start, nbytes = int(plan.widths_at[chunk]), int(plan.sizes[chunk]) * WIDTH_BYTES
            self._io.add(requests=1, rows=0, nbytes=nbytes)
            found.append(raw[start : start + nbytes].view(_WIDTH))
        return found


class FetchedRagged:
    """Ragged shards behind a store: ranged reads, near ranges merged into one request."""

    def __init__(
        self, fetched: FetchedShards, files: KnownFiles, io: IoCounters, *, max_gap: int
    ) -> None:
        self._fetched = fetched
        self._files = files
        self._io = io
        self._max_gap = max_gap
        self._widths = Widths()

    def widths(self, plan: SitePlan, rows: np.ndarray) -> np.ndarray:
        """Return the width of each row: int64[n]."""
        return placed(plan, self._ends, rows)[-1]

    def blocks(self, plan: SitePlan, wanted: Wanted) -> Iterator[Block]:
        """Yield what is wanted, shard after shard: the ranges of a shard in one call.

        Small ones of some shards at once, as `FetchedShards.copy` does.
        """
        found = list(runs(plan, self._ends, wanted))
        by_shard: dict[int, list[Run]] = {}
        for run in found:
            by_shard.setdefault(int(plan.shard[run.chunk]), []).append(run)
        row_bytes = plan.spec.row_bytes
        most = max(
            (sum(r.rows * r.width for r in here) * row_bytes for here in by_shard.values()),
            default=0,
        )
        for blocks in ordered(
            lambda shard: self._of_shard(plan, shard, by_shard[shard], wanted),
            by_shard,
            workers=fetchers(len(by_shard), most_bytes=most),
        ):
            yield from blocks

    def _of_shard(
        self, plan: SitePlan, shard: int, found: Sequence[Run], wanted: Wanted
    ) -> list[Block]:
        """Return what is wanted of one shard."""
        parts = [part for run in found for part in self._parts(plan, run, wanted)]
        ranges = [part.span for part in parts]
        chunks = {run.chunk for run in found}
        rows = sum(run.rows for run in found)

        def read() -> list[memoryview]:
            self._fetched.check(plan, sorted(chunks))
            merged, buffers = self._fetch(plan, shard, ranges, rows=rows)
            _verify_whole(plan, chunks, merged, buffers)
            return scatter(ranges, merged, buffers)

        datas = checked(self._files, plan.shards[shard], read)
        return [part.block(plan, data, wanted) for part, data in zip(parts, datas, strict=True)]

    def _parts(self, plan: SitePlan, run: Run, wanted: Wanted) -> Iterator[_Part]:
        """Cut a run where what is wanted of a row is less than the row, and the rows are wide."""
        row_bytes = run.width * plan.spec.row_bytes
        least, most = int(wanted.heads.min()), int(wanted.heads.max())
        narrow = (most - least) * run.width + run.high - run.low < row_bytes // plan.dtype.itemsize
        if not narrow or row_bytes <= self._max_gap:
            yield _part(plan, run, range(least, most + 1), slice(None))
            return
        for row in _rows_of(plan, run):
            for start, stop in _head_runs(wanted.heads):
                first = int(wanted.heads[start])
                yield _part(plan, row, range(first, first + stop - start), slice(start, stop))

    def _fetch(
        self, plan: SitePlan, shard: int, ranges: Sequence[tuple[int, int]], *, rows: int
    ) -> tuple[list[Merged], list[memoryview]]:
        merged = coalesce(ranges, max_gap=self._max_gap)
        got = self._files.get_ranges(plan.shards[shard], [(m.start, m.stop) for m in merged])
        self._io.add(requests=got.requests, rows=rows, nbytes=got.nbytes, cached=got.cached)
        return merged, got.parts

    def _ends(self, plan: SitePlan, chunks: Sequence[int]) -> dict[int, np.ndarray]:
        return self._widths.ends(plan, chunks, self._read)

    def _read(self, plan: SitePlan, chunks: Sequence[int]) -> list[np.ndarray]:
        """Return the widths of the rows of chunks: of a shard in one call, some shards at once."""
        by_shard: dict[int, list[int]] = {}
        for chunk in chunks:
            by_shard.setdefault(int(plan.shard[chunk]), []).append(chunk)
        most = max((int(plan.sizes[here].sum()) for here in by_shard.values()), default=0)
        found: dict[int, np.ndarray] = {}
        for widths in ordered(
            lambda shard: self._widths_of(plan, shard, by_shard[shard]),
            by_shard,
            workers=fetchers(len(by_shard), most_bytes=most * WIDTH_BYTES),
        ):
            found.update(widths)
        return [found[chunk] for chunk in chunks]

    def _widths_of(
        self, plan: SitePlan, shard: int, chunks: Sequence[int]
    ) -> dict[int, np.ndarray]:
        starts = [int(plan.widths_at[chunk]) for chunk in chunks]
        nbytes = [int(plan.sizes[chunk]) * WIDTH_BYTES for chunk in chunks]
        ranges = [(start, start + size) for start, size in zip(starts, nbytes, strict=True)]

        def read() -> dict[int, np.ndarray]:
            merged, buffers = self._fetch(plan, shard, ranges, rows=0)
            parts = scatter(ranges, merged, buffers)
            found = {
                chunk: np.frombuffer(part, dtype=_WIDTH)
                for chunk, part in zip(chunks, parts, strict=True)
            }
            for chunk, widths in found.items():
                summed(plan, chunk, widths)  # what does not add up must not stay in the block cache
            return found

        return checked(self._files, plan.shards[shard], read)


@dataclass(frozen=True, slots=True)
class _Part:
    """One byte range: rows of one width, from the first wanted key to the last."""

    run: Run
    heads: range  # of the site, all that the range holds
    slots: slice  # places in `Wanted.heads`
    span: tuple[int, int]  # bytes of the shard

    def block(self, plan: SitePlan, data: memoryview, wanted: Wanted) -> Block:
        """Return what was fetched."""
        words = np.frombuffer(data, dtype=f"u{plan.dtype.itemsize}")
        keys = self.run.high - self.run.low
        values = _strided(words, plan, self.run, heads=len(self.heads), keys=keys)
        chosen = _window(wanted.heads[self.slots] - self.heads.start)
        return Block(self.run.at, self.slots, self.run.low, values[:, chosen])


def _part(plan: SitePlan, run: Run, heads: range, slots: slice) -> _Part:
    row = plan.spec.shape[0] * run.width
    start = heads.start * run.width + run.low
    stop = (run.rows - 1) * row + (heads.stop - 1) * run.width + run.high
    size = plan.dtype.itemsize
    return _Part(run, heads, slots, (run.offset + start * size, run.offset + stop * size))


def _rows_of(plan: SitePlan, run: Run) -> Iterator[Run]:
    row_bytes = run.width * plan.spec.row_bytes
    for row in range(run.rows):
        yield replace(run, at=run.at + row, rows=1, offset=run.offset + row * row_bytes)


def _strided(words: np.ndarray, plan: SitePlan, run: Run, *, heads: int, keys: int) -> np.ndarray:
    """See [rows, heads, keys] in memory that begins with the first of them."""
    size = words.itemsize
    return np.lib.stride_tricks.as_strided(
        words,
        (run.rows, heads, keys),
        (plan.spec.shape[0] * run.width * size, run.width * size, size),
        writeable=False,
    )


def _window(numbers: np.ndarray) -> slice | np.ndarray:
    """Return ascending neighbours as a slice, which copies nothing."""
    first = int(numbers[0])
    if (np.diff(numbers) == 1).all():
        return slice(first, first + len(numbers))
    return numbers


def _head_runs(heads: np.ndarray) -> list[tuple[int, int]]:
    breaks = (np.flatnonzero(np.diff(heads) != 1) + 1).tolist()
    return list(pairwise([0, *breaks, len(heads)]))


def _verify_whole(
    plan: SitePlan, chunks: set[int], merged: Sequence[Merged], buffers: Sequence[memoryview]
) -> None:
    """Compare the checksum of every chunk that was fetched whole.

    Raises:
        CorruptShardError: one differs.
    """
    for chunk in chunks:
        start = int(plan.offsets[chunk])
        stop = start + int(plan.nbytes[chunk])
        for piece, buffer in zip(merged, buffers, strict=True):
            if piece.start <= start and stop <= piece.stop:
                verify(plan, chunk, buffer[start - piece.start : stop - piece.start])
