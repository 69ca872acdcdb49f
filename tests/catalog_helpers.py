"""Commits and datasets for tests of the catalog."""

import json
import uuid
import zlib

import numpy as np

from lazycache.catalog.log import create_dataset
from lazycache.storage.fsspec_store import FsspecStore
from lazycache.types import (
    RAGGED,
    ArrayRef,
    ChunkRef,
    Commit,
    RunInfo,
    ShardRef,
    SiteSpec,
    TableFileRef,
    index_columns,
)

LIES = [None, True, -1, -1.0, 1.5, 0, 1, 10**15, 2**63, 2**200, [], {}, [[]], {"a": 1}]
LIES += ["", "..", "\x00", "../x", "row", "ragged", "tokens", "examples"]
"""What a field of a log may be instead of what it is."""

IDENTITY_RECORD = {"format": "lazycache", "version": 1, "uuid": "u", "created": "2026-01-01"}


def memory_store():
    """An empty dataset in memory that nobody else has."""
    store = FsspecStore(f"memory://{uuid.uuid4().hex}", storage_options={})
    create_dataset(store)
    return store


def site(name="resid_out_0", *, table="tokens", shape=(4,), row_bytes=16, dtype="float32"):
    return SiteSpec(name=name, table=table, dtype=dtype, shape=shape, row_bytes=row_bytes)


def ragged_site(name="pattern_0", *, table="tokens", heads=2):
    """A site of float32 rows of `heads` times their own width."""
    return SiteSpec(name, table, "float32", (heads, -1), heads * 4, RAGGED)


def array(name="head_out_0.weight", *, shape=(2, 3, 4), path=None, crc=7, dtype="float32"):
    """An array of float32 that lies where the writer would lay it."""
    return ArrayRef(
        name=name,
        path=path or f"arrays/x/{uuid.uuid4().hex}-r0.parquet",
        length=64 + 4 * int(np.prod(shape)) + 100,
        dtype=dtype,
        shape=shape,
        value_offset=64,
        value_crc=crc,
    )


def table_file(rows, *, table="tokens", row_start=0, examples=None, lengths=None, columns=None):
    """A file of `rows` rows; by default all of them are example 0."""
    if examples is None:
        examples, lengths = ([0], [rows]) if rows else ([], [])
    return TableFileRef(
        table=table,
        path=f"tables/{table}/{uuid.uuid4().hex}-r0.parquet",
        length=1000,
        rows=rows,
        row_start=row_start,
        columns={"example": "int64"} if columns is None else columns,
        examples=np.array(examples, dtype=np.int64),
        lengths=np.array(lengths, dtype=np.int64),
    )


def shard(spec, rows, *, row_start=0, covers=None, chunk_rows=None, path=None):
    """A shard of `rows` rows whose chunks lie as the writer would lay them; ragged: 3 wide."""
    chunks, at = [], 64
    sizes = [8 if name == "example" else 4 for name in index_columns(spec)]
    for first in range(0, rows, chunk_rows or max(rows, 1)):
        n = min(chunk_rows or rows, rows - first)
        width = 3 * n if spec.layout == RAGGED else None
        values, at = at, at + (width or n) * spec.row_bytes
        offsets = []
        for size in sizes:
            offsets.append(at)
            at += n * size
        at += -at % 64
        chunks.append(ChunkRef(n, values, 7, tuple(offsets), width))
    return ShardRef(
        site=spec.name,
        path=path or f"data/x/{uuid.uuid4().hex}-r0.parquet",
        length=at + 100,
        rows=rows,
        row_start=row_start,
        covers=covers,
        chunks=tuple(chunks),
    )


def draft(*, run="main", runs=(), sites=(), tables=(), shards=(), arrays=(), txn=None, version=0):
    return Commit(
        version=version,
        txn=txn or uuid.uuid4().hex,
        writer="test",
        time="2026-01-01T00:00:00+00:00",
        run=run,
        runs=tuple(runs),
        sites=tuple(sites),
        tables=tuple(tables),
        shards=tuple(shards),
        arrays=tuple(arrays),
    )


def full_commit(txn, *, rows=3):
    """A commit of every kind of thing: ragged sites, calls and an array beside the usual."""
    ragged, calls = ragged_site(), site("rnn:out@*", table="calls")
    usual = small_commit(txn, rows=rows)
    return draft(
        txn=txn,
        runs=usual.runs,
        sites=[*usual.sites, ragged, calls],
        tables=[*usual.tables, table_file(2 * rows, table="calls")],
        shards=[*usual.shards, shard(ragged, rows), shard(calls, 2 * rows)],
        arrays=[array()],
    )


def small_commit(txn, *, rows=3):
    """A whole commit that `txn` alone decides: run, site, tables and shards."""
    spec = site()
    return draft(
        txn=txn,
        runs=[RunInfo("main", {"model": "m"})],
        sites=[spec],
        tables=[
            replace_path(table_file(rows), f"tables/tokens/{txn}-r0.parquet"),
            replace_path(table_file(1, table="examples"), f"tables/examples/{txn}-r0.parquet"),
        ],
        shards=[shard(spec, rows, path=f"data/resid_out_0/{txn}-r0.parquet")],
    )


def replace_path(file, path):
    from dataclasses import replace

    return replace(file, path=path)


def plain(value):
    """A commit (or part of one) as plain values that can be compared."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        assert value.dtype == np.int64
        return value.tolist()
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    return value


def sealed(entry):
    """A record of any JSON value, with a right checksum."""
    body = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    return b"%s\n%08x\n" % (body, zlib.crc32(body))


def spots(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from spots(item, (*path, key))
        else:
            yield (*path, key)
