"""The footer of a Parquet file, read by ourselves. Pure.

Of a footer that lies, pyarrow ends the whole process when a column of it is looked at; so nothing
is handed to pyarrow whose footer was not read here first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazycache.codec.thrift_reader import read_struct
from lazycache.errors import CorruptShardError

MAGIC = b"PAR1"
"""What a Parquet file begins and ends with."""

TAIL_BYTES = 8
"""Behind the footer: its length, and the magic."""

MOST_BYTES = 256 << 20
"""Bytes of a footer."""

_GUESS = 64 << 10  # bytes that are read at once: most footers are shorter
_MOST = 1 << 62

Read = Callable[[int, int], bytes]
"""Returns a range of the bytes of a file."""


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """One column of one row group."""

    codec: int
    """How its pages are compressed; 0: not at all."""
    values: int
    """How many values it has, NULL too."""
    start: int
    """Byte offset of its first page, that of the dictionary if it has one."""
    data_start: int
    """Byte offset of its first data page."""
    size: int
    """Bytes of all of its pages."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group."""

    rows: int
    """How many rows."""
    columns: tuple[ColumnChunk, ...]
    """Its columns, in order."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What a footer says."""

    rows: int
    """Rows of the file."""
    columns: tuple[str, ...]
    """Names of the columns, in order; nested ones are refused."""
    groups: tuple[RowGroup, ...]
    """Its row groups."""
    metadata: Mapping[str, str]
    """Its key-value metadata."""


def footer_of(read: Read, length: int) -> Footer:
    """Return the footer of a file of `length` bytes. Reads once or twice from its end.

    Raises:
        CorruptShardError: there is none, or it says what cannot be.
    """
    guess = min(length, _GUESS)
    end = read(length - guess, length)
    if len(end) < TAIL_BYTES or end[-4:] != MAGIC:
        raise CorruptShardError("it does not end as a Parquet file does")
    size = int.from_bytes(end[-TAIL_BYTES:-4], "little")
    if not 0 < size <= min(length - TAIL_BYTES, MOST_BYTES):
        raise CorruptShardError(f"its footer has {size:,} bytes, the file {length:,}")
    if size + TAIL_BYTES > guess:
        end = read(length - size - TAIL_BYTES, length)
    return parse_footer(end[-size - TAIL_BYTES : -TAIL_BYTES])


def parse_footer(data: bytes) -> Footer:
    """Return what the bytes of a footer say.

    Raises:
        CorruptShardError: they are no footer, or say what cannot be.

    Example:
        >>> from lazycache.codec.pages import Column, INT32, PageFile, Payload
        >>> file = bytearray()
        >>> write = lambda buffers: file.extend(b"".join(buffers))
        >>> pages = PageFile([Column("n", INT32)], {"a": "b"}, write=write)
        >>> (placed,) = pages.add_group([Payload([memoryview(b"abcdefgh")])], rows=2)
        >>> pages.finish()
        >>> found = footer_of(lambda start, stop: bytes(file[start:stop]), len(file))
        >>> found.columns, found.rows, found.metadata["a"], found.groups[0].columns[0].values
        (('n',), 2, 'b', 2)
    """
    fields, _ = read_struct(data)
    root, *elements = [_struct(element) for element in _list(fields, 2)] or [{}]
    if any(element.get(5) for element in elements) or root.get(5) != len(elements):
        raise CorruptShardError("its columns are nested, which those of a dataset are not")
    columns = tuple([_text(element, 4) for element in elements])
    groups = tuple([_group(_struct(group), columns) for group in _list(fields, 4)])
    rows = _number(fields, 3)
    if sum(group.rows for group in groups) != rows:
        raise CorruptShardError("its row groups have more or fewer rows than it says")
    pairs = [_struct(pair) for pair in _list(fields, 5)] if 5 in fields else []  # noqa: PLR2004
    return Footer(
        rows=rows,
        columns=columns,
        groups=groups,
        metadata={_text(pair, 1): _text(pair, 2) for pair in pairs if 2 in pair},  # noqa: PLR2004
    )


def _group(group: Mapping[int, Any], columns: Sequence[str]) -> RowGroup:
    chunks, rows = _list(group, 1), _number(group, 3)
    if len(chunks) != len(columns):
        raise CorruptShardError(f"a row group has {len(chunks)} of {len(columns)} columns")
    pairs = zip(chunks, columns, strict=True)
    found = tuple([_chunk(_struct(chunk), name) for chunk, name in pairs])
    if any(chunk.values != rows for chunk in found):
        raise CorruptShardError(f"a row group of {rows:,} rows has columns of another length")
    return RowGroup(rows, found)


def _chunk(chunk: Mapping[int, Any], name: str) -> ColumnChunk:
    meta = _struct(chunk.get(3))
    if _list(meta, 3) != [name.encode()]:
        raise CorruptShardError(f"its footer has another column where {name!r:.60} must be")
    start = data = _number(meta, 9)
    if 11 in meta:  # noqa: PLR2004 - of the page of its dictionary
        start = min(data, _number(meta, 11) or data)
    return ColumnChunk(_number(meta, 4), _number(meta, 5), start, data, _number(meta, 7))


def _struct(value: Any) -> dict[int, Any]:
    if type(value) is not dict:
        raise CorruptShardError("a part of its footer is missing")
    return value


def _list(fields: Mapping[int, Any], number: int) -> list[Any]:
    value = fields.get(number)
    if type(value) is not list:
        raise CorruptShardError(f"its footer lacks the list {number}")
    return value


def _number(fields: Mapping[int, Any], number: int) -> int:
    value = fields.get(number)
    if type(value) is not int or not 0 <= value < _MOST:
        raise CorruptShardError(f"its footer has {value!r:.40} where a number from 0 must be")
    return value


def _text(fields: Mapping[int, Any], number: int) -> str:
    value = fields.get(number)
    if type(value) is not bytes:
        raise CorruptShardError("its footer has a name that is no text")
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise CorruptShardError(f"its footer has a name that is no text: {exc}") from exc
