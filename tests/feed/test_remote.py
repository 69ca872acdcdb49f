"""Far stores: the blocks of a window in few requests, no byte twice, two windows in memory."""

import pytest
import torch
from counting_store import counted_open

import lazycache as lc

ROWS, ROW_BYTES, SITE = 800, 12, "0:out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of one shard."""
    target = str(tmp_path_factory.mktemp("far") / "ds")
    model = torch.nn.Sequential(torch.nn.Identity())
    with lc.capture(model, target, SITE):
        model(torch.arange(3.0 * ROWS).reshape(ROWS, 3))
    return target


def read_of(store):
    return [call for call in store.calls("get_ranges", "data/") if call.ranges]


def test_an_epoch_reads_each_byte_once(folder):
    """A window in one request of its shard, however its rows are mixed; the values are right."""
    with counted_open(folder) as (cache, store):
        x = cache[SITE]
        loader = x.loader(50, block_bytes=10 * ROW_BYTES, window_bytes=200 * ROW_BYTES)
        cache.io.reset()
        store.reset()
        got = torch.cat(list(loader))
        assert len(read_of(store)) == 4
        assert cache.io.rows == len(got) == ROWS
        order = loader._feed.order.of_epoch(0).positions(0, loader.rows)
    with lc.open(folder) as cache:
        assert torch.equal(got, cache[SITE].rows.load()[torch.from_numpy(order)])


def test_reading_stays_one_window_ahead(folder):
    """The first batch costs two windows at most, whatever comes after."""
    with counted_open(folder) as (cache, store):
        loader = cache[SITE].loader(
            10,
            block_bytes=10 * ROW_BYTES,
            window_bytes=100 * ROW_BYTES,
            prefetch_bytes=20 * ROW_BYTES,
        )
        batches = iter(loader)
        next(batches)
        loader.close()
        assert len(read_of(store)) <= 2
        assert cache.io.rows <= 200


def test_a_resumed_epoch_reads_from_its_window_on(folder):
    """Not what was handed out before it."""
    with counted_open(folder) as (cache, _):
        options = {"block_bytes": 10 * ROW_BYTES, "window_bytes": 200 * ROW_BYTES}
        loader = cache[SITE].loader(50, **options)
        whole = list(loader)
        resumed = cache[SITE].loader(50, **options)
        resumed.load_state_dict({**loader.state_dict(), "epoch": 0, "batches": 13})
        cache.io.reset()
        rest = list(resumed)
        assert cache.io.rows == 200
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[13:], strict=True))


def test_a_formula_over_far_sites_reads_windows_too(folder):
    """Not row by row."""
    with counted_open(folder) as (cache, store):
        loader = (cache[SITE] * 2).loader(50, block_bytes=120, window_bytes=200 * ROW_BYTES)
        store.reset()
        got = torch.cat(list(loader))
        assert len(read_of(store)) == 4
    assert len(got) == ROWS
