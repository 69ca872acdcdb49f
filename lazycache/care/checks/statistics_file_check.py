"""A statistics file as a Parquet file: whether other readers see what the log says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from lazycache.care.checks.footers import Page, differences, read_footer
from lazycache.care.checks.page_check import BEGIN, wrong_pages
from lazycache.codec.footer import MAGIC, Footer
from lazycache.codec.statistics import part_sizes
from lazycache.codec.statistics_file import BLOCK, COLUMNS_OF, TOP, ZONE
from lazycache.storage.store import Store
from lazycache.types import SiteSpec, StatsPart, StatsRef

_INDEX = ("kind", "row_start", "rows")
_COLUMNS = (*_INDEX, *COLUMNS_OF[BLOCK], *COLUMNS_OF[TOP])


def file_differences(store: Store, spec: SiteSpec, stats: StatsRef) -> Iterator[str]:
    """Yield in what a statistics file differs from the log, or pages from their headers.

    Cost: reads the file once, a row group at a time.

    Raises:
        CorruptShardError: it is no Parquet file.
        StorageError: the store failed.
    """
    footer, parts = read_footer(store, stats.path, stats.length), _parts(stats)
    found = list(
        differences(
            footer,
            columns=_COLUMNS,
            rows=[part.rows for _, part in parts],
            pages=[_pages(spec, kind, part) for kind, part in parts],
            metadata={
                "lazycache.statistics": spec.name,
                "lazycache.table": spec.table,
                "lazycache.dtype": spec.dtype,
                "lazycache.shape": json.dumps(list(spec.shape)),
            },
        )
    )
    yield from found
    if not found:
        yield from _wrong_pages(store, stats, footer)


def _parts(stats: StatsRef) -> list[tuple[str, StatsPart]]:
    """Return the parts in file order, each with its kind."""
    parts = [(ZONE, part) for part in stats.zones]
    parts += [(BLOCK, stats.blocks)] if stats.blocks is not None else []
    parts += [(TOP, stats.top)] if stats.top is not None else []
    return sorted(parts, key=lambda item: max(item[1].offsets))


def _pages(spec: SiteSpec, kind: str, part: StatsPart) -> list[Page]:
    names = COLUMNS_OF[kind]
    places = zip(names, part.offsets, part_sizes(spec, names), strict=True)
    return [
        Page(_COLUMNS.index(name), at, at + part.rows * size) for name, at, size in places if at
    ]


def _wrong_pages(store: Store, stats: StatsRef, footer: Footer) -> Iterator[str]:
    for group in footer.groups:
        ranges = [(c.data_start, c.data_start + c.size) for c in group.columns]
        if any(stop > stats.length for _, stop in ranges):
            yield "a page ends behind the end of the file"
            return
        begin, *pages = _read(store, stats.path, [BEGIN, *ranges])
        if begin != MAGIC:
            yield "it does not begin as a Parquet file does"
        yield from wrong_pages(group, pages, _COLUMNS)


def _read(store: Store, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    return [bytes(data) for data in store.get_ranges(path, ranges)]
