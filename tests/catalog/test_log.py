"""The commit log in one process: order, conflicts, torn and missing records, failures."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from catalog_helpers import draft, memory_store, plain, shard, site, small_commit

from lazycache.catalog import log as log_module
from lazycache.catalog import records
from lazycache.catalog.log import CommitLog, create_dataset, read_identity
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import (
    CommitConflictError,
    CorruptShardError,
    FormatVersionError,
    StorageError,
)
from lazycache.storage.layout import log_path
from lazycache.storage.local_store import LocalStore
from lazycache.types import Identity, RunInfo

IDENTITY = Identity(version=1, uuid="u", created="2026-01-01")


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "memory":
        return memory_store()
    store = LocalStore(tmp_path / "dataset", create=True)
    create_dataset(store)
    return store


@pytest.fixture
def log(store):
    return CommitLog(store)


@pytest.fixture
def impatient(monkeypatch):
    """Nobody waits for a torn record to become whole."""
    monkeypatch.setattr(log_module, "_TORN_PATIENCE_S", 0.0)


def append(log, *, base=0, validate=None, **parts):
    return log.append(draft(**parts), base=base, validate=validate)


def test_an_empty_log(log):
    """A new dataset has no commits."""
    assert log.read() == []


def test_commits_are_read_in_order(log):
    """What was appended is read, whole or after any version."""
    commits = [append(log, base=i, txn=f"t{i}") for i in range(12)]
    assert [commit.version for commit in commits] == list(range(1, 13))
    assert plain(log.read()) == plain(commits)
    assert plain(log.read(after=9)) == plain(commits[9:])
    assert log.read(after=12) == []
    assert log.read(after=50) == []


def test_the_returned_commit_is_the_written_one(log):
    """Append returns what a reader reads, whatever version the draft carried."""
    written = log.append(small_commit("a1"), base=0, validate=None)
    assert plain(log.read()) == [plain(written)]
    assert written.version == 1


def test_the_same_txn_is_added_once(log):
    """Asking again after an error of doubt finds the commit, also when others came after it."""
    first = append(log, txn="a")
    append(log, base=1, txn="b")
    again = append(log, base=0, txn="a")
    assert again.version == first.version == 1
    assert [commit.txn for commit in log.read()] == ["a", "b"]


def test_others_commits_are_handed_to_validate(log):
    """Each commit since the base is validated once, in order; then ours follows them."""
    for i in range(5):
        append(log, base=i, txn=f"theirs{i}")
    seen = []
    mine = append(log, base=2, txn="mine", validate=lambda theirs: seen.append(theirs.txn))
    assert seen == ["theirs2", "theirs3", "theirs4"]
    assert mine.version == 6


def test_validate_can_refuse(log):
    """What validate raises comes out, and nothing is written."""
    append(log, txn="theirs")

    def refuse(theirs):
        raise CommitConflictError(f"not beside {theirs.txn}")

    with pytest.raises(CommitConflictError, match="not beside theirs"):
        append(log, base=0, txn="mine", validate=refuse)
    assert [commit.txn for commit in log.read()] == ["theirs"]


def test_one_site_cannot_be_declared_twice_differently(log):
    """The later of two writers that disagree about a site hears of it; the log stays sound."""
    append(log, runs=[RunInfo("main", {})], sites=[site(shape=(4,), row_bytes=16)])
    with pytest.raises(CommitConflictError, match="resid_out_0"):
        append(log, base=0, sites=[site(shape=(8,), row_bytes=32)])
    append(log, base=0, sites=[site(shape=(4,), row_bytes=16)])
    assert Snapshot.replay(IDENTITY, log.read()).version == 2


def test_one_site_cannot_be_added_twice_to_the_same_rows(log):
    """Two writers that add a site to the same old rows: the later one hears of it."""
    spec = site()
    append(log, shards=[shard(spec, 6, covers=1, row_start=4)])
    with pytest.raises(CommitConflictError, match="rows of commit 1"):
        append(log, base=0, shards=[shard(spec, 6, covers=1, row_start=9)])
    append(log, base=0, shards=[shard(spec, 6, covers=1, row_start=10)])
    append(log, base=0, shards=[shard(spec, 6, covers=2, row_start=4)])
    append(log, base=0, shards=[shard(spec, 6)])
    assert len(log.read()) == 4


def test_appends_of_many_threads_all_arrive(log):
    """Eight threads with ten commits each: eighty commits, each once, each told its version."""

    def work(i):
        base, told = 0, {}
        for k in range(10):
            commit = append(log, base=base, txn=f"{i}-{k}")
            base = told[commit.txn] = commit.version
        return told

    with ThreadPoolExecutor(8) as pool:
        told = {txn: version for part in pool.map(work, range(8)) for txn, version in part.items()}
    assert {commit.txn: commit.version for commit in log.read()} == told
    assert len(told) == 80


def test_no_hole_is_ever_written(log, store):
    """A writer whose dataset was replaced under it is refused, instead of tearing the new one."""
    for i in range(3):
        append(log, base=i)
    for info in list(store.list("")):
        store.delete(info.path)
    with pytest.raises(CommitConflictError, match="removed or replaced"):
        append(log, base=3)
    with pytest.raises(CommitConflictError, match="removed or replaced"):
        append(log, base=0)
    assert list(store.list("")) == []


def test_a_missing_record_is_damage(log, store):
    """A log with a hole is not read as a shorter one."""
    for i in range(3):
        append(log, base=i)
    store.delete(log_path(2))
    with pytest.raises(CorruptShardError, match=r"record 2 .*missing"):
        log.read()
    assert [commit.version for commit in log.read(after=2)] == [3]


def test_a_hole_is_found_before_anything_is_read(log, store, monkeypatch):
    """A stray name of a huge version costs one look, not a read per version that is missing."""
    for i in range(2):
        append(log, base=i)
    store.put(log_path(10**17), b"x")
    reads = []
    monkeypatch.setattr(store, "get", reads.append)
    with pytest.raises(CorruptShardError, match=f"record 3 to {10**17 - 1} .*are missing"):
        log.read()
    assert reads == []


def test_a_record_that_a_listing_missed_is_read_all_the_same(log, store, monkeypatch):
    """A folder is not listed in one moment: what appeared meanwhile may be left out."""
    for i in range(4):
        append(log, base=i)
    real = store.list
    hidden = {log_path(2), log_path(3)}
    monkeypatch.setattr(
        store, "list", lambda prefix: (i for i in real(prefix) if i.path not in hidden)
    )
    assert [commit.version for commit in log.read()] == [1, 2, 3, 4]


def test_a_record_that_is_no_file_is_damage(tmp_path):
    """A pipe or a link out of the dataset under the name of a record is refused, not waited for."""
    store = LocalStore(tmp_path / "dataset", create=True)
    create_dataset(store)
    log = CommitLog(store)
    append(log)
    where = tmp_path / "dataset" / log_path(2)
    os.mkfifo(where)
    with pytest.raises(CorruptShardError, match="no regular file"):
        log.read()
    with pytest.raises(CorruptShardError, match="no regular file"):
        append(log, base=1)
    where.unlink()
    (tmp_path / "record").write_bytes(store.get(log_path(1)))
    where.symlink_to(tmp_path / "record")
    with pytest.raises(CorruptShardError, match="link out of the dataset"):
        log.read()


def test_a_thousand_commits_are_read_quickly(tmp_path):
    """Checks of names, folders and paths cost no look at the disk per commit and folder."""
    store = LocalStore(tmp_path / "dataset", create=True)
    create_dataset(store)
    append(CommitLog(store))
    record = store.get(log_path(1))
    folder = Path(store.url) / "_log"
    for version in range(2, 1001):
        commit = replace(records.decode(record, version=1), version=version)
        (folder / Path(log_path(version)).name).write_bytes(records.encode(commit))
    looks, real = [], os.path.realpath
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.path.realpath", lambda where: looks.append(where) or real(where))
        assert len(CommitLog(LocalStore(store.url, create=False)).read()) == 1000
    assert len(looks) <= 4


def test_a_changed_record_is_damage_wherever_it_is(log, store):
    """A wrong byte in a whole record is an error, in the middle and at the end."""
    for i in range(2):
        append(log, base=i, txn="abcdef")
    for version in (1, 2):
        record = store.get(log_path(version))
        store.put(log_path(version), record.replace(b"abcdef", b"abcdeF"))
        with pytest.raises(CorruptShardError, match=f"log record {version}"):
            log.read()
        with pytest.raises(CorruptShardError, match=f"log record {version}"):
            append(log, base=version - 1)
        store.put(log_path(version), record)
    assert len(log.read()) == 2


@pytest.mark.parametrize("kept", [0, 1, 40, -1, -9, -10])
def test_a_torn_last_record_is_ignored(log, store, kept):
    """A record without its end may still be in writing: it counts for nothing yet."""
    first = append(log, txn="a")
    record = store.get(log_path(append(log, base=1, txn="b").version))
    store.put(log_path(2), record[:kept])
    with pytest.warns(RuntimeWarning, match="Log record 2 .*torn"):
        assert plain(log.read()) == [plain(first)]


@pytest.mark.usefixtures("impatient")
def test_a_torn_record_is_passed_and_void_for_ever(log, store):
    """The next writer goes past it; from then on it is an empty commit and versions go on."""
    append(log, txn="a", runs=[RunInfo("main", {})])
    store.put(log_path(2), b'{"version":2,"txn":"torn","wri')
    mine = append(log, base=1, txn="c")
    assert mine.version == 3
    with pytest.warns(RuntimeWarning, match=r"Log record 2 .*torn.*Nothing of it") as caught:
        commits = log.read()
    assert [caught.list[0].filename, len(caught)] == [__file__, 1]
    assert [(c.version, c.txn) for c in commits] == [(1, "a"), (2, ""), (3, "c")]
    assert Snapshot.replay(IDENTITY, commits).version == 3


def test_a_record_in_writing_is_waited_for(log, store, monkeypatch):
    """A torn record that becomes whole a moment later is a commit like any other."""
    append(log, txn="a")
    record = store.get(log_path(append(log, base=1, txn="slow").version))
    store.put(log_path(2), record[:50])
    pauses = []

    def finish(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            store.put(log_path(2), record)

    monkeypatch.setattr(time, "sleep", finish)
    seen = []
    assert append(log, base=1, validate=lambda c: seen.append(c.txn)).version == 3
    assert seen == ["slow"]


def test_a_newer_record_stops_readers_and_writers(log, store):
    """A commit that needs a newer lazycache is neither read nor built upon."""
    record = b'{"min_reader":2}'
    import zlib

    store.put(log_path(1), b"%s\n%08x\n" % (record, zlib.crc32(record)))
    with pytest.raises(FormatVersionError):
        log.read()
    with pytest.raises(FormatVersionError):
        append(log)


def test_a_write_that_arrived_although_it_failed_is_a_success(log, store, monkeypatch):
    """A deadline passed, but the record is there: the commit is told as done, once."""
    real = store.put_if_absent

    def late(path, data):
        real(path, data)
        raise StorageError("deadline passed")

    monkeypatch.setattr(store, "put_if_absent", late)
    assert append(log, txn="a").version == 1
    assert [commit.txn for commit in log.read()] == ["a"]


def test_a_write_that_failed_is_an_error(log, store, monkeypatch):
    """When the record is not there, the store's own error comes out and nothing is visible."""

    def fail(path, data):
        raise StorageError(28, "disk full")

    monkeypatch.setattr(store, "put_if_absent", fail)
    with pytest.raises(StorageError, match="disk full"):
        append(log)
    monkeypatch.undo()
    assert log.read() == []


