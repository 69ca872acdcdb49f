"""Whether a file that the log names can be what it says. Pure.

The log may come from anybody: everything a reader computes addresses from is checked here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from lazycache.codec.dtypes import DTYPES
from lazycache.errors import CorruptShardError
from lazycache.types import INDEX_COLUMNS, ShardRef, SiteSpec, TableFileRef

_COLUMN_BYTES = {"example": 8, "position": 4, "call": 4, "width": 4}
_ITEM_BYTES = {dtype.name: dtype.itemsize for dtype in DTYPES}
_LAYOUTS = ("row",)
_MOST_DIMS = 32
_MOST_ROW_BYTES = 1 << 30
_MOST_ROWS = 1 << 62
_INDEX_BYTES = {
    table: tuple(_COLUMN_BYTES[name] for name in names) for table, names in INDEX_COLUMNS.items()
}


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
            f"layout {_LAYOUTS[0]!r} and up to {_MOST_DIMS} dimensions."
        )
    need = prod(site.shape) * size
    if site.row_bytes != need or not 0 < need <= _MOST_ROW_BYTES:
        raise CorruptShardError(
            f"Site {site.name!r} of {site.dtype} and shape {site.shape} cannot have "
            f"{site.row_bytes} bytes per row: {need} are needed, from 1 to {_MOST_ROW_BYTES:,} "
            "are possible."
        )


def check_shard(shard: ShardRef, site: SiteSpec) -> None:
    """Raise `CorruptShardError` unless every chunk lies inside the file."""
    length, row_bytes = shard.length, site.row_bytes
    widths = _INDEX_BYTES.get(site.table)
    for chunk in shard.chunks:
        rows, places = chunk.rows, chunk.index_offsets
        if chunk.value_offset + rows * row_bytes > length:
            raise CorruptShardError(
                f"{shard.path!r}: a chunk of {rows} rows of {row_bytes} bytes from byte "
                f"{chunk.value_offset} does not fit in its {length} bytes."
            )
        if widths is not None and not _inside(places, widths, rows, length):
            raise CorruptShardError(f"{shard.path!r}: an index column does not fit: {places}.")


def _inside(places: tuple[int, ...], widths: tuple[int, ...], rows: int, length: int) -> bool:
    if len(places) != len(widths):
        return False
    return all(place + rows * width <= length for place, width in zip(places, widths, strict=True))


def check_tiling(files: Sequence[TableFileRef], *, base: int) -> None:
    """Raise `CorruptShardError` unless files in order follow each other without a hole."""
    at = 0
    for file in files:
        if file.row_start != at:
            raise CorruptShardError(
                f"{file.path!r} starts at row {file.row_start} of its commit; {at} was expected."
            )
        at += file.rows
    if base + at > _MOST_ROWS:
        raise CorruptShardError(f"Table {files[0].table!r} would have {base + at} rows.")
