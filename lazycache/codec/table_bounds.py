"""How much memory the rows of a table file would take, told before they are decoded.

Parquet multiplies: a page of a few bytes may say that it has gigabytes, a dictionary gives one long
text to millions of rows. What is larger than any table is refused here, from the headers of the
pages; texts are added up by their numbers in the dictionary, so none is ever repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lazycache.codec.columns import ARROW_TYPES
from lazycache.codec.footer import ColumnChunk, Footer, Read, RowGroup, footer_of
from lazycache.codec.thrift_reader import read_struct
from lazycache.errors import CorruptShardError

SMALL = 256 << 20
"""Bytes that the rows of any table file may take."""

_RATIO = 200  # and otherwise so many times its length: repeated columns become very small
_BATCH_ROWS = 65_536
_HEADER_BYTES = 512  # of a page; ours have about 60, minima and maxima of long texts some more
_LONG_HEADER = 1 << 20
_SIZES = (2, 3)  # fields of a page header: bytes decompressed, and as they lie in the file
_WIDTHS: Mapping[pa.DataType, int] = {
    pa.bool_(): 1,
    pa.int32(): 4,
    pa.int64(): 8,
    pa.float64(): 8,
    pa.string(): 4,
    pa.binary(): 4,
}
_TEXTS = (pa.string(), pa.binary())

Open = Callable[..., pq.ParquetFile]
"""Opens the file, with arguments of `ParquetFile`."""


def check_bounds(*, opened: Open, read: Read, length: int) -> None:
    """Raise unless the rows of a table file take a bounded amount of memory.

    At most 256 MiB, or 200 times the bytes of the file if that is more.

    Args:
        opened: Opens the file.
        read: Reads its bytes; what lies behind its end is left out.
        length: How many it has.

    Raises:
        CorruptShardError: it would take more, or has columns that no table has.
        ArrowException, OSError, ValueError: it cannot be read.

    Cost: looks at the header of every page; decodes the dictionary of columns of texts, and the
    rows of one only where a long text may be repeated too often.
    """
    footer = footer_of(read, length)  # before pyarrow sees it
    most = max(SMALL, _RATIO * length)
    size = sum(_unpacked(group, read, length) for group in footer.groups)
    _check(size, most)
    with opened() as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
    odd = next((name for name, kind in kinds.items() if kind not in _WIDTHS), None)
    if odd is not None or tuple(kinds) != footer.columns:
        raise CorruptShardError(
            f"column {odd!r} is of a type that no table has. There are: {', '.join(ARROW_TYPES)}"
        )
    size += footer.rows * sum(_WIDTHS[kind] for kind in kinds.values())
    _check(size, most)
    texts = [name for name, kind in kinds.items() if kind in _TEXTS]
    if texts and footer.rows:
        with opened(read_dictionary=texts) as numbered:
            for name in texts:
                size += _of_texts(numbered, name, footer, room=most - size)
                _check(size, most)


def _check(size: int, most: int) -> None:
    if size > most:
        raise CorruptShardError(f"its rows would take {size:,} bytes of memory; {most:,} may be")


def _unpacked(group: RowGroup, read: Read, length: int) -> int:
    """Return the bytes of all pages of a row group, decompressed."""
    return sum(size for column in group.columns for size in _page_sizes(column, read, length))


def _page_sizes(column: ColumnChunk, read: Read, length: int) -> Iterator[int]:
    start, stop = column.start, column.start + column.size
    if stop > length:
        raise CorruptShardError(f"a column ends at byte {stop:,}, the file has {length:,}")
    while start < stop:
        header, end = _header(read, start)
        unpacked, packed = (header.get(field) for field in _SIZES)
        if type(unpacked) is not int or type(packed) is not int or min(unpacked, packed) < 0:
            raise CorruptShardError(f"the page at byte {start:,} does not say its size")
        yield unpacked
        start += end + packed


def _header(read: Read, start: int) -> tuple[dict[int, Any], int]:
    """Return the header of a page: of most, the first few bytes are enough."""
    try:
        return read_struct(read(start, start + _HEADER_BYTES))
    except CorruptShardError:
        return read_struct(read(start, start + _LONG_HEADER))


def _of_texts(file: pq.ParquetFile, name: str, footer: Footer, *, room: int) -> int:
    """Return how many bytes the texts of a column take, at most."""
    longest, rows = 0, footer.rows
    for group in range(len(footer.groups)):
        for batch in file.iter_batches(1, row_groups=[group], columns=[name]):
            longest = max(longest, _longest(batch.column(0)))
            break
    if rows * longest <= room:
        return rows * longest
    total = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=[name]):
        total += _bytes_of(batch.column(0))
        if total > room:
            break
    return total


def _longest(numbers: pa.DictionaryArray) -> int:
    return pc.max(pc.binary_length(numbers.dictionary)).as_py() or 0


def _bytes_of(numbers: pa.DictionaryArray) -> int:
    """Return the bytes of texts that are given by their numbers, without repeating one."""
    lengths = pc.take(pc.binary_length(numbers.dictionary), numbers.indices)
    return pc.sum(lengths.cast(pa.int64())).as_py() or 0
