"""One DuckDB over one index: views with lazy columns, closed to everything else.

It is in memory and has the index attached read-only. Views put one lazy column per site behind the
columns of its table; nothing is read from a shard until a query needs a value of a
row. After set-up everything outside of the dataset is switched off and the configuration is locked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from lazycache.catalog.computed import computed_sites
from lazycache.catalog.index_fill import quoted
from lazycache.catalog.index_rows import BASE_COLUMNS
from lazycache.errors import QueryError
from lazycache.query.sql.failures import Explainer, ReadFailures
from lazycache.query.sql.lazy_columns import LazyColumn, RowReader, register
from lazycache.query.sql.names import ColumnNames, column_names
from lazycache.query.sql.rewrite import Rewriter
from lazycache.query.sql.statements import check_reads
from lazycache.types import EXAMPLES, RAGGED, TOKENS

if TYPE_CHECKING:
    from lazycache.catalog.index import IndexFile
    from lazycache.query.sql.activity import Activity

INDEX = "lazycache_index"
"""Name under which the index is attached."""

KEPT = "lazycache_kept"
"""Name under which the rows of a restricted cache are attached: a table `row` for each table."""

Kept = Mapping[str, tuple[Any, Any]]
"""Table to first rows and stops (int64[n], ascending) of the ranges of rows that can be asked."""

ALWAYS = (TOKENS, EXAMPLES)
"""Tables of rows that can be asked of any dataset; others only where they are used."""

CATALOG = ("sites", "shards", "chunks", "commits", "runs")
"""Tables that describe the dataset."""

UNIT_MACROS = """
CREATE MACRO lazycache_unit(value, i) AS CASE
    WHEN i >= len(value) OR i < -len(value)
    THEN error(format('unit: index {} is outside the size {}; indices are 0-based', i, len(value)))
    ELSE value[i + 1 + CASE WHEN i < 0 THEN len(value) ELSE 0 END] END;
CREATE MACRO unit(value, i) AS lazycache_unit(value, i),
  (value, h, i) AS lazycache_unit(lazycache_unit(value, h), i),
  (value, h, i, j) AS lazycache_unit(lazycache_unit(lazycache_unit(value, h), i), j);
"""
"""`unit` of any list value, where no narrower read is found; 0-based, negative from the end."""

CLOSED_CONFIG: Mapping[str, str | bool | int | float | list[str]] = {
    # nothing is ever fetched or kept outside of the dataset and the cache directory
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_persistent_secrets": "false",
    # ORDER BY ... LIMIT n reads lazy columns of the n rows alone, up to this n (DuckDB: 50)
    "late_materialization_max_rows": 1_000_000,
}

LOCK = """
SET python_enable_replacements = false;
SET enable_external_access = false;
SET lock_configuration = true;
"""
"""Run last: no files, no network, no Python variables, no change of settings."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query that can run."""

    relation: duckdb.DuckDBPyRelation
    """What gives its rows."""
    cursor: duckdb.DuckDBPyConnection
    """The connection of this query alone."""
    engine: Engine
    """What it runs on."""
    query: str
    """Its text, as the caller wrote it."""
    rewritten: bool
    """Whether another text runs, which no message may show."""
    columns: tuple[str, ...] = field(init=False)
    """Names of its columns."""
    types: tuple[str, ...] = field(init=False)
    """SQL types of its columns."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.relation.columns))
        object.__setattr__(self, "types", tuple(str(kind) for kind in self.relation.types))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn any error of DuckDB inside the block into one of ours."""
        with self.engine.explained(self.cursor, self.query, rewritten=self.rewritten):
            yield