def test_a_full_disk_loses_no_commit(small_disk):
    """A commit that finds the disk full is an error and invisible; with room it succeeds."""
    store = LocalStore(small_disk / "dataset", create=True)
    create_dataset(store)
    log = CommitLog(store)
    append(log, txn="a")
    (small_disk / "ballast").write_bytes(bytes((8 << 20) - (64 << 10)))
    big = RunInfo("main", {"text": "x" * (256 << 10)})
    with pytest.raises(StorageError, match="disk is full"):
        append(log, base=1, txn="b", runs=[big])
    assert [commit.txn for commit in log.read()] == ["a"]
    (small_disk / "ballast").unlink()
    assert append(log, base=1, txn="b", runs=[big]).version == 2
    assert [commit.txn for commit in log.read()] == ["a", "b"]


def test_a_read_only_dataset_can_be_read(small_disk):
    """On a disk that became read-only the log is read, and a commit says why it cannot be."""
    import subprocess

    store = LocalStore(small_disk / "dataset", create=True)
    identity = create_dataset(store)
    log = CommitLog(store)
    append(log, txn="a")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert read_identity(store) == identity
    assert [commit.txn for commit in log.read()] == ["a"]
    with pytest.raises(StorageError, match="read-only"):
        append(log, base=1)


def test_losing_for_ever_ends_in_an_error(log, store, monkeypatch):
    """When every attempt loses, the error says so after a bounded number of them."""
    tries = []
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(store, "put_if_absent", lambda *_: bool(tries.append(1)))
    with pytest.raises(CommitConflictError, match="Commit less often"):
        append(log)
    assert len(tries) == log_module._ATTEMPTS


