"""Whether a file that the log names can be what it says. Pure.

The log may come from anybody: everything a reader computes addresses from is checked here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from lazycache.codec.dtypes import DTYPES
from lazycache.codec.tiles import MOST_TILES, tile_widths
from lazycache.errors import CorruptShardError
from lazycache.types import (
    INDEX_COLUMNS,
    RAGGED,
    ArrayRef,
    ChunkRef,
    ShardRef,
    SiteSpec,
    TableFileRef,
    index_columns,
)

_COLUMN_BYTES = {"example": 8, "position": 4, "call": 4, "width": 4}
_ITEM_BYTES = {dtype.name: dtype.itemsize for dtype in DTYPES}
_LAYOUTS = {"row": 0, RAGGED: 1}  # and how many dimensions of -1 they have
_MOST_ARRAY_BYTES = (1 << 31) - 1  # one page, which says its size in 32 bits
_MOST_DIMS = 32
_MOST_ROW_BYTES = 1 << 30
MOST_ROWS = 1 << 62
"""Rows of a table."""


def check_site(site: SiteSpec) -> None:
    """Raise `CorruptShardError` unless a row has the bytes of its shape and dtype, 1 GiB at most.

    Addresses in a shard are multiples of `row_bytes`, sizes in memory of shape and dtype: where the
    two differ, a read would leave its file.
    """
    size = _ITEM_BYTES.get(site.dtype)
    if size is None or site.layout not in _LAYOUTS or len(site.shape) > _MOST_DIMS:
        raise CorruptShardError(
            f"Site {site.name!r} has the dtype {site.dtype!r}, the layout {site.layout!r} and "
            f"{len(site.shape)} dimensions. Known are the dtypes {', '.join(_ITEM_BYTES)}, the "
            f"layouts {', '.join(_LAYOUTS)} and up to {_MOST_DIMS} dimensions."
        )
    if site.shape.count(-1) != _LAYOUTS[site.layout] or site.table not in INDEX_COLUMNS:
        raise CorruptShardError(
            f"Site {site.name!r} of layout {site.layout!r} cannot have the shape {site.shape} in "
            f"table {site.table!r}: a ragged site has one dimension of -1, others have none, and "
            f"there are the tables {', '.join(INDEX_COLUMNS)}."
        )
    need = prod(dim for dim in site.shape if dim != -1) * size
    if site.row_bytes != need or not 0 < need <= _MOST_ROW_BYTES:
        raise CorruptShardError(
            f"Site {site.name!r} of {site.dtype} and shape {site.shape} cannot have "
            f"{site.row_bytes} bytes per row: {need} are needed, from 1 to {_MOST_ROW_BYTES:,} "
            "are possible."
        )


def tile_bytes(site: SiteSpec, tile: int) -> Sequence[int]:
    """Return the bytes of a row in each tile.

    Raises:
        CorruptShardError: rows of the site cannot be cut so.
    """
    size = _ITEM_BYTES[site.dtype]
    units, cut = site.row_bytes // size, f"Site {site.name!r} cannot be in tiles of {tile} units"
    if site.layout == RAGGED:
        raise CorruptShardError(f"{cut}: it is ragged.")
    if not 0 < tile < units or -(-units // tile) > MOST_TILES:
        raise CorruptShardError(
            f"{cut}: a row of {units} can be cut into 2 to {MOST_TILES} of at least one unit."
        )
    return [width * size for width in tile_widths(units, tile)]


def check_shard(shard: ShardRef, site: SiteSpec) -> None:
    """Raise `CorruptShardError` unless every chunk lies inside the file.

    A chunk of a ragged site says its width, any other chunk does not. A chunk of a tiled shard has
    all of its tiles, one behind the other.
    """
    length, row_bytes, ragged = shard.length, site.row_bytes, site.layout == RAGGED
    columns = [_COLUMN_BYTES[name] for name in index_columns(site)]
    for chunk in shard.chunks:
        width = chunk.width
        if (width is not None) != ragged:
            has = "no width" if ragged else f"the width {width}"
            raise CorruptShardError(
                f"{shard.path!r}: a chunk has {has}, but site {site.name!r} is of layout "
                f"{site.layout!r}."
            )
        _check_tiles(shard, chunk, site)
        units = chunk.rows if width is None else width
        if chunk.value_offset + units * row_bytes > length:
            raise CorruptShardError(
                f"{shard.path!r}: a chunk of {units} times {row_bytes} bytes from byte "
                f"{chunk.value_offset} does not fit in its {length} bytes."
            )
        if not _inside(chunk, columns, length):
            raise CorruptShardError(
                f"{shard.path!r}: an index column does not fit: {chunk.index_offsets}."
            )


def _check_tiles(shard: ShardRef, chunk: ChunkRef, site: SiteSpec) -> None:
    """Raise `CorruptShardError` unless tiles are as many as rows give, in order and in the file."""
    sizes = () if shard.tile is None else tile_bytes(site, shard.tile)
    places, crcs = chunk.tile_offsets, chunk.tile_crcs
    if not (len(places) == len(crcs) == len(sizes)):
        raise CorruptShardError(
            f"{shard.path!r}: a chunk has {len(places)} tiles and {len(crcs)} of their checksums; "
            f"site {site.name!r} in tiles of {shard.tile} units has {len(sizes)}."
        )
    at = chunk.value_offset
    for place, crc, size in zip(places, crcs, sizes, strict=True):
        if place % 64 or place < at or crc >> 32:
            raise CorruptShardError(f"{shard.path!r}: a tile from byte {place} cannot be.")
        at = place + chunk.rows * size
    if at > shard.length or (places and places[0] != chunk.value_offset):
        raise CorruptShardError(
            f"{shard.path!r}: tiles from byte {chunk.value_offset} to {at} are not where the chunk "
            f"of its {shard.length} bytes is."
        )


def _inside(chunk: ChunkRef, columns: Sequence[int], length: int) -> bool:
    places, rows = chunk.index_offsets, chunk.rows
    if len(places) != len(columns):
        return False
    return all(place + rows * size <= length for place, size in zip(places, columns, strict=True))


def check_array(array: ArrayRef) -> None:
    """Raise `CorruptShardError` unless the values have the bytes of a tensor inside the file."""
    size = _ITEM_BYTES.get(array.dtype)
    if size is None or not 0 < len(array.shape) <= _MOST_DIMS:
        raise CorruptShardError(
            f"Array {array.name!r} has the dtype {array.dtype!r} and {len(array.shape)} "
            f"dimensions. Known are the dtypes {', '.join(_ITEM_BYTES)} and 1 to {_MOST_DIMS} "
            "dimensions."
        )
    nbytes = prod(array.shape) * size
    room = min(array.length - array.value_offset, _MOST_ARRAY_BYTES)
    if array.value_offset % 64 or not 0 < nbytes <= room:
        raise CorruptShardError(
            f"{array.path!r}: an array of {array.dtype} and shape {array.shape} from byte "
            f"{array.value_offset} does not fit in its {array.length} bytes, or has more than "
            f"{_MOST_ARRAY_BYTES:,}."
        )
    if array.value_crc >> 32:
        raise CorruptShardError(f"{array.path!r}: {array.value_crc} is no CRC-32.")


def check_tiling(files: Sequence[TableFileRef], *, base: int) -> None:
    """Raise `CorruptShardError` unless files in order follow each other without a hole."""
    at = 0
    for file in files:
        if file.row_start != at:
            raise CorruptShardError(
                f"{file.path!r} starts at row {file.row_start} of its commit; {at} was expected."
            )
        at += file.rows
    if base + at > MOST_ROWS:
        raise CorruptShardError(f"Table {files[0].table!r} would have {base + at} rows.")
