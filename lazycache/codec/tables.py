"""Table rows (tokens, examples) to Parquet files and back, and their run-length form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lazycache.codec.columns import Values, column_type, to_array
from lazycache.codec.table_bounds import check_bounds
from lazycache.errors import CorruptShardError


def encode_table(columns: Mapping[str, Values | pa.Array | pa.ChunkedArray]) -> bytes:
    """Return columns of equal length as one Parquet file, zstd-compressed, pages with CRC.

    Raises:
        CaptureError: values that no column type holds.

    Example:
        >>> data = encode_table({"example": np.array([0, 0, 1]), "token": ["a", "b", None]})
        >>> decode_table(data).to_pydict()
        {'example': [0, 0, 1], 'token': ['a', 'b', None]}
    """
    table = pa.table({name: _arrow(values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode_table(data: bytes) -> pa.Table:
    """Return the rows of a table file.

    Raises:
        CorruptShardError: the bytes are not a Parquet file, differ from what was written, or say of
            rows that would take far more memory than any table (see `table_bounds`).
    """
    try:
        with open_table(pa.BufferReader(data), length=len(data)) as file:
            return file.read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as exc:  # names that are no text, too
        raise CorruptShardError(f"A table file of {len(data):,} bytes is damaged: {exc}") from exc


def open_table(source: pa.NativeFile, *, length: int) -> pq.ParquetFile:
    """Open a table file of `length` bytes whose rows take a bounded amount of memory.

    Raises:
        CorruptShardError: they would take more; see `check_bounds`.
        ArrowException, OSError, ValueError: it cannot be read.
    """

    def opened(**options: Any) -> pq.ParquetFile:
        return pq.ParquetFile(source, page_checksum_verification=True, **options)

    def read(start: int, stop: int) -> bytes:
        source.seek(min(start, length))
        data: bytes = source.read(max(0, min(stop, length) - start))
        return data

    check_bounds(opened=opened, read=read, length=length)
    return opened()


def run_lengths(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `(values, lengths)`: each run of equal neighbours once; both int64.

    Example:
        >>> run_lengths(np.array([7, 7, 3, 7]))
        (array([7, 3, 7]), array([2, 1, 1]))
    """
    ids = np.asarray(ids, np.int64)
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1)).astype(np.int64)
    return ids[starts], np.diff(starts, append=len(ids)).astype(np.int64)


def _arrow(values: Values | pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    return to_array(values, column_type(values) or "string")
