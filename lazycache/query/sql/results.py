"""The rows of one query, in the shape that the caller wants them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from lazycache.errors import LazycacheError, QueryError
from lazycache.query.sql.activity import TICK_S
from lazycache.query.sql.beginnings import beginning, shown_first
from lazycache.query.sql.failures import DamagedIndexError
from lazycache.query.sql.result_faces import LINES, as_html
from lazycache.query.sql.tensors import Column, tensors

if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import pyarrow as pa

    from lazycache.query.sql.activity import Activity
    from lazycache.query.sql.engine import Prepared

    _Started = tuple[pa.RecordBatchReader, pa.RecordBatch | None]

_T = TypeVar("_T")


class Result:
    """The answer of one query: `.df() .arrow() .pl() .torch() .fetchall() .fetchone() .show()`.

    The query is checked when the result is made and runs when it is first read, once: its rows are
    then kept, and every further reading is of the same rows without I/O. `batches` streams instead
    and keeps nothing. Shown in a notebook, a result that was not read asks for its first 20 rows
    only, and of its columns the first 16. Results are independent of each other; each may be used
    by any thread.

    Cost: the first reading runs the query and holds all of its rows in memory until `close`; a
    vector of 4,096 numbers is 16 KiB per row in `arrow`, and some 100 KiB as Python's numbers in
    `fetchall`. What is larger than memory is for `batches`, or for a `LIMIT`.

    Every reading raises:
        QueryError: the query fails on some row, or the result or its connection is closed.
        CorruptShardError: a shard that it needs is damaged.
        StorageError: the store failed.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4))
        >>> cache = lc.extract(model, [[1, 2, 3]], tempfile.mkdtemp(), "0")
        >>> result = cache.sql('SELECT row, len("0:out") AS d FROM tokens ORDER BY row')
        >>> result.columns, result.fetchone(), result.fetchall()
        (('row', 'd'), (0, 4), [(0, 4), (1, 4), (2, 4)])
        >>> [batch.num_rows for batch in result.batches(2)]
        [2, 1]
    """

    def __init__(
        self, prepare: Callable[[Prepared | None], Prepared], *, activity: Activity
    ) -> None:
        # holds the connection too, which closes when nobody does: a caller may have nothing else
        self._prepare = prepare
        self._activity = activity
        self._lock = threading.RLock()
        self._closed = False
        self._rows: duckdb.DuckDBPyRelation | None = None
        self._next: Iterator[tuple[Any, ...]] | None = None
        self._readers: dict[int, pa.RecordBatchReader] = {}
        self._first: list[tuple[Any, ...]] | None = None
        self._prepared = prepare(None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns. Nothing is read."""
        return self._prepared.columns

    @property
    def types(self) -> tuple[str, ...]:
        """SQL types of the columns. Nothing is read."""
        return self._prepared.types

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows as tuples of Python values."""
        with self._reading():
            return list(self._kept().fetchall())

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, starting with the first; None after the last.

        The first call runs the whole query and keeps its rows.
        """
        with self._reading():
            if self._next is None:
                self._next = iter(self._kept().iter_rows())
            return next(self._next, None)

    def df(self) -> Any:
        """Return all rows as a pandas DataFrame (needs pandas)."""
        with self._reading():
            return self._kept().df()

    def arrow(self) -> pa.Table:
        """Return all rows as an Arrow table."""
        with self._reading():
            return self._kept().to_arrow_table()

    def pl(self) -> pl.DataFrame:
        """Return all rows as a Polars DataFrame (needs polars)."""
        with self._reading():
            frame: pl.DataFrame = self._kept().pl()
            return frame

    def torch(self) -> dict[str, Column]:
        """Return all rows as tensors, by column: `FLOAT[n]` is float32 [rows, n].

        Numbers keep their type; a sum of whole numbers is int64, a decimal fraction float64. Lists
        whose lengths differ from row to row are a list of tensors. Texts, times and structs are a
        list of Python values.

        Cost: that of `arrow`, and one copy.

        Raises:
            QueryError: a NULL in a column of numbers: says which; or whole numbers beyond int64.

        Example:
            >>> from lazycache.samples import small_cache
            >>> result = small_cache().sql("SELECT row, resid_out_0 FROM tokens WHERE row > 3")
            >>> result.torch()
            {'row': tensor([4, 5]), 'resid_out_0': tensor([[ 8.,  9.],
                    [10., 11.]])}
        """
        return tensors(self.arrow())

    def relation(
        self, connection: duckdb.DuckDBPyConnection | None = None
    ) -> duckdb.DuckDBPyRelation:
        """Return all rows as a relation of DuckDB, to ask further: `.filter(...)`, `.join(...)`.

        It is over the rows of this result, not over the dataset: it stays when the cache is closed,
        and may be joined with files, unlike SQL on a dataset.

        Args:
            connection: Where it belongs; None is DuckDB's own default one, in which `duckdb.sql`
                finds the relation by the name of a Python variable.

        Cost: that of `arrow`; the rows are held once more.

        Example:
            >>> from lazycache.samples import small_cache
            >>> relation = small_cache().sql("SELECT row FROM tokens").relation()
            >>> relation.filter("row > 3").fetchall()
            [(4,), (5,)]
        """
        import duckdb

        rows = self.arrow()
        return duckdb.from_arrow(rows) if connection is None else connection.from_arrow(rows)

    def batches(
        self, rows: int = 65_536, *, first: int | None = None, columns: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow batches of at most `rows`, without keeping them.

        Runs the query anew unless its rows are kept already. One batch is in memory at a time (and
        what sorting or grouping needs inside DuckDB). After `close` the next batch is an error.

        Args:
            rows: Of a batch, at most.
            first: Rows that are asked for, as by `LIMIT`; None: all.
            columns: Columns that are read, the first ones; None: all.
        """
        with self._reading():
            reader, batch = self._started(rows, lambda whole: beginning(whole, first, columns))
            self._readers[id(reader)] = reader
        try:
            while batch is not None:
                yield batch
                with self._reading(), self._prepared.explained():
                    batch = next(reader, None)
        finally:
            self._end(id(reader))

    def plan(self) -> str:
        """Return what DuckDB does to answer, as its EXPLAIN says. Runs nothing."""
        with self._reading(), self._prepared.explained():
            return str(self._prepared.relation.explain())

    def show(self, max_rows: int = 40) -> None:
        """Print the first rows as a table."""
        with self._reading():
            self._kept().show(max_rows=max_rows)

    def close(self) -> None:
        """Forget the rows and end the query, also in other threads: they get a `QueryError`.

        Does nothing a second time.
        """
        self._closed = True
        while not self._lock.acquire(timeout=TICK_S):
            self._prepared.cursor.interrupt()
        try:
            self._rows = self._next = self._first = None
            for key in list(self._readers):
                self._end(key)
            self._prepared.close()
        finally:
            self._lock.release()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Iterate over all rows."""
        return iter(self.fetchall())

    def __repr__(self) -> str:
        pairs = zip(self.columns, self.types, strict=True)
        shown = ", ".join(f"{name} {kind}" for name, kind in pairs)
        return f"<Result ({shown}): .df() .arrow() .pl() .torch() .fetchall() .show()>"

    def _repr_html_(self) -> str:
        """Show the first rows in a notebook; all text is escaped.

        Cost: that of the query with `LIMIT 21`, once; what that gives is kept, and where it is all
        that there is, no reading asks again. A query that fails is shown with its error.
        """
        try:
            rows = self._beginning()
        except LazycacheError as exc:
            return as_html(self.columns, self.types, [], problem=str(exc))
        return as_html(self.columns, self.types, rows)

    def _beginning(self) -> list[tuple[Any, ...]]:
        """Return the first rows, and one more if there are more."""
        with self._reading():
            if self._first is None:
                some = self._rows if self._rows is not None else self._run(shown_first)
                self._first = some.limit(LINES + 1).fetchall()
                if len(self._first) <= LINES and len(some.columns) == len(self.columns):
                    self._rows = some
            return self._first

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Let one thread read, unless the result or its connection is closed."""
        # the call is the outer one: at exit a thread is held at its end, then without the lock
        with self._activity.call(self._prepared.cursor), self._lock:
            self._check_open(None)
            try:
                yield
            except QueryError as exc:
                self._check_open(exc)
                raise

    def _check_open(self, cause: QueryError | None) -> None:
        if self._closed:
            raise QueryError("The result is closed: ask again with sql(...).") from cause

    def _kept(self) -> duckdb.DuckDBPyRelation:
        if self._rows is None:
            self._rows = self._run(lambda relation: relation.materialize())
        return self._rows

    def _run(self, ask: Callable[[duckdb.DuckDBPyRelation], _T]) -> _T:
        """Run the query; where the index is damaged, once more over a new one."""
        damaged = self._prepared
        try:
            with damaged.explained():
                return ask(damaged.to_run())
        except DamagedIndexError:
            self._prepared = self._prepare(damaged)
            damaged.close()
        with self._activity.call(self._prepared.cursor), self._prepared.explained():
            return ask(self._prepared.to_run())

    def _started(
        self, rows: int, part: Callable[[duckdb.DuckDBPyRelation], duckdb.DuckDBPyRelation]
    ) -> _Started:
        """Return a reader of a part of the rows, and its first batch."""

        def start(relation: duckdb.DuckDBPyRelation) -> _Started:
            reader = part(relation).to_arrow_reader(rows)
            try:
                return reader, next(reader, None)
            except BaseException:  # nobody else can close it
                reader.close()
                raise

        return self._run(start) if self._rows is None else start(self._rows)

    def _end(self, key: int) -> None:
        """End a reader, which may still compute ahead; once, whoever comes first."""
        reader = self._readers.pop(key, None)
        if reader is not None:
            reader.close()
