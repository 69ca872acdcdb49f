"""The tables of one dataset inside a DuckDB: views with one lazy column per site.

Nothing is read from a shard until a query needs a value of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from lazycache.catalog.computed import computed_sites
from lazycache.catalog.index_fill import quoted
from lazycache.catalog.index_rows import BASE_COLUMNS
from lazycache.query.sql import statistics_table
from lazycache.query.sql.lazy_column import LazyColumn
from lazycache.query.sql.lazy_columns import register
from lazycache.query.sql.members import CATALOG, ONLY, STATISTICS, Kept, Member, qualified
from lazycache.query.sql.names import ColumnNames, column_names
from lazycache.types import EXAMPLES, TOKENS

if TYPE_CHECKING:
    import duckdb

    from lazycache.query.sql.activity import Activity
    from lazycache.query.sql.failures import ReadFailures

INDEX = "lazycache_index"
"""Name under which the index of a dataset is attached, before its own."""

KEPT = "lazycache_kept"
"""Name under which the rows of a restricted cache are attached: a table `row` for each table."""

ALWAYS = (TOKENS, EXAMPLES)
"""Tables of rows that can be asked of any dataset; others only where they are used."""


@dataclass(frozen=True, slots=True)
class Views:
    """What was made of one dataset."""

    rows: Mapping[str, Sequence[str]]
    """Its tables of rows, as they are written in SQL, with their columns."""
    catalog: Mapping[str, Sequence[str]]
    """Its other tables."""
    lazy: Mapping[tuple[str, str], LazyColumn]
    """By table and column in lower case, the columns that are read from shards."""
    read_only: bool
    """Whether nothing that was attached for it could be written to."""


def create(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    member: Member,
    *,
    failures: ReadFailures,
    activity: Activity,
) -> Views:
    """Create the tables of a dataset; of one of several in a schema of its name.

    Raises:
        CorruptShardError: a table file is damaged.
        StorageError: the store failed.
    """
    made = _Making(connection, dataset, member, failures, activity)
    member.index.attach(connection, name=made.index)
    if dataset != ONLY:
        connection.execute(f"CREATE SCHEMA {dataset}")
    made.attach_kept()
    catalog = [*made.catalog(), *made.statistics()]
    lazy = made.rows()
    return Views(
        rows={table: made.columns(table) for table in made.tables},
        catalog={table: made.columns(table) for table in catalog},
        lazy=lazy,
        # tables of kept rows are in memory, and must not be written to either
        read_only=made.is_read_only() and not member.kept,
    )


@dataclass(frozen=True, slots=True)
class _Making:
    connection: duckdb.DuckDBPyConnection
    dataset: str
    member: Member
    failures: ReadFailures
    activity: Activity

    @property
    def index(self) -> str:
        """Name of its attached index."""
        return f"{INDEX}_{self.dataset}" if self.dataset else INDEX

    @property
    def kept(self) -> str:
        """Name of the attached tables of its rows."""
        return f"{KEPT}_{self.dataset}" if self.dataset else KEPT

    @property
    def tables(self) -> list[str]:
        """Its tables of rows, as they are written in SQL."""
        return [qualified(self.dataset, table) for table in self._used()]

    def _used(self) -> list[str]:
        used = set(self.member.index.snapshot.tables).union(ALWAYS)
        return [table for table in BASE_COLUMNS if table in used]

    def is_read_only(self) -> bool:
        query = "SELECT readonly FROM duckdb_databases() WHERE lower(database_name) = lower(?)"
        return self.connection.execute(query, [self.index]).fetchall() == [(True,)]

    def columns(self, table: str) -> list[str]:
        found = self.connection.execute(f"DESCRIBE {table}").fetchall()
        return [str(row[0]) for row in found]

    def attach_kept(self) -> None:
        """Make the tables of the rows that can be asked; of other tables there is none."""
        kept: Kept = self.member.kept
        if kept:
            self.connection.execute(f"ATTACH ':memory:' AS {self.kept}")
        for table, (starts, stops) in kept.items():
            self.connection.register("lazycache_spans", pa.table({"low": starts, "high": stops}))
            self.connection.execute(
                f"CREATE TABLE {self.kept}.{table} AS "  # noqa: S608 - our own names
                "SELECT unnest(range(low, high)) AS row FROM lazycache_spans"
            )
            self.connection.unregister("lazycache_spans")

    def catalog(self) -> list[str]:
        """Create the views of the tables that describe the dataset."""
        for table in CATALOG:
            view = qualified(self.dataset, table)
            self.connection.execute(f"CREATE VIEW {view} AS FROM {self.index}.{table}")
        return [qualified(self.dataset, table) for table in CATALOG]

    def statistics(self) -> list[str]:
        """Create the view of the numbers of each unit, if the dataset gives them."""
        if self.member.statistics is None:
            return []
        function = f"{self.dataset}:statistics" if self.dataset else STATISTICS
        view = qualified(self.dataset, STATISTICS)
        statistics_table.create(
            self.connection,
            view,
            sites=f"{self.index}.sites",
            function=function,
            of=self.member.statistics,
            failures=self.failures,
            activity=self.activity,
        )
        return [view]

    def rows(self) -> dict[tuple[str, str], LazyColumn]:
        """Create the views of the tables of rows; return their lazy columns."""
        lazy: dict[tuple[str, str], LazyColumn] = {}
        for table in self._used():
            names = column_names(self.member.index.snapshot, table=table)
            columns = self._lazy_columns(table, names)
            for column in columns:
                self._register(column)
                place = (qualified(self.dataset, table).lower(), column.name.lower())
                lazy[place] = column
            self.connection.execute(self._view(table, names, columns))
        return lazy

    def _register(self, column: LazyColumn) -> None:
        register(
            self.connection,
            column,
            reader=self.member.reader,
            failures=self.failures,
            activity=self.activity,
        )

    def _lazy_columns(self, table: str, names: ColumnNames) -> list[LazyColumn]:
        snapshot = self.member.index.snapshot
        computed, rows = computed_sites(snapshot), snapshot.rows(table)
        prefix = f"{self.dataset}:" if self.dataset else ""
        found: list[LazyColumn] = []
        for site, name in names.sites.items():
            one = computed.get(site)
            spec = snapshot.sites[site] if one is None else one.spec
            there = snapshot.covered(site) if one is None else one.rows
            found.append(LazyColumn(spec, name, there == rows, prefix))
        return found

    def _view(self, table: str, names: ColumnNames, columns: Sequence[LazyColumn]) -> str:
        # the row is that of the kept ones: predicates on lazy columns then go down to these alone
        kept = table in self.member.kept
        row = "kept.row" if kept else "source.row"
        plain = [
            f"{row if name == 'row' else f'source.{quoted(name)}'} AS {quoted(shown)}"
            for name, shown in names.columns.items()
        ]
        # by `row`: DuckDB's own `rowid` would be read later in `SELECT row, a ... ORDER BY ...
        # LIMIT`, but DuckDB 2.0 fails on it where a filter reads `a` (vector index -1 in late
        # materialization)
        lazy = [
            f"{quoted(column.value_function)}({row}) AS {quoted(column.name)}" for column in columns
        ]
        return (
            f"CREATE VIEW {qualified(self.dataset, table)} AS "  # noqa: S608 - quoted
            f"SELECT {', '.join([*plain, *lazy])} FROM {self.index}.{table} AS source"
            + (f" JOIN {self.kept}.{table} AS kept ON source.row = kept.row" if kept else "")
        )
