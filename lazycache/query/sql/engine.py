"""One DuckDB over the indexes of one dataset or several, closed to everything else.

It is in memory and has the indexes attached read-only; `views` makes their tables. After set-up
everything outside of the datasets is switched off and the configuration is locked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import duckdb

from lazycache.catalog.quiet import hush
from lazycache.errors import QueryError
from lazycache.query.sql import list_functions, top_rows, trees, user_tables
from lazycache.query.sql.failures import Explainer, ReadFailures
from lazycache.query.sql.measures import Measure
from lazycache.query.sql.members import Member
from lazycache.query.sql.parameters import Values, by_name, duckdb_parameters
from lazycache.query.sql.rewrite import Rewriter, Rewritten
from lazycache.query.sql.statements import check_reads
from lazycache.query.sql.user_tables import UserTables
from lazycache.query.sql.views import Views, create

if TYPE_CHECKING:
    from lazycache.query.sql.activity import Activity

NO_TABLES: UserTables = MappingProxyType({})
"""A query without tables of the user's own."""

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


Shortcut = Callable[["Prepared"], "duckdb.DuckDBPyRelation | None"]
"""Finds the few rows that a query is about, and returns the query over these."""


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
    tables: UserTables
    """The user's own tables that it sees."""
    measures: list[Measure]
    """What it measures of rows, with the vectors for it: there until it is closed."""
    shortcut: Shortcut | None = None
    """Gives what runs in its place, found when it runs; None: nothing does."""
    columns: tuple[str, ...] = field(init=False)
    """Names of its columns."""
    types: tuple[str, ...] = field(init=False)
    """SQL types of its columns."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.relation.columns))
        object.__setattr__(self, "types", tuple(str(kind) for kind in self.relation.types))

    def to_run(self) -> duckdb.DuckDBPyRelation:
        """Return what to run for its rows. May read statistics and shards, as running it does."""
        found = None if self.shortcut is None else self.shortcut(self)
        return self.relation if found is None else found

    def close(self) -> None:
        """End it, and let its vectors go."""
        self.cursor.close()
        self.measures.clear()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn any error of DuckDB inside the block into one of ours."""
        explained = self.engine.explained(
            self.cursor, self.query, rewritten=self.rewritten, tables=self.tables
        )
        with explained:
            yield


