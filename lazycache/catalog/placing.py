"""Whether a file that the log names can be what it says. Pure.

The log may come from anybody: everything a reader computes addresses from is checked here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from lazycache.errors import CorruptShardError
from lazycache.types import EXAMPLES, INDEX_COLUMNS, TOKENS, ShardRef, SiteSpec, TableFileRef

_INDEX_BYTES = {TOKENS: (8, 4), EXAMPLES: (8,)}
_ITEM_BYTES = (1, 2, 4, 8)
_MOST_ROWS = 1 << 62
assert all(len(_INDEX_BYTES[table]) == len(names) for table, names in INDEX_COLUMNS.items())


def check_site(site: SiteSpec) -> None:
    """Raise `CorruptShardError` unless the bytes of a row fit its shape."""
    items = prod(site.shape)
    if site.row_bytes not in [items * size for size in _ITEM_BYTES]:
        raise CorruptShardError(
            f"Site {site.name!r} of shape {site.shape} cannot have {site.row_bytes} bytes per row."
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
