"""Chunks of activations to one Parquet file that is also a raw matrix at known offsets.

A chunk is a row group; each of its columns is one uncompressed page whose values start at a
multiple of 64 bytes. Row i of a chunk lies at `value_offset + i * row_bytes`, ready to be mapped,
and any Parquet reader reads the same file. Rows of a ragged site lie one behind the other, and
their widths beside them; rows that are cut into tiles are several such columns. The layout is
described in `docs/format`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from lazycache.codec.checksum import crc32
from lazycache.codec.delta import encode_deltas
from lazycache.codec.pages import (
    ALIGNMENT,
    BYTE_ARRAY,
    DELTA_LENGTH,
    FIXED,
    INT32,
    INT64,
    Column,
    PageFile,
    Payload,
    Write,
)
from lazycache.codec.tiles import cut_rows, layout_of, tile_names, tile_widths, units_of
from lazycache.types import RAGGED, WIDTH, ChunkRef, SiteSpec, index_columns

__all__ = ["ALIGNMENT", "INDEX_TYPES", "VALUE", "ShardEncoder"]

VALUE = "value"
"""Name of the column that holds the activations."""

INDEX_TYPES: Mapping[str, np.dtype] = {
    "example": np.dtype("<i8"),
    "position": np.dtype("<i4"),
    "call": np.dtype("<i4"),
    WIDTH: np.dtype("<i4"),
}
"""How the index columns lie in a shard."""

_PHYSICAL = {8: INT64, 4: INT32}  # by the bytes of a value


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

    def __init__(self, spec: SiteSpec, *, write: Write, tile: int | None = None) -> None:
        self._spec = spec
        self._index = index_columns(spec)
        self.tile = tile
        """Units of each tile that rows are cut into; None: they are not cut."""
        self._tiles = [] if tile is None else _tile_sizes(spec, tile)
        values = [_value_column(spec)] if tile is None else _tile_columns(spec, tile, self._tiles)
        columns = [*map(_index_column, self._index), *values]
        self._pages = PageFile(columns, _metadata(spec, tile), write=write)

    @property
    def length(self) -> int:
        """Bytes so far; after `finish`, of the whole file."""
        return self._pages.length

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self._pages.rows

    def add_chunk(self, values: Sequence[memoryview], index: Mapping[str, np.ndarray]) -> ChunkRef:
        """Append one chunk and return where it lies.

        Args:
            values: the rows' bytes in order, in as many pieces as they happen to be in.
            index: the index columns of the site, one entry per row; of a ragged site also `width`.

        Cost: one pass over the values for the CRC and one `write` of them; they are not copied. Of
        tiles, two passes and a copy.
        """
        columns = [np.ascontiguousarray(index[name], INDEX_TYPES[name]) for name in self._index]
        rows = len(columns[0])
        assert rows > 0, "a chunk has rows"
        assert all(column.shape == (rows,) for column in columns), "one entry per row"
        widths = columns[-1].astype(np.int64) if self._spec.layout == RAGGED else None
        units = rows if widths is None else int(widths.sum())
        nbytes = sum(piece.nbytes for piece in values)
        assert nbytes == units * self._spec.row_bytes, "pieces make whole rows"
        pages = [Payload([column.data.cast("B")]) for column in columns]
        if self._tiles:
            return self._add_tiles(values, pages, rows=rows)
        lengths = b"" if widths is None else encode_deltas(widths * self._spec.row_bytes)
        *places, value = self._pages.add_group([*pages, Payload(values, lengths)], rows=rows)
        return ChunkRef(
            rows=rows,
            value_offset=value.offset,
            value_crc=value.crc,
            index_offsets=tuple(place.offset for place in places),
            width=None if widths is None else units,
        )

    def _add_tiles(
        self, values: Sequence[memoryview], pages: Sequence[Payload], *, rows: int
    ) -> ChunkRef:
        crc = 0
        for piece in values:  # of the rows, whatever their layout
            crc = crc32(piece, crc)
        tiles = cut_rows(values, row_bytes=self._spec.row_bytes, sizes=self._tiles)
        groups = [*pages, *(Payload([tile]) for tile in tiles)]
        placed = self._pages.add_group(groups, rows=rows)
        places, found = placed[: len(pages)], placed[len(pages) :]
        return ChunkRef(
            rows=rows,
            value_offset=found[0].offset,
            value_crc=crc,
            index_offsets=tuple(place.offset for place in places),
            tile_offsets=tuple(place.offset for place in found),
            tile_crcs=tuple(place.crc for place in found),
        )

    def finish(self) -> None:
        """Write the footer. The file is complete when this returns."""
        self._pages.finish()


def _tile_sizes(spec: SiteSpec, tile: int) -> list[int]:
    assert spec.layout != RAGGED, "rows of a ragged site are not cut"
    itemsize = spec.row_bytes // units_of(spec)
    return [width * itemsize for width in tile_widths(units_of(spec), tile)]


def _tile_columns(spec: SiteSpec, tile: int, sizes: Sequence[int]) -> list[Column]:
    names = tile_names(VALUE, units_of(spec), tile)
    return [Column(name, FIXED, width=size) for name, size in zip(names, sizes, strict=True)]


def _index_column(name: str) -> Column:
    return Column(name, _PHYSICAL[INDEX_TYPES[name].itemsize])


def _value_column(spec: SiteSpec) -> Column:
    if spec.layout == RAGGED:
        return Column(VALUE, BYTE_ARRAY, encoding=DELTA_LENGTH)
    return Column(VALUE, FIXED, width=spec.row_bytes)


def _metadata(spec: SiteSpec, tile: int | None) -> dict[str, str]:
    return {
        "lazycache.version": "1",
        "lazycache.site": spec.name,
        "lazycache.table": spec.table,
        "lazycache.dtype": spec.dtype,
        "lazycache.shape": json.dumps(list(spec.shape)),
        "lazycache.layout": spec.layout if tile is None else layout_of(tile),
    }
