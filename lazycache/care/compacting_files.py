"""Several files to one: what a merge is when it is done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa

from lazycache.care.compacting_chunks import read_parts
from lazycache.care.compacting_plan import ShardMerge, TableMerge
from lazycache.catalog.snapshot import PlacedTable
from lazycache.codec.columns import ARROW_TYPES
from lazycache.codec.tables import decode_table, encode_table, run_lengths
from lazycache.errors import CorruptShardError, LazycacheError
from lazycache.progress import Bar
from lazycache.storage.layout import table_path
from lazycache.storage.store import Store
from lazycache.types import ShardRef, TableFileRef
from lazycache.writer.chunks import CHUNK_BYTES
from lazycache.writer.settings import Settings
from lazycache.writer.site_lane import SiteLane

CHUNK_ROWS = 8192
"""Rows of a merged chunk, at most."""


def merge_shards(merge: ShardMerge, store: Store, *, shard_bytes: int, bar: Bar) -> list[ShardRef]:
    """Write the rows of shards as one file, with its statistics; nothing is left after an error.

    It becomes several only where rows that were one file before are more than `shard_bytes`.

    Cost: every byte is read and written once; 1.5 ns for the statistics of each value. Memory: a
    chunk of up to 16 MiB, and what is read ahead, up to 128 MiB.

    Raises:
        CorruptShardError: a chunk or index column differs from what was written.
        StorageError: the store failed.
    """
    first = merge.shards[0]
    lane = _lane(merge, store, shard_bytes=shard_bytes)
    done: list[ShardRef] = []
    try:
        for shard, row, part in read_parts(store, merge.site, merge.shards):
            start = first.ref.row_start + shard.row_start - first.row_start + row
            lane.add(part, row_start=start, sites=1)
            bar.advance(part.nbytes)
        done += lane.finish()
    except BaseException:
        lane.abort()
        discard(store, [*paths_of(done), *paths_of(lane.take())])
        raise
    return done


def _lane(merge: ShardMerge, store: Store, *, shard_bytes: int) -> SiteLane:
    settings = Settings(
        queue_bytes=4 * CHUNK_BYTES,  # of which a lane holds a quarter
        shard_bytes=shard_bytes,
        chunk_rows=CHUNK_ROWS,
        commit_bytes=shard_bytes,
        commit_seconds=1,
        rank=0,
        tiles={} if merge.tile is None else {merge.site.name: merge.tile},
    )
    return SiteLane(
        merge.site,
        store=store,
        settings=settings,
        free=lambda _: None,
        covers=merge.shards[0].base,
    )


def merge_tables(merge: TableMerge, store: Store) -> TableFileRef:
    """Write the rows of table files as one.

    Cost: the files are decoded; together they have at most 16 MiB.

    Raises:
        CorruptShardError: a file differs from what the log says.
        StorageError: the store failed.
    """
    first = merge.files[0]
    types = {name: kind for file in merge.files for name, kind in file.ref.columns.items()}
    tables = [_decoded(store, file) for file in merge.files]
    columns = {name: _joined(name, kind, tables) for name, kind in types.items()}
    examples, lengths = run_lengths(columns["example"].to_numpy())
    data = encode_table(columns)
    path = table_path(merge.table, unique=uuid.uuid4().hex, rank=0)
    store.put(path, data)
    return TableFileRef(
        table=merge.table,
        path=path,
        length=len(data),
        rows=sum(file.ref.rows for file in merge.files),
        row_start=first.ref.row_start,
        columns=types,
        examples=examples,
        lengths=lengths,
        covers=first.base,
    )


def _decoded(store: Store, file: PlacedTable) -> pa.Table:
    """Return the rows of a file, if they are those that the log says."""
    ref = file.ref
    try:
        data = store.get(ref.path)
    except FileNotFoundError as exc:
        raise CorruptShardError(
            f"{ref.path!r} of {store.url} is missing: the log names it. Restore it from a copy of "
            "the dataset."
        ) from exc
    table = decode_table(data)
    named = len(data) == ref.length and set(table.column_names) == set(ref.columns)
    if not named or table.num_rows != ref.rows or not _same_examples(table, ref):
        raise CorruptShardError(
            f"{ref.path!r} of {store.url} has {len(data):,} bytes and {table.num_rows:,} rows with "
            f"the columns {', '.join(table.column_names)}; the log says {ref.length:,}, "
            f"{ref.rows:,}, {', '.join(ref.columns)}, and whose rows they are. Restore it from a "
            "copy of the dataset."
        )
    return table


def _same_examples(table: pa.Table, ref: TableFileRef) -> bool:
    column = table["example"]
    if column.null_count or column.type != pa.int64():
        return False
    examples, lengths = run_lengths(column.to_numpy())
    return np.array_equal(examples, ref.examples) and np.array_equal(lengths, ref.lengths)


def _joined(name: str, kind: str, tables: Sequence[pa.Table]) -> pa.ChunkedArray:
    """Return one column of all files, NULL for those that lack it."""
    arrow = ARROW_TYPES[kind]
    arrays = [
        table[name].cast(arrow) if name in table.column_names else pa.nulls(table.num_rows, arrow)
        for table in tables
    ]
    chunks = [
        chunk
        for array in arrays
        for chunk in (array.chunks if isinstance(array, pa.ChunkedArray) else [array])
    ]
    return pa.chunked_array(chunks, arrow)


def paths_of(refs: Sequence[ShardRef | TableFileRef]) -> Iterator[str]:
    """Yield the files that refs name, with those of statistics."""
    for ref in refs:
        yield ref.path
        if isinstance(ref, ShardRef) and ref.stats is not None:
            yield ref.stats.path


def discard(store: Store, paths: Sequence[str]) -> None:
    """Delete files that no commit names, as well as the store lets us."""
    for path in paths:
        with suppress(LazycacheError):  # the first error is what the caller hears of; gc does it
            store.delete(path)
