"""lazycache.cache.maps: memory maps that are bounded, private and free of descriptors."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits

from lazycache.cache.maps import MapCache
from lazycache.storage.open_store import open_store

ROWS = 60


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """One shard for each of 60 rows."""
    dataset = Dataset(open_store(str(tmp_path), create=True, storage_options=None))
    dataset.commit([(0, ROWS)], {"s": counting(ROWS, 2)}, chunk_rows=1, shard_rows=1)
    return dataset


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_maps_hold_no_descriptors(dataset: Dataset) -> None:
    """Mapped shards that a caller holds on to need no open file each."""
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limits[1]))
    try:
        reader = dataset.reader()
        held = [reader.slice("s", i, i + 1) for i in range(ROWS)]
        gathered = reader.take("s", np.arange(ROWS)[::-1].copy())
        assert descriptors() == before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert same_bits(torch.cat(held), counting(ROWS, 2))
    assert same_bits(gathered, counting(ROWS, 2).flip(0))


@pytest.mark.parametrize("bound", [{"max_maps": 5, "max_bytes": 1 << 40}, {"max_maps": 99}])
def test_the_least_recently_used_goes_first(dataset: Dataset, bound: dict) -> None:
    """Number and bytes of the maps are bounded; what was used last stays."""
    refs = [placed.ref for placed in dataset.snapshot.shards("s")]
    bound.setdefault("max_bytes", 5 * refs[0].length)
    maps = MapCache(dataset.store, **bound)
    first = maps.get(refs[0], torch.float32)
    for ref in refs[1:20]:
        maps.get(ref, torch.float32)
        assert maps.get(refs[0], torch.float32) is first
    assert len(maps) == 5
    assert maps.get(refs[19], torch.float32) is maps.get(refs[19], torch.float32)


def test_maps_end_with_their_last_reader(dataset: Dataset) -> None:
    """A closed cache whose tensors are gone leaves no map behind."""

    def mapped() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum("/data/s/" in line for line in lines)

    reader = dataset.reader()
    held = [reader.slice("s", i, i + 1) for i in range(10)]
    reader.take("s", np.arange(20, 0, -1))
    assert mapped() > 20
    reader.close()
    assert mapped() == 10
    del held
    assert mapped() == 0
