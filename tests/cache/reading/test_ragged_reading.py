"""What reading a ragged site costs and trusts: ranges, counters, checksums, widths."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, same_bits

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.files import ragged_rows
from lazycache.cache.files.ragged_rows import Wanted
from lazycache.cache.memory import ragged_loading
from lazycache.cache.reading.site_reader import SiteReader
from lazycache.cache.selecting import plan as planning
from lazycache.cache.selecting.plan_checks import check_spec
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError, SelectionError, StorageError
from lazycache.storage.open_store import open_store

HEADS, LENGTH = 4, 16


def made(tmp_path, *, local: bool, examples: int = 8, width: int = LENGTH) -> Dataset:
    """Examples of `LENGTH` queries: 4 * heads * width bytes each, a chunk of 16 rows each."""
    url = str(tmp_path / "d") if local else f"memory://{tmp_path}"
    dataset = Dataset(open_store(url, create=True, storage_options=None))
    values = torch.arange(float(examples * LENGTH * HEADS * width)).reshape(-1, HEADS, width)
    dataset.commit(
        [(e, LENGTH) for e in range(examples)],
        {"pattern_0": list(values)},
        chunk_rows=16,
        shard_rows=64,
    )
    return dataset


def expected(example: int, width: int = LENGTH) -> torch.Tensor:
    size = LENGTH * HEADS * width
    values = torch.arange(float(size)) + example * size
    return values.reshape(LENGTH, HEADS, width).transpose(0, 1)


@pytest.mark.parametrize("local", [True, False])
def test_an_example_costs_its_bytes_and_its_chunks_widths(tmp_path, local: bool) -> None:
    """Four bytes a row of the chunk, once, and the values that are asked for."""
    cache = made(tmp_path, local=local).cache()
    x = cache["pattern_0"]
    assert cache.io.bytes == 0
    assert torch.equal(x[5].load(), expected(5))
    assert (cache.io.requests, cache.io.rows) == (2, LENGTH)
    assert cache.io.bytes == 4 * LENGTH + 4 * LENGTH * HEADS * LENGTH
    cache.io.reset()
    assert torch.equal(x[5, 1:3, 4].load(), expected(5)[1:3, 4])
    assert (cache.io.requests, cache.io.rows, cache.io.bytes) == (1, 1, 4 * 2 * LENGTH)
    cache.io.reset()
    assert x[5].shape == (HEADS, LENGTH, LENGTH)
    assert cache.io.bytes == 0


def test_one_head_of_a_disk_is_not_copied_with_the_others(tmp_path) -> None:
    """Memory holds what was asked for, and bytes of other heads are not counted either."""
    width = 1 << 14
    cache = made(tmp_path, local=True, examples=1, width=width).cache()
    x = cache["pattern_0"]
    assert x.nbytes == 4 * LENGTH * HEADS * width
    cache.io.reset()
    tracemalloc.start()
    one = x[0, 2].load()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert torch.equal(one, expected(0, width)[2])
    assert cache.io.bytes == one.nbytes
    assert most < 1.2 * one.nbytes


def test_one_head_of_wide_rows_of_a_store_is_a_range_for_each_row(tmp_path) -> None:
    """Other heads are not fetched where they are further apart than the gap."""
    dataset = made(tmp_path, local=False, examples=2, width=64)
    sites = StoredSites(dataset.store, dataset.snapshot)
    sites.reader = SiteReader(dataset.store, dataset.snapshot, io=sites.io, max_gap=128)
    x = sites.tensor("pattern_0")
    assert x.widths.tolist() == [64, 64]
    sites.io.reset()
    assert torch.equal(x[1, [3, 1]].load(), expected(1, 64)[[3, 1]])
    assert (sites.io.requests, sites.io.bytes) == (2 * LENGTH, 2 * LENGTH * 4 * 64)
    sites.io.reset()
    assert torch.equal(x[1, 2, :, 5:9].load(), expected(1, 64)[2, :, 5:9])
    assert (sites.io.requests, sites.io.bytes) == (LENGTH, LENGTH * 4 * 4)


@pytest.mark.parametrize("local", [True, False])
def test_widths_are_read_once_and_dropped_when_there_are_too_many(
    tmp_path, monkeypatch, local: bool
) -> None:
    """They are kept up to a limit; what was dropped is read again."""
    cache = made(tmp_path, local=local).cache()
    x = cache["pattern_0"]
    assert x.shape == (8, HEADS, LENGTH, LENGTH)
    first = cache.io.bytes
    assert cache["pattern_0"].widths.tolist() == [LENGTH] * 8
    assert cache.io.bytes == first
    monkeypatch.setattr(ragged_rows, "KEPT_BYTES", 1)
    other = made(tmp_path / "other", local=local).cache()
    assert other["pattern_0"].widths.tolist() == [LENGTH] * 8
    once = other.io.bytes
    assert other["pattern_0"].widths.tolist() == [LENGTH] * 8
    assert other.io.bytes > once


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("what", ["values", "widths"])
def test_a_flipped_bit_is_found(tmp_path, local: bool, what: str) -> None:
    """Of values where checksums are compared, of widths always: they place all other rows."""
    dataset = made(tmp_path, local=local)
    ref = dataset.snapshot.shards("pattern_0")[0].ref
    chunk = ref.chunks[1]
    data = bytearray(dataset.store.get(ref.path))
    data[(chunk.value_offset if what == "values" else chunk.index_offsets[-1]) + 5] ^= 1
    if local:
        dataset.store.local_path(ref.path).write_bytes(data)
    else:
        dataset.store.put(ref.path, bytes(data))
    x = dataset.cache(check=True)["pattern_0"]
    assert torch.equal(x[0].load(), expected(0))
    for select in (x[1].load, x[1, 0].load, lambda: list(x.chunks())):
        with pytest.raises(CorruptShardError, match="rows 16 to 32"):
            select()
    if what == "values" and local:  # without check: what is there
        assert not torch.equal(dataset.cache()["pattern_0"][1].load(), expected(1))


def test_a_chunk_that_is_fetched_whole_is_always_compared(tmp_path) -> None:
    """Remotely the bytes are at hand, so their checksum costs no read."""
    dataset = made(tmp_path, local=False)
    ref = dataset.snapshot.shards("pattern_0")[0].ref
    data = bytearray(dataset.store.get(ref.path))
    data[ref.chunks[1].value_offset + 5] ^= 1
    dataset.store.put(ref.path, bytes(data))
    with pytest.raises(CorruptShardError, match="rows 16 to 32"):
        dataset.cache()["pattern_0"][1].load()


def test_rows_come_in_any_order_and_repeat(tmp_path) -> None:
    """The reader gives each row that is asked for, with its owner's keys."""
    for local in (True, False):
        reader = made(tmp_path / str(local), local=local).reader()
        rows = np.array([40, 3, 3, 17, 16, 127, 0])
        wanted = Wanted(
            rows=rows,
            owner=np.array([0, 0, 1, 1, 1, 2, 2]),
            heads=np.array([2, 0]),
            low=np.array([1, 0, 20]),
            high=np.array([4, 99, 30]),
        )
        found: dict[int, np.ndarray] = {}
        for block in reader.ragged("pattern_0", wanted):
            assert block.heads == slice(None)
            found.update(enumerate(block.values.view(np.float32), block.at))
        assert sorted(found) == [0, 1, 2, 3, 4]  # keys from 20 on are in no row
        for at, values in found.items():
            keys = slice(1, 4) if at < 2 else slice(None)
            whole = expected(int(rows[at]) // LENGTH)[:, int(rows[at]) % LENGTH]
            assert np.array_equal(values, whole[[2, 0], keys].numpy())
        assert reader.widths("pattern_0", rows).tolist() == [LENGTH] * 7


def test_what_is_not_there_is_refused(tmp_path) -> None:
    """Rows that the site lacks, plain reads of ragged rows, and a closed reader."""
    dataset = made(tmp_path, local=True)
    dataset.commit([(9, 2)], {"other": torch.zeros(2, 1)})
    reader = dataset.reader()
    with pytest.raises(SelectionError, match="no value for row 129"):
        reader.widths("pattern_0", np.array([3, 129]))
    with pytest.raises(SelectionError, match=r"differ in width: read them with \.ragged"):
        reader.take("pattern_0", np.array([3]))
    reader.close()
    with pytest.raises(StorageError, match="closed"):
        reader.widths("pattern_0", np.array([3]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 15}, "widths of 16 rows"),
        ({"width": None}, "which cannot be"),
        ({"width": 1 << 40}, "which cannot be"),
        ({"index_offsets": ()}, "widths of 16 rows at byte -1"),
        ({"index_offsets": (64, 128, 1 << 40)}, "widths of 16 rows"),
        ({"index_offsets": (64, 128, 193)}, "widths of 16 rows at byte 193"),
    ],
)
def test_a_log_that_lies_about_widths_is_refused(tmp_path, change: dict, says: str) -> None:
    """Nothing is mapped or computed from what cannot be."""
    dataset = made(tmp_path, local=True, examples=1)
    (placed,) = dataset.snapshot.shards("pattern_0")
    spec = dataset.snapshot.sites["pattern_0"]
    chunks = tuple(replace(chunk, **change) for chunk in placed.ref.chunks)
    lying = replace(placed, ref=replace(placed.ref, chunks=chunks))
    with pytest.raises(CorruptShardError, match=says):
        planning.build(spec, [lying])


