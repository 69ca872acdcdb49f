"""lazycache.mapping.activation_cache: the sites of a dataset as a mapping."""

import threading
import time

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits, small_cache

from lazycache.errors import SiteNotFoundError, StorageError
from lazycache.samples import pattern_cache
from lazycache.storage.open_store import open_store


@pytest.fixture
def dataset() -> Dataset:
    dataset = Dataset(open_store("memory://cache", create=True, storage_options=None))
    sites = {f"resid_out_{i}": counting(5, 2) + i for i in (10, 2, 0)}
    dataset.commit([(0, 2), (1, 3)], sites)
    return dataset


def test_is_a_mapping_in_natural_order(dataset: Dataset) -> None:
    """Keys, length, membership and iteration are those of a dict; 2 comes before 10."""
    cache = dataset.cache()
    assert list(cache) == ["resid_out_0", "resid_out_2", "resid_out_10"]
    assert len(cache) == 3
    assert "resid_out_2" in cache
    assert "resid_out_3" not in cache
    assert cache.get("resid_out_3") is None
    assert repr(cache) == "ActivationCache(`resid_out_0`, `resid_out_2`, `resid_out_10`)"
    assert {key: x[0, 0, 0].load().item() for key, x in cache.items()} == {
        "resid_out_0": 0, "resid_out_2": 2, "resid_out_10": 10,
    }  # fmt: skip


def test_a_missing_site_offers_the_nearest(dataset: Dataset) -> None:
    """A KeyError that names what there is."""
    with pytest.raises(SiteNotFoundError, match=r"'resid_ou_2' in memory.*Nearest: resid_out_2"):
        dataset.cache()["resid_ou_2"]


def test_sites_of_a_table_share_their_examples(dataset: Dataset) -> None:
    """The examples of a table are worked out once, also for threads that ask at once."""
    cache = dataset.cache()
    found = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(cache[f"resid_out_{i}"].lead.map))
        for i in (0, 2, 10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(examples) for examples in found}) == 1


def test_shows_one_snapshot(dataset: Dataset) -> None:
    """What is committed after opening is not seen."""
    cache = dataset.cache()
    dataset.commit([(2, 4)], {"resid_out_0": counting(4, 2)})
    assert cache["resid_out_0"].shape == (2, 3, 2)
    assert (cache.version, dataset.cache().version) == (1, 2)
    assert dataset.cache()["resid_out_0"].shape == (3, 4, 2)


def test_an_empty_dataset_has_no_sites() -> None:
    """Before the first commit there is nothing, and that is no error."""
    cache = Dataset(open_store("memory://empty", create=True, storage_options=None)).cache()
    assert (len(cache), repr(cache)) == (0, "ActivationCache()")


def test_closing_keeps_what_was_loaded(tmp_path) -> None:
    """A context manager drops the maps; loaded tensors stay, reading stops with a clear error."""
    dataset = Dataset(open_store(str(tmp_path / "d"), create=True, storage_options=None))
    values = counting(4, 2)
    dataset.commit([(0, 4)], {"s": values})
    with dataset.cache() as cache:
        held = cache["s"][0].load()
    assert same_bits(held, values)
    with pytest.raises(StorageError, match="closed"):
        cache["s"][0].load()


def test_one_example_of_many_is_cheap() -> None:
    """After the first touch, an example of 10^5 costs no time in proportion to their number."""
    dataset = Dataset(open_store("memory://many", create=True, storage_options=None))
    order = np.random.default_rng(0).permutation(100_000)
    values = torch.arange(100_000, dtype=torch.int32)
    dataset.commit(
        [(int(i), 1) for i in order], {"s": values}, chunk_rows=50_000, shard_rows=100_000
    )
    x = dataset.cache()["s"]
    assert x[int(order[7])].load().tolist() == [7]
    begin = time.perf_counter()
    for i in range(100):
        x[i].lead.flat()
    # 100 passes over all examples would take 100 times longer than this
    assert time.perf_counter() - begin < 0.05


def test_io_counts_until_reset() -> None:
    """`cache.io` says what was read since it was opened, or reset."""
    cache = small_cache()
    cache["resid_out_0"].rows.load()
    # three chunks so near each other that they are fetched at once, with what lies between
    assert (cache.io.requests, cache.io.rows) == (1, 6)
    assert cache.io.bytes > 48
    cache.io.reset()
    assert (cache.io.rows, cache.io.bytes) == (0, 0)


READS = {
    "an example": lambda c: c["z_0"][1].load(),
    "nothing": lambda c: c["z_0"].rows[[]].load(),
    "padded": lambda c: c["z_0"][..., 0].padded(3),
    "nested": lambda c: c["z_0"].nested().values(),
    "an operator": lambda c: c["z_0"][1] + np.ones(1, np.float32),
    "computed": lambda c: c["head_out_0"].rows.load(),
    "a pattern": lambda c: c["pattern_0"].padded(),
}


@pytest.mark.parametrize("name", READS)
def test_a_default_device_does_not_decide_where_is_read_to(name: str) -> None:
    """As on a machine whose user has set torch.set_default_device: results are on `x.device`."""
    cache = pattern_cache()
    want = READS[name](cache)
    with torch.device("meta"):
        found = READS[name](cache)
    assert found.device.type == "cpu"
    assert torch.equal(found, want)
