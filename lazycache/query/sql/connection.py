"""SQL over a dataset: its tables, with every site as a lazy column."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lazycache.catalog.index import IndexFile, build_index
from lazycache.errors import QueryError
from lazycache.query.sql.activity import CLOSED, Activity
from lazycache.query.sql.engine import Engine, Kept, Prepared
from lazycache.query.sql.failures import DamagedIndexError, ReadFailures
from lazycache.query.sql.lazy_columns import RowReader
from lazycache.query.sql.parameters import Params, checked_text, plain_parameters
from lazycache.query.sql.results import Result

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot
    from lazycache.storage.store import Store


def connect(
    snapshot: Snapshot,
    reader: RowReader,
    store: Store,
    *,
    index_directory: Path | None = None,
    kept: Kept | None = None,
) -> Connection:
    """Return a connection that answers SQL over one snapshot.

    Args:
        snapshot: What to query.
        reader: Reads values of sites; `covered` says which rows have one.
        store: Where the table files are, for the index.
        index_directory: Folder of index files; None for the user's cache directory.
        kept: Rows that can be asked, of the tables that are restricted: first rows and stops of
            ranges. Others are not there, to any query. They cost 8 bytes each.

    Cost: milliseconds if the snapshot's index exists; otherwise the table files of the new commits
    are read. No shard is read.

    Raises:
        CorruptShardError: a table file is damaged.
        StorageError: the store failed.

    Example:
        >>> import tempfile
        >>> from lazycache.cache.reading.reader import Reader
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
    return Connection(snapshot, reader, store, directory=index_directory, kept=kept)


class Connection:
    """A snapshot as tables for SQL. Made by `connect`; safe from several threads."""

    def __init__(
        self,
        snapshot: Snapshot,
        reader: RowReader,
        store: Store,
        *,
        directory: Path | None,
        kept: Kept | None = None,
    ) -> None:
        self._reader = reader
        self._kept = kept
        self._activity = Activity()
        self._failures = ReadFailures()
        self._lock = threading.Lock()
        self._results: weakref.WeakSet[Result] = weakref.WeakSet()
        self._engines = [self._engine(build_index(snapshot, store, directory=directory))]
        # also at interpreter exit, where a query that still runs would kill the process
        self._closer = weakref.finalize(
            self, _end, self._activity, self._results, self._engines, self._lock
        )

    def sql(self, query: str, params: Params | None = None) -> Result:
        """Return the result of one query: checked now, run when it is first read.

        Args:
            query: SQL that reads; `tokens`, `examples`, `sites`, `shards`, `chunks`, `commits` and
                `runs` are its tables; where there are such rows also `decoder_tokens`, `calls`,
                `example_calls` and `decoder_calls`. Names of sites with dots or colons go in double
                quotes. Sites whose rows differ in width, `pattern_3`, are no columns.
            params: Values for `?` or `$1` (a sequence) or `$name` (a mapping); numbers and vectors
                of numpy and torch are taken too.

        Cost: of a site, only rows that survive the cheaper predicates are read, and of these only
        the unit where `unit(site, i)` asks for one. `ORDER BY unit(site, i) LIMIT n` reads whole
        vectors of the n winners alone if the query asks for a column of the table beside `row`
        and sites, `token` say; DuckDB takes `SELECT row, site ...` for too little to read later,
        and reads all vectors. Of a single row, `WHERE row = 5`, values are read twice: DuckDB
        takes them for constants when it plans the query.

        Raises:
            QueryError: the query cannot be answered, names the nearest columns and tables; or the
                connection is closed.
            ReadOnlyError: the statement writes.
        """
        if not isinstance(query, str):
            raise QueryError(f"A query is a text, not a {type(query).__name__}.")
        text = checked_text(query, what="The query")
        values = plain_parameters(params)

        def prepare(damaged: Prepared | None) -> Prepared:
            return self._prepare(text, values, damaged)

        result = Result(prepare, activity=self._activity)
        with self._lock:
            if not self._activity.closed:
                self._results.add(result)
                return result
        result.close()
        raise QueryError(CLOSED)

    def close(self) -> None:
        """End all results, also those that other threads read, and release the index.

        Who reads gets a `QueryError`. Waits for a shard that is being read. Does nothing a second
        time.
        """
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

    def _engine(self, index: IndexFile) -> Engine:
        return Engine(
            index,
            self._reader,
            activity=self._activity,
            failures=self._failures,
            kept=self._kept,
        )

    def _prepare(
        self, query: str, params: list[Any] | dict[str, Any] | None, damaged: Prepared | None
    ) -> Prepared:
        """Prepare a query; over a new index, if that of `damaged` or the present one is damaged."""
        engine = self._engines[-1] if damaged is None else self._repaired(damaged.engine)
        try:
            return engine.prepare(query, params)
        except DamagedIndexError:
            return self._repaired(engine).prepare(query, params)

    def _repaired(self, damaged: Engine) -> Engine:
        """Return an engine over a new index; the first who finds the damage builds it."""
        with self._activity.call(None), self._lock:
            if self._engines[-1] is damaged:
                self._engines.append(self._engine(damaged.index.rebuilt()))
            return self._engines[-1]


def _end(
    activity: Activity,
    results: weakref.WeakSet[Result],
    engines: list[Engine],
    lock: threading.Lock,
) -> None:
    """Stop what runs, then close what it ran on. Holds no connection: runs when one is gone."""
    if not activity.stop():  # the process ends, and a read hangs: there is nothing to close safely
        return
    with lock:
        left = list(results)
    for result in left:
        result.close()
    for engine in engines:
        engine.close()
