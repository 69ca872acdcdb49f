"""Errors of a query, told in our words: what was asked, what is there, what to do.

DuckDB turns an exception inside one of our functions into a text. The exception itself waits in
`ReadFailures` under a number that the text carries, and is raised again where the query was made.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

import duckdb

from lazycache.errors import QueryError, ReadOnlyError, nearest

KEPT = 256
"""Failures kept: threads of one query may fail together, and only one of them is asked for."""

_NUMBER = re.compile(r"lazycache read failure (\d+)\.")
_UNKNOWN_COLUMN = re.compile(
    r'(?:Referenced column|does not have a column named|Column with name) "([^"]+)"'
)
_UNKNOWN_QUALIFIER = re.compile(r'Referenced table "([^"]+)" not found')
_UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")
_UNKNOWN_FUNCTION = re.compile(r"Function with name (\S+) does not exist")
_LOCKED = ("has been locked", "disabled by configuration")
_READ_ONLY = ("read-only", "read only")


class ReadFailures:
    """Exceptions on their way through DuckDB. Shared by all threads of a connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._kept: OrderedDict[int, BaseException] = OrderedDict()

    @contextmanager
    def carried(self) -> Iterator[None]:
        """Run the body of an SQL function: what it raises is kept for `original`."""
        try:
            yield
        except BaseException as exc:  # any error, of DuckDB's own threads, is the caller's
            with self._lock:
                number = next(self._numbers)
                self._kept[number] = exc
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            raise RuntimeError(f"lazycache read failure {number}.") from exc

    def original(self, error: duckdb.Error) -> BaseException | None:
        """Return the exception that an error of DuckDB stands for, if it is one of ours."""
        found = _NUMBER.search(str(error))
        if found is None:
            return None
        with self._lock:
            return self._kept.pop(int(found[1]), None)


class Explainer:
    """Makes errors of our tree from DuckDB's, with the nearest names of this dataset."""

    def __init__(
        self, *, tables: Mapping[str, Sequence[str]], sites: Sequence[str], failures: ReadFailures
    ) -> None:
        self._tables = tables
        self._sites = sites
        self._failures = failures

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn any error of DuckDB inside the block into one of ours."""
        try:
            yield
        except duckdb.Error as exc:
            raise self.error(exc) from exc

    def error(self, exc: duckdb.Error) -> BaseException:
        """Return the error to raise instead of `exc`."""
        original = self._failures.original(exc)
        if original is not None:
            return original
        text = str(exc)
        if any(words in text for words in _READ_ONLY):
            return ReadOnlyError(f"SQL on a dataset only reads. {text}")
        if any(words in text for words in _LOCKED):
            return QueryError(
                f"SQL on a dataset sees the dataset only: no other files, no network and no "
                f"change of settings. {text}"
            )
        for pattern, advice in self._advice():
            found = pattern.search(text)
            if found is not None:
                return QueryError(f"{text}\n{advice(found[1])}")
        return QueryError(text)

    def _advice(self) -> tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]:
        return (
            (_UNKNOWN_COLUMN, self._about_column),
            (_UNKNOWN_QUALIFIER, self._about_qualifier),
            (_UNKNOWN_TABLE, self._about_table),
            (_UNKNOWN_FUNCTION, self._about_function),
        )

    def _about_column(self, name: str) -> str:
        columns = [column for table in self._tables.values() for column in table]
        return f"No column or site {name!r}. {nearest(name, columns)}"

    def _about_qualifier(self, name: str) -> str:
        dotted = [site for site in self._sites if site.startswith(f"{name}.")]
        if dotted:
            return (
                f"A site whose name has dots or colons is written in double quotes, for example "
                f'"{dotted[0]}". {nearest(name, dotted)}'
            )
        return f"No table {name!r}. {nearest(name, self._tables)}"

    def _about_table(self, name: str) -> str:
        return f"No table {name!r}. {nearest(name, self._tables, limit=10)}"

    def _about_function(self, name: str) -> str:
        return (
            f"No function {name!r}. Beside DuckDB's own functions there is unit(site, i): one "
            "0-based unit of a site."
        )
