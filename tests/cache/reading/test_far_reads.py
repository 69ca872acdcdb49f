"""What reading from a store far away asks it for: requests, bytes, and how many at once."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits
from counting_store import CountingStore, counted_open
from far_server import holding_back

import lazycache as lc
from lazycache.errors import CorruptShardError
from lazycache.storage.open_store import open_store

WIDE = 8192  # units of float32: a row of 32 KiB


def far(folder):
    """A dataset of a store that counts."""
    return Dataset(CountingStore(open_store(folder, create=True, storage_options=None)))


@pytest.fixture
def no_blocks(monkeypatch):
    """No block cache: what is wanted is what is asked for."""
    monkeypatch.setenv("LAZYCACHE_CACHE_BYTES", "0")


@pytest.fixture
def wide(tmp_path, no_blocks):
    """A site of two shards of 6.5 MiB, its values and its cache; nothing was read yet."""
    dataset, values = far(tmp_path), counting(420, WIDE)
    dataset.commit([(0, 420)], {"s": values}, chunk_rows=30, shard_rows=210)
    dataset.store.reset()
    return dataset, values, dataset.cache()


def test_a_row_is_one_request_of_its_bytes(wide):
    """Where it lies is in the log: no footer is read, and nothing around it."""
    dataset, values, cache = wide
    assert same_bits(cache["s"].rows[123].load(), values[123])
    (call,) = dataset.store.log
    assert (call.name, len(call.ranges)) == ("get_ranges", 1)
    assert dataset.store.bytes == WIDE * 4
    unit = cache["s"].rows[123, 7]
    assert same_bits(unit.load(), values[123, 7])
    assert (dataset.store.requests, dataset.store.bytes) == (2, WIDE * 4 + 4)


def test_a_slice_over_chunks_is_one_request_for_each_shard(wide):
    """Of 300 rows in 10 chunks: two requests, and of bytes the rows and what is between chunks."""
    dataset, values, cache = wide
    assert same_bits(cache["s"].rows[60:360].load(), values[60:360])
    assert (dataset.store.requests, len(dataset.store.log)) == (2, 2)
    between = dataset.store.bytes - 300 * WIDE * 4
    assert 0 < between < 10 * 1024
    assert cache.io.bytes == dataset.store.bytes


def test_gaps_of_up_to_a_mebibyte_are_bridged(wide):
    """Rows 30 apart are one request with what is between them, rows 40 apart are one each."""
    dataset, values, cache = wide
    for step, requests in [(30, 2), (40, 10)]:
        dataset.store.reset()
        rows = list(range(0, 10 * step, step))
        assert same_bits(cache["s"].rows[rows].load(), values[rows])
        assert dataset.store.requests == requests
        if requests == 10:
            assert dataset.store.bytes == 10 * WIDE * 4
            assert sorted(len(call.ranges) for call in dataset.store.log) == [4, 6]


def test_shards_are_read_side_by_side(tmp_path, no_blocks):
    """One row of each of 40 shards: 16 requests at once, of plain and of ragged rows."""
    dataset = far(tmp_path)
    ragged = [torch.full((2, 3), float(i)) for i in range(40)]
    sites = {"s": counting(40, 8), "ragged": ragged}
    dataset.commit([(i, 1) for i in range(40)], sites, chunk_rows=1, shard_rows=1)
    cache, dataset.store.latency = dataset.cache(), 0.08
    for name, each in [("s", 1), ("ragged", 2)]:
        dataset.store.reset()
        cache[name].load()
        assert (dataset.store.requests, dataset.store.in_flight_max) == (40 * each, 16)


def test_a_real_server_is_asked_for_many_ranges_at_once(tmp_path, no_blocks):
    """Over HTTP, 18 ranges of one shard, and rows of 18 shards: 16 or more at the same time."""
    for name, values, step in [("one", counting(720, WIDE), 40), ("many", counting(18, 8), 1)]:
        store = open_store(tmp_path / name, create=True, storage_options=None)
        dataset, count = Dataset(store), len(values)
        shard_rows = count if name == "one" else 1
        dataset.commit([(0, count)], {"s": values}, chunk_rows=40, shard_rows=shard_rows)
        with holding_back(tmp_path / name, at_once=16) as (address, seen):
            served = open_store(address, create=False, storage_options=None)
            cache = replace(dataset, store=served).cache()
            rows = list(range(0, count, step))
            assert same_bits(cache["s"].rows[rows].load(), values[rows])
        assert seen[0] >= 16


def saved(url, count=3):
    """A dataset of a site `0:out` that was captured in so many commits."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 300))
    with lc.capture(model, url, "0") as run:
        for _ in range(count):
            model(torch.randn(40, 2))
            run.commit()


def test_opening_asks_for_identity_and_log(tmp_path):
    """One listing, one request for the identity and each record; looking up asks for nothing."""
    saved(tmp_path / "d")
    with counted_open(tmp_path / "d") as (cache, store):
        records = [info.path for info in store.inner.list("_log/")]
        assert sorted(call.path for call in store.calls("get")) == [*records, "lazycache.json"]
        assert [call.path for call in store.calls("list")] == ["_log/"]
        assert store.requests == len(records) + 2
        store.reset()
        assert cache["0:out"].shape == (120, 300)
        assert store.requests == 0


