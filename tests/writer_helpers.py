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
from lazycache.types import RowBatch, RunInfo, SiteBlock, TableBlock
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
    run = given.pop("run")
    return DatasetWriter(store, snapshot=snapshot_of(store), run=run, settings=Settings(**given))


SITES = {
    "resid_out_0": ("tokens", (6,), torch.bfloat16),
    "resid_out_1": ("tokens", (6,), torch.bfloat16),
    "z_0": ("tokens", (2, 3), torch.float32),
    "pooled": ("examples", (5,), torch.float64),
}


def batch_rows(number: int) -> int:
    """Rows of a batch: some small, some large, all odd."""
    return 1 + number * 7919 % 131 * 2


def site_values(number: int, name: str, rows: int) -> torch.Tensor:
    """Values that follow from the batch, the site and the row, so that any mix-up shows."""
    _, shape, dtype = SITES[name]
    count = rows * int(np.prod(shape))
    seed = zlib.crc32(f"{number}:{name}".encode()) % 9973
    return (
        ((torch.arange(count, dtype=torch.int64) * 31 + seed) % 997).reshape(rows, *shape).to(dtype)
    )


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
    blocks = {}
    for name in sites:
        table = SITES[name][0]
        blocks[name] = SiteBlock(table, site_values(number, name, tables[table].rows))
    return RowBatch(tables, blocks)


@dataclass
class Stored:
    """A site as it lies in the files of a snapshot."""

    values: torch.Tensor
    rows: np.ndarray
    chunk_rows: list[int] = field(default_factory=list)
    shard_rows: list[int] = field(default_factory=list)


def read_site(store: Store, snapshot: Snapshot, name: str) -> Stored:
    """Read a site by its chunk references; check lengths, CRCs and index columns on the way."""
    spec = snapshot.sites[name]
    tokens = table_columns(store, snapshot, spec.table)
    parts, rows, chunk_rows, shard_rows = [], [], [], []
    for shard in snapshot.shards(name):
        data, row = store.get(shard.ref.path), shard.row_start
        assert len(data) == shard.ref.length
        for chunk in shard.ref.chunks:
            size = chunk.rows * spec.row_bytes
            raw = data[chunk.value_offset : chunk.value_offset + size]
            assert zlib.crc32(raw) == chunk.value_crc
            assert chunk.value_offset % 64 == 0
            parts.append(from_buffer(raw, by_name(spec.dtype), (chunk.rows, *spec.shape)))
            _check_index(data, chunk, tokens, row)
            rows.append(np.arange(row, row + chunk.rows))
            chunk_rows.append(chunk.rows)
            row += chunk.rows
        shard_rows.append(shard.ref.rows)
    empty = torch.empty((0, *spec.shape), dtype=by_name(spec.dtype).torch)
    return Stored(
        torch.cat([empty, *parts]),
        np.concatenate([np.empty(0, np.int64), *rows]),
        chunk_rows,
        shard_rows,
    )


def _check_index(data, chunk, columns, row) -> None:
    dtypes = {"example": "<i8", "position": "<i4"}
    for (name, dtype), at in zip(dtypes.items(), chunk.index_offsets, strict=False):
        got = np.frombuffer(data, dtype, chunk.rows, at).tolist()
        assert got == columns[name][row : row + chunk.rows]


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
    for table in ("tokens", "examples"):
        expected: dict[str, list] = {}
        for batch in batches:
            for name, values in batch.tables[table].columns.items():
                expected.setdefault(name, []).extend(list(values))
        assert table_columns(store, snapshot, table) == expected
    for name in batches[0].sites if batches else ():
        stored = read_site(store, snapshot, name)
        expected = torch.cat([batch.sites[name].values for batch in batches])
        assert stored.rows.tolist() == list(range(len(expected)))
        assert stored.values.dtype == expected.dtype
        assert torch.equal(stored.values, expected)
    return snapshot


def data_files(store: Store) -> set[str]:
    """Shards and table files that lie in the folder, hidden ones included."""
    root = store.local_path("data").parent
    found = [*root.glob("data/**/*"), *root.glob("tables/**/*")]
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


def named_files(snapshot: Snapshot) -> set[str]:
    """Shards and table files that the log names."""
    refs = [ref for commit in snapshot.commits for ref in (*commit.shards, *commit.tables)]
    return {ref.path for ref in refs}


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
