"""The ops of a log record that name files: rows of tables, shards and arrays. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lazycache.catalog import fields
from lazycache.catalog.int_lists import MOST_EXAMPLES, decode_ints, encode_ints
from lazycache.catalog.statistics_records import decode_statistics, encode_statistics
from lazycache.errors import CorruptShardError
from lazycache.types import ArrayRef, ChunkRef, ShardRef, TableFileRef

MOST_ROWS = 1 << 53
"""Rows of a file: a sum in float64 is exact up to here and, unlike int64, never wraps."""

_TILED = 6  # fields of a chunk: the last two are of its tiles
_CHUNK_FIELDS = (4, 5, _TILED)  # the fifth of five: of ragged sites


def encode_rows(table: TableFileRef) -> dict[str, Any]:
    """Return the op of a table file."""
    op = {
        "op": "rows",
        "table": table.table,
        "path": table.path,
        "length": table.length,
        "rows": table.rows,
        "row_start": table.row_start,
        "columns": dict(table.columns),
        "examples": encode_ints(table.examples),
        "lengths": encode_ints(table.lengths),
    }
    return op if table.covers is None else {**op, "covers": table.covers}


def decode_rows(op: Mapping[str, Any]) -> TableFileRef:
    """Return the table file of an op; raises `CorruptShardError` as `fields` does."""
    columns = fields.mapping(op.get("columns"))
    rows = fields.integer(op, "rows")
    # an example has a row at least: more examples than rows cannot be
    examples = decode_ints(op.get("examples"), at_most=min(rows, MOST_EXAMPLES))
    lengths = decode_ints(op.get("lengths"), at_most=len(examples))
    path = fields.path(op)
    if len(examples) != len(lengths):
        raise CorruptShardError(f"{path!r} has {len(examples)} examples, {len(lengths)} lengths")
    if lengths.size and np.minimum.reduce(lengths) < 1:
        raise CorruptShardError(f"{path!r} has an example without rows")
    if rows > MOST_ROWS or np.add.reduce(lengths, dtype=np.float64) != rows:
        raise CorruptShardError(f"{path!r}: {rows} rows, but its examples have others")
    return TableFileRef(
        table=fields.name(op, "table"),
        path=path,
        length=fields.integer(op, "length"),
        rows=rows,
        row_start=fields.integer(op, "row_start"),
        columns={fields.checked_name(key): fields.name(columns, key) for key in columns},
        examples=examples,
        lengths=lengths,
        covers=_covers(op),
    )


def _covers(op: Mapping[str, Any]) -> int | None:
    return None if op.get("covers") is None else fields.integer(op, "covers")


def encode_shard(shard: ShardRef) -> dict[str, Any]:
    """Return the op of a shard."""
    op: dict[str, Any] = {
        "op": "shard",
        "site": shard.site,
        "path": shard.path,
        "length": shard.length,
        "rows": shard.rows,
        "row_start": shard.row_start,
        "covers": shard.covers,
        "chunks": [_encode_chunk(chunk) for chunk in shard.chunks],
    }
    if shard.tile is not None:
        op["tile"] = shard.tile
    # who does not know statistics reads the values
    return op if shard.stats is None else {**op, "stats": encode_statistics(shard.stats)}


def _encode_chunk(chunk: ChunkRef) -> list[Any]:
    entry = [chunk.rows, chunk.value_offset, chunk.value_crc, chunk.index_offsets]
    if chunk.tile_offsets:
        return [*entry, chunk.tile_offsets, chunk.tile_crcs]
    return entry if chunk.width is None else [*entry, chunk.width]


def decode_shard(op: Mapping[str, Any]) -> ShardRef:
    """Return the shard of an op; raises `CorruptShardError` as `fields` does.

    What cannot be checked without the site is left to `placing`.
    """
    length, rows, path = fields.integer(op, "length"), fields.integer(op, "rows"), fields.path(op)
    chunks = tuple([_chunk(entry, length) for entry in fields.sequence(op, "chunks")])
    if sum([chunk.rows for chunk in chunks]) != rows:
        raise CorruptShardError(f"{path!r}: {rows} rows, but its chunks have others")
    return ShardRef(
        site=fields.name(op, "site"),
        path=path,
        length=length,
        rows=rows,
        row_start=fields.integer(op, "row_start"),
        covers=_covers(op),
        chunks=chunks,
        stats=None if op.get("stats") is None else decode_statistics(op["stats"]),
        tile=None if op.get("tile") is None else fields.integer(op, "tile"),
    )


def _chunk(entry: Any, length: int) -> ChunkRef:
    """Check what can be checked without the site: a snapshot checks the rest."""
    if type(entry) is not list or len(entry) not in _CHUNK_FIELDS:
        raise CorruptShardError(f"not a chunk: {str(entry)[:80]}")
    tiles = [fields.integers(column) for column in entry[4:]] if len(entry) == _TILED else []
    rows, offset, crc, *width = fields.integers([*entry[:3], *entry[4 : 5 - len(tiles)]])
    places = fields.integers(entry[3])
    # a row of a ragged site has a width of 1 at least
    if rows < 1 or crc >> 32 or offset % 64 or (width and width[0] < rows):
        raise CorruptShardError(f"not a chunk: {str(entry)[:80]}")
    if max(offset, *places, 0) > length:
        raise CorruptShardError(f"a chunk starts outside of its file of {length} bytes")
    return ChunkRef(rows, offset, crc, places, *(width or (None,)), *tiles)


def encode_array(array: ArrayRef) -> dict[str, Any]:
    """Return the op of a tensor that a run keeps."""
    return {
        "op": "array",
        "name": array.name,
        "path": array.path,
        "length": array.length,
        "dtype": array.dtype,
        "shape": array.shape,
        "value_offset": array.value_offset,
        "value_crc": array.value_crc,
        "optional": True,  # who does not know arrays reads all that is stored
    }


def decode_array(op: Mapping[str, Any]) -> ArrayRef:
    """Return the tensor of an op; raises `CorruptShardError` as `fields` does."""
    return ArrayRef(
        name=fields.name(op, "name"),
        path=fields.path(op),
        length=fields.integer(op, "length"),
        dtype=fields.name(op, "dtype"),
        shape=fields.integers(op.get("shape")),
        value_offset=fields.integer(op, "value_offset"),
        value_crc=fields.integer(op, "value_crc"),
    )
