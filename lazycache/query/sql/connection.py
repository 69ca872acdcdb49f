"""SQL over one dataset or several: their tables, with every site as a lazy column."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lazycache.cache.reading.row_reader import RowReader
from lazycache.catalog.index import build_index
from lazycache.errors import QueryError
from lazycache.query.sql.activity import CLOSED, Activity
from lazycache.query.sql.engine import Engine, Prepared
from lazycache.query.sql.failures import DamagedIndexError, ReadFailures
from lazycache.query.sql.members import ONLY, Kept, Member, StatisticsOf
from lazycache.query.sql.parameters import Params, Values, checked_text, plain_parameters
from lazycache.query.sql.results import Result
from lazycache.query.sql.user_tables import UserTables, arrow_tables

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
    statistics: StatisticsOf | None = None,
) -> Connection:
    """Return a connection that answers SQL over one snapshot.

    Args:
        snapshot: What to query.
        reader: Reads values of sites; `covered` says which rows have one.
        store: Where the table files are, for the index.
        index_directory: Folder of index files; None for the user's cache directory.
        kept: Rows that can be asked, of the tables that are restricted: first rows and stops of
            ranges. Others are not there, to any query. They cost 8 bytes each.
        statistics: Gives those of a site over these rows, for the table `statistics`; None: there
            is no such table.

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
    index = build_index(snapshot, store, directory=index_directory)
    return Connection({ONLY: Member(index, reader, kept or {}, statistics)})


def connect_several(
    datasets: Mapping[str, Asked],
    *,
    index_directory: Path | None = None,
    closers: Sequence[Callable[[], None]] = (),
) -> Connection:
    """Return a connection over several datasets: `base.tokens`, `tuned.tokens`.

    Args:
        datasets: What to query, by the name that stands before the tables: one that `check_names`
            lets pass, or `ONLY` of a single one.
        index_directory: As of `connect`.
        closers: Called when the connection is closed.

    Raises:
        CorruptShardError: a table file is damaged.
        StorageError: the store failed.
    """
    members = {
        name: Member(
            build_index(one.snapshot, one.store, directory=index_directory),
            one.reader,
            one.kept,
            one.statistics,
        )
        for name, one in datasets.items()
    }
    return Connection(members, closers=closers)


@dataclass(frozen=True, slots=True)
class Asked:
    """What `connect` takes of one dataset."""

    snapshot: Snapshot
    reader: RowReader
    store: Store
    kept: Kept
    statistics: StatisticsOf | None


class Connection:
    """One snapshot or several as tables for SQL. Made by `lc.connect`; safe from several threads.

    Example:
        >>> import lazycache as lc
        >>> from lazycache.samples import small_cache
        >>> with lc.connect({"a": small_cache(), "b": small_cache()}) as connection:
        ...     connection.sql(
        ...         "SELECT sum(unit(a.resid_out_0, 1) - unit(b.resid_out_0, 0)) AS difference "
        ...         "FROM a.tokens a JOIN b.tokens b USING (example, position)"
        ...     ).fetchall()
        [(6.0,)]
    """

    def __init__(
        self, members: Mapping[str, Member], *, closers: Sequence[Callable[[], None]] = ()
    ) -> None:
        self._activity = Activity()
        self._failures = ReadFailures()
        self._lock = threading.Lock()
        self._results: weakref.WeakSet[Result] = weakref.WeakSet()
        self._engines = [self._engine(members)]
        # also at interpreter exit, where a query that still runs would kill the process
        self._closer = weakref.finalize(
            self, _end, self._activity, self._results, self._engines, self._lock, tuple(closers)
        )

    def sql(
        self,
        query: str,
        params: Params | None = None,
        *,
        tables: Mapping[str, Any] | None = None,
    ) -> Result:
        """Return the result of one query: checked now, run when it is first read.

        Args:
            query: SQL that reads; `tokens`, `examples`, `sites`, `statistics`, `shards`, `chunks`,
                `commits` and `runs` are its tables; where there are such rows also
                `decoder_tokens`, `calls`, `example_calls` and `decoder_calls`. Of one of several
                datasets they are `base.tokens`, with the name that it was connected by. Names of
                sites with dots or colons go in double quotes.
            params: Values for `?` or `$1` (a sequence) or `$name` (a mapping); numbers and vectors
                of numpy and torch are taken too.
            tables: Tables of your own for this query alone, by name: pandas or Polars DataFrames,
                Arrow tables, dicts of columns. They are copied where they could change.

        Cost: of a site, only rows that survive the cheaper predicates are read, up to 2,048 at a
        time however thinly they are spread, and of these only the unit where `unit(site, i)` asks
        for one. `ORDER BY unit(site, i) LIMIT n` over all rows of a table, n at most 10,000, reads
        statistics and then mostly the n winners alone, as `cache.top_k` does; where no statistics
        are stored, or NaN is among the values, that unit of all rows. With a WHERE it reads the
        unit of all rows that are left, and whole vectors of the n winners alone if the query asks
        for a column of the table beside `row` and sites, `token` say; DuckDB takes
        `SELECT row, site ...` for too little to read later, and reads the vectors of all that are
        left. Of a single row, `WHERE row = 5`, values are read twice: DuckDB takes them for
        constants when it plans the query.

        Raises:
            QueryError: the query cannot be answered, names the nearest columns and tables; or the
                connection is closed.
            ReadOnlyError: the statement writes.
        """
        if not isinstance(query, str):
            raise QueryError(f"A query is a text, not a {type(query).__name__}.")
        text = checked_text(query, what="The query")
        values, own = plain_parameters(params), arrow_tables(tables)

        def prepare(damaged: Prepared | None) -> Prepared:
            return self._prepare(text, values, own, damaged)

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

    def _engine(self, members: Mapping[str, Member]) -> Engine:
        return Engine(members, activity=self._activity, failures=self._failures)

    def _prepare(
        self,
        query: str,
        params: Values,
        tables: UserTables,
        damaged: Prepared | None,
    ) -> Prepared:
        """Prepare a query; over a new index, if that of `damaged` or the present one is damaged."""
        engine = self._engines[-1] if damaged is None else self._repaired(damaged.engine)
        try:
            return engine.prepare(query, params, tables)
        except DamagedIndexError:
            return self._repaired(engine).prepare(query, params, tables)

    def _repaired(self, damaged: Engine) -> Engine:
        """Return an engine over a new index; the first who finds the damage builds it."""
        with self._activity.call(None), self._lock:
            if self._engines[-1] is damaged:
                again = {name: one.rebuilt() for name, one in damaged.members.items()}
                self._engines.append(self._engine(again))
            return self._engines[-1]


def _end(
    activity: Activity,
    results: weakref.WeakSet[Result],
    engines: list[Engine],
    lock: threading.Lock,
    closers: Sequence[Callable[[], None]],
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
    for close in closers:
        close()
