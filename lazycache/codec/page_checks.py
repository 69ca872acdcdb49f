"""The CRC that a Parquet page header says, found from where the page's values begin. Pure.

The log has the CRC of activations; of index columns only the header of their page has one.
"""

from __future__ import annotations

HEADER_ROOM = 128
"""Bytes before the values that surely hold the header of their page."""

_BEGINNING = b"\x15\x00\x15"  # field 1, an i32 of 0: a data page; then field 2
_INTEGERS, _STRUCT, _END = (4, 5, 6), 12, 0
_SIZES, _CRC = (2, 3), 4  # fields of a page header
_MOST_SHIFT = 63


def page_crc(before: bytes | memoryview, *, size: int) -> int | None:
    """Return the CRC-32 that a page's header says; None if there is no such header.

    Args:
        before: Bytes that end where the values of the page begin.
        size: Bytes of the page, which has nothing but its values.

    Example:
        >>> from lazycache.codec.pages import INT32, Column, PageFile, Payload
        >>> from zlib import crc32
        >>> file = bytearray()
        >>> pages = PageFile([Column("n", INT32)], {}, write=lambda b: file.extend(b"".join(b)))
        >>> (placed,) = pages.add_group([Payload([memoryview(b"abcdefgh")])], rows=2)
        >>> page_crc(file[: placed.offset], size=8) == placed.crc == crc32(b"abcdefgh")
        True
    """
    raw = bytes(before[-HEADER_ROOM:])
    at = raw.find(_BEGINNING)
    while at >= 0:
        found = _header(raw, at)
        if found is not None and all(found.get(field) == size for field in _SIZES):
            crc = found.get(_CRC)
            return None if crc is None else crc & 0xFFFFFFFF
        at = raw.find(_BEGINNING, at + 1)
    return None


def _header(raw: bytes, at: int) -> dict[int, int] | None:
    """Return the integers of a struct that begins at a byte and ends with the last one."""
    try:
        fields, end = _struct(raw, at, depth=0)
    except (IndexError, ValueError):  # it ends too late, or is of another kind
        return None
    return fields if end == len(raw) else None


def _struct(raw: bytes, at: int, *, depth: int) -> tuple[dict[int, int], int]:
    fields: dict[int, int] = {}
    number = 0
    while (head := raw[at]) != _END:
        number, kind, at = number + (head >> 4), head & 15, at + 1
        if kind in _INTEGERS:
            value, at = _varint(raw, at)
            fields[number] = (value >> 1) ^ -(value & 1)
        elif kind == _STRUCT and not depth:
            _, at = _struct(raw, at, depth=1)
        else:
            raise ValueError(kind)
    return fields, at + 1


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = raw[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - seven bits a byte, the eighth says that there are more
            return value, at
        shift += 7
        if shift > _MOST_SHIFT:
            raise ValueError(shift)
