"""The chunks of shards as rows to be written again: their bytes, checked, never decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lazycache.cache.files.parallel import ordered
from lazycache.care.page_ranges import (
    check_index,
    chunk_bytes,
    chunk_ranges,
)
from lazycache.catalog.snapshot import PlacedShard
from lazycache.codec.checksum import crc32
from lazycache.codec.shard import INDEX_TYPES
from lazycache.codec.tiles import join_tiles
from lazycache.errors import CorruptShardError
from lazycache.storage.layout import IDENTITY
from lazycache.storage.ranges import coalesce, scatter
from lazycache.storage.store import Store
from lazycache.types import RAGGED, WIDTH, ChunkRef, SiteSpec, index_columns
from lazycache.writer.parts import SitePart

WINDOW_BYTES = 8 << 20
"""Bytes of one file that are read at once, or a chunk that is larger."""

IN_FLIGHT_BYTES = 128 << 20
"""Bytes that are read ahead of what is written, at most."""

_MOST_READERS = 16
_GAP = 64 << 10  # between what is needed: read along rather than asked for by itself


@dataclass(slots=True)
class _Window:
    """Chunks of one shard that are read together."""

    shard: PlacedShard
    row: int  # the first, counted as those of the shard
    chunks: list[ChunkRef] = field(default_factory=list)
    nbytes: int = 0


def read_parts(
    store: Store, site: SiteSpec, shards: Sequence[PlacedShard]
) -> Iterator[tuple[PlacedShard, int, SitePart]]:
    """Yield every chunk of shards in order: its shard, its first row in it, its rows.

    Cost: each byte is read once, a request for 8 MiB of neighbouring chunks, some ahead of what is
    taken; one pass for the CRC, and a copy where rows are in tiles.

    Raises:
        CorruptShardError: bytes differ from what was recorded when they were written.
        StorageError: the store failed.
    """
    windows = list(_windows(site, shards))
    largest = max((window.nbytes for window in windows), default=1)
    room = max(1, IN_FLIGHT_BYTES // (2 * largest))
    local = store.local_path(IDENTITY) is not None
    workers = min(2 if local else _MOST_READERS, room)
    for window, parts in ordered(
        lambda window: (window, _read(store, site, window)), windows, workers=workers
    ):
        row = window.row
        for part in parts:
            yield window.shard, row, part
            row += part.rows


def _windows(site: SiteSpec, shards: Sequence[PlacedShard]) -> Iterator[_Window]:
    for shard in shards:
        window = _Window(shard, 0)
        for chunk in shard.ref.chunks:
            nbytes = chunk_bytes(site, chunk)
            if window.chunks and window.nbytes + nbytes > WINDOW_BYTES:
                yield window
                window = _Window(shard, window.row + sum(one.rows for one in window.chunks))
            window.chunks.append(chunk)
            window.nbytes += nbytes
        if window.chunks:
            yield window


def _read(store: Store, site: SiteSpec, window: _Window) -> list[SitePart]:
    ref = window.shard.ref
    asked = [chunk_ranges(site, chunk, tile=ref.tile) for chunk in window.chunks]
    flat = [one for ranges in asked for one in ranges]
    merged = coalesce(flat, max_gap=_GAP)
    try:
        buffers = store.get_ranges(ref.path, [(one.start, one.stop) for one in merged])
    except FileNotFoundError as exc:
        raise CorruptShardError(
            f"{ref.path!r} of {store.url} is missing: the log names it. Restore it from a copy of "
            "the dataset. Nothing of it was replaced."
        ) from exc
    pieces = iter(scatter(flat, merged, buffers))
    parts, row = [], window.row
    for chunk, ranges in zip(window.chunks, asked, strict=True):
        parts.append(_part(site, window, chunk, [next(pieces) for _ in ranges], row=row))
        row += chunk.rows
    return parts


def _part(
    site: SiteSpec, window: _Window, chunk: ChunkRef, pieces: Sequence[memoryview], *, row: int
) -> SitePart:
    where = f"rows {row} to {row + chunk.rows} of {window.shard.ref.path!r}"
    names = index_columns(site)
    index = {}
    for name, piece in zip(names, pieces, strict=False):  # behind them are values
        size = chunk.rows * INDEX_TYPES[name].itemsize
        check_index(piece, size=size, where=f"Column {name!r} of {where}")
        index[name] = np.frombuffer(piece[-size:], INDEX_TYPES[name])
    values = pieces[len(names) :]
    rows = values[0] if len(values) == 1 else join_tiles(values, rows=chunk.rows)
    if crc32(rows) != chunk.value_crc:
        raise CorruptShardError(
            f"The checksum of {where} is wrong: the file has changed since it was written. Restore "
            "it from a copy of the dataset. Nothing of it was replaced."
        )
    starts = _starts(site, chunk, index, where) if site.layout == RAGGED else None
    return SitePart(site, rows, index, chunk.rows, starts)


def _starts(
    site: SiteSpec, chunk: ChunkRef, index: dict[str, np.ndarray], where: str
) -> np.ndarray:
    """Return where the rows of a ragged site begin."""
    widths = index[WIDTH].astype(np.int64)
    if widths.min() < 1 or int(widths.sum()) != chunk.width:
        raise CorruptShardError(
            f"The widths of {where} are not those that the log says: {int(widths.sum())} in all, "
            f"{chunk.width} recorded."
        )
    return np.concatenate([[0], np.cumsum(widths)]) * site.row_bytes
