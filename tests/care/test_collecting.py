"""`gc` deletes what nobody needs, and nothing else."""

import shutil
import threading
import uuid
from dataclasses import replace

import pytest
import torch
from care_helpers import add_commits, age, small_commits, tree
from writer_helpers import StoreAround, check_dataset, make_batch, new_writer, snapshot_of

import lazycache as lc
from lazycache.care import collecting
from lazycache.care.drafts import Dataset, draft
from lazycache.catalog.checkpoints import checkpoint
from lazycache.errors import CommitConflictError, CorruptShardError, SelectionError
from lazycache.storage.store import ObjectInfo
from lazycache.types import Drop

SITES = ("resid_out_0", "pooled")
DAY = 86400


def _unique():
    return uuid.uuid4().hex


def _leave_orphans(folder):
    """What a killed writer leaves; and files of other people, with names that look like ours."""
    orphans = [
        f"data/resid_out_0/{_unique()}-r0.parquet",
        f"stats/resid_out_0/{_unique()}-r0.parquet",
        f"tables/tokens/{_unique()}-r3.parquet",
        f"arrays/head_out_0.weight/{_unique()}-r0.parquet",
        f"entries/{_unique()}.json",
        f"data/resid_out_0/.tmp-{_unique()}",
        f"_log/.tmp-{_unique()}",
        f".tmp-{_unique()}",
    ]
    foreign = [
        "README.md",
        "data/resid_out_0/notes.parquet",
        f"data/{_unique()}-r0.parquet",
        f"data/resid_out_0/{_unique()}.parquet",
        f"notes/{_unique()}-r0.parquet",
        "data/resid_out_0/.tmp-mine",
        f"other/.tmp-{_unique()}",
        "_log/notes.txt",
    ]
    for path in orphans + foreign:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"12345")
    return orphans, foreign


def test_what_killed_writers_left_goes_after_the_grace_and_nothing_else(tmp_path):
    """Orphans and unfinished files stay for a day, then go; other files and all versions stay.

    A dry run says so and writes nothing.
    """
    store = small_commits(tmp_path, range(4), sites=SITES)
    before = tree(tmp_path)
    orphans, foreign = _leave_orphans(tmp_path)
    waiting = lc.gc(tmp_path)
    assert (waiting.files, waiting.waiting, waiting.refused) == (0, len(orphans), None)
    age(tmp_path, DAY + 5)
    full = tree(tmp_path)
    dry = lc.gc(tmp_path, dry_run=True)
    assert tree(tmp_path) == full
    done = lc.gc(tmp_path)
    assert (done.files, done.bytes) == (dry.files, dry.bytes) == (len(orphans), 5 * len(orphans))
    assert (done.orphans, done.expired, done.waiting) == (len(orphans), 0, 0)
    assert tree(tmp_path).keys() == before.keys() | set(foreign)
    check_dataset(store, range(4), sites=SITES)
    for version in range(1, 5):
        assert lc.open(tmp_path, snapshot=version).snapshot.version == version


def test_replaced_files_go_when_the_versions_that_need_them_have_had_their_grace(tmp_path):
    """What `compact` replaced stays for a day after, and for versions that are to be kept.

    The log says which versions expire before a file goes, and the newest version is as before.
    """
    store = small_commits(tmp_path, range(4), sites=SITES)
    age(tmp_path, 9 * DAY)  # the age of a file does not count, only since when it is not needed
    replaced = lc.compact(tmp_path).replaced
    assert lc.gc(tmp_path).files == 0
    add_commits(store, [4], sites=SITES)
    age(tmp_path, DAY + 5, "_log/*")
    assert lc.gc(tmp_path, keep_versions=3).files == 0
    assert lc.open(tmp_path, snapshot=4)["pooled"].load().shape == (8, 5)
    done = lc.gc(tmp_path, keep_versions=2)
    assert (done.files, done.orphans, done.expired) == (replaced, 0, 5)
    snapshot = check_dataset(store, range(5), sites=SITES)
    assert (snapshot.expired, snapshot.version) == (5, 7)
    for version in (5, 6, 7):
        cache = lc.open(tmp_path, snapshot=version)
        pooled = cache["pooled"].load()
        assert torch.equal(pooled, lc.open(tmp_path)["pooled"].load()[: len(pooled)])
    with pytest.raises(SelectionError, match="5"):
        lc.open(tmp_path, snapshot=4)
    assert lc.gc(tmp_path, grace_seconds=0).files == 0


