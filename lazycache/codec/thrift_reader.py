"""Structs of thrift's compact protocol, read: footers of Parquet and headers of pages. Pure.

Trusts nothing: lengths are compared with the bytes that are there, and depth is bounded.
"""

from __future__ import annotations

from typing import Any

from lazycache.errors import CorruptShardError

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE = 0, 1, 2, 3, 7
_INTEGERS = (4, 5, 6)
_BINARY, _LISTS, _STRUCT = 8, (9, 10), 12
_MOST_DEPTH = 16  # a footer has five
_MOST_BITS = 70  # of an integer, seven in each byte
_LONG = 15  # list sizes from here on follow in bytes of their own
_DOUBLE_BYTES = 8


def read_struct(data: bytes) -> tuple[dict[int, Any], int]:
    r"""Return the fields of a struct by their numbers, and the byte behind its end.

    Values are ints, bools, bytes, lists, and dicts for structs; of a double its bytes.

    Raises:
        CorruptShardError: the bytes are no struct, or end within it.

    Example:
        >>> from lazycache.codec.thrift import i32, struct, text
        >>> read_struct(struct({1: i32(7), 4: text("x"), 20: i32(-8)}).data + b"rest")
        ({1: 7, 4: b'x', 20: -8}, 9)
    """
    reader = _Reader(data)
    try:
        return reader.struct(0), reader.at
    except IndexError:
        raise CorruptShardError("a header of Parquet has no end") from None


class _Reader:
    """A place in some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MOST_DEPTH:
            raise CorruptShardError("a header of Parquet is nested too deeply")
        found: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            # a bool is in its type here, and a byte of its own in a list
            found[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in _LISTS:
            return self._list(depth + 1)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._take(_DOUBLE_BYTES)
        raise CorruptShardError(f"a header of Parquet has a field of unknown type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        size = self._varint() if size == _LONG else size
        if size > len(self._data) - self.at or depth > _MOST_DEPTH:  # an item has a byte at least
            raise CorruptShardError("a header of Parquet has a list without end")
        return [self._value(kind, depth) for _ in range(size)]

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self.at:
            raise IndexError
        self.at += count
        return self._data[self.at - count : self.at]

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _zigzag(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, _MOST_BITS, 7):
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - the last one of the integer
                return number
        raise CorruptShardError("a header of Parquet has a number without end")
