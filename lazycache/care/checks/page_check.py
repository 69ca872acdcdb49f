"""Pages of Parquet files that lazycache writes: their headers, which other readers go by. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lazycache.codec.checksum import crc32, crc32_combine
from lazycache.codec.footer import MAGIC, ColumnChunk, RowGroup
from lazycache.codec.pages import DELTA_LENGTH, PLAIN
from lazycache.codec.thrift_reader import read_struct

BEGIN = (0, len(MAGIC))
"""Where a file says what it is."""

_RLE = 3  # how levels are encoded, if there are any
_HEADER_BYTES = 256
_LENGTH_BYTES = 16  # of a row, before the values: how wide it is


def header_range(column: ColumnChunk, values: int) -> tuple[int, int] | None:
    """Return where the header of a page is, and all that lies before its values.

    None if there is more than any such page has: the footer is wrong about one of them.

    Args:
        column: What the footer says of the page.
        values: Byte offset of the first value, as the log says.
    """
    room = values - column.data_start
    known = 0 < room <= _HEADER_BYTES + _LENGTH_BYTES * column.values
    return (column.data_start, values) if known else None


def is_header(raw: bytes, *, size: int, crc: int, rows: int) -> bool:
    """Whether bytes are the header of a page, and what it has before `size` bytes of values.

    Args:
        raw: What lies before the values.
        size: Bytes of them.
        crc: CRC-32 of them.
        rows: How many rows they are of.

    Raises:
        CorruptShardError: they are no header at all.

    Example:
        >>> from lazycache.codec.pages import INT32, Column, PageFile, Payload
        >>> file = bytearray()
        >>> pages = PageFile([Column("n", INT32)], {}, write=lambda b: file.extend(b"".join(b)))
        >>> (placed,) = pages.add_group([Payload([memoryview(b"abcdefgh")])], rows=2)
        >>> header = bytes(file[file.index(0x15) : placed.offset])
        >>> is_header(header, size=8, crc=placed.crc, rows=2)
        True
        >>> is_header(header, size=8, crc=placed.crc, rows=3)
        False
    """
    fields, end = read_struct(raw)
    front = raw[end:]
    whole = crc32_combine(crc32(front), crc, size) if front else crc
    encoding = DELTA_LENGTH if front else PLAIN
    return _says(fields, size=len(front) + size, crc=whole, rows=rows, encoding=encoding)


def wrong_pages(group: RowGroup, raw: Sequence[bytes], names: Sequence[str]) -> Iterator[str]:
    """Yield which whole pages of a row group are not what their headers say.

    Raises:
        CorruptShardError: one has no header.
    """
    for name, page in zip(names, raw, strict=True):
        fields, end = read_struct(page)
        rest = page[end:]
        if not _says(fields, size=len(rest), crc=crc32(rest), rows=group.rows, encoding=PLAIN):
            yield f"the page of its column {name!r} does not have the checksum of its header"


def _says(fields: dict[int, Any], *, size: int, crc: int, rows: int, encoding: int) -> bool:
    said, page = fields.get(4), fields.get(5)
    return (
        (fields.get(1), fields.get(2), fields.get(3)) == (0, size, size)
        and type(said) is int
        and said & 0xFFFFFFFF == crc
        and type(page) is dict
        and (page.get(1), page.get(2)) == (rows, encoding)
        and (page.get(3), page.get(4)) == (_RLE, _RLE)
    )
