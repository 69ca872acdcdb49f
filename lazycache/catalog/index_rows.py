"""What goes into the index, as Arrow: the rows of table files, and what commits say of shards.

Streams: one batch of one table file is in memory at a time, never the dataset. Remote table files
are fetched whole, some ahead; they are small beside the activations they describe.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lazycache.catalog.computed import all_sites, computed_sites
from lazycache.codec.columns import ARROW_TYPES
from lazycache.codec.tables import open_table
from lazycache.errors import CorruptShardError, FormatVersionError, LazycacheError
from lazycache.storage.layout import IDENTITY
from lazycache.types import DECODER_TOKENS, EXAMPLES, INDEX_COLUMNS, TOKENS

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import CommitLine, PlacedTable, Snapshot
    from lazycache.storage.store import Store

BATCH_ROWS = 65_536
"""Rows of a table file decoded at once."""

_PARALLEL_GETS = 16

_KNOWN = {
    TOKENS: ("token_id", "token"),
    EXAMPLES: ("length",),
    DECODER_TOKENS: ("token_id", "token"),
}

BASE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    table: ("row", "run", *columns, *_KNOWN.get(table, ()))
    for table, columns in INDEX_COLUMNS.items()
}
"""The columns that the index always has of each table, in order: those of `schema.sql`."""

_SQL = {
    "bool": "BOOLEAN",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "json": "VARCHAR",  # stays text: DuckDB's JSON functions take it as it is
    "binary": "BLOB",
}


def index_columns(columns: Iterable[str], *, table: str) -> dict[str, str]:
    """Return file column -> index column: SQL names are unique whatever their case.

    A user column that is called like one of the index's own (`row`, `run`) or like an earlier one
    in another case gets the first free suffix.

    Example:
        >>> index_columns(["example", "label", "Label", "row"], table="examples")
        {'example': 'example', 'label': 'label', 'Label': 'Label_2', 'row': 'row_2'}
    """
    own = BASE_COLUMNS[table]
    taken = set(own)
    names: dict[str, str] = {}
    for column in columns:
        is_own = column in own[2:]  # `row` and `run` are not read from files
        names[column] = column if is_own else unused(column, taken)
        taken.add(names[column].lower())
    return names


def unused(name: str, taken: set[str]) -> str:
    """Return `name`, or the first of name_2, name_3, ... whose lower case is not taken.

    Example:
        >>> unused("Row", {"row", "row_2"})
        'Row_3'
    """
    if name.lower() not in taken:
        return name
    number = 2
    while f"{name}_{number}".lower() in taken:
        number += 1
    return f"{name}_{number}"


def sql_type(column: str, kind: str) -> str:
    """Return the SQL type of a table column.

    Raises:
        FormatVersionError: a kind that this version does not know.

    Example:
        >>> sql_type("label", "int64")
        'BIGINT'
    """
    try:
        return _SQL[kind]
    except KeyError:
        raise FormatVersionError(
            f"column {column!r} has the type {kind!r}, which this version does not know "
            f"(it knows {', '.join(_SQL)}). A newer lazycache wrote it: upgrade."
        ) from None


class TableStream:
    """The rows of some table files as one stream of Arrow batches with one schema.

    An error in the middle of a stream reaches DuckDB as text only; `error` keeps it as it was.
    """

    def __init__(
        self, store: Store, files: Sequence[PlacedTable], *, table: str, columns: Mapping[str, str]
    ) -> None:
        self.error: BaseException | None = None
        self._store = store
        self._files = files
        self._columns = columns
        self._names = index_columns(columns, table=table)
        fields = [pa.field("row", pa.int64()), pa.field("run", pa.string())]
        fields += [pa.field(self._names[c], ARROW_TYPES[kind]) for c, kind in columns.items()]
        self._schema = pa.schema(fields)

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream, to be read once."""
        return pa.RecordBatchReader.from_batches(self._schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for file, source in self._sources():
                yield from self._of_file(file, source)
        except BaseException as exc:  # Arrow's C stream would keep only its text: carried over
            self.error = exc
            raise

    def _sources(self) -> Iterator[tuple[PlacedTable, Callable[[], Any]]]:
        """Yield each file and what gives the path or the bytes of it."""
        if self._store.local_path(IDENTITY) is not None:
            for file in self._files:
                yield file, partial(self._source, file.ref.path)
            return
        flying: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(_PARALLEL_GETS) as pool:
            try:
                for at, file in enumerate(self._files):
                    ahead = self._files[at + len(flying) : at + 2 * _PARALLEL_GETS]
                    flying.extend(pool.submit(self._source, next_.ref.path) for next_ in ahead)
                    yield file, flying.popleft().result
            finally:
                for future in flying:
                    future.cancel()

    def _of_file(self, file: PlacedTable, source: Callable[[], Any]) -> Iterator[pa.RecordBatch]:
        row = file.row_start
        try:
            with source() as data, self._opened(file, data) as parquet:
                wanted = [c for c in self._columns if c in file.ref.columns]
                for batch in parquet.iter_batches(BATCH_ROWS, columns=wanted):
                    yield self._complete(batch, row=row, run=file.run)
                    row += batch.num_rows
        except LazycacheError:
            raise
        except (pa.ArrowException, OSError, KeyError, ValueError) as exc:
            raise self._damaged(file, exc) from exc
        if row - file.row_start != file.ref.rows:
            raise CorruptShardError(
                f"The table file {file.ref.path!r} of {self._store.url} holds "
                f"{row - file.row_start} rows where the log recorded {file.ref.rows}."
            )

    def _opened(self, file: PlacedTable, data: pa.NativeFile) -> Any:
        try:
            return open_table(data, length=data.size())
        except CorruptShardError as exc:
            raise self._damaged(file, exc) from exc

    def _damaged(self, file: PlacedTable, exc: Exception) -> CorruptShardError:
        return CorruptShardError(
            f"Could not read the table file {file.ref.path!r} of {self._store.url}: {exc}. "
            "It is damaged or missing: restore it from a copy of the dataset."
        )

    def _source(self, path: str) -> pa.NativeFile:
        local = self._store.local_path(path)
        if local is not None:
            return pa.OSFile(str(local))
        return pa.BufferReader(self._store.get(path))

    def _complete(self, batch: pa.RecordBatch, *, row: int, run: str) -> pa.RecordBatch:
        rows = batch.num_rows
        arrays = [pa.array(range(row, row + rows), pa.int64()), pa.repeat(pa.scalar(run), rows)]
        for column, field in zip(self._columns, list(self._schema)[2:], strict=True):
            at = batch.schema.get_field_index(column)
            missing = at < 0
            arrays.append(pa.nulls(rows, field.type) if missing else _cast(batch[at], field.type))
        return pa.record_batch(arrays, schema=self._schema)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind)


