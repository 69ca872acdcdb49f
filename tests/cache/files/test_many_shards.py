"""Ten thousand files, a thousand descriptors, eight threads."""

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting

from lazycache.storage.local_store import LocalStore

SHARDS = 10_000


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


class Unsynced(LocalStore):
    """A store of this machine that does not wait for the disk: ten thousand files take seconds."""

    def put(self, path, data):
        place = self.local_path("lazycache.json").parent / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


@pytest.mark.slow
def test_ten_thousand_shards_are_read_with_a_thousand_open_files(tmp_path):
    """Gathers of eight threads, whole loads and aggregates keep no file open."""
    dataset = Dataset(Unsynced(tmp_path / "acts", create=True))
    values = counting(SHARDS, 8)
    dataset.commit([(0, SHARDS)], {"resid_out_0": values}, chunk_rows=1, shard_rows=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, limits[1]), limits[1]))
    try:
        before = open_files()
        with dataset.cache() as cache:
            rows = cache["resid_out_0"].rows

            def read(seed):
                chosen = np.random.default_rng(seed).permutation(SHARDS)[:1250]
                return torch.equal(rows[chosen].load(), values[chosen])

            with ThreadPoolExecutor(8) as pool:
                assert all(pool.map(read, range(8)))
            assert torch.equal(rows.load(), values)
            assert torch.equal(rows.sum("rows"), values.double().sum(0))
            # loads that are kept: each a tensor of its own
            kept = [rows[i : i + 1].load() for i in range(0, SHARDS, 5)]
            assert torch.equal(torch.cat(kept), values[::5])
            assert open_files() <= before + 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