class Engine:
    """A locked-down DuckDB over one index. Safe from several threads."""

    def __init__(
        self,
        index: IndexFile,
        reader: RowReader,
        *,
        activity: Activity,
        failures: ReadFailures,
        kept: Kept | None = None,
    ) -> None:
        self.index = index
        self._kept = kept or {}
        used = set(index.snapshot.tables).union(ALWAYS)
        self._tables = [table for table in BASE_COLUMNS if table in used]
        self._activity = activity
        self._failures = failures
        self._connection = duckdb.connect(":memory:", config=_config(index.path))
        try:
            index.attach(self._connection, name=INDEX)
            # tables of kept rows are in memory, and must not be written to either
            self._read_only = self._is_read_only() and not self._kept
            self._attach_kept()
            self._finish(self._create_views(reader))
        except BaseException:  # whatever stops the set-up: the connection must not stay open
            self._connection.close()
            raise

    def prepare(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None) -> Prepared:
        """Check a query and return how to run it. Nothing is read from a shard.

        Raises:
            QueryError: it cannot be answered, or the connection is closed.
            ReadOnlyError: the statement writes.
        """
        with self._activity.call(None):
            cursor = self._connection.cursor()
            try:
                with self._activity.call(cursor):
                    return self._best(query, params, cursor)
            except BaseException:  # nobody else holds the cursor
                cursor.close()
                raise

    def close(self) -> None:
        """Release the index. Nothing may run any more."""
        self._connection.close()

    @contextmanager
    def explained(
        self, cursor: duckdb.DuckDBPyConnection, query: str, *, rewritten: bool
    ) -> Iterator[None]:
        """Turn any error of DuckDB inside the block into one of ours."""
        try:
            with self._explainer.explained(query, rewritten=rewritten):
                yield
        except BaseException:  # whatever it is, the cursor must be fit for another try
            self._begin(cursor)
            raise

    def _best(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        cursor: duckdb.DuckDBPyConnection,
    ) -> Prepared:
        with self._explainer.explained(query, rewritten=False):
            check_reads(query, cursor)
        self._begin(cursor)
        rewritten = self._rewriter.rewrite(query, cursor)
        if rewritten is not None:
            # not answered in the narrow form (GROUP BY a site, say), or wrong to begin with:
            # the query as it was written decides, and its message shows the user's own text
            with suppress(QueryError):
                return self._prepared(query, params, cursor, instead=rewritten)
        return self._prepared(query, params, cursor, instead=None)

    def _prepared(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        cursor: duckdb.DuckDBPyConnection,
        *,
        instead: str | None,
    ) -> Prepared:
        rewritten = instead is not None
        with self.explained(cursor, query, rewritten=rewritten):
            relation = cursor.sql(query if instead is None else instead, params=params)
            return Prepared(relation, cursor, self, query, rewritten)

    def _begin(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Let nothing be written by way of a cursor.

        An attached file is read-only by itself. One in memory could be changed by a query like
        `WITH x AS (DELETE ... RETURNING *) ...`, except in a transaction that only reads.
        """
        if self._read_only:
            return
        with suppress(duckdb.Error):  # there may be none to end, and a closed cursor has no other
            cursor.execute("ROLLBACK")
        with suppress(duckdb.ConnectionException):
            cursor.execute("BEGIN TRANSACTION READ ONLY")

    def _is_read_only(self) -> bool:
        query = "SELECT readonly FROM duckdb_databases() WHERE database_name = ?"
        return self._connection.execute(query, [INDEX]).fetchall() == [(True,)]

    def _attach_kept(self) -> None:
        """Make the tables of the rows that can be asked; of other tables there is none."""
        if self._kept:
            self._connection.execute(f"ATTACH ':memory:' AS {KEPT}")
        for table, (starts, stops) in self._kept.items():
            self._connection.register("lazycache_spans", pa.table({"low": starts, "high": stops}))
            self._connection.execute(
                f"CREATE TABLE {KEPT}.{table} AS "  # noqa: S608 - our own names
                "SELECT unnest(range(low, high)) AS row FROM lazycache_spans"
            )
            self._connection.unregister("lazycache_spans")

    def _create_views(self, reader: RowReader) -> dict[tuple[str, str], LazyColumn]:
        for table in CATALOG:
            self._connection.execute(f"CREATE VIEW {table} AS FROM {INDEX}.{table}")
        lazy: dict[tuple[str, str], LazyColumn] = {}
        for table in self._tables:
            names = column_names(self.index.snapshot, table=table)
            columns = self._lazy_columns(table, names)
            for column in columns:
                register(
                    self._connection,
                    column,
                    reader=reader,
                    failures=self._failures,
                    activity=self._activity,
                )
                lazy[table, column.name.lower()] = column
            self._connection.execute(_view(table, names, columns, kept=table in self._kept))
        return lazy

    def _lazy_columns(self, table: str, names: ColumnNames) -> list[LazyColumn]:
        snapshot = self.index.snapshot
        computed, rows = computed_sites(snapshot), snapshot.rows(table)
        found: list[LazyColumn] = []
        for site, name in names.sites.items():
            one = computed.get(site)
            spec = snapshot.sites[site] if one is None else one.spec
            there = snapshot.covered(site) if one is None else one.rows
            found.append(LazyColumn(spec, name, there == rows))
        return found

    def _finish(self, lazy: Mapping[tuple[str, str], LazyColumn]) -> None:
        self._connection.execute(UNIT_MACROS)
        tables = {table: self._column_names(table) for table in (*self._tables, *CATALOG)}
        self._connection.execute(LOCK)
        self._rewriter = Rewriter(
            tables={table: tables[table] for table in self._tables}, lazy=lazy
        )
        self._explainer = Explainer(
            tables=tables,
            sites={column.name: column.spec for column in lazy.values()},
            ragged=[s.name for s in self.index.snapshot.sites.values() if s.layout == RAGGED],
            failures=self._failures,
        )

    def _column_names(self, table: str) -> list[str]:
        found = self._connection.execute(f"DESCRIBE {table}").fetchall()
        return [str(row[0]) for row in found]


def _config(index: Path | None) -> dict[str, str | bool | int | float | list[str]]:
    # what does not fit in memory (a sort of 10^9 rows) goes beside the index, or where temporary
    # files go, never into the working directory
    spill = ""
    if index is not None:
        spill = str(index.parent / "spill")
    else:
        with suppress(OSError):  # no folder can be written: nothing is spilled
            spill = str(Path(tempfile.gettempdir()) / "lazycache-spill")
    return {**CLOSED_CONFIG, "temp_directory": spill}


def _view(
    table: str, names: ColumnNames, columns: Sequence[LazyColumn], *, kept: bool = False
) -> str:
    # the row is that of the kept ones: predicates on lazy columns then go down to these alone
    row = "kept.row" if kept else "source.row"
    plain = [
        f"{row if name == 'row' else f'source.{quoted(name)}'} AS {quoted(shown)}"
        for name, shown in names.columns.items()
    ]
    # by `row`: DuckDB's own `rowid` would be read later in `SELECT row, a ... ORDER BY ... LIMIT`,
    # but DuckDB 2.0 fails on it where a filter reads `a` (vector index -1 in late materialization)
    lazy = [
        f"{quoted(column.value_function)}({row}) AS {quoted(column.name)}" for column in columns
    ]
    columns_text = ", ".join([*plain, *lazy])
    return (
        f"CREATE VIEW {table} AS SELECT {columns_text} "  # noqa: S608 - quoted
        f"FROM {INDEX}.{table} AS source"
        + (f" JOIN {KEPT}.{table} AS kept ON source.row = kept.row" if kept else "")
    )
