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
from copy import copy
from itertools import count

import duckdb
import pyarrow as pa

from lazycache.cache.names.head_names import parse
from lazycache.catalog.index_fill import quoted
from lazycache.errors import LazycacheError, QueryError, ReadOnlyError, nearest
from lazycache.types import SiteSpec

KEPT = 256
"""Failures kept: threads of one query may fail together, and only one of them is asked for."""

_SHOWN = 500  # characters of a query in a message
_NUMBER = re.compile(r"lazycache read failure (\d+)\.")
_UNKNOWN_COLUMN = re.compile(
    r'(?:Referenced column|does not have a column named|Column with name) "([^"]+)"'
)
_UNKNOWN_QUALIFIER = re.compile(r'Referenced table "([^"]+)" not found')
_UNKNOWN_TABLE = re.compile(r"Table with name (\S+) does not exist")
_UNKNOWN_FUNCTION = re.compile(r"Function with name (\S+) does not exist")
_NO_INDEX = re.compile(r"Macro (?:unit|head)\(\)|'(?:array_extract|len)\(")
_NO_VECTOR = re.compile(r"Macro (dot|norm|cosine)\(\)")
_UNIT_OF = re.compile(
    r'\b(?:unit|head)\s*\(\s*(?:[\w.]+\.)?("(?:[^"]|"")+"|\w+)\s*[,)]', re.IGNORECASE
)
# tables behind the views, and functions behind the columns
_INTERNAL = re.compile(r'\nDid you mean "[^"\n]*(lazycache[_:]|\b(site|unit|head|measure):).*')
_FUNCTIONS = {
    "unit": "unit(site, i): one 0-based unit of a site",
    "head": "head(site, h): one 0-based entry of its first dimension",
    "dot": "dot(site, vector)",
    "norm": "norm(site)",
    "cosine": "cosine(site, vector)",
}
_OUTER_JOIN = re.compile(r"Cannot cast list with length (\d+) to array")
_POSITION = re.compile(r"\n+LINE \d+: .*", re.DOTALL)
_DAMAGE = re.compile(r"Corrupt database file|checksum|has been invalidated", re.IGNORECASE)
_LOCKED = ("has been locked", "disabled by configuration")
_READ_ONLY = ("read-only", "read only")


class DamagedIndexError(QueryError):
    """The index file is not what was written: it is made anew, and the query runs again."""


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

    def original(self, error: Exception) -> BaseException | None:
        """Return the exception that an error of DuckDB stands for, if it is one of ours."""
        found = _NUMBER.search(str(error))
        if found is None:
            return None
        with self._lock:
            return self._kept.pop(int(found[1]), None)


