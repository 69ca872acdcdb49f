"""Shard files made in memory or in a folder, and readers that know nothing of lazycache."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import fastparquet
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lazycache.codec.dtypes import as_bytes
from lazycache.codec.shard import ShardEncoder
from lazycache.codec.spec import spec_of, spec_of_block
from lazycache.types import ChunkRef, SiteBlock


def random_tensor(rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return random bits of a dtype: every payload, NaNs and infinities included."""
    if dtype == torch.bool:
        return torch.randint(0, 2, (rows, *shape)).to(torch.bool)
    size = torch.empty((rows, *shape), dtype=dtype).nbytes
    bits = torch.randint(0, 256, (size,), dtype=torch.uint8)
    return bits.view(dtype).reshape(rows, *shape)


def write_shard(
    path: Path,
    values: torch.Tensor,
    *,
    chunk_rows: int,
    table: str = "tokens",
    tile: int | None = None,
) -> tuple[ChunkRef, ...]:
    """Write a shard whose example is 10 + row // 7 and whose position is row % 7."""
    index = index_columns(len(values))
    chunks = []
    with path.open("wb") as file:
        spec = spec_of("site", table, values)
        encoder = ShardEncoder(spec, write=lambda buffers: file.write(b"".join(buffers)), tile=tile)
        for start in range(0, len(values), chunk_rows):
            part = slice(start, start + chunk_rows)
            columns = {name: column[part] for name, column in index.items()}
            chunks.append(encoder.add_chunk([as_bytes(values[part])], columns))
        encoder.finish()
    assert path.stat().st_size == encoder.length
    return tuple(chunks)


def ragged_block(widths, shape: tuple[int, ...], dtype: torch.dtype, *, table="tokens"):
    """Return a block of rows of these widths: random bits of a dtype."""
    widths = np.asarray(widths, np.int32)
    others = int(np.prod([size for size in shape if size != -1]))
    values = random_tensor(int(widths.sum()) * others, (), dtype)
    return SiteBlock(table, values, shape, widths)


def ragged_rows(block: SiteBlock) -> list[bytes]:
    """Return the bytes of each row of a ragged block."""
    row_bytes = spec_of_block("site", block).row_bytes
    data, ends = bytes(as_bytes(block.values)), np.cumsum(block.widths) * row_bytes
    starts = ends - block.widths * row_bytes
    return [data[a:b] for a, b in zip(starts, ends, strict=True)]


def write_ragged(path: Path, block: SiteBlock, *, chunk_rows: int) -> tuple[ChunkRef, ...]:
    """Write a shard of a ragged block; example and position are those of `write_shard`."""
    index, rows, chunks = index_columns(block.rows), ragged_rows(block), []
    with path.open("wb") as file:
        spec = spec_of_block("site", block)
        encoder = ShardEncoder(spec, write=lambda buffers: file.write(b"".join(buffers)))
        for start in range(0, block.rows, chunk_rows):
            part = slice(start, start + chunk_rows)
            columns = {name: column[part] for name, column in index.items()}
            columns["width"] = block.widths[part]
            chunks.append(encoder.add_chunk([memoryview(b"".join(rows[part]))], columns))
        encoder.finish()
    assert path.stat().st_size == encoder.length
    return tuple(chunks)


def index_columns(rows: int) -> dict[str, np.ndarray]:
    row = np.arange(rows)
    return {"example": 10 + row // 7, "position": (row % 7).astype(np.int32)}


def read_pyarrow(path: Path) -> pa.Table:
    return pq.ParquetFile(path, page_checksum_verification=True).read()


def read_duckdb(path: Path) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.sql(f"FROM read_parquet('{path}')").to_arrow_table()


def read_polars(path: Path) -> pa.Table:
    return pl.read_parquet(path).to_arrow()


def read_fastparquet(path: Path) -> pa.Table:
    file = fastparquet.ParquetFile(io.BytesIO(path.read_bytes()))  # of a path it leaks handles
    frame = file.to_pandas()
    columns = {name: _column(frame[name]) for name in frame.columns}
    # numpy's byte strings, which it reads into, lose zeros at their end
    for name in [name for name in columns if name.startswith("value")]:
        width = file.schema.schema_element(name).type_length or 0
        columns[name] = [bytes(value).ljust(width, b"\0") for value in columns[name]]
    return pa.table(columns)


def _column(values) -> list:
    return [None if pd.isna(value) else value for value in values.to_list()]


def read_fastparquet_index(path: Path) -> pa.Table:
    """Read what fastparquet can of a ragged shard: it lacks the encoding of the values."""
    file = fastparquet.ParquetFile(io.BytesIO(path.read_bytes()))
    frame = file.to_pandas(columns=["example", "position", "width"])
    return pa.table({name: _column(frame[name]) for name in frame.columns})


READERS = {
    "pyarrow": read_pyarrow,
    "duckdb": read_duckdb,
    "polars": read_polars,
    "fastparquet": read_fastparquet,
}


def value_bytes(table: pa.Table) -> bytes:
    """Return the values of all rows of a table that any reader gave, one after the other."""
    return b"".join(table["value"].to_pylist())