def test_a_collection_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    """Files whose versions have expired, but that a killed process did not come to delete, go."""
    store = small_commits(tmp_path, range(3), sites=SITES)
    replaced = lc.compact(tmp_path).replaced
    kept = []

    class Interrupted(StoreAround):
        def delete(self, path):
            if path.startswith("data") and kept:
                raise KeyboardInterrupt
            kept.append(path)
            self.inner.delete(path)

    monkeypatch.setattr(collecting, "open_store", lambda *_, **__: Interrupted(store))
    with pytest.raises(KeyboardInterrupt):
        lc.gc(tmp_path, grace_seconds=0)
    monkeypatch.undo()
    version = snapshot_of(store).version
    gone = [path for path in kept if not path.startswith("_log")]
    assert lc.gc(tmp_path).files == replaced - len(gone)  # no grace: they have expired
    assert snapshot_of(store).version == version
    check_dataset(store, range(3), sites=SITES)


def test_values_that_were_stored_again_go_when_nobody_needs_the_old_ones(tmp_path):
    """Of a value that was persisted twice the first one's files go, those of others stay."""
    small_commits(tmp_path, range(2), sites=SITES)
    for value in (1.0, 2.0):
        cache = lc.open(tmp_path)
        cache["mine"] = torch.full((3,), value)
        if value == 1.0:
            cache["other"] = torch.ones(2)
        cache.persist()
    done = lc.gc(tmp_path, grace_seconds=0)
    assert [path.split("/")[0] for path in done.paths] == ["entries"]
    assert lc.open(tmp_path)["mine"].tolist() == [2.0] * 3
    assert lc.open(tmp_path)["other"].tolist() == [1.0] * 2


def test_packs_of_the_log_go_when_a_larger_one_has_their_commits(tmp_path):
    """Of two packs the one that the other holds goes after the grace, and what is read stays."""
    store = small_commits(tmp_path, range(3), sites=SITES)
    small = checkpoint(store)
    add_commits(store, [3], sites=SITES)
    large = checkpoint(store)
    assert lc.gc(tmp_path).files == 0
    age(tmp_path, DAY + 5)
    assert lc.gc(tmp_path).paths == (small,)
    assert (tmp_path / large).exists()
    check_dataset(store, range(4), sites=SITES)


class _Timeless(StoreAround):
    """A store that does not say when its objects were written."""

    def list(self, prefix):
        for info in self.inner.list(prefix):
            yield ObjectInfo(info.path, info.size, 0.0)


@pytest.mark.parametrize("why", ["no times", "set back"])
def test_a_store_whose_times_say_nothing_loses_nothing(tmp_path, monkeypatch, why):
    """Without times, or with a clock that was set back, nothing goes, and a warning says why."""
    store = small_commits(tmp_path, range(3), sites=SITES)
    _leave_orphans(tmp_path)
    age(tmp_path, 9 * DAY)
    if why == "no times":
        monkeypatch.setattr(collecting, "open_store", lambda *_, **__: _Timeless(store))
    else:
        age(tmp_path, -99 * DAY, "_log/*2.json")
    before = tree(tmp_path)
    with pytest.warns(RuntimeWarning, match="say when|set back"):
        done = lc.gc(tmp_path)
    assert (done.files, done.paths) == (0, ())
    assert ("set back" in done.refused) == (why == "set back")
    assert tree(tmp_path) == before


class _Gate(StoreAround):
    """A store that lets a record of the log in when it is told to."""

    def __init__(self, inner):
        super().__init__(inner)
        self.reached, self.open = threading.Event(), threading.Event()

    def put_if_absent(self, path, data):
        self.reached.set()
        assert self.open.wait(30)
        return self.inner.put_if_absent(path, data)


