"""A store that has a bad hour, by a plan that a seed decides: nothing is lost, nothing doubled."""

import uuid
from contextlib import suppress

import pytest
import torch
from fault_store import FaultStore
from writer_helpers import check_dataset, make_batch, new_writer, snapshot_of

import lazycache as lc
from lazycache import opening
from lazycache.catalog.identity import create_dataset
from lazycache.errors import StorageError
from lazycache.storage.fsspec_store import FsspecStore
from lazycache.storage.retrying import Patience, RetryingStore

BATCHES = 6
QUICK = Patience(5.0, first_pause=0.0005, longest_pause=0.002)


@pytest.fixture
def clean():
    """A store in memory, which never fails."""
    store = FsspecStore(f"memory://{uuid.uuid4().hex}", storage_options={})
    create_dataset(store)
    yield store
    for info in list(store.list("")):
        store.delete(info.path)


def told(figures, faults):
    for kind, count in faults.injected.items():
        figures.add(f"faults injected: {kind}", count)


def stored_batches(store):
    """How many of the batches, which are written in order, a store holds; each is two examples."""
    return snapshot_of(store).rows("examples") // 2


def write_rest(store, acknowledged):
    """Write the batches that are missing, one commit each, until one of them fails."""
    writer = new_writer(store)
    with suppress(StorageError):
        try:
            for number in range(stored_batches(store), BATCHES):
                writer.write(make_batch(number))
                writer.commit()
                acknowledged.append(number)
        finally:
            writer.abort()


@pytest.mark.parametrize("part", range(2))
def test_what_is_captured_through_a_bad_hour_is_there_once(part, rounds, figures):
    """Every acknowledged commit is there, whole and once, whatever was refused, lost or doubled."""
    count = rounds(4, 150)
    for seed in range(part * count, part * count + count):
        inner = FsspecStore(f"memory://{uuid.uuid4().hex}", storage_options={})
        create_dataset(inner)
        faults = FaultStore(inner, seed=seed, rate=0.12)
        acknowledged: list[int] = []
        for _ in range(100):
            with suppress(StorageError):
                write_rest(RetryingStore(faults, patience=QUICK), acknowledged)
            # what was acknowledged is there; what was not may be, if only its answer was lost
            assert stored_batches(inner) >= len(acknowledged)
            if stored_batches(inner) == BATCHES:
                break
        check_dataset(inner, range(BATCHES))
        told(figures, faults)
        figures.add("commits through faults", BATCHES)
        for info in list(inner.list("")):
            inner.delete(info.path)


def test_reads_through_a_bad_hour_are_right(clean, rounds, figures, monkeypatch):
    """Slices, gathers, aggregates and statistics are those of a store that never fails."""
    writer = new_writer(clean)
    for number in range(BATCHES):
        writer.write(make_batch(number))
        writer.commit()
    writer.close()
    expected = torch.cat([make_batch(n).sites["resid_out_1"].values for n in range(BATCHES)])
    for seed in range(rounds(10, 300)):
        faults = FaultStore(clean, seed=seed, rate=0.25)
        monkeypatch.setattr(
            opening, "open_store", lambda *_, f=faults, **__: RetryingStore(f, patience=QUICK)
        )
        cache = lc.open(clean.url)
        x = cache["resid_out_1"].rows
        rows = torch.randperm(len(expected), generator=torch.Generator().manual_seed(seed))[:40]
        assert torch.equal(x.load(), expected)
        assert torch.equal(x[rows].load(), expected[rows])
        assert torch.equal(x[5:90, 2].load(), expected[5:90, 2])
        assert float(x.max()) == float(expected.max())
        told(figures, faults)
