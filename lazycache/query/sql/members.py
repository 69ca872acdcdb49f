"""The datasets of a connection, and the names that tell them apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import duckdb

from lazycache.cache.reading.row_reader import RowReader
from lazycache.catalog.index_rows import BASE_COLUMNS
from lazycache.errors import QueryError

if TYPE_CHECKING:
    from lazycache.cache.aggregates.statistics import Statistics
    from lazycache.catalog.index import IndexFile

Kept = Mapping[str, tuple[Any, Any]]
"""Table to first rows and stops (int64[n], ascending) of the ranges of rows that can be asked."""

StatisticsOf = Callable[[str], "Statistics | None"]
"""Gives the statistics of a site over the rows that can be asked; None: there are no rows."""

ONLY = ""
"""The name of a dataset that is the only one: its tables are `tokens`, not `base.tokens`."""

CATALOG = ("sites", "shards", "chunks", "commits", "runs")
"""Tables that describe a dataset."""

STATISTICS = "statistics"
"""The table of the numbers of each unit."""

RESERVED = frozenset(
    {
        *("main", "temp", "memory", "system", "information_schema", "pg_catalog"),
        *(STATISTICS, *CATALOG, *BASE_COLUMNS),
    }
)
"""Names that mean something else where a dataset's stands; those of `lazycache_...` too."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Member:
    """One dataset of a connection."""

    index: IndexFile
    """Its tables."""
    reader: RowReader
    """Reads values of its sites; `covered` says which rows have one."""
    kept: Kept = field(default_factory=dict)
    """Rows that can be asked, of the tables that are restricted."""
    statistics: StatisticsOf | None = None
    """What its table `statistics` shows; None: it has no such table."""

    def rebuilt(self) -> Member:
        """Return the same over an index that was made anew."""
        return replace(self, index=self.index.rebuilt())


def qualified(dataset: str, table: str) -> str:
    """Return how a table of a dataset is written in SQL.

    Example:
        >>> qualified("base", "tokens"), qualified(ONLY, "tokens")
        ('base.tokens', 'tokens')
    """
    return f"{dataset}.{table}" if dataset else table


def check_names(names: Collection[object]) -> None:
    """Refuse names that cannot stand before a table: `base` can, in `base.tokens`.

    Raises:
        QueryError: no identifier of SQL, a word that means something else there, two that differ
            in case only, or none at all.

    Example:
        >>> check_names(["base", "tuned"])
    """
    if not names:
        raise QueryError('There is no dataset to connect to: {"base": url1, "tuned": url2}.')
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not _may_qualify(name):
            raise QueryError(
                f"{name!r} cannot stand before a table: a dataset's name is letters, digits and "
                "underscores and no word of SQL or table of ours, such as base in base.tokens."
            )
        if name.lower() in seen:
            raise QueryError(
                f"{seen[name.lower()]!r} and {name!r} are one name to SQL, which does not see case."
            )
        seen[name.lower()] = name


def _may_qualify(name: str) -> bool:
    if name.lower() in RESERVED or name.lower().startswith("lazycache"):
        return False
    try:  # DuckDB's own parser knows its reserved words; nothing is run
        duckdb.extract_statements(f"SELECT {name}.tokens.row FROM {name}.tokens")  # noqa: S608
    except duckdb.Error:
        return False
    return True