class Engine:
    """A locked-down DuckDB over some datasets. Safe from several threads."""

    def __init__(
        self, members: Mapping[str, Member], *, activity: Activity, failures: ReadFailures
    ) -> None:
        self.members = members
        """The datasets, by the name that qualifies their tables; `ONLY` if there is one."""
        self._activity = activity
        self._connection = duckdb.connect(":memory:", config=_config(members))
        try:
            hush(self._connection)
            views = [
                create(self._connection, name, member, failures=failures, activity=activity)
                for name, member in members.items()
            ]
            self._finish(views, failures)
        except BaseException:  # whatever stops the set-up: the connection must not stay open
            self._connection.close()
            raise

    def prepare(
        self,
        query: str,
        params: Values,
        tables: UserTables = NO_TABLES,
    ) -> Prepared:
        """Check a query and return how to run it. Nothing is read from a shard.

        Raises:
            QueryError: it cannot be answered, or the connection is closed.
            ReadOnlyError: the statement writes.
        """
        with self._activity.call(None):
            cursor = self._connection.cursor()
            try:
                with self._activity.call(cursor):
                    user_tables.register(cursor, tables, taken=self._names)
                    return self._best(query, params, tables, cursor)
            except BaseException:  # nobody else holds the cursor
                cursor.close()
                raise

    def close(self) -> None:
        """Release the indexes. Nothing may run any more."""
        self._connection.close()

    @contextmanager
    def explained(
        self,
        cursor: duckdb.DuckDBPyConnection,
        query: str,
        *,
        rewritten: bool,
        tables: UserTables = NO_TABLES,
    ) -> Iterator[None]:
        """Turn any error of DuckDB inside the block into one of ours."""
        explainer = self._explainer.beside(_columns(tables)) if tables else self._explainer
        try:
            with explainer.explained(query, rewritten=rewritten):
                yield
        except BaseException:  # whatever it is, the cursor must be fit for another try
            self._begin(cursor)
            raise

    def _best(
        self,
        query: str,
        params: Values,
        tables: UserTables,
        cursor: duckdb.DuckDBPyConnection,
    ) -> Prepared:
        with self._explainer.explained(query, rewritten=False):
            check_reads(query, cursor)
        self._begin(cursor)
        rewritten = self._rewriter.rewrite(query, cursor, params=params, beside=_columns(tables))
        if rewritten is not None:
            # not answered in the narrow form (GROUP BY a site, say), or wrong to begin with:
            # the query as it was written decides, and its message shows the user's own text
            with suppress(QueryError):
                found = self._prepared(query, rewritten.params, tables, cursor, instead=rewritten)
                return replace(found, shortcut=self._shortcut(query, params, cursor))
        return self._prepared(query, params, tables, cursor, instead=None)

    def _prepared(
        self,
        query: str,
        params: Values,
        tables: UserTables,
        cursor: duckdb.DuckDBPyConnection,
        *,
        instead: Rewritten | None,
    ) -> Prepared:
        rewritten = instead is not None
        with self.explained(cursor, query, rewritten=rewritten, tables=tables):
            text, measures = (query, ()) if instead is None else (instead.text, instead.measures)
            relation = cursor.sql(text, params=duckdb_parameters(params))
            return Prepared(relation, cursor, self, query, rewritten, tables, list(measures))

    def _shortcut(
        self, query: str, params: Values, cursor: duckdb.DuckDBPyConnection
    ) -> Shortcut | None:
        """Return how to find the rows of `ORDER BY unit(...) LIMIT k`; None of other queries."""
        if not top_rows.is_likely(query) or (tree := trees.parsed(query, cursor)) is None:
            return None
        values = by_name(params)
        asked = top_rows.top_query(tree, tables=self._tables, lazy=self._lazy, params=values)
        if asked is None:
            return None

        def among(prepared: Prepared) -> duckdb.DuckDBPyRelation | None:
            member = self.members[self._owners[asked.table]]
            rows = top_rows.rows_of(asked, member.reader, member.kept)
            text = (
                None if rows is None else trees.written(top_rows.among(tree, asked, rows), cursor)
            )
            narrow = None if text is None else self._rewriter.rewrite(text, cursor, params=params)
            if narrow is None:
                return None
            prepared.measures.extend(narrow.measures)
            return cursor.sql(narrow.text, params=duckdb_parameters(narrow.params))

        return among

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

    def _finish(self, views: Sequence[Views], failures: ReadFailures) -> None:
        list_functions.create(self._connection, failures=failures, activity=self._activity)
        self._connection.execute(LOCK)
        self._read_only = all(one.read_only for one in views)
        rows = {table: columns for one in views for table, columns in one.rows.items()}
        catalog = {table: columns for one in views for table, columns in one.catalog.items()}
        lazy = {place: column for one in views for place, column in one.lazy.items()}
        self._names = frozenset(name.lower() for name in (*rows, *catalog))
        self._tables, self._lazy = rows, lazy
        pairs = zip(self.members, views, strict=True)
        self._owners = {table: name for name, one in pairs for table in map(str.lower, one.rows)}
        self._rewriter = Rewriter(tables=rows, lazy=lazy, measures=self._activity.measures)
        self._explainer = Explainer(
            tables={**rows, **catalog},
            sites={column.name: column.spec for column in lazy.values()},
            failures=failures,
        )


def _columns(tables: UserTables) -> dict[str, list[str]]:
    return {name: list(table.column_names) for name, table in tables.items()}


def _config(members: Mapping[str, Member]) -> dict[str, str | bool | int | float | list[str]]:
    # what does not fit in memory (a sort of 10^9 rows) goes beside an index, or where temporary
    # files go, never into the working directory
    spill = ""
    beside = [member.index.path for member in members.values() if member.index.path is not None]
    if beside:
        spill = str(beside[0].parent / "spill")
    else:
        with suppress(OSError):  # no folder can be written: nothing is spilled
            spill = str(Path(tempfile.gettempdir()) / "lazycache-spill")
    return {**CLOSED_CONFIG, "temp_directory": spill}
