"""Packs of the log: the same snapshot for fewer requests, and never trusted more than records."""

import json
import re
import zlib
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from catalog_helpers import LIES, memory_store, site, small_commit, spots
from counting_store import CountingStore
from history_helpers import IDENTITY, care_histories, placed_shard, seen, write_records
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lazycache as lc
from lazycache.catalog import checkpoints
from lazycache.catalog.checkpoints import after_commit, checkpoint, outdated_packs
from lazycache.catalog.loading import load_snapshot, newer_snapshot
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError, LazycacheError, SelectionError, StorageError
from lazycache.storage.layout import LOG_PREFIX, pack_path, parse_pack_path
from lazycache.types import Drop


def pack_paths(store):
    return [one.path for one in store.list(LOG_PREFIX) if parse_pack_path(one.path)]


def packed_store(commits, spans):
    """A dataset in memory with these records and packs."""
    store = memory_store()
    write_records(store, commits)
    for first, last in spans:
        assert checkpoints._pack(store, first, last, most=None) == pack_path(first, last)
    return store


def usual(count):
    """Commits that add rows, the first of which declares what there is."""
    first = small_commit("t1")
    later = [replace(small_commit(f"t{v}"), runs=(), sites=()) for v in range(2, count + 1)]
    return [replace(one, version=v) for v, one in enumerate([first, *later], 1)]


@settings(deadline=None, max_examples=40)
@given(care_histories(), st.data())
def test_packed_is_as_replayed(commits, data):
    """Of any history, packed in any way, every version says what replaying its records says."""
    count = len(commits)
    spans = data.draw(
        st.sets(st.tuples(st.integers(1, count), st.integers(1, count)).map(sorted).map(tuple))
    )
    store = packed_store(commits, sorted(spans))
    eager = Snapshot.replay(IDENTITY, commits)
    lazy = load_snapshot(store, replace(IDENTITY, uuid=load_snapshot(store).identity.uuid))
    version = data.draw(st.integers(0, count))
    assert seen(lazy.at(version)) == seen(Snapshot.replay(IDENTITY, commits[:version]))
    assert seen(lazy) == seen(eager)


@settings(deadline=None, max_examples=40)
@given(care_histories(), st.data())
def test_records_go_on_where_packs_end(commits, data):
    """Replaying new records on a snapshot of packs gives what replaying all of them gives."""
    count = data.draw(st.integers(1, len(commits) - 1))
    store = packed_store(commits[:count], [(1, count)])
    early = load_snapshot(store)
    assert newer_snapshot(store, early) is early
    write_records(store, commits[count:])
    assert seen(newer_snapshot(store, early)) == seen(Snapshot.replay(IDENTITY, commits))


def test_opening_asks_for_packs_and_the_records_behind_them():
    """205 commits open with ten requests: identity, listing, a pack for 200, records for five."""
    store = packed_store(usual(205), [(1, 100), (101, 200), (1, 200)])
    counting = CountingStore(store)
    snapshot = load_snapshot(counting)
    assert (snapshot.version, snapshot.rows("tokens")) == (205, 615)
    assert counting.requests == 1 + 1 + 1 + 5
    counting.reset()
    assert len(snapshot.shards("resid_out_0")) == 205
    assert counting.requests == 0  # a pack up to 1 MiB is read at once


@pytest.mark.parametrize(("new", "requests"), [(0, 1), (1, 3), (20, 8 + 1 + 20)])
def test_a_refresh_asks_for_what_is_new(new, requests):
    """A look if there is nothing new; a look and a read for each of few; of many a listing."""
    store = packed_store(usual(30), [])
    early = load_snapshot(store)
    write_records(store, usual(30 + new)[30:])
    counting = CountingStore(store)
    assert newer_snapshot(counting, early).version == 30 + new
    assert counting.requests == requests


def test_a_large_pack_is_read_in_ranges(monkeypatch):
    """Of a pack that is not read at once, the head is one request and each site another."""
    monkeypatch.setattr("lazycache.catalog.loading._KEPT_BYTES", 0)
    monkeypatch.setattr("lazycache.catalog.loading._HEAD_GUESS", 1024)
    store = packed_store(usual(300), [(1, 300)])
    counting = CountingStore(store)
    snapshot = load_snapshot(counting)
    assert counting.requests == 1 + 1 + 2  # the guess, and the head that is longer
    for asked in (
        lambda: snapshot.shards("resid_out_0"),
        lambda: snapshot.table_files("tokens"),
        snapshot.lines,
    ):
        counting.reset()
        assert len(asked()) == 300
        assert counting.requests == 1
        asked()
        assert counting.requests == 1


