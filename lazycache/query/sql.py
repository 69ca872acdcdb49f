"""SQL over a dataset: its tables, with every site as a lazy column.

The connection is an in-memory DuckDB that has the index attached read-only. Views put one lazy
column per site behind the columns of `tokens` and `examples`; nothing is read from a shard until a
query needs a value of a row. After set-up everything outside of the dataset is switched off and the
configuration is locked.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import duckdb

from lazycache.catalog.index import build_index
from lazycache.catalog.index import index_directory as user_directory
from lazycache.catalog.index_fill import quoted
from lazycache.catalog.index_rows import unused
from lazycache.errors import QueryError
from lazycache.query.failures import Explainer, ReadFailures
from lazycache.query.lazy_columns import LazyColumn, RowReader, register
from lazycache.query.results import Result
from lazycache.query.rewrite import Rewriter
from lazycache.query.statements import check_reads
from lazycache.types import EXAMPLES, TOKENS

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot
    from lazycache.storage.store import Store

INDEX = "lazycache_index"
"""Name under which the index is attached."""

TABLES = (TOKENS, EXAMPLES)
"""Tables whose rows sites belong to."""

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


def connect(
    snapshot: Snapshot,
    reader: RowReader,
    store: Store,
    *,
    index_directory: Path | None = None,
) -> Connection:
    """Return a connection that answers SQL over one snapshot.

    Args:
        snapshot: What to query.
        reader: Reads values of sites; `covered` says which rows have one.
        store: Where the table files are, for the index.
        index_directory: Folder of index files; None for the user's cache directory.

    Cost: milliseconds if the snapshot's index exists; otherwise the table files of the new commits
    are read. No shard is read.

    Raises:
        CorruptShardError: a table file is damaged.
        StorageError: the store failed.

    Example:
        >>> import tempfile
        >>> from lazycache.cache.reader import Reader
        >>> from lazycache.catalog.snapshot import Snapshot
        >>> from lazycache.storage.local_store import LocalStore
        >>> from lazycache.types import Identity, IoCounters
        >>> folder = Path(tempfile.mkdtemp())
        >>> store = LocalStore(folder / "dataset", create=True)
        >>> snapshot = Snapshot.replay(Identity(version=1, uuid="u", created="now"), [])
        >>> reader = Reader(store, snapshot, io=IoCounters())
        >>> with connect(snapshot, reader, store, index_directory=folder / "index") as connection:
        ...     connection.sql("SELECT count(*) AS n FROM tokens").fetchall()
        [(0,)]
    """
    return Connection(snapshot, reader, store, directory=index_directory)


class Connection:
    """A snapshot as tables for SQL. Made by `connect`; safe from several threads."""

    def __init__(
        self, snapshot: Snapshot, reader: RowReader, store: Store, *, directory: Path | None
    ) -> None:
        self._lock = threading.Lock()
        self._results: weakref.WeakSet[Result] = weakref.WeakSet()
        self._failures = ReadFailures()
        index = build_index(snapshot, store, directory=directory)
        self._connection = duckdb.connect(":memory:", config=_config(index.path))
        # also at interpreter exit: DuckDB complains about functions of an open connection
        self._closer = weakref.finalize(self, self._connection.close)
        try:
            index.attach(self._connection, name=INDEX)
            lazy = self._create_views(snapshot, reader)
            self._finish(lazy)
        except BaseException:  # whatever stops the set-up: the connection must not stay open
            self._closer()
            raise

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Result:
        """Return the result of one query: checked now, run when it is first read.

        Args:
            query: SQL that reads; `tokens`, `examples`, `sites`, `shards`, `chunks`, `commits` and
                `runs` are its tables. Names of sites with dots or colons go in double quotes.
            params: Values for `?` or `$1` (a sequence) or `$name` (a mapping).

        Cost: of a site, only rows that survive the cheaper predicates are read, and of these only
        the unit where `unit(site, i)` asks for one.

        Raises:
            QueryError: the query cannot be answered; names the nearest columns and tables.
            ReadOnlyError: the statement writes.
        """
        with self._lock:
            if not self._closer.alive:
                raise QueryError("The connection is closed: open the dataset again.")
            cursor = self._connection.cursor()
        try:
            result = self._result(query, params, cursor)
        except BaseException:  # nobody else holds the cursor
            cursor.close()
            raise
        with self._lock:
            self._results.add(result)
        return result

    def close(self) -> None:
        """End all results and release the index. Does nothing a second time."""
        with self._lock:
            results = list(self._results)
        for result in results:
            result.close()
        self._closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _result(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        cursor: duckdb.DuckDBPyConnection,
    ) -> Result:
        with self._explainer.explained():
            check_reads(query, cursor)
        rewritten = self._rewriter.rewrite(query, cursor)
        if rewritten is not None:
            try:
                return self._run(rewritten, params, cursor)
            except QueryError:
                # not answered in the narrow form (GROUP BY a site, say), or wrong to begin with:
                # the query as it was written decides, and its message shows the user's own text
                pass
        return self._run(query, params, cursor)

    def _run(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        cursor: duckdb.DuckDBPyConnection,
    ) -> Result:
        with self._explainer.explained():
            relation = cursor.sql(query, params=params)
        return Result(relation, cursor=cursor, explainer=self._explainer, owner=self)

    def _create_views(
        self, snapshot: Snapshot, reader: RowReader
    ) -> dict[tuple[str, str], LazyColumn]:
        for table in CATALOG:
            self._connection.execute(f"CREATE VIEW {table} AS FROM {INDEX}.{table}")
        lazy: dict[tuple[str, str], LazyColumn] = {}
        for table in TABLES:
            columns = self._lazy_columns(snapshot, table)
            for column in columns:
                register(self._connection, column, reader=reader, failures=self._failures)
                lazy[table, column.name.lower()] = column
            self._connection.execute(_view(table, columns))
        return lazy

    def _lazy_columns(self, snapshot: Snapshot, table: str) -> list[LazyColumn]:
        taken = {column.lower() for column in self._column_names(f"{INDEX}.{table}")}
        columns = []
        for spec in snapshot.sites.values():
            if spec.table == table:
                name = unused(spec.name, taken)
                taken.add(name.lower())
                complete = snapshot.covered(spec.name) == snapshot.rows(table)
                columns.append(LazyColumn(spec, name, complete))
        return columns

    def _finish(self, lazy: Mapping[tuple[str, str], LazyColumn]) -> None:
        self._connection.execute(UNIT_MACROS)
        tables = {table: self._column_names(table) for table in (*TABLES, *CATALOG)}
        self._connection.execute(LOCK)
        self._rewriter = Rewriter(
            tables={table: tables[table] for table in TABLES},
            lazy=lazy,
        )
        self._explainer = Explainer(
            tables=tables,
            sites=[column.name for column in lazy.values()],
            failures=self._failures,
        )

    def _column_names(self, table: str) -> list[str]:
        found = self._connection.execute(f"DESCRIBE {table}").fetchall()
        return [str(row[0]) for row in found]


def _config(index: Path | None) -> dict[str, str | bool | int | float | list[str]]:
    # what does not fit in memory (a sort of 10^9 rows) goes beside the index, never into the
    # working directory
    spill = index.parent if index is not None else user_directory()
    return {**CLOSED_CONFIG, "temp_directory": str(spill / "spill")}


def _view(table: str, columns: Sequence[LazyColumn]) -> str:
    lazy = [f"{quoted(column.value_function)}(row) AS {quoted(column.name)}" for column in columns]
    columns_text = ", ".join(["*", *lazy])
    return f"CREATE VIEW {table} AS SELECT {columns_text} FROM {INDEX}.{table}"  # noqa: S608 - quoted