@pytest.mark.parametrize("shape", [(-1,), (-1, 4), (2, 3, -1), (4,)])
def test_ragged_rows_of_another_shape_are_refused(tmp_path, shape: tuple) -> None:
    """What this version reads are heads by keys."""
    spec = made(tmp_path, local=True, examples=1).snapshot.sites["pattern_0"]
    with pytest.raises(CorruptShardError, match="ragged rows of shape"):
        check_spec(replace(spec, shape=shape))


@pytest.mark.parametrize("local", [True, False])
def test_a_log_that_lies_about_rows_costs_no_memory(tmp_path, local: bool) -> None:
    """Files are looked at before anything is made that is as large as the log says."""
    dataset = made(tmp_path, local=local, examples=1)
    (commit,), rows = dataset.snapshot.commits, 1 << 40
    (shard,), (table,) = commit.shards, commit.tables
    chunk = replace(shard.chunks[0], rows=rows, width=rows)
    lying = replace(
        commit,
        tables=(replace(table, rows=rows, lengths=np.array([rows])),),
        shards=(replace(shard, length=1 << 60, rows=rows, chunks=(chunk,)),),
    )
    dataset.snapshot = Snapshot.replay(dataset.snapshot.identity, [lying])
    x = dataset.cache()["pattern_0"]
    for read in (lambda: x.shape, x.load, x[0, :, -1].load, x.mean):
        with pytest.raises(StorageError, match=r"recorded|ends early"):
            read()


