"""Positions and tokens of rows of a table: asked of the index a page at a time, and kept.

Rows that are found are mostly far from each other, and those found next are of the same pages
often: what is around a token is then there without a query.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from lazycache.cache.selecting.spans import Spans, of_ranges, of_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from lazycache.cache.tables.row_origins import Asked

PAGE_ROWS = 1 << 10
"""Rows that are kept together."""

KEPT_BYTES = 32 << 20
"""Memory for the pages of one table."""

MOST_PAGES = 256
"""Rows of more pages are asked for by themselves: of each page there would be few."""

SCANNED_ROWS = 1 << 18
"""Rows that DuckDB looks at, one after the other, in the time of one more query. Of a table of no
more, whoever asks a second time gets all pages at once: the third question then has no query."""


class Pages:
    """Some columns of one table, page by page, those used longest ago first to go. Thread-safe."""

    def __init__(self, sites: Asked, table: str, shown: Sequence[str]) -> None:
        self._table, self._shown = table, tuple(shown)
        self._rows = sites.snapshot.rows(table)
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._bytes = 0
        self._asks = 0
        self._all_fit = self._rows <= SCANNED_ROWS
        self._lock = threading.Lock()

    def columns(self, sites: Asked, rows: np.ndarray) -> dict[str, list[Any]]:
        """Return the columns of rows, int64[n], in their order; a row may be there several times.

        Cost: pages that are not kept are asked for, 1,024 rows each, in one query, the second time
        with all others of a table of up to 262,144 rows; of a table that is large beside them in
        one query for each run of them. DuckDB looks at no other rows then.

        Raises:
            StorageError: the dataset was closed.
        """
        import pyarrow as pa  # loaded when it is used: questions without contexts do without

        numbers, place = np.unique(rows // PAGE_ROWS, return_inverse=True)
        if len(numbers) > MOST_PAGES:
            wanted, place = np.unique(rows, return_inverse=True)
            return _lists(self._asked(sites, of_rows(wanted)).take(place))
        pages = self._pages(sites, numbers)
        # all but the last of a table have as many rows
        return _lists(pa.concat_tables(pages).take(place * PAGE_ROWS + rows % PAGE_ROWS))

    def _pages(self, sites: Asked, numbers: np.ndarray) -> list[pa.Table]:
        with self._lock:
            held = {n: self._kept[n] for n in numbers.tolist() if n in self._kept}
            for number in held:
                self._kept.move_to_end(number)
        lacking = np.array([n for n in numbers.tolist() if n not in held], dtype=np.int64)
        # who asks a dataset that was closed is told so by the query
        if len(lacking) or sites.closed:
            lacking = self._worth_asking(lacking)
            stops = np.minimum((lacking + 1) * PAGE_ROWS, self._rows)
            found = self._asked(sites, of_ranges(lacking * PAGE_ROWS, stops))
            begins = np.arange(len(lacking)) * PAGE_ROWS
            for number, begin in zip(lacking.tolist(), begins.tolist(), strict=True):
                # a copy: a slice would keep all that was read with it
                held[number] = found.take(np.arange(begin, min(begin + PAGE_ROWS, len(found))))
                self._keep(number, held[number])
        return [held[number] for number in numbers.tolist()]

    def _worth_asking(self, lacking: np.ndarray) -> np.ndarray:
        """Return the numbers of pages to ask for: those that lack, or all that do."""
        with self._lock:
            self._asks += 1
            if self._asks == 1 or not self._all_fit:
                return lacking
            there = np.arange(-(-self._rows // PAGE_ROWS), dtype=np.int64)
            # what lacks is asked for, whoever has kept it meanwhile
            return there[~np.isin(there, [*self._kept]) | np.isin(there, lacking)]

    def _keep(self, number: int, page: pa.Table) -> None:
        with self._lock:
            if number in self._kept:
                return
            self._kept[number] = page
            self._bytes += page.get_total_buffer_size()
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._all_fit = False  # to ask for all again would fetch what had to go
                self._bytes -= self._kept.popitem(last=False)[1].get_total_buffer_size()

    def _asked(self, sites: Asked, spans: Spans) -> pa.Table:
        """Return the columns of ranges of rows, ascending."""
        import pyarrow as pa

        answers = (_answer(sites, query, params) for query, params in self._queries(spans))
        # parts of it are taken out: of many pieces that takes longer than the query
        found = pa.Table.from_batches(list(chain.from_iterable(answers))).combine_chunks()
        rows = found.column(0).to_numpy()
        found = found.drop_columns("row")
        rising = bool((rows[1:] > rows[:-1]).all())
        return found if rising else found.take(np.argsort(rows))

    def _queries(self, spans: Spans) -> Iterator[tuple[str, list[Any]]]:
        """Yield what to ask for ranges of rows: each for itself, where the table has many more.

        The index tells where a range of ascending rows is; of a list it does not.
        """
        query = f"SELECT row, {', '.join(self._shown)} FROM {self._table} WHERE row "  # noqa: S608
        starts, stops = spans.starts.tolist(), spans.stops.tolist()
        if starts and self._rows > SCANNED_ROWS * len(starts):
            for start, stop in zip(starts, stops, strict=True):
                yield query + "BETWEEN ? AND ?", [start, stop - 1]
            return
        # ranges from a subquery: a list of a thousand numbers takes longer to plan than to answer
        among = "(SELECT unnest(?::BIGINT[]) AS low, unnest(?::BIGINT[]) AS high)"
        yield query + f"IN (SELECT unnest(range(low, high)) FROM {among})", [starts, stops]  # noqa: S608


_PAGES: WeakKeyDictionary[Asked, dict[tuple[str, ...], Pages]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def pages_of(sites: Asked, table: str, shown: Sequence[str]) -> Pages:
    """Return the pages of columns of a table; kept as long as the dataset is."""
    key = (table, *shown)
    with _LOCK:
        tables = _PAGES.setdefault(sites, {})
        if key not in tables:
            tables[key] = Pages(sites, table, shown)
        return tables[key]


def _answer(sites: Asked, query: str, params: list[Any]) -> list[pa.RecordBatch]:
    # not kept: it is read once
    with closing(sites.sql(query, params)) as result:
        return list(result.batches())


def _lists(found: pa.Table) -> dict[str, list[Any]]:
    return {name: found.column(name).to_pylist() for name in found.column_names}