class Explainer:
    """Makes errors of our tree from DuckDB's, with the nearest names of this dataset."""

    def __init__(
        self,
        *,
        tables: Mapping[str, Sequence[str]],
        sites: Mapping[str, SiteSpec],
        failures: ReadFailures,
    ) -> None:
        self._tables = tables
        self._sites = sites
        self._failures = failures

    def beside(self, tables: Mapping[str, Sequence[str]]) -> Explainer:
        """Return one that knows other tables too: the user's own."""
        found = copy(self)
        found._tables = {**self._tables, **tables}  # noqa: SLF001  # a copy of our own
        return found

    @contextmanager
    def explained(self, query: str, *, rewritten: bool) -> Iterator[None]:
        """Turn any error of DuckDB inside the block, while it runs a query, into one of ours."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as exc:
            if isinstance(exc, LazycacheError):
                raise
            raise self.error(exc, query, rewritten=rewritten) from exc

    def error(self, exc: Exception, query: str, *, rewritten: bool) -> BaseException:
        """Return the error to raise instead of `exc`."""
        original = self._failures.original(exc)
        if original is not None:
            return original
        text = str(exc)
        if _is_damage(exc, text):
            return DamagedIndexError(f"The index of the dataset is damaged: ask again. {text}")
        if rewritten:  # what DuckDB points at is no text of the user's
            text = _POSITION.sub(f"\n\nIn: {query.strip()[:_SHOWN]}", text)
        if any(words in text for words in _READ_ONLY):
            return ReadOnlyError(f"SQL on a dataset only reads. {text}")
        return QueryError(self._message(text, query))

    def _message(self, text: str, query: str) -> str:
        """Return DuckDB's message with what may help, or what helps instead of it."""
        if any(words in text for words in _LOCKED):
            return (
                f"SQL on a dataset sees the dataset only: no other files, no network and no "
                f"change of settings. {text}"
            )
        if _NO_INDEX.search(text) and (advice := self._about_units(query)):
            return advice
        text = _INTERNAL.sub("", text)
        for pattern, advise in self._advice():
            found = pattern.search(text)
            if found is not None:
                return f"{text}\n{advise(found[1])}"
        return text

    def _advice(self) -> tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]:
        return (
            (_UNKNOWN_COLUMN, self._about_column),
            (_UNKNOWN_QUALIFIER, self._about_qualifier),
            (_UNKNOWN_TABLE, self._about_table),
            (_UNKNOWN_FUNCTION, self._about_function),
            (_NO_VECTOR, self._about_vector),
            (_OUTER_JOIN, _about_outer_join),
        )

    def _about_column(self, name: str) -> str:
        head = parse(name)
        if head is not None and head.head is not None and head.site in self._sites:
            return (
                f'A head has no column of its own: cache["{name}"] reads it; in SQL it is '
                f"head({_shown(head.site)}, h), with the head as it was stored."
            )
        where = [table for table, there in self._tables.items() if name in there]
        if where:
            return f"{name!r} is a column of {', '.join(where)}: ask there, or join the tables."
        columns = [column for table in self._tables.values() for column in table]
        return f"No column or site {name!r}. {nearest(name, columns)}"

    def _about_units(self, query: str) -> str:
        """Say what `unit` takes for the sites that a query asks it of."""
        lowered = {name.lower(): name for name in self._sites}
        asked = (found.strip('"').replace('""', '"') for found in _UNIT_OF.findall(query))
        names = [lowered[name.lower()] for name in dict.fromkeys(asked) if name.lower() in lowered]
        return " ".join(_about_unit(name, self._sites[name]) for name in names)

    def _about_qualifier(self, name: str) -> str:
        dotted = [site for site in self._sites if site.startswith(f"{name}.")]
        if dotted:
            return (
                f"A site whose name has dots or colons is written in double quotes, for example "
                f'"{dotted[0]}". {nearest(name, dotted)}'
            )
        if any(table.lower().startswith(f"{name.lower()}.") for table in self._tables):
            return (
                f"{name} is a dataset: a column is {name}.tokens.column, or t.column where the "
                f"table has an alias, FROM {name}.tokens t."
            )
        return f"No table {name!r}. {nearest(name, self._tables)}"

    def _about_table(self, name: str) -> str:
        name = name.strip('"')
        several = [table for table in self._tables if table.endswith(f".{name.lower()}")]
        if several:
            return f"Each dataset has its own: say which one, {' or '.join(several)}."
        return f"No table {name!r}. {nearest(name, self._tables, limit=10)}"

    def _about_function(self, name: str) -> str:
        return (
            f"No function {name!r}. {nearest(name, _FUNCTIONS)} Beside DuckDB's own functions "
            f"there are {', '.join(_FUNCTIONS.values())}."
        )

    def _about_vector(self, name: str) -> str:
        return f"{name} is {_FUNCTIONS[name]}."


def _about_outer_join(_size: str) -> str:
    return (
        "Unless a list of this length was cast: DuckDB 2.0 fails so on vectors of rows that have "
        "no partner in an outer join. Name the site in the SELECT of the join, t.site instead of "
        "*, or pass on t.row beside it; of a table of yours make its column a list, x::FLOAT[]."
    )


def _about_unit(name: str, spec: SiteSpec) -> str:
    count = len(spec.shape)
    integers = "1 integer" if count == 1 else f"{count} integers"
    places = ", ".join("ijk"[n] if n < 3 else f"i{n}" for n in range(count))  # noqa: PLR2004
    if not count:
        return f"{name} is one number per row: write {_shown(name)} without unit."
    head = f", or a head: head({_shown(name)}, i)" if count > 1 else ""
    return (
        f"unit takes {integers} for {name}, whose shape is {list(spec.shape)}: "
        f"unit({_shown(name)}, {places}){head}. Round a fraction with CAST(... AS BIGINT)."
    )


def _shown(name: str) -> str:
    """Return a name as SQL takes it: in quotes only where it needs them."""
    return name if name.isidentifier() else quoted(name)


def _is_damage(exc: Exception, text: str) -> bool:
    """Say whether an error is that of a file of DuckDB's whose bytes have changed."""
    if isinstance(exc, duckdb.FatalException):  # this DuckDB answers nothing any more
        return True
    kinds = duckdb.IOException | duckdb.SerializationException | pa.ArrowException | OSError
    # a block with a wrong checksum is an error of no kind
    possible = isinstance(exc, kinds) or type(exc) is duckdb.Error
    return possible and _DAMAGE.search(text) is not None
