"""Which files commits name, and what the log says of their bytes: lengths and CRC-32s. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.dtypes import by_name
from lazycache.codec.shard import INDEX_TYPES
from lazycache.codec.statistics import BLOCK_COLUMNS, TOP_COLUMNS, ZONE_COLUMNS, part_range
from lazycache.types import (
    ArrayRef,
    ChunkRef,
    Commit,
    EntryRef,
    Identity,
    ShardRef,
    SiteSpec,
    StatsPart,
    StatsRef,
    TensorRef,
    index_columns,
)

Range = tuple[int, int, int | None]
"""First byte, the one after the last, and the CRC-32 of these bytes; None: the header of the
Parquet page before them has it."""


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file that commits name."""

    path: str
    """Relative to the dataset."""
    length: int
    """Its bytes; of a file of trees at least so many."""
    ranges: tuple[Range, ...] = ()
    """Bytes that have a CRC-32."""
    is_table: bool = False
    """Whether it is a table file: the log has no CRC of it, its pages have their own."""
    is_exact: bool = True
    """Whether it has `length` bytes and no more."""


def needed_files(identity: Identity, commits: Sequence[Commit]) -> dict[str, CheckedFile]:
    """Return the files that a version of a dataset needs that is not expired, by path.

    Raises:
        CorruptShardError: the commits contradict each other.
    """
    expired = min(max((commit.expired for commit in commits), default=0), len(commits))
    before = Snapshot.replay(identity, commits[:expired])
    wanted = {path for path, _ in before.paths()}
    old = files_of(commits[:expired]).keys() - wanted
    return {path: file for path, file in files_of(commits).items() if path not in old}


def files_of(commits: Iterable[Commit]) -> dict[str, CheckedFile]:
    """Return the files that commits name, by path; the first of them is that of version 1."""
    found: dict[str, CheckedFile] = {}
    specs: dict[str, SiteSpec] = {}
    for commit in commits:
        specs.update({spec.name: spec for spec in commit.sites})
        found.update({file.path: file for file in _named(commit, specs)})
    return found


def _named(commit: Commit, specs: dict[str, SiteSpec]) -> Iterator[CheckedFile]:
    for table in commit.tables:
        yield CheckedFile(table.path, table.length, is_table=True)
    for shard in commit.shards:
        spec = specs[shard.site]
        yield CheckedFile(shard.path, shard.length, tuple(shard_ranges(shard, spec)))
        if shard.stats is not None:
            ranges = tuple(statistics_ranges(shard.stats, spec))
            yield CheckedFile(shard.stats.path, shard.stats.length, ranges)
    for array in commit.arrays:
        yield CheckedFile(array.path, array.length, (_of_array(array),))
    yield from _of_entries(commit.entries)


def shard_ranges(shard: ShardRef, spec: SiteSpec) -> Iterator[Range]:
    """Yield the ranges of a shard that have a CRC: of each chunk, index columns and values."""
    sizes = [INDEX_TYPES[name].itemsize for name in index_columns(spec)]
    for chunk in shard.chunks:
        for start, size in zip(chunk.index_offsets, sizes, strict=True):
            yield start, start + chunk.rows * size, None
        if chunk.tile_offsets and shard.tile is not None:
            yield from _tiles(chunk, spec, shard.tile)
        else:
            yield _of_chunk(chunk, spec.row_bytes)


def _tiles(chunk: ChunkRef, spec: SiteSpec, tile: int) -> Iterator[Range]:
    size = by_name(spec.dtype).itemsize
    units = spec.row_bytes // size
    for number, start in enumerate(chunk.tile_offsets):
        width = min(tile, units - number * tile)
        yield start, start + chunk.rows * width * size, chunk.tile_crcs[number]


def _of_chunk(chunk: ChunkRef, row_bytes: int) -> Range:
    width = chunk.rows if chunk.width is None else chunk.width
    return chunk.value_offset, chunk.value_offset + width * row_bytes, chunk.value_crc


def statistics_ranges(stats: StatsRef, spec: SiteSpec) -> Iterator[Range]:
    """Yield the ranges of a file of statistics whose CRC the log has: its parts."""
    parts: list[tuple[StatsPart | None, tuple[str, ...]]] = [
        (stats.blocks, BLOCK_COLUMNS),
        *((part, ZONE_COLUMNS) for part in stats.zones),
        (stats.top, TOP_COLUMNS),
    ]
    for part, columns in parts:
        if part is not None:
            yield (*part_range(part, spec, columns), part.crc)


def _of_array(array: ArrayRef) -> Range:
    size = math.prod(array.shape) * by_name(array.dtype).itemsize
    return array.value_offset, array.value_offset + size, array.value_crc


def _of_entries(entries: Iterable[EntryRef]) -> Iterator[CheckedFile]:
    trees: dict[str, CheckedFile] = {}
    for entry in entries:
        if entry.path is not None:
            stop = entry.start + entry.length
            known = trees.get(entry.path, CheckedFile(entry.path, 0, is_exact=False))
            ranges = (*known.ranges, (entry.start, stop, entry.crc))
            trees[entry.path] = replace(known, length=max(known.length, stop), ranges=ranges)
        for tensor in entry.tensors:
            if tensor.path is not None:
                yield CheckedFile(tensor.path, tensor.length, tuple(_of_tensor(tensor)))
    yield from trees.values()


def _of_tensor(tensor: TensorRef) -> Iterator[Range]:
    row_bytes = math.prod(tensor.shape[tensor.lead :]) * by_name(tensor.dtype).itemsize
    yield from (_of_chunk(chunk, row_bytes) for chunk in tensor.chunks)