def test_heads_of_a_store_are_fetched_a_batch_of_rows_at_a_time(tmp_path, monkeypatch) -> None:
    """Rows that are fetched for a head or a key of each count whole: memory is that of a batch."""
    dataset = made(tmp_path, local=False)
    example = 4 * LENGTH * HEADS * LENGTH
    monkeypatch.setattr(ragged_loading, "BATCH_BYTES", example)
    cache, fetched = dataset.cache(), []
    assert cache["pattern_0"].widths.tolist() == [LENGTH] * 8
    ranges = dataset.store.get_ranges

    def counted(path, asked):
        found = ranges(path, asked)
        fetched.append(sum(map(len, found)))
        return found

    monkeypatch.setattr(dataset.store, "get_ranges", counted)
    for x in (cache["pattern_0"][:, 0], cache["pattern_0"][..., 2]):
        assert len(list(x.chunks())) == 8
    assert max(fetched) < 2 * example


def test_widths_are_looked_at_block_by_block(tmp_path, monkeypatch) -> None:
    """An example of more rows than a block, and several in one, have the keys of their widest."""
    dataset = Dataset(open_store(f"memory://{tmp_path}", create=True, storage_options=None))
    widths = [3, 1, 1, 2, 9, 4, 8]
    rows = [torch.ones(HEADS, w) for w in widths]
    dataset.commit([(0, 2), (1, 4), (2, 1)], {"pattern_0": rows})
    monkeypatch.setattr(ragged_loading, "BLOCK_ROWS", 3)
    x = dataset.cache()["pattern_0"]
    assert x.widths.tolist() == [3, 9, 8]
    assert x.rows.widths.tolist() == widths


def test_threads_share_a_reader(tmp_path) -> None:
    """What is read at once is what is read alone."""
    from concurrent.futures import ThreadPoolExecutor

    x = made(tmp_path, local=True).cache()["pattern_0"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: x[i].load(), [i % 8 for i in range(40)]))
    assert all(same_bits(values, expected(i % 8).contiguous()) for i, values in enumerate(found))
