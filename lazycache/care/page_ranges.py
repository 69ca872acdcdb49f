"""Where the bytes of a chunk are that are written again, and how they are checked. Pure."""

from __future__ import annotations

from lazycache.catalog.placing import tile_bytes
from lazycache.codec.checksum import crc32
from lazycache.codec.page_checks import HEADER_ROOM, page_crc
from lazycache.codec.shard import INDEX_TYPES
from lazycache.errors import CorruptShardError
from lazycache.types import ChunkRef, SiteSpec, index_columns


def chunk_bytes(site: SiteSpec, chunk: ChunkRef) -> int:
    """Return the bytes of a chunk's values and index columns."""
    index = sum(INDEX_TYPES[name].itemsize for name in index_columns(site))
    units = chunk.rows if chunk.width is None else chunk.width
    return chunk.rows * index + units * site.row_bytes


def chunk_ranges(site: SiteSpec, chunk: ChunkRef, *, tile: int | None) -> list[tuple[int, int]]:
    """Return the byte ranges of a chunk: its index columns with their page headers, its values.

    Values that are in tiles have a range for each.
    """
    ranges = []
    for name, at in zip(index_columns(site), chunk.index_offsets, strict=True):
        size = chunk.rows * INDEX_TYPES[name].itemsize
        ranges.append((max(0, at - HEADER_ROOM), at + size))
    if tile is not None:
        sizes = tile_bytes(site, tile)
        places = zip(chunk.tile_offsets, sizes, strict=True)
        return [*ranges, *((at, at + chunk.rows * size) for at, size in places)]
    units = chunk.rows if chunk.width is None else chunk.width
    return [*ranges, (chunk.value_offset, chunk.value_offset + units * site.row_bytes)]


def check_index(piece: memoryview, *, size: int, where: str) -> None:
    """Compare an index column with the CRC in the header of its page, which lies before it.

    Raises:
        CorruptShardError: they differ, or there is no header.
    """
    values = piece[len(piece) - size :]
    if page_crc(piece[: len(piece) - size], size=size) != crc32(values):
        raise CorruptShardError(
            f"{where} is damaged: its checksum is wrong. Restore the file from a copy of the "
            "dataset. Nothing of it was replaced."
        )