def test_what_nobody_could_read_is_not_written(log, store):
    """A commit that contradicts itself is refused before it is in the log."""
    bad = replace(shard(site(), 5), rows=6)
    with pytest.raises(StorageError, match="cannot be written"):
        append(log, shards=[bad])
    assert list(store.list("_log/")) == []


def test_other_files_beside_the_log_are_ignored(log, store):
    """Checkpoints of later versions and stray files do not disturb."""
    append(log, txn="a")
    store.put("_log/checkpoint-00000000000000000009.parquet", b"x")
    store.put("_log/notes.txt", b"x")
    assert [commit.txn for commit in log.read()] == ["a"]


def test_costs_of_the_log(log, store, monkeypatch):
    """Appending is one look and one write; reading is one listing and a read per commit."""
    calls = []
    for name in ("get", "exists", "put_if_absent", "list", "size"):
        real = getattr(store, name)

        def counted(*args, real=real, name=name):
            calls.append(name)
            return real(*args)

        if name != "exists" or not isinstance(store, LocalStore):
            monkeypatch.setattr(store, name, counted)
    append(log)
    assert [call for call in calls if call != "exists"] == ["put_if_absent"]
    append(log, base=1)
    calls.clear()
    log.read()
    assert sorted(calls) == ["get", "get", "list"]
