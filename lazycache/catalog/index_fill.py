"""The statements that fill an index: commits, runs, sites, shards, and the rows of table files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

import duckdb

from lazycache.catalog.index_rows import (
    BASE_COLUMNS,
    TableStream,
    commit_rows,
    index_columns,
    run_rows,
    shard_rows,
    site_rows,
    sql_type,
)
from lazycache.errors import CorruptShardError

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot
    from lazycache.storage.store import Store


def quoted(name: str) -> str:
    """Return a name as an SQL identifier.

    Example:
        >>> quoted('model.norm:out')
        '"model.norm:out"'
    """
    return '"' + name.replace('"', '""') + '"'


def last_txn(snapshot: Snapshot, version: int) -> str:
    """Return the txn that made a version: it tells two datasets of one uuid apart."""
    lines = snapshot.lines(version - 1) if version else []
    return lines[0].txn if lines else ""


def fill(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    snapshot: Snapshot,
    store: Store,
    *,
    after: int | None,
) -> None:
    """Fill an empty database (`after` None) or add the commits after a version.

    After an error the connection is in an aborted transaction: the caller closes it.

    Raises:
        CorruptShardError: a table file is damaged, or the log says what an index cannot hold.
        StorageError: the store failed.
        duckdb.IOException: the index cannot be written.
    """
    [(before,)] = connection.execute("SELECT current_database()").fetchall()
    connection.execute(f"USE {quoted(name)}")
    connection.execute("BEGIN")
    if after is None:
        connection.execute(files("lazycache.catalog").joinpath("schema.sql").read_text("utf-8"))
    with _fitting("log", store):
        _fill_commits(connection, snapshot, after=after or 0)
    for table in BASE_COLUMNS:
        _fill_table(connection, snapshot, store, table=table, after=after or 0)
    connection.execute("DELETE FROM index_of")
    connection.execute(
        "INSERT INTO index_of VALUES (?, ?, ?)",
        [snapshot.identity.uuid, snapshot.version, last_txn(snapshot, snapshot.version)],
    )
    connection.execute("COMMIT")
    connection.execute(f"USE {quoted(before)}")


def _fill_commits(connection: duckdb.DuckDBPyConnection, snapshot: Snapshot, *, after: int) -> None:
    shards, chunks = shard_rows(snapshot, after=after)
    # runs and sites are few, and change with later commits: written anew
    connection.execute("DELETE FROM runs; DELETE FROM sites")
    rows = {
        "commits": commit_rows(snapshot.lines(after)),
        "runs": run_rows(snapshot),
        "sites": site_rows(snapshot),
        "shards": shards,
        "chunks": chunks,
    }
    for table, arrow in rows.items():
        _insert(connection, table, arrow)


def _fill_table(
    connection: duckdb.DuckDBPyConnection,
    snapshot: Snapshot,
    store: Store,
    *,
    table: str,
    after: int,
) -> None:
    columns = snapshot.columns(table)
    _add_columns(connection, table, columns)
    first = _rows_until(snapshot, table, version=after)
    placed = [file for file in snapshot.table_files(table) if file.row_start >= first]
    if not placed:
        return
    stream = TableStream(store, placed, table=table, columns=columns)
    with _fitting(f"{table} table", store):
        try:
            _insert(connection, table, stream.reader())
        except duckdb.Error as exc:
            if stream.error is not None:
                raise stream.error from exc
            raise


@contextmanager
def _fitting(part: str, store: Store) -> Iterator[None]:
    """Say which part of the dataset it is that an index cannot hold."""
    try:
        yield
    except duckdb.IOException:
        raise  # the index cannot be written: not the dataset's fault
    except duckdb.Error as exc:
        raise CorruptShardError(f"The {part} of {store.url} does not fit its index: {exc}") from exc


def _rows_until(snapshot: Snapshot, table: str, *, version: int) -> int:
    early = (part.rows.get(table) for part in snapshot.additions if part.version <= version)
    return max((rows[1] for rows in early if rows), default=0)


def _add_columns(
    connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str]
) -> None:
    """Add the user columns that the table does not have yet."""
    for column, name in index_columns(columns, table=table).items():
        kind = sql_type(column, columns[column])
        connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {quoted(name)} {kind}")


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: object) -> None:
    connection.register("incoming", rows)
    # a time is text of the log: one that is none (a torn record has none) must not stop all SQL
    columns = "* REPLACE (TRY_CAST(time AS TIMESTAMP) AS time)" if table == "commits" else "*"
    query = f"INSERT INTO {table} BY NAME SELECT {columns} FROM incoming"  # noqa: S608 - our names
    connection.execute(query)
    # not in a `finally`: in an aborted transaction it fails too, and would hide what was wrong
    connection.unregister("incoming")