def test_what_packs_have_replaced_is_not_read():
    """Files that a pack itself replaces are in blocks of their own, which the end leaves out."""
    commits = usual(4)
    paths = tuple(one.shards[0].path for one in commits[:3])
    merged = placed_shard(site(), 9, covers=1)
    commits.append(
        replace(
            small_commit("t5"),
            version=5,
            run="",
            runs=(),
            sites=(),
            tables=(),
            shards=(merged,),
            drops=(Drop("resid_out_0", None, paths),),
        )
    )
    store = packed_store(commits, [(1, 5)])
    head = json.loads(store.get(pack_path(1, 5)).partition(b"\n")[0])
    (section,) = [one for one in head["sections"] if one.get("site")]
    snapshot = load_snapshot(store)
    (pack,) = {one.source for one in snapshot.commits.packed}
    assert len(section["dead"]) == 1
    assert len(pack.raw(("site", "resid_out_0"), whole=False)) == 2
    assert [one.ref.rows for one in snapshot.shards("resid_out_0")] == [9, 3]
    assert [one.ref.rows for one in snapshot.at(4).shards("resid_out_0")] == [3] * 4


def test_who_commits_a_multiple_of_a_hundred_packs(monkeypatch):
    """Packs, and packs of ten, come as commits do; each record is read once for them."""
    assert checkpoints.EVERY == 100
    monkeypatch.setattr(checkpoints, "EVERY", 10)
    store = memory_store()
    counting = CountingStore(store)
    commits = usual(100)
    for commit in commits:
        write_records(store, [commit])
        after_commit(counting, commit.version)
    names = [pack_path(v, v + 9) for v in range(1, 90, 10)]
    assert pack_paths(store) == sorted([*names, pack_path(1, 100)])
    assert sum(re.search(r"/\d{20}\.json", one.path) is not None for one in counting.log) == 100
    assert outdated_packs(pack_paths(store)) == names
    assert seen(load_snapshot(store)) == seen(Snapshot.replay(IDENTITY, commits))


def test_a_missing_pack_is_made_up_for(monkeypatch):
    """A writer that died before it packed leaves records; the next larger pack has them."""
    monkeypatch.setattr(checkpoints, "EVERY", 10)
    store = packed_store(usual(100), [(1, 10), (31, 40)])
    assert after_commit(store, 100) == pack_path(1, 100)
    snapshot = load_snapshot(store)
    assert [(one.first, one.last) for one in snapshot.commits.packed] == [(1, 100)]


def test_a_capture_packs_its_log(tmp_path, monkeypatch):
    """After so many commits of a capture there is a pack, and values are read through it."""
    monkeypatch.setattr(checkpoints, "EVERY", 10)
    model = nn.Sequential(nn.Linear(2, 3))
    inputs = torch.arange(22.0).reshape(11, 1, 2)
    with torch.no_grad(), lc.capture(model, tmp_path, "0") as run:
        for row in inputs:
            model(row)
            run.commit()
        expected = torch.cat([model(row) for row in inputs])
    assert [path.name for path in tmp_path.glob("_log/pack-*")] == [pack_path(1, 10)[5:]]
    cache = lc.open(tmp_path)
    assert len(cache.snapshot.commits.packed) == 1
    assert torch.equal(cache["0:out"][:11], expected)


def test_a_pack_that_cannot_be_written_only_warns():
    """The commit is there, the log is read as before, and a warning says why."""

    class Full(CountingStore):
        def put(self, *_):
            raise StorageError("The disk is full.")

    store = packed_store(usual(100), [])
    with pytest.warns(RuntimeWarning, match="could not be packed: The disk is full"):
        assert after_commit(Full(store), 100) is None
    assert load_snapshot(store).version == 100


def damaged(data, kind):
    """A pack, not as it was written."""
    middle = len(data) // 2
    if kind == "cut":
        return data[:middle]
    if kind == "empty":
        return b""
    at = {"head": 40, "body": middle, "end": len(data) - 9}[kind]
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("kind", ["cut", "empty", "head", "body", "end"])
def test_a_damaged_pack_is_passed_over(kind):
    """Whatever happens to its bytes, a warning says so and the records are read."""
    commits = usual(20)
    store = packed_store(commits, [(1, 20)])
    store.put(pack_path(1, 20), damaged(store.get(pack_path(1, 20)), kind))
    with pytest.warns(RuntimeWarning, match=r"pack-.*passed over"):
        found = seen(load_snapshot(store))
    assert found == seen(Snapshot.replay(IDENTITY, commits))


