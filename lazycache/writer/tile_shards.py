"""The chunks of a shard to another file of the same rows, in rows or in tiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazycache.codec.shard import ShardEncoder
from lazycache.storage.store import Upload
from lazycache.types import ChunkRef, SiteSpec


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Rows that make one chunk."""

    values: Sequence[memoryview]
    """Their bytes, row-major, in order, in as many pieces as they happen to be in."""
    index: Mapping[str, np.ndarray]
    """Their index columns; see `index_columns`."""


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What a `ShardRef` says of a file: the fields of these names."""

    length: int
    """Bytes of the whole file."""
    rows: int
    """Rows in all its chunks."""
    chunks: tuple[ChunkRef, ...]
    """Its chunks in row order."""
    tile: int | None
    """Units of each tile; None: rows are not cut."""


def write_shard(
    spec: SiteSpec, chunks: Iterable[RowChunk], *, upload: Upload, tile: int | None
) -> WrittenShard:
    """Write chunks as a shard and finish the upload; without any, or after an error, abort it.

    A chunk of the file is a chunk that was given, with its `value_crc`: that of its rows in every
    layout, so whoever read them from another shard can compare.

    Args:
        spec: what the site is.
        chunks: in row order; taken one by one, so that one of them is in memory.
        upload: where the bytes go.
        tile: units of each tile, of `fitting_tile`; None leaves rows whole.

    Cost: of tiles one copy of the values, one chunk at a time; else none.

    Raises:
        StorageError: the store failed.

    Example:
        >>> import tempfile, torch
        >>> from lazycache.codec.dtypes import as_bytes
        >>> from lazycache.codec.spec import spec_of
        >>> from lazycache.storage.local_store import LocalStore
        >>> values = torch.arange(6.0).reshape(2, 3)
        >>> chunk = RowChunk([as_bytes(values)], {"example": np.arange(2)})
        >>> upload = LocalStore(tempfile.mkdtemp(), create=True).create("data/a/0-r0.parquet")
        >>> done = write_shard(spec_of("a", "examples", values), [chunk], upload=upload, tile=2)
        >>> done.rows, done.tile, len(done.chunks[0].tile_offsets)
        (2, 2, 2)
    """
    encoder = ShardEncoder(spec, write=upload.write, tile=tile)
    done: list[ChunkRef] = []
    try:
        for chunk in chunks:
            done.append(encoder.add_chunk(chunk.values, chunk.index))  # noqa: PERF401  # in a try
        if done:
            encoder.finish()
            upload.finish()
    finally:
        upload.abort()  # does nothing after `finish`
    return WrittenShard(encoder.length, encoder.rows, tuple(done), tile)
