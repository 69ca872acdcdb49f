"""Sites of opened datasets to a new one: their rows and columns, batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.reading.ragged_values import flat_values
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.spans import of_ranges
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.catalog.column_types import widest
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.loading import load_snapshot
from lazycache.catalog.snapshot import PlacedTable, Snapshot
from lazycache.codec.tables import decode_table
from lazycache.late_bars import hush, late_bar
from lazycache.progress import SILENT, Bar
from lazycache.rewritten_parts import Part, Shown, parts
from lazycache.storage.store import Store
from lazycache.types import CALLS_OF, INDEX_COLUMNS, RowBatch, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

BATCH_BYTES = 32 << 20
"""Most bytes of values that are read at once, or those of one row."""

SETTINGS = Settings(
    queue_bytes=4 * BATCH_BYTES,
    shard_bytes=256 << 20,
    chunk_rows=8192,
    commit_bytes=1 << 62,  # all rows of a run become visible together
    commit_seconds=1e7,
    rank=0,
)


def rewrite(datasets: Sequence[tuple[StoredSites, Shown]], store: Store) -> None:
    """Write what is shown of datasets to an empty store, one behind the other.

    Rows keep their order, their example ids and all their columns; runs keep their names (of a name
    that is there twice the second becomes `main-2`) and what is known of them. Restricted datasets
    are written as they show themselves. A computed site stays computed where what it follows from
    is shown too; else its values are stored.

    Cost: reads and writes all values once; memory of a few batches of 32 MiB.

    Raises:
        CaptureError: joined datasets have a site of different shape or dtype.
        CorruptShardError: a file is not what the log recorded.
        StorageError: a store failed.
    """
    create_dataset(store)
    names: set[str] = set()
    with late_bar("save", total=sum(_bytes(*one) for one in datasets)) as bar:
        for sites, shown in datasets:
            if not sites.io.progress:
                hush()
            called = {run: _free(run, names) for run in sites.snapshot.runs}
            for part in parts(sites, shown, called=called, most_bytes=1 << 62):
                write_part(part, store, bar)


def _bytes(sites: StoredSites, shown: Shown) -> int:
    """Return about how much there is to write, by the log: of some rows their share."""
    kept = {name: x for name, x in shown.items() if isinstance(x, LazyTensor)}
    ragged = shown.keys() - kept.keys()
    return sum(x.nbytes for x in kept.values()) + sum(map(sites.stored_bytes, ragged))


def _free(run: str, taken: set[str]) -> str:
    """Return the name of a run, or one that is like it, and take it."""
    name, number = run, 2
    while name in taken:
        name, number = f"{run}-{number}", number + 1
    taken.add(name)
    return name


def write_part(part: Part, store: Store, bar: Bar = SILENT) -> None:
    """Write the rows of a part, behind those that the store has, as one commit.

    `bar` is told of the bytes of values that were handed to the writer.

    Raises:
        CaptureError: the store has a site of different shape or dtype.
        CorruptShardError: a file is not what the log recorded.
        StorageError: a store failed.
    """
    run, *notes = part.infos()
    snapshot = load_snapshot(store)
    columns = {table: _columns(part, table) for table in part.stretch.rows}
    writer = DatasetWriter(
        store,
        snapshot=snapshot,
        run=run,
        notes=notes,
        settings=SETTINGS,
        arrays=part.arrays(),
        columns=columns,
    )
    try:
        writer.write(_declared(part))
        for table in part.stretch.rows:
            for batch in _batches(part, table):
                writer.write(batch)
                bar.advance(batch.nbytes)
        writer.close()
    except BaseException:
        writer.abort()
        raise


def _declared(part: Part) -> RowBatch:
    """Return a batch without rows, so that every site is there, also one that has none."""
    blocks, tables = {}, {}
    for name, x in part.kept.items():
        table = part.sites.sites[name].table
        tables[table] = TableBlock(0, {c: _EMPTY[c] for c in INDEX_COLUMNS[table]})
        blocks[name] = _block(part, name, x, np.empty(0, np.int64))
    return RowBatch(tables, blocks)


_EMPTY: Mapping[str, np.ndarray] = {
    "example": np.empty(0, np.int64),
    "position": np.empty(0, np.int32),
    "call": np.empty(0, np.int32),
}


def _batches(part: Part, table: str) -> Iterator[RowBatch]:
    """Yield the rows of one table with the sites that have them."""
    mine = {name: x for name, x in part.kept.items() if part.sites.sites[name].table == table}
    if table in CALLS_OF.values() and not mine:
        return
    size = _batch_rows(part.sites, mine)
    files = _files(part.sites.snapshot, table, part.stretch.rows[table])
    shown = part.rows(table)
    for file in files:
        rows = shown & of_ranges(*_ends(file))
        if not rows.count:
            continue
        columns = decode_table(part.sites.store.get(file.ref.path))
        for piece in _pieces(part.sites, mine, as_array(rows.rows()), size):
            taken = columns.take(pa.array(piece - file.row_start))
            there = {name: x for name, x in mine.items() if _has(part.sites, name, piece[0])}
            blocks = {name: _block(part, name, x, piece) for name, x in there.items()}
            tables = {table: TableBlock(len(piece), _values(taken, file.ref.columns))}
            yield RowBatch(tables, blocks)


def _files(snapshot: Snapshot, table: str, rows: tuple[int, int]) -> list[PlacedTable]:
    start, stop = rows
    # one that was merged from those of several commits may begin before these rows
    return [
        file
        for file in snapshot.table_files(table)
        if file.row_start < stop and start < file.row_start + file.ref.rows
    ]


def _columns(part: Part, table: str) -> dict[str, str]:
    """Return columns and types of a stretch: each keeps its own, as it does in one dataset."""
    types: dict[str, str] = {}
    for file in _files(part.sites.snapshot, table, part.stretch.rows[table]):
        for name, kind in file.ref.columns.items():
            types[name] = widest(types.get(name, kind), kind)
    return types


def _ends(file: PlacedTable) -> tuple[np.ndarray, np.ndarray]:
    return np.array([file.row_start]), np.array([file.row_start + file.ref.rows])


def _batch_rows(sites: StoredSites, mine: Shown) -> int:
    """Return how many rows are read at once."""
    row_bytes = 1
    for name, x in mine.items():
        width = sites.stored_bytes(name) // max(1, sites.rows(name))
        row_bytes += max(width, sites.sites[name].row_bytes if isinstance(x, LazyTensor) else 1)
    return max(1, min(SETTINGS.chunk_rows, BATCH_BYTES // row_bytes))


def _pieces(sites: StoredSites, mine: Shown, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut rows into pieces of which each site has all or none."""
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        cuts = np.zeros(max(0, len(piece) - 1), np.bool_)
        for name in mine:
            there = sites.reader.covered(name, piece)
            cuts |= there[1:] != there[:-1]
        yield from np.split(piece, np.flatnonzero(cuts) + 1)


def _has(sites: StoredSites, name: str, row: int) -> bool:
    return bool(sites.reader.covered(name, np.array([row]))[0])


def _block(part: Part, name: str, x: LazyTensor | RaggedTensor, rows: np.ndarray) -> SiteBlock:
    spec = part.sites.sites[name]
    if isinstance(x, RaggedTensor):
        values, widths = flat_values(part.sites.reader, spec, rows)
        return SiteBlock(spec.table, values.to(x.dtype), shape=spec.shape, widths=widths)
    values = x.values_of(rows) if len(rows) else torch.empty((0, *spec.shape), dtype=x.dtype)
    return SiteBlock(spec.table, values.cpu().contiguous())


def _values(rows: pa.Table, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return columns as a writer takes them."""
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        column = rows[name]
        if kind in ("int64", "int32", "float64", "bool") and not column.null_count:
            found[name] = column.to_numpy()
        elif kind == "json":
            found[name] = [None if v is None else json.loads(v) for v in column.to_pylist()]
        else:
            found[name] = column.to_pylist()
    return found