class _Looking(StoreAround):
    """A store whose log, when it is looked at for the n-th time, has just got one record more."""

    def __init__(self, inner, gate, writing, moment):
        super().__init__(inner)
        self._gate, self._writing, self.left = gate, writing, moment

    def list(self, prefix):
        self._look(prefix)
        return self.inner.list(prefix)

    def size(self, path):
        self._look(path)
        return self.inner.size(path)

    def _look(self, path):
        self.left -= path.startswith("_log/")
        if not self.left:
            self._gate.open.set()
            self._writing.join()


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_file_that_is_committed_while_gc_looks_stays(tmp_path, monkeypatch, moment):
    """What a writer commits stays that took longer than the grace.

    It commits after its files were listed, before or after the log was read.
    """
    store = small_commits(tmp_path, range(2), sites=SITES)
    gate = _Gate(store)
    writer = new_writer(gate)
    writer.write(make_batch(2, sites=SITES))
    writing = threading.Thread(target=writer.close)
    writing.start()
    assert gate.reached.wait(30)
    files = len(tree(tmp_path))
    looking = _Looking(store, gate, writing, moment)
    monkeypatch.setattr(collecting, "open_store", lambda *_, **__: looking)
    assert lc.gc(tmp_path, grace_seconds=0).files == 0
    assert looking.left <= 0
    assert len(tree(tmp_path)) == files + 1 - len(list(tmp_path.glob("_log/.tmp-*")))
    check_dataset(store, range(3), sites=SITES)


class _Cleaned(StoreAround):
    """A store in which somebody cleans up while a writer commits."""

    def exists(self, path):
        if path.startswith("_log/"):
            lc.gc(self.inner.url, grace_seconds=0)
        return self.inner.exists(path)


def test_a_writer_whose_files_gc_has_taken_is_told(tmp_path, monkeypatch):
    """Who commits after the grace looks at its files first: nothing is committed that is gone."""
    store = small_commits(tmp_path, range(2), sites=SITES)
    monkeypatch.setattr("lazycache.catalog.named_files.LATE_S", 0.0)
    writer = new_writer(_Cleaned(store))
    writer.write(make_batch(2, sites=SITES))
    with pytest.raises(CommitConflictError, match="files of this commit are gone"):
        writer.close()
    check_dataset(store, range(2), sites=SITES)
    add_commits(store, [2], sites=SITES)  # and whose files are there is not
    check_dataset(store, range(3), sites=SITES)


def test_a_hostile_log_cannot_have_other_files_deleted(tmp_path):
    """A record that names somebody's file as a shard, and one that drops it, do not delete it."""
    store = small_commits(tmp_path, range(1), sites=("z_0",))
    mine = "data/z_0/thesis.parquet"
    ref = snapshot_of(store).shards("z_0")[0].ref
    shutil.copy(tmp_path / ref.path, tmp_path / mine)
    dataset = Dataset.read(store)
    dataset.commit(
        draft(
            drops=(Drop("z_0", None, (ref.path,)),),
            shards=(replace(ref, path=mine, covers=1),),
        )
    )
    dataset.commit(
        draft(
            drops=(Drop("z_0", None, (mine,)),),
            shards=(replace(ref, path=f"data/z_0/{_unique()}-r0.parquet", covers=1),),
        )
    )
    lc.gc(tmp_path, grace_seconds=0)
    assert (tmp_path / mine).exists()
    assert not (tmp_path / ref.path).exists()


def test_a_damaged_log_stops_before_anything_is_deleted(tmp_path):
    """Who cannot read the log cannot know what is needed."""
    small_commits(tmp_path, range(2), sites=("z_0",))
    _leave_orphans(tmp_path)
    record = tmp_path / "_log" / f"{1:020d}.json"
    record.write_bytes(record.read_bytes().replace(b"main", b"niam"))
    before = tree(tmp_path)
    with pytest.raises(CorruptShardError):
        lc.gc(tmp_path, grace_seconds=0)
    assert tree(tmp_path) == before
    with pytest.raises(SelectionError, match="keep_versions"):
        lc.gc(tmp_path, keep_versions=0)
