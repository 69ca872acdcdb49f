"""A cache over a dataset is pickled as its address; one in memory as its values."""

import copy
import multiprocessing
import pickle

import pytest
import torch

import lazycache as lc
from lazycache.samples import small_cache


def _first(values):
    return values[0]


def _read(cache, x):
    """What a worker makes of what it was sent."""
    return cache["x"].load().sum().item(), x.load().tolist(), cache["note"], cache.version


def test_a_worker_reads_what_it_was_sent(tmp_path):
    """Cache and lazy tensor go to a new process without a value, at their version."""
    lc.ActivationCache({"x": torch.arange(200_000.0).reshape(1000, 200)}).save(tmp_path)
    cache = lc.open(tmp_path, check=True)
    cache["note"] = "carried"
    x = cache["x"][[7, 3], :2]
    data = pickle.dumps((cache, x))
    assert len(data) < 5000
    assert cache.io.bytes == 0
    later = lc.open(tmp_path)
    later["x"] = torch.zeros(1)
    later.persist()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        total, part, note, version = pool.apply(_read, (cache, x))
    assert total == cache["x"].load().sum().item()
    assert (part, note, version) == ([[1400, 1401], [600, 601]], "carried", 1)


def test_what_is_unpickled_shares_one_opening(tmp_path):
    """Of one address there is one reader in a process, until it is closed or let go."""
    lc.ActivationCache({"x": torch.ones(3)}).save(tmp_path)
    cache = lc.open(tmp_path)
    first, second = (pickle.loads(pickle.dumps(cache)) for _ in range(2))
    assert first.stored is second.stored
    assert first.stored is not cache.stored
    assert first.stored.address == cache.stored.address
    first.close()
    assert pickle.loads(pickle.dumps(cache))["x"].load().tolist() == [1, 1, 1]


def test_a_restriction_is_pickled_too():
    """`where` is asked again where it is unpickled."""
    cache = small_cache().where("position > $least", {"least": 0})
    again = pickle.loads(pickle.dumps(cache))
    assert again["resid_out_0"].lengths.tolist() == cache["resid_out_0"].lengths.tolist() == [1, 2]


def test_another_dataset_at_the_address_is_refused(tmp_path):
    """What was pickled of a dataset is not read from another one."""
    lc.ActivationCache({"x": torch.ones(3)}).save(tmp_path)
    data = pickle.dumps(lc.open(tmp_path))
    lc.ActivationCache({"x": torch.zeros(3)}).save(tmp_path, overwrite=True)
    with pytest.raises(lc.LazycacheError, match="replaced"):
        pickle.loads(data)


def test_a_cache_in_memory_is_pickled_and_copied_by_value():
    """Strategies of modules go along; one that cannot is named; copies need no pickle."""
    cache = lc.ActivationCache({"x": torch.ones(2), "y": [1]})
    cache.add_with_info("z", torch.zeros(1), {"n": 1})
    cache.register_aggregation("x", _first)
    again = pickle.loads(pickle.dumps(cache))
    assert again == cache
    assert again["z"].info() == {"n": 1}
    again.cat(cache)
    assert again["x"].tolist() == [1, 1]
    cache.register_aggregation("y_", lambda values: values)
    with pytest.raises(lc.LazycacheError, match="strategy for 'y_'"):
        pickle.dumps(cache)
    assert copy.deepcopy(cache) == copy.copy(cache) == cache
    deep = copy.deepcopy(cache)
    deep["y"].append(2)
    assert cache["y"] == [1]
