"""A store that fails at any one of its writes: nothing committed is lost, nothing half is shown."""

import errno

import numpy as np
import pytest
import torch
from dataset_helpers import files
from writer_helpers import StoreAround, new_store, new_writer, snapshot_of

import lazycache as lc
from lazycache import saving
from lazycache.errors import StorageError
from lazycache.storage.open_store import open_store
from lazycache.types import RowBatch, SiteBlock, TableBlock

MOST = 60


class FullDisk(StoreAround):
    """Its n-th write fails, and, if it `stays` full, all later ones; removing always works."""

    def __init__(self, inner, left, *, stays=True):
        super().__init__(inner)
        self.left, self.stays, self.failed = left, stays, False
        self.wrote_record = False

    def spend(self, *_):
        self.left -= 1
        if self.left < 0 and (self.stays or not self.failed):
            self.failed = True
            raise StorageError(errno.ENOSPC, "the disk is full")

    def put(self, path, data):
        self.spend()
        self.inner.put(path, data)

    def put_if_absent(self, path, data):
        self.wrote_record |= path.startswith("_log/")
        self.spend()
        return self.inner.put_if_absent(path, data)

    def create(self, path):
        self.spend()
        return _Upload(self.inner.create(path), self.spend)


class _Upload:
    def __init__(self, inner, spend):
        self.inner, self.spend = inner, spend

    def write(self, buffers):
        self.spend()
        self.inner.write(buffers)

    def finish(self):
        self.spend()
        self.inner.finish()

    def abort(self):
        self.inner.abort()


def named(url):
    """Every file that a dataset's log names, and the log and identity themselves."""
    found = {"lazycache.json"} | {f for f in files(url) if f.startswith("_log/")}
    for commit in lc.open(url).snapshot.commits:
        found |= {ref.path for ref in (*commit.tables, *commit.shards, *commit.arrays)}
        found |= {ref.stats.path for ref in commit.shards if ref.stats is not None}
        found |= {entry.path for entry in commit.entries}
        found |= {tensor.path for entry in commit.entries for tensor in entry.tensors}
    return sorted(found - {None})


def until_it_works(monkeypatch, attempt, *, stays=True):
    """Yield before each attempt how many writes work, until one works as a whole."""
    for left in range(MOST):
        stores = []

        def opened(url, left=left, stores=stores, **options):
            stores.append(FullDisk(open_store(url, **options), left, stays=stays))
            return stores[-1]

        monkeypatch.setattr(saving, "open_store", opened)
        try:
            attempt(left)
        except StorageError:
            yield left, True
        else:
            assert left > 5
            yield left, False
            return
    raise AssertionError("it never worked")


def small():
    cache = lc.ActivationCache({"x": torch.arange(40.0), "note": ["now", torch.ones(2)]})
    cache["y"] = torch.arange(6).reshape(2, 3)
    return cache


@pytest.mark.parametrize("stays", [True, False])
def test_a_full_disk_at_any_write_of_a_save(tmp_path, monkeypatch, stays):
    """What was there is there, whole and without leftovers; a new place holds no dataset."""

    def save(left):
        small().save(tmp_path / f"new-{left}")

    for left, failed in until_it_works(monkeypatch, save, stays=stays):
        url = tmp_path / f"new-{left}"
        if failed:
            assert all(f == "lazycache.json" for f in files(url))
        else:
            assert files(url) == named(url)

    def replace(left):
        url = tmp_path / f"over-{left}"
        with monkeypatch.context() as plain:
            plain.setattr(saving, "open_store", open_store)
            lc.ActivationCache({"old": torch.arange(9.0)}).save(url)
        small().save(url, overwrite=True)

    for left, failed in until_it_works(monkeypatch, replace, stays=stays):
        url = tmp_path / f"over-{left}"
        shown = lc.open(url) if "lazycache.json" in files(url) else {}
        if not failed:
            assert shown == small()
            assert files(url) == named(url)
        elif not stays or list(shown):
            assert list(shown) == ["old"]
            assert torch.equal(shown["old"].load(), torch.arange(9.0))
            assert files(url) == named(url)


def test_a_full_disk_at_any_write_of_a_persist(tmp_path, monkeypatch):
    """The dataset stays at its version, without leftovers, until all is written."""
    small().save(tmp_path)
    cache = lc.open(tmp_path)
    cache["z"], cache["deep"] = torch.ones(5), {"a": torch.zeros(3)}
    inner, before = cache.datasets[0].store, files(tmp_path)
    for left in range(MOST):
        monkeypatch.setattr(cache.datasets[0], "store", FullDisk(inner, left))
        try:
            assert cache.persist() == 2
        except StorageError:
            assert files(tmp_path) == before
            continue
        assert left > 5
        break
    assert files(tmp_path) == named(tmp_path)
    assert lc.open(tmp_path)["deep"]["a"].tolist() == [0, 0, 0]


def batch(number):
    """300 rows of 64 bytes: more than a shard without statistics may have."""
    rows = np.full(300, number)
    values = torch.arange(4800.0).reshape(300, 16) + number
    tables = {
        "tokens": TableBlock(300, {"example": rows, "position": np.arange(300, dtype=np.int32)}),
        "examples": TableBlock(1, {"example": rows[:1]}),
    }
    return RowBatch(tables, {"a": SiteBlock("tokens", values), "b": SiteBlock("tokens", -values)})


def test_a_full_disk_at_any_write_of_a_capture_with_statistics(tmp_path):
    """What was committed stays; of the rest neither shards nor statistics are left."""
    for left in range(0, MOST, 2):
        url = tmp_path / str(left)
        store = new_store(url)
        writer = new_writer(store)
        writer.write(batch(0))
        writer.close()
        before = named(url)
        assert len([f for f in before if f.startswith("stats/")]) == 2
        full = FullDisk(store, left)
        writer = new_writer(full)
        try:
            writer.write(batch(1))
            writer.close()
        except StorageError:
            writer.abort()
            assert named(url) == before
            # a record whose writing failed may arrive later: then its files must be there
            assert files(url) == before or full.wrote_record
            continue
        assert snapshot_of(store).version == 2
        assert files(url) == named(url)
        return
    raise AssertionError("it never worked")
