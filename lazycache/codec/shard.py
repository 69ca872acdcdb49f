"""Chunks of activations to one Parquet file that is also a raw matrix at known offsets.

A chunk is a row group; each of its columns is one uncompressed PLAIN page whose payload starts at a
multiple of 64 bytes. Row i of a chunk lies at `value_offset + i * row_bytes`, ready to be mapped,
and any Parquet reader reads the same file. The layout is described in `docs/format`; pyarrow's own
writer costs 2.8 times the CPU and does not align.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import numpy as np

from lazycache.codec.checksum import crc32
from lazycache.codec.thrift import Value, i16, i32, i64, listing, struct, structs, text
from lazycache.types import INDEX_COLUMNS, ChunkRef, SiteSpec

ALIGNMENT = 64
"""Payloads start at a multiple of this: what any torch kernel or SIMD load may ask for."""

VALUE = "value"
"""Name of the column that holds the activations."""

_MAGIC = b"PAR1"
_ZEROS = memoryview(bytes(ALIGNMENT))
_INT32, _INT64, _FIXED = 1, 2, 7  # Parquet physical types
_REQUIRED, _PLAIN, _RLE, _UNCOMPRESSED, _DATA_PAGE = 0, 0, 3, 0, 0

INDEX_TYPES: Mapping[str, np.dtype] = {
    "example": np.dtype("<i8"),
    "position": np.dtype("<i4"),
    "call": np.dtype("<i4"),
    "width": np.dtype("<i4"),
}
"""How the index columns lie in a shard."""

_PHYSICAL = {"example": _INT64, "position": _INT32, "call": _INT32, "width": _INT32}


@dataclass(frozen=True, slots=True)
class _Page:
    """Where one column of one chunk was written, for the footer."""

    start: int  # of the page header
    payload: int
    size: int  # header and payload
    rows: int


class ShardEncoder:
    """Write one shard: `add_chunk` as often as there are chunks, then `finish`.

    Nothing is sought or held back: every call hands its buffers to `write` at once, in file order.

    Example:
        >>> import torch
        >>> from lazycache.codec.dtypes import as_bytes
        >>> from lazycache.codec.spec import spec_of
        >>> values, file = torch.arange(6.0).reshape(3, 2), bytearray()
        >>> spec = spec_of("resid_out_0", "examples", values)
        >>> shard = ShardEncoder(spec, write=lambda buffers: file.extend(b"".join(buffers)))
        >>> chunk = shard.add_chunk([as_bytes(values)], {"example": np.arange(3)})
        >>> shard.finish()
        >>> chunk.value_offset % 64, len(file) == shard.length
        (0, True)
        >>> torch.frombuffer(file, dtype=torch.float32, count=6, offset=chunk.value_offset)
        tensor([0., 1., 2., 3., 4., 5.])
    """

    def __init__(self, spec: SiteSpec, *, write: Callable[[Sequence[memoryview]], None]) -> None:
        self._spec = spec
        self._write = write
        self._columns = INDEX_COLUMNS[spec.table]
        self._groups: list[list[_Page]] = []
        self._pending: list[memoryview] = [memoryview(_MAGIC)]
        self.length = len(_MAGIC)
        """Bytes so far; after `finish`, of the whole file."""
        self.rows = 0
        """Rows so far."""

    def add_chunk(self, values: Sequence[memoryview], index: Mapping[str, np.ndarray]) -> ChunkRef:
        """Append one chunk and return where it lies.

        Args:
            values: the rows' bytes in order, in as many pieces as they happen to be in.
            index: the index columns of the site's table, one entry per row.

        Cost: one pass over the values for the CRC and one `write` of them; they are not copied.
        """
        nbytes = sum(piece.nbytes for piece in values)
        rows = nbytes // self._spec.row_bytes
        assert rows > 0, "a chunk has rows"
        assert rows * self._spec.row_bytes == nbytes, "pieces make whole rows"
        pages = []
        for name in self._columns:
            column = np.ascontiguousarray(index[name], INDEX_TYPES[name])
            assert column.shape == (rows,), "an index column has one entry per row"
            pages.append(self._page([column.data.cast("B")], rows=rows)[0])
        page, crc = self._page(values, rows=rows)
        self._flush()
        self._groups.append([*pages, page])
        self.rows += rows
        return ChunkRef(rows, page.payload, crc, tuple(page.payload for page in pages))

    def finish(self) -> None:
        """Write the footer. The file is complete when this returns."""
        footer = self._footer().data
        tail = footer + len(footer).to_bytes(4, "little") + _MAGIC
        self._append([memoryview(tail)])
        self._flush()

    def _page(self, payload: Sequence[memoryview], *, rows: int) -> tuple[_Page, int]:
        crc = 0
        for piece in payload:
            crc = crc32(piece, crc)
        size = sum(piece.nbytes for piece in payload)
        header = _page_header(size=size, crc=crc, rows=rows)
        # the gap lies before the header, where no reader looks: pages are found by their offset
        self._append([_ZEROS[: -(self.length + len(header)) % ALIGNMENT]])
        start = self.length
        self._append([memoryview(header), *payload])
        return _Page(start, start + len(header), len(header) + size, rows), crc

    def _append(self, buffers: Sequence[memoryview]) -> None:
        self._pending.extend(buffers)
        self.length += sum(buffer.nbytes for buffer in buffers)

    def _flush(self) -> None:
        # taken off first: the encoder must not keep the values alive while the next chunk is built
        pending, self._pending = self._pending, []
        self._write([buffer for buffer in pending if buffer.nbytes])

    def _footer(self) -> Value:
        columns = [*self._columns, VALUE]
        metadata = {
            "lazycache.version": "1",
            "lazycache.site": self._spec.name,
            "lazycache.table": self._spec.table,
            "lazycache.dtype": self._spec.dtype,
            "lazycache.shape": json.dumps(list(self._spec.shape)),
            "lazycache.layout": self._spec.layout,
        }
        root = struct({4: text("schema"), 5: i32(len(columns))})
        schema = [root, *(_schema_element(name, self._spec.row_bytes) for name in columns)]
        groups = [_row_group(n, columns, pages) for n, pages in enumerate(self._groups)]
        pairs = [struct({1: text(key), 2: text(value)}) for key, value in metadata.items()]
        return struct(
            {
                1: i32(1),  # version of the Parquet format: data pages v1
                2: structs(schema),
                3: i64(self.rows),
                4: structs(groups),
                5: structs(pairs),
                6: text(_created_by()),
            }
        )


@cache
def _created_by() -> str:
    # the form "<who> version <which>" is what Parquet readers parse
    return f"lazycache version {version('lazycache')}"


def _page_header(*, size: int, crc: int, rows: int) -> bytes:
    data_page = struct({1: i32(rows), 2: i32(_PLAIN), 3: i32(_RLE), 4: i32(_RLE)})
    signed = crc - (1 << 32) if crc >> 31 else crc
    fields = {1: i32(_DATA_PAGE), 2: i32(size), 3: i32(size), 4: i32(signed), 5: data_page}
    return struct(fields).data


def _schema_element(name: str, row_bytes: int) -> Value:
    if name == VALUE:
        return struct({1: i32(_FIXED), 2: i32(row_bytes), 3: i32(_REQUIRED), 4: text(name)})
    return struct({1: i32(_PHYSICAL[name]), 3: i32(_REQUIRED), 4: text(name)})


def _row_group(ordinal: int, columns: Sequence[str], pages: Sequence[_Page]) -> Value:
    size = sum(page.size for page in pages)
    fields = {
        1: structs([_column_chunk(*pair) for pair in zip(columns, pages, strict=True)]),
        2: i64(size),
        3: i64(pages[0].rows),
        5: i64(pages[0].start),
        6: i64(size),
    }
    if ordinal < 1 << 15:  # optional, and 16 bits wide
        fields[7] = i16(ordinal)
    return struct(fields)


def _column_chunk(name: str, page: _Page) -> Value:
    meta = struct(
        {
            1: i32(_PHYSICAL.get(name, _FIXED)),
            2: listing([i32(_PLAIN), i32(_RLE)]),
            3: listing([text(name)]),
            4: i32(_UNCOMPRESSED),
            5: i64(page.rows),
            6: i64(page.size),
            7: i64(page.size),
            9: i64(page.start),
        }
    )
    return struct({2: i64(page.start), 3: meta})