def commit_rows(commits: Sequence[CommitLine]) -> pa.Table:
    """Return the rows of `commits`."""
    return pa.table(
        {
            "version": pa.array([c.version for c in commits], pa.int64()),
            "time": pa.array([c.time for c in commits], pa.string()),
            "run": pa.array([c.run for c in commits], pa.string()),
            "writer": pa.array([c.writer for c in commits], pa.string()),
            "txn": pa.array([c.txn for c in commits], pa.string()),
            "shards": pa.array([c.shards for c in commits], pa.int64()),
            "bytes": pa.array([c.nbytes for c in commits], pa.int64()),
        }
    )


def run_rows(snapshot: Snapshot) -> pa.Table:
    """Return the rows of `runs`."""
    infos = list(snapshot.runs.values())
    return pa.table(
        {
            "run": pa.array([run.name for run in infos], pa.string()),
            "info": pa.array([json.dumps(dict(run.info)) for run in infos], pa.string()),
        }
    )


def site_rows(snapshot: Snapshot) -> pa.Table:
    """Return the rows of `sites`: what is stored, and what is computed from it."""
    computed = computed_sites(snapshot)
    specs = list(all_sites(snapshot).values())
    shards = [() if spec.name in computed else snapshot.shards(spec.name) for spec in specs]
    rows = [
        computed[spec.name].rows if spec.name in computed else snapshot.covered(spec.name)
        for spec in specs
    ]
    return pa.table(
        {
            "site": pa.array([spec.name for spec in specs], pa.string()),
            "table_name": pa.array([spec.table for spec in specs], pa.string()),
            "dtype": pa.array([spec.dtype for spec in specs], pa.string()),
            "shape": pa.array([list(spec.shape) for spec in specs], pa.list_(pa.int64())),
            "row_bytes": pa.array([spec.row_bytes for spec in specs], pa.int64()),
            "layout": pa.array([spec.layout for spec in specs], pa.string()),
            "rows": pa.array(rows, pa.int64()),
            "shards": pa.array([len(placed) for placed in shards], pa.int64()),
            "bytes": pa.array([sum(p.ref.length for p in placed) for placed in shards], pa.int64()),
        }
    )


def shard_rows(snapshot: Snapshot, *, after: int) -> tuple[pa.Table, pa.Table]:
    """Return the rows of `shards` and of `chunks` that commits after a version added."""
    shards: list[tuple[Any, ...]] = []
    chunks: list[tuple[Any, ...]] = []
    for spec in snapshot.sites.values():
        for placed in snapshot.shards(spec.name):
            ref, start = placed.ref, placed.row_start
            if placed.version <= after:
                continue
            shards.append(
                (spec.name, ref.path, placed.version, start, ref.rows, len(ref.chunks), ref.length)
            )
            for number, chunk in enumerate(ref.chunks):
                units = chunk.rows if chunk.width is None else chunk.width
                nbytes = units * spec.row_bytes
                place = (chunk.value_offset, nbytes, chunk.value_crc)
                chunks.append((spec.name, ref.path, number, start, chunk.rows, *place))
                start += chunk.rows
    shard_names = ["site", "path", "version", "row_start", "rows", "chunks", "bytes"]
    chunk_names = ["site", "path", "chunk", "row_start", "rows"]
    chunk_names += ["value_offset", "value_bytes", "value_crc"]
    return _columnar(shards, shard_names), _columnar(chunks, chunk_names)


def _columnar(rows: list[tuple[Any, ...]], names: list[str]) -> pa.Table:
    # the first two columns are texts, all others whole numbers
    kinds = [pa.string() if number < 2 else pa.int64() for number in range(len(names))]  # noqa: PLR2004
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=names)