def test_a_pack_that_vanishes_is_passed_over(monkeypatch):
    """A snapshot whose pack is deleted before a site is asked for reads the records."""
    monkeypatch.setattr("lazycache.catalog.loading._KEPT_BYTES", 0)
    commits = usual(20)
    store = packed_store(commits, [(1, 20)])
    snapshot = load_snapshot(store)
    store.delete(pack_path(1, 20))
    with pytest.warns(RuntimeWarning, match="its 20 records are read"):
        assert len(snapshot.shards("resid_out_0")) == 20
    assert seen(snapshot) == seen(Snapshot.replay(IDENTITY, commits))


def test_packs_of_other_records_are_passed_over():
    """A pack that another dataset left, or that is of other records, is not believed."""
    commits = usual(20)
    store, other = packed_store(commits, [(1, 20)]), packed_store(commits, [(1, 20)])
    other.put(pack_path(1, 20), store.get(pack_path(1, 20)))
    with pytest.warns(RuntimeWarning, match="of another dataset"):
        assert load_snapshot(other).version == 20
    write_records(store, [replace(commits[19], writer="somebody else")])
    with pytest.warns(RuntimeWarning, match="of other records"):
        assert load_snapshot(store).commits[19].writer == "somebody else"


def rewritten(store, path, change):
    """Change a pack's head, and make its checksum right again."""
    line, _, rest = store.get(path).partition(b"\n")
    head = change(json.loads(line))
    line = json.dumps(head).encode()
    store.put(path, b"%s\n%08x\n%s" % (line, zlib.crc32(line), rest[9:]))


def lying(head, kind):
    if kind == "rows":
        head["rows"] = [{**one, "rows": head["rows"][1]["rows"]} for one in head["rows"]]
    elif kind == "site":
        head["sections"] = [{**one, "site": "ghost"} for one in head["sections"]]
    else:
        head["ops"] = []
    return head


@pytest.mark.parametrize("kind", ["site", "ops"])
def test_a_lying_pack_is_passed_over(kind):
    """What contradicts itself is told; then the records count."""
    commits = usual(20)
    store = packed_store(commits, [(1, 20)])
    rewritten(store, pack_path(1, 20), lambda head: lying(head, kind))
    with pytest.warns(RuntimeWarning, match="passed over"):
        snapshot = load_snapshot(store)
    assert seen(snapshot) == seen(Snapshot.replay(IDENTITY, commits))


def test_numbers_of_rows_that_no_file_has_are_an_error():
    """A head that lies about rows is found out by the files, and the error says what to delete."""
    store = packed_store(usual(20), [(1, 20)])
    rewritten(store, pack_path(1, 20), lambda head: lying(head, "rows"))
    snapshot = load_snapshot(store)
    with pytest.raises(CorruptShardError, match=r"added 1 rows .*pack-\*\) are wrong, delete them"):
        snapshot.table_files("tokens")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_lie_in_a_head_is_an_error_of_ours(data):
    """Whatever a head says instead of a truth, reading works or raises what we raise."""
    store = packed_store(SMALL, [(1, 3)])

    def change(head):
        path = data.draw(st.sampled_from(sorted(spots(head), key=str)))
        lie = data.draw(st.sampled_from(LIES))
        if not path:
            return lie
        spot = head
        for key in path[:-1]:
            spot = spot[key]
        spot[path[-1]] = lie
        return head

    rewritten(store, pack_path(1, 3), change)
    with suppress(LazycacheError):
        seen(load_snapshot(store))


SMALL = usual(3)


def test_a_checkpoint_packs_all():
    """`checkpoint` makes one pack of the whole log, also of one that has some."""
    store = packed_store(usual(230), [(1, 100), (101, 200)])
    assert checkpoint(store) == pack_path(1, 230)
    assert checkpoint(store) == pack_path(1, 230)
    counting = CountingStore(store)
    assert load_snapshot(counting).version == 230
    assert counting.requests == 3


def test_expired_snapshots_are_refused(tmp_path):
    """Opening a version whose files may be gone says so, however it is asked for."""
    model = nn.Sequential(nn.Linear(2, 3))
    with torch.no_grad(), lc.capture(model, tmp_path, "0") as run:
        for _ in range(3):
            model(torch.zeros(1, 2))
            run.commit()
    cache = lc.open(tmp_path)
    last = cache.snapshot.version
    draft = replace(small_commit("x"), runs=(), sites=(), tables=(), shards=(), expired=2)
    CommitLog(cache.store).append(draft, base=last, validate=None)
    for asked in (lambda: lc.open(tmp_path, snapshot=1), lambda: lc.open(tmp_path).at(1)):
        with pytest.raises(SelectionError, match=r"has expired: .* before 2 need"):
            asked()
    assert len(lc.open(tmp_path, snapshot=2)["0:out"]) == 2
    assert cache.at(1).snapshot.version == 1  # opened before: its files may be there still
