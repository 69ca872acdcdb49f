"""Ragged sites and sites of calls through the writer, beside all others."""

import tempfile

import numpy as np
import pytest
import torch
from codec_helpers import READERS, ragged_block, ragged_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from writer_helpers import (
    EVERY_SITE,
    StoreAround,
    UploadAround,
    batch_calls,
    check_dataset,
    data_files,
    make_batch,
    named_files,
    new_store,
    new_writer,
    read_site,
    snapshot_of,
)

from lazycache.codec.dtypes import as_bytes
from lazycache.types import RowBatch, SiteBlock, TableBlock
from lazycache.writer.chunks import CHUNK_BYTES

EVERY = tuple(EVERY_SITE)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """These tests are not about power cuts."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def store(tmp_path):
    return new_store(tmp_path / "dataset")


def ragged_batch(block: SiteBlock, *, example: int = 0) -> RowBatch:
    """A batch of one example whose rows have the pattern of `block`."""
    columns = {
        "example": np.full(block.rows, example),
        "position": np.arange(block.rows, dtype=np.int32),
    }
    return RowBatch({"tokens": TableBlock(block.rows, columns)}, {"pattern_0": block})


@settings(max_examples=20)
@given(
    commits=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    queue_bytes=st.sampled_from([1, 4_000, 1 << 20]),
    chunk_rows=st.sampled_from([5, 64, 8192]),
    shard_bytes=st.sampled_from([500, 3_000, 1 << 20]),
)
def test_any_sizes_store_every_kind_of_site_exactly(commits, queue_bytes, chunk_rows, shard_bytes):
    """Ragged rows, their widths and rows of calls come back bit for bit, whatever the sizes."""
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(folder)
        writer = new_writer(
            store, queue_bytes=queue_bytes, chunk_rows=chunk_rows, shard_bytes=shard_bytes
        )
        number = 0
        for count in commits:
            for _ in range(count):
                writer.write(make_batch(number, sites=EVERY))
                number += 1
            writer.commit()
        writer.close()
        snapshot = check_dataset(store, range(number), sites=EVERY)
        assert data_files(store) == named_files(snapshot)
        if number:
            assert max(read_site(store, snapshot, "pattern_0").chunk_rows) <= chunk_rows


@pytest.mark.parametrize("reader", ["pyarrow", "duckdb", "polars"])
def test_ragged_shards_of_a_capture_are_read_by_parquet_readers(store, reader):
    """Every row of a ragged site is one binary value of its own length."""
    writer = new_writer(store, chunk_rows=40, shard_bytes=4000)
    for number in range(6):
        writer.write(make_batch(number, sites=EVERY))
    writer.close()
    paths = [store.local_path(s.ref.path) for s in snapshot_of(store).shards("pattern_0")]
    tables = [READERS[reader](path) for path in paths]
    blocks = [make_batch(number, sites=EVERY).sites["pattern_0"] for number in range(6)]
    assert len(paths) > 1
    assert [v for t in tables for v in t["value"].to_pylist()] == [
        row for block in blocks for row in ragged_rows(block)
    ]
    assert [w for t in tables for w in t["width"].to_pylist()] == [
        width for block in blocks for width in block.widths
    ]


def test_a_site_covers_the_calls_that_it_had(store):
    """Rows of calls that a module did not have are missing there: neither stored nor zero."""
    writer = new_writer(store)
    for number in range(4):
        writer.write(make_batch(number, sites=EVERY))
    writer.close()
    snapshot = check_dataset(store, range(4), sites=EVERY)
    tokens = [make_batch(number).tables["tokens"].rows for number in range(4)]
    calls = [batch_calls(number) for number in range(4)]
    assert calls == [2, 3, 2, 2]
    total = sum(n * k for n, k in zip(tokens, calls, strict=True))
    assert snapshot.rows("calls") == snapshot.covered("rnn:out@*") == total
    assert snapshot.covered("gate:out@*") == total - tokens[1]
    # one hole: one more shard
    assert [len(snapshot.shards(f"{name}:out@*")) for name in ("rnn", "gate")] == [1, 2]


def test_wide_rows_make_chunks_by_their_bytes(store):
    """However many rows are asked for, a chunk of a ragged site stays near 16 MB."""
    block = ragged_block([2000] * 2000 + [10_000_000, 5], (4, -1), torch.uint8)
    writer = new_writer(store, queue_bytes=1 << 30, shard_bytes=1 << 30, chunk_rows=8192)
    writer.write(ragged_batch(block))
    writer.close()
    snapshot = snapshot_of(store)
    (shard,) = snapshot.shards("pattern_0")
    sizes = [chunk.width * 4 for chunk in shard.ref.chunks]
    assert [chunk.rows for chunk in shard.ref.chunks] == [2000, 1, 1]
    assert sizes == [16_000_000, 40_000_000, 20]
    assert sizes[0] <= CHUNK_BYTES < sizes[1]
    assert bytes(as_bytes(read_site(store, snapshot, "pattern_0").values)) == bytes(
        as_bytes(block.values)
    )


def test_ragged_rows_are_written_from_the_memory_of_the_batch(store):
    """The store gets views of the batch's own tensor: not even a ragged row is copied."""
    block, seen = ragged_block([700, 300, 500], (2, -1), torch.float32), []

    class Watched(StoreAround):
        def create(self, path):
            return UploadAround(self.inner.create(path), seen.extend)

    writer = new_writer(Watched(store), chunk_rows=2)
    writer.write(ragged_batch(block))
    writer.close()
    first = block.values.data_ptr()
    at = [np.frombuffer(buffer, np.uint8).ctypes.data for buffer in seen if buffer.nbytes > 2000]
    assert at == [first, first + 2 * 1000 * 4]


def test_rows_of_generation_may_be_told_their_step(store):
    """`step` is an int32 column of `tokens` wherever it comes from, and may be unknown."""
    writer = new_writer(store)
    for number, steps in enumerate([[0, 0, 1], np.array([0, 1, 2]), [None, 0, 1]]):
        columns = {"example": np.full(3, number), "position": np.arange(3, dtype=np.int32)}
        writer.write(RowBatch({"tokens": TableBlock(3, {**columns, "step": steps})}, {}))
    writer.close()
    assert snapshot_of(store).columns("tokens")["step"] == "int32"


@pytest.mark.parametrize("table", ["decoder_tokens", "example_calls", "decoder_calls"])
def test_sites_of_every_table_are_stored(store, table):
    """Decoders and calls of all kinds of rows: index columns of the table, values exact."""
    columns = {
        "example": np.array([4, 4]),
        "position": np.array([0, 1], np.int32),
        "call": np.array([1, 1], np.int32),
    }
    names = {"decoder_tokens": {"call"}, "example_calls": {"position"}, "decoder_calls": set()}
    rows = TableBlock(2, {k: v for k, v in columns.items() if k not in names[table]})
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    writer = new_writer(store)
    writer.write(RowBatch({table: rows}, {"s": SiteBlock(table, values)}))
    writer.close()
    stored = read_site(store, snapshot_of(store), "s")
    assert torch.equal(stored.values, values)
    assert snapshot_of(store).rows(table) == 2
