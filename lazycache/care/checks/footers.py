"""Parquet footers beside the log: whether every Parquet reader sees the same rows as we do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lazycache.care.checks.page_check import BEGIN, header_range, is_header
from lazycache.codec.footer import MAGIC, Footer, RowGroup, footer_of
from lazycache.storage.store import Store


@dataclass(frozen=True, slots=True)
class Page:
    """Where the log says that the values of one page end."""

    column: int
    """Number of the column in the file."""
    start: int
    """Byte offset of its first value."""
    stop: int
    """The byte behind its last one."""


def read_footer(store: Store, path: str, length: int) -> Footer:
    """Return the footer of a Parquet file of `length` bytes.

    Cost: one or two small ranged reads.

    Raises:
        CorruptShardError: there is none, or it cannot be read.
        StorageError: the store failed.
    """

    def read(start: int, stop: int) -> bytes:
        (data,) = store.get_ranges(path, [(start, stop)])
        return data

    return footer_of(read, length)


def differences(
    footer: Footer,
    *,
    columns: Sequence[str],
    rows: Sequence[int],
    pages: Sequence[Sequence[Page]],
    metadata: dict[str, str],
) -> Iterator[str]:
    """Yield in what a footer differs from the log.

    Args:
        footer: The footer.
        columns: Names of the columns in file order.
        rows: Rows of each row group.
        pages: Of each row group: where pages end.
        metadata: What its key-value metadata must say.
    """
    if footer.columns != tuple(columns):
        yield f"its footer has the columns {footer.columns}, expected were {tuple(columns)}"
        return
    if len(footer.groups) != len(rows):
        yield f"its footer has {len(footer.groups)} row groups, the log {len(rows)} chunks"
        return
    said = footer.metadata
    for key, value in metadata.items():
        if _plain(said.get(key)) != _plain(value):
            yield f"its footer says {key} = {said.get(key)!r}, the log {value!r}"
    for number, expected in enumerate(rows):
        yield from _of_group(footer, number, expected, pages[number])


def _of_group(footer: Footer, number: int, rows: int, pages: Sequence[Page]) -> Iterator[str]:
    group = footer.groups[number]
    if group.rows != rows:
        yield f"row group {number} has {group.rows:,} rows in the footer, {rows:,} in the log"
    for page in pages:
        column = group.columns[page.column]
        stop = column.data_start + column.size
        if column.codec or stop != page.stop:
            yield (
                f"column {footer.columns[page.column]!r} of row group {number} ends at byte "
                f"{stop:,} in the footer, at {page.stop:,} in the log"
            )


def right_headers(
    store: Store, path: str, group: RowGroup, pages: Sequence[Page], crcs: Sequence[int]
) -> bool:
    """Whether pages of a row group have the headers of their values, and the file its beginning.

    Args:
        store: Where the file is.
        path: The file.
        group: The row group, as the footer has it and the log too.
        pages: Where its values are.
        crcs: Their checksums.

    Raises:
        CorruptShardError: there is no header at all.
        StorageError: the store failed.
    """
    ranges = [header_range(group.columns[page.column], page.start) for page in pages]
    known = [place for place in ranges if place is not None]
    begin, *headers = store.get_ranges(path, [BEGIN, *known])
    if bytes(begin) != MAGIC or len(known) < len(ranges):
        return False
    return all(
        is_header(bytes(raw), size=page.stop - page.start, crc=crc, rows=group.rows)
        for raw, page, crc in zip(headers, pages, crcs, strict=True)
    )


def _plain(value: str | None) -> object:
    """Return a value of the metadata, so that `[2,3]` is `[2, 3]`."""
    try:
        return json.loads(value) if value is not None else None
    except (ValueError, RecursionError):
        return value
