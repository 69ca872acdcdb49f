"""Datasets written by the real writer, deterministic batches, and a reader that trusts nothing."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from lazycache.catalog.log import CommitLog, create_dataset, read_identity
from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.dtypes import by_name, from_buffer
from lazycache.codec.tables import decode_table
from lazycache.storage.local_store import LocalStore
from lazycache.storage.store import Store, Upload
from lazycache.types import (
    WIDTH,
    RowBatch,
    RunInfo,
    SiteBlock,
    TableBlock,
    index_columns,
)
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

DEFAULTS = {
    "run": RunInfo("main", {"why": "test"}),
    "queue_bytes": 1 << 20,
    "shard_bytes": 1 << 20,
    "chunk_rows": 100,
    "commit_bytes": 1 << 40,
    "commit_seconds": 3600.0,
    "rank": 0,
}


def new_store(folder) -> LocalStore:
    store = LocalStore(folder, create=True)
    create_dataset(store)
    return store


def snapshot_of(store: Store) -> Snapshot:
    return Snapshot.replay(read_identity(store), CommitLog(store).read())


def new_writer(store: Store, **settings) -> DatasetWriter:
    given = {**DEFAULTS, **settings}
    run, arrays = given.pop("run"), given.pop("arrays", {})
    return DatasetWriter(
        store,
        snapshot=snapshot_of(store),
        run=run,
        settings=Settings(**given),
        arrays=arrays,
    )


SITES = {
    "resid_out_0": ("tokens", (6,), torch.bfloat16),
    "resid_out_1": ("tokens", (6,), torch.bfloat16),
    "z_0": ("tokens", (2, 3), torch.float32),
    "pooled": ("examples", (5,), torch.float64),
}

EVERY_SITE = {
    **SITES,
    "pattern_0": ("tokens", (2, -1), torch.bfloat16),
    "rnn:out@*": ("calls", (4,), torch.float32),
    "gate:out@*": ("calls", (), torch.float16),
}
"""Also a ragged site and sites of calls, of which `gate` has two in every batch."""

ARRAYS = {
    "head_out_0.weight": torch.arange(24, dtype=torch.bfloat16).reshape(2, 3, 4),
    "scale": torch.tensor([1.5, float("nan")]),
}


def batch_rows(number: int) -> int:
    """Rows of a batch: some small, some large, all odd."""
    return 1 + number * 7919 % 131 * 2


def site_values(number: int, name: str, rows: int) -> torch.Tensor:
    """Values that follow from the batch, the site and the row, so that any mix-up shows."""
    _, shape, dtype = EVERY_SITE[name]
    return _counted(number, name, rows * int(np.prod(shape)), dtype).reshape(rows, *shape)


def _counted(number: int, name: str, count: int, dtype: torch.dtype) -> torch.Tensor:
    seed = zlib.crc32(f"{number}:{name}".encode()) % 9973
    return ((torch.arange(count, dtype=torch.int64) * 31 + seed) % 997).to(dtype)


def site_block(number: int, name: str, tables: dict[str, TableBlock]) -> SiteBlock:
    """A block of a site: ragged ones are as wide as the example has positions up to the row."""
    table, shape, dtype = EVERY_SITE[name]
    if -1 in shape:
        widths = np.asarray(tables[table].columns["position"], np.int32) + 1
        count = int(widths.sum()) * int(np.prod([size for size in shape if size != -1]))
        return SiteBlock(table, _counted(number, name, count, dtype), shape, widths)
    rows = tables[table].rows if name != "gate:out@*" else 2 * tables["tokens"].rows
    return SiteBlock(table, site_values(number, name, rows))


def calls_block(tokens: TableBlock, calls: int) -> TableBlock:
    """So many calls of all rows of `tokens`, one call after the other."""
    columns = {name: np.tile(tokens.columns[name], calls) for name in ("example", "position")}
    call = np.repeat(np.arange(calls, dtype=np.int32), tokens.rows)
    return TableBlock(calls * tokens.rows, {**columns, "call": call})


def batch_calls(number: int) -> int:
    """How often the modules of a batch are called: once in a while more often than `gate` is."""
    return 3 if number % 3 == 1 else 2


def make_batch(number: int, *, sites: Sequence[str] = tuple(SITES), scale: int = 1) -> RowBatch:
    """Two examples with all their tokens; everything follows from the number of the batch."""
    rows = batch_rows(number) * scale
    first = rows // 2
    example = np.repeat([2 * number, 2 * number + 1], [first, rows - first])
    position = np.concatenate([np.arange(first), np.arange(rows - first)]).astype(np.int32)
    tables = {
        "tokens": TableBlock(
            rows, {"example": example, "position": position, "token": [f"t{i}" for i in position]}
        ),
        "examples": TableBlock(
            2, {"example": np.array([2 * number, 2 * number + 1]), "batch": [number, number]}
        ),
    }
    if any(EVERY_SITE[name][0] == "calls" for name in sites):
        tables["calls"] = calls_block(tables["tokens"], batch_calls(number))
    return RowBatch(tables, {name: site_block(number, name, tables) for name in sites})


@dataclass
class Stored:
    """A site as it lies in the files of a snapshot; values of a ragged one are flat."""

    values: torch.Tensor
    rows: np.ndarray
    widths: np.ndarray
    chunk_rows: list[int] = field(default_factory=list)
    shard_rows: list[int] = field(default_factory=list)


def read_site(store: Store, snapshot: Snapshot, name: str) -> Stored:
    """Read a site by its chunk references; check lengths, CRCs and index columns on the way."""
    spec = snapshot.sites[name]
    tokens = table_columns(store, snapshot, spec.table)
    parts, rows, widths, chunk_rows, shard_rows = [], [], [], [], []
    shape = () if -1 in spec.shape else spec.shape
    for shard in snapshot.shards(name):
        data, row = store.get(shard.ref.path), shard.row_start
        assert len(data) == shard.ref.length
        for chunk in shard.ref.chunks:
            units = chunk.rows if chunk.width is None else chunk.width
            raw = data[chunk.value_offset : chunk.value_offset + units * spec.row_bytes]
            assert zlib.crc32(raw) == chunk.value_crc
            assert chunk.value_offset % 64 == 0
            parts.append(_tensor(raw, spec.dtype, shape))
            widths.append(_check_index(data, chunk, spec, tokens, row))
            rows.append(np.arange(row, row + chunk.rows))
            chunk_rows.append(chunk.rows)
            row += chunk.rows
        shard_rows.append(shard.ref.rows)
    empty = torch.empty((0, *shape), dtype=by_name(spec.dtype).torch)
    return Stored(
        torch.cat([empty, *parts]),
        np.concatenate([np.empty(0, np.int64), *rows]),
        np.concatenate([np.empty(0, np.int32), *widths]),
        chunk_rows,
        shard_rows,
    )


def _tensor(raw: bytes, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    found = by_name(dtype)
    flat = from_buffer(raw, found, (len(raw) // found.itemsize,))
    return flat.reshape(-1, *shape) if shape else flat


def _check_index(data, chunk, spec, columns, row) -> np.ndarray:
    """Compare the index columns with those of the table; return the widths, if there are any."""
    widths = np.empty(0, np.int32)
    for name, at in zip(index_columns(spec), chunk.index_offsets, strict=True):
        got = np.frombuffer(data, "<i8" if name == "example" else "<i4", chunk.rows, at)
        if name == WIDTH:
            widths = got
        else:
            assert got.tolist() == columns[name][row : row + chunk.rows]
    assert chunk.width == (int(widths.sum()) if spec.layout == "ragged" else None)
    return widths


def table_columns(store: Store, snapshot: Snapshot, table: str) -> dict[str, list]:
    """Read all columns of a table, None where a file lacks one."""
    names = snapshot.columns(table)
    columns: dict[str, list] = {name: [] for name in names}
    for placed in snapshot.table_files(table):
        data = store.get(placed.ref.path)
        assert len(data) == placed.ref.length
        read = decode_table(data)
        assert read.num_rows == placed.ref.rows
        for name in names:
            there = name in read.column_names
            columns[name] += read[name].to_pylist() if there else [None] * read.num_rows
        ids = np.repeat(placed.ref.examples, placed.ref.lengths).tolist()
        assert ids == read["example"].to_pylist()
    return columns


def check_dataset(store: Store, numbers: Sequence[int], **how) -> Snapshot:
    """Assert that a dataset holds exactly these batches, in this order, bit for bit."""
    snapshot = snapshot_of(store)
    batches = [make_batch(number, **how) for number in numbers]
    for table in batches[0].tables if batches else ("tokens", "examples"):
        expected: dict[str, list] = {}
        for batch in batches:
            for name, values in batch.tables[table].columns.items():
                expected.setdefault(name, []).extend(list(values))
        assert table_columns(store, snapshot, table) == expected
    for name in batches[0].sites if batches else ():
        _check_site(read_site(store, snapshot, name), name, batches)
    return snapshot


def _check_site(stored: Stored, name: str, batches: Sequence[RowBatch]) -> None:
    blocks = [batch.sites[name] for batch in batches]
    expected = torch.cat([block.values for block in blocks])
    sizes = [batch.tables[EVERY_SITE[name][0]].rows for batch in batches]
    first = np.cumsum([0, *sizes])
    rows = [np.arange(at, at + block.rows) for at, block in zip(first, blocks, strict=False)]
    assert stored.rows.tolist() == np.concatenate(rows).tolist()
    assert stored.values.dtype == expected.dtype
    assert torch.equal(stored.values, expected)
    widths = [block.widths for block in blocks if block.widths is not None]
    assert stored.widths.tolist() == np.concatenate([np.empty(0, int), *widths]).tolist()


def read_array(store: Store, snapshot: Snapshot, name: str, *, run: str = "main") -> torch.Tensor:
    """Read a tensor that a run keeps; check its file on the way."""
    ref = snapshot.array(run, name)
    data = store.get(ref.path)
    raw = data[ref.value_offset :][: int(np.prod(ref.shape)) * by_name(ref.dtype).itemsize]
    assert len(data) == ref.length
    assert zlib.crc32(raw) == ref.value_crc
    return from_buffer(raw, by_name(ref.dtype), ref.shape)


def data_files(store: Store) -> set[str]:
    """Shards, statistics, table files and arrays in the folder, hidden ones included."""
    root, parts = store.local_path("data").parent, ("data", "stats", "tables", "arrays")
    found = [path for part in parts for path in root.glob(f"{part}/**/*")]
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


def named_files(snapshot: Snapshot) -> set[str]:
    """Shards, statistics, table files and arrays that the log names."""
    commits = snapshot.commits
    refs = [ref for each in commits for ref in (*each.shards, *each.tables, *each.arrays)]
    stats = [ref.stats.path for each in commits for ref in each.shards if ref.stats is not None]
    return {*(ref.path for ref in refs), *stats}


def writer_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("lazycache")]


class StoreAround:
    """A store that does what another does; tests override what they want to happen."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


class UploadAround:
    """An upload that calls `before` ahead of each write."""

    def __init__(self, inner: Upload, before) -> None:
        self.inner, self.before = inner, before

    def write(self, buffers) -> None:
        self.before(buffers)
        self.inner.write(buffers)

    def finish(self) -> None:
        self.inner.finish()

    def abort(self) -> None:
        self.inner.abort()


def log_bodies(store: Store) -> list[dict]:
    """The commits as JSON, read without the catalog."""
    paths = [info.path for info in store.list("_log/")]
    return [json.loads(store.get(path).splitlines()[0]) for path in paths]