def test_requests_for_statistics_are_counted_apart(tmp_path):
    """`io` tells of every request: of shards, and of statistics."""
    saved(tmp_path / "d")
    with counted_open(tmp_path / "d") as (cache, store):
        store.reset()
        cache["0:out"].mean(dim=0)
        assert (cache.io.requests, cache.io.bytes) == (0, 0)
        assert cache.io.statistics_requests == store.requests == 3
        assert cache.io.statistics_bytes == store.bytes
        cache["0:out"][5].load()
        assert (cache.io.requests, store.requests) == (1, 4)


def test_what_was_read_once_is_not_asked_for_again(tmp_path):
    """Another process, or a cache that is opened anew: 0 requests beside the log."""
    saved(tmp_path / "d")
    options = {"cache_bytes": 1 << 24, "cache_folder": tmp_path / "blocks"}
    with counted_open(tmp_path / "d", **options) as (cache, store):
        store.reset()
        values, mean = cache["0:out"].load(), cache["0:out"].mean(dim=0)
        asked, cold = store.requests, cache.io.bytes + cache.io.statistics_bytes
        assert asked == cache.io.requests + cache.io.statistics_requests == 6
        assert (cold, cache.io.cached_bytes) == (store.bytes, 0)
    with counted_open(tmp_path / "d", **options) as (cache, store):
        store.reset()
        assert same_bits(cache["0:out"].load(), values)
        assert same_bits(cache["0:out"].mean(dim=0), mean)
        assert store.requests == cache.io.requests == cache.io.statistics_requests == 0
        assert cache.io.cached_bytes == cold


def test_a_dataset_that_was_replaced_is_never_stale(tmp_path):
    """A new dataset at the same address has its own values, whatever was kept of the old one."""
    options = {"cache_bytes": 1 << 24, "cache_folder": tmp_path / "blocks"}
    found = []
    for turn in range(2):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        model = torch.nn.Sequential(torch.nn.Linear(2, 300))
        with lc.capture(model, tmp_path / "d", "0", overwrite=bool(turn)) as run:
            model(torch.randn(40, 2))
        del run
        for _ in range(2):
            with counted_open(tmp_path / "d", **options) as (cache, _):
                found.append(cache["0:out"].load())
        assert same_bits(found[-1], lc.open(tmp_path / "d")["0:out"].load())
    assert not same_bits(found[0], found[2])


def test_a_shard_that_was_repaired_is_read_anew(tmp_path, monkeypatch):
    """Bytes that do not fit the log are not kept: when they are restored, they are read."""
    monkeypatch.setenv("LAZYCACHE_CACHE_DIR", str(tmp_path / "blocks"))
    dataset, values = far(tmp_path / "d"), counting(57, 8)
    dataset.commit([(0, 57)], {"s": values}, shard_rows=57)
    ref = dataset.snapshot.shards("s")[0].ref
    good = dataset.store.get(ref.path)
    dataset.store.put(ref.path, bytes(len(good)))
    for check in (True, False):
        with pytest.raises(CorruptShardError, match="checksum"):
            dataset.cache(check=check)["s"].rows[:20].load()
    assert not dataset.cache()["s"].rows[1].load().any()  # a part of a chunk is not checked
    dataset.store.put(ref.path, good)
    assert same_bits(dataset.cache(check=True)["s"].rows[1].load(), values[1])
    assert same_bits(dataset.cache()["s"].rows[:].load(), values)


def test_widths_that_were_repaired_are_read_anew(tmp_path, monkeypatch):
    """Widths of ragged rows that do not add up are not kept either."""
    monkeypatch.setenv("LAZYCACHE_CACHE_DIR", str(tmp_path / "blocks"))
    dataset, rows = far(tmp_path / "d"), [torch.full((2, 3), float(i)) for i in range(40)]
    dataset.commit([(0, 40)], {"ragged": rows})
    ref = dataset.snapshot.shards("ragged")[0].ref
    good = dataset.store.get(ref.path)
    dataset.store.put(ref.path, bytes(len(good)))
    with pytest.raises(CorruptShardError, match="do not add up"):
        dataset.cache()["ragged"][0].load()
    dataset.store.put(ref.path, good)
    assert same_bits(dataset.cache()["ragged"][0].load()[:, 7], rows[7])


def test_what_is_told_of_a_read_bounds_it(tmp_path):
    """With a block cache a cost is a bound: blocks around what is wanted come with it."""
    saved(tmp_path / "d")
    options = {"cache_bytes": 1 << 24, "cache_folder": tmp_path / "blocks"}
    with counted_open(tmp_path / "d", **options) as (cache, _):
        reader = cache.datasets[0].reader
        rows = np.array([3, 50, 51, 100])
        told = reader.cost("0:out", rows)
        assert not told.exact
        reader.take("0:out", rows)
        assert cache.io.requests == told.requests == 3
        assert told.nbytes - 3 * 8190 <= cache.io.bytes <= told.nbytes
