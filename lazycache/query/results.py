"""The rows of one query, in the shape that the caller wants them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import pyarrow as pa

    from lazycache.query.failures import Explainer


class Result:
    """The answer of one query: `.df() .arrow() .pl() .fetchall() .fetchone() .show()`.

    The query is checked when the result is made and runs when it is first read, once: its rows are
    then kept, and every further reading is of the same rows without I/O. `batches` streams instead
    and keeps nothing. Results are independent of each other; each may be used by any thread.
    """

    def __init__(
        self,
        relation: duckdb.DuckDBPyRelation,
        *,
        cursor: duckdb.DuckDBPyConnection,
        explainer: Explainer,
        owner: object,
    ) -> None:
        self._relation = relation
        self._cursor = cursor
        self._explainer = explainer
        # the connection closes when nobody holds it; whoever has the result may have nothing else
        self._owner = owner
        self._lock = threading.RLock()
        self._rows: duckdb.DuckDBPyRelation | None = None
        self._next: Iterator[tuple[Any, ...]] | None = None
        with explainer.explained():
            self._columns = tuple(relation.columns)
            self._types = tuple(str(kind) for kind in relation.types)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns. Nothing is read."""
        return self._columns

    @property
    def types(self) -> tuple[str, ...]:
        """SQL types of the columns. Nothing is read."""
        return self._types

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows as tuples of Python values."""
        with self._lock, self._explainer.explained():
            return list(self._kept().fetchall())

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, starting with the first; None after the last."""
        with self._lock, self._explainer.explained():
            if self._next is None:
                self._next = iter(self._kept().iter_rows())
            return next(self._next, None)

    def df(self) -> Any:
        """Return all rows as a pandas DataFrame (needs pandas)."""
        with self._lock, self._explainer.explained():
            return self._kept().df()

    def arrow(self) -> pa.Table:
        """Return all rows as an Arrow table."""
        with self._lock, self._explainer.explained():
            return self._kept().to_arrow_table()

    def pl(self) -> pl.DataFrame:
        """Return all rows as a Polars DataFrame (needs polars)."""
        with self._lock, self._explainer.explained():
            frame: pl.DataFrame = self._kept().pl()
            return frame

    def batches(self, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow batches of at most `rows`, without keeping them.

        Runs the query anew unless its rows are kept already. One batch is in memory at a time (and
        what sorting or grouping needs inside DuckDB).
        """
        with self._lock, self._explainer.explained():
            source = self._rows if self._rows is not None else self._relation
            reader = source.to_arrow_reader(rows)
        while True:
            with self._lock, self._explainer.explained():
                batch = next(reader, None)
            if batch is None:
                return
            yield batch

    def show(self, max_rows: int = 40) -> None:
        """Print the first rows as a table."""
        with self._lock, self._explainer.explained():
            self._kept().show(max_rows=max_rows)

    def close(self) -> None:
        """Forget the rows and end the query. Does nothing a second time."""
        with self._lock:
            self._rows = self._next = None
            self._cursor.close()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Iterate over all rows."""
        return iter(self.fetchall())

    def __repr__(self) -> str:
        pairs = zip(self._columns, self._types, strict=True)
        shown = ", ".join(f"{name} {kind}" for name, kind in pairs)
        return f"<Result ({shown}): .df() .arrow() .pl() .fetchall() .show()>"

    def _kept(self) -> duckdb.DuckDBPyRelation:
        if self._rows is None:
            self._rows = self._relation.materialize()
        return self._rows
