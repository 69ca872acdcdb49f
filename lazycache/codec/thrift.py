"""The part of thrift's compact protocol that Parquet headers and footers are written in.

Values are built bottom up: each is its type code and its encoded bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

_I16, _I32, _I64, _BINARY, _LIST, _STRUCT = 4, 5, 6, 8, 9, 12
_SHORT = 15  # field deltas and list sizes below this share a byte with the type

_KEPT = 1024
"""Values that are remembered: a footer says the same few numbers and names for every column."""


class Value(NamedTuple):
    """One encoded value."""

    kind: int
    """Type code of the compact protocol."""
    data: bytes
    """The value without its type code."""


@lru_cache(_KEPT)
def i16(number: int) -> Value:
    """Encode a 16-bit integer."""
    return Value(_I16, zigzag(number))


@lru_cache(_KEPT)
def i32(number: int) -> Value:
    r"""Encode a 32-bit integer.

    Example:
        >>> i32(-1).data, i32(300).data
        (b'\x01', b'\xd8\x04')
    """
    return Value(_I32, zigzag(number))


@lru_cache(_KEPT)
def i64(number: int) -> Value:
    """Encode a 64-bit integer."""
    return Value(_I64, zigzag(number))


@lru_cache(_KEPT)
def text(string: str) -> Value:
    r"""Encode a string as UTF-8.

    Example:
        >>> text("hi").data
        b'\x02hi'
    """
    data = string.encode()
    return Value(_BINARY, varint(len(data)) + data)


def listing(values: Sequence[Value]) -> Value:
    r"""Encode a list of at least one value; all have the first one's type.

    Example:
        >>> listing([i32(1), i32(2)]).data
        b'%\x02\x04'
    """
    return _list(values[0].kind, values)


def structs(values: Sequence[Value]) -> Value:
    """Encode a list of structs, which may be empty."""
    return _list(_STRUCT, values)


def struct(fields: Mapping[int, Value]) -> Value:
    r"""Encode a struct from its fields by ascending field id.

    Example:
        >>> struct({1: i32(7), 20: i32(8)}).data
        b'\x15\x0e\x05(\x10\x00'
    """
    data = bytearray()
    last = 0
    for number, value in fields.items():
        delta = number - last
        assert delta > 0, "fields are given in ascending order"
        if delta <= _SHORT:
            data.append(delta << 4 | value.kind)
        else:
            data.append(value.kind)
            data += zigzag(number)
        data += value.data
        last = number
    data.append(0)
    return Value(_STRUCT, bytes(data))


def _list(kind: int, values: Sequence[Value]) -> Value:
    size = len(values)
    head = bytes([size << 4 | kind]) if size < _SHORT else bytes([0xF0 | kind]) + varint(size)
    return Value(_LIST, head + b"".join(value.data for value in values))


def zigzag(number: int) -> bytes:
    r"""Encode an integer so that small ones of either sign are short.

    Example:
        >>> zigzag(-1), zigzag(64)
        (b'\x01', b'\x80\x01')
    """
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def varint(number: int) -> bytes:
    r"""Encode an integer from 0, seven bits a byte (LEB128).

    Example:
        >>> varint(300)
        b'\xac\x02'
    """
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
