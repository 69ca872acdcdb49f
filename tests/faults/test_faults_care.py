"""Compacting and collecting through a store that fails: nothing is lost, the next call goes on."""

import shutil

import pytest
from care_helpers import add_commits, small_commits
from fault_store import FaultStore
from writer_helpers import check_dataset

import lazycache as lc
from lazycache.care import collecting, compacting, copying
from lazycache.errors import StorageError
from lazycache.storage.local_store import LocalStore

SITES = ("resid_out_0", "pooled")
NUMBERS = range(6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "made"
    add_commits(small_commits(folder, range(3), sites=SITES), range(3, 6), sites=SITES, run="other")
    return folder


def _until_done(work):
    """Call until no error comes; return how many came."""
    failed = 0
    while True:
        try:
            work()
        except StorageError:
            failed += 1
        else:
            return failed


def test_compact_and_gc_through_a_bad_hour_lose_nothing(
    made, tmp_path, monkeypatch, rounds, figures
):
    """Calls that fail, are lost, cut short or carried out twice stop them; called again, they end.

    After each error every row is there, bit for bit.
    """
    monkeypatch.setenv("LAZYCACHE_DEADLINE_SECONDS", "0.05")  # errors come through
    monkeypatch.setattr(compacting, "COMMIT_BYTES", 1 << 10)
    met = 0
    for seed in range(rounds(3, 200)):
        url = tmp_path / f"{seed}"
        shutil.copytree(made, url)
        store = small_commits(url, [], sites=SITES)
        bad = FaultStore(store, seed=seed, rate=0.03)
        for module in (compacting, collecting):
            monkeypatch.setattr(module, "open_store", lambda *_, bad=bad, **__: bad)

        def look(work, store=store):
            try:
                work()
            finally:
                check_dataset(store, NUMBERS, sites=SITES)

        failed = _until_done(lambda: look(lambda: lc.compact(url, progress=False)))  # noqa: B023
        failed += _until_done(lambda: look(lambda: lc.gc(url, grace_seconds=0, progress=False)))  # noqa: B023
        figures.add("faults under compact and gc", sum(bad.injected.values()))
        figures.add("calls of compact and gc that a fault ended", failed)
        met += sum(bad.injected.values())
        snapshot = check_dataset(store, NUMBERS, sites=SITES)
        assert [len(snapshot.shards(name)) for name in SITES] == [2, 2]
    assert met > 0


def test_copies_through_a_bad_hour_are_whole(made, tmp_path, monkeypatch, rounds, figures):
    """What a fault ends goes on when it is called again; a copy that ended has every bit."""
    monkeypatch.setenv("LAZYCACHE_DEADLINE_SECONDS", "0.05")
    met = 0
    for seed in range(rounds(3, 200)):
        url = tmp_path / f"{seed}"
        bad = FaultStore(LocalStore(url, create=True), seed=seed, rate=0.05)
        monkeypatch.setattr(copying, "open_store", lambda *_, bad=bad, **__: bad)
        failed = _until_done(lambda: lc.copy(made, url, progress=False))  # noqa: B023
        figures.add("faults under copies", sum(bad.injected.values()))
        figures.add("calls of copy that a fault ended", failed)
        met += sum(bad.injected.values())
        check_dataset(LocalStore(url, create=False), NUMBERS, sites=SITES)
    assert met > 0
