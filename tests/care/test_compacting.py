"""Compacting makes few files of many and changes nothing that a reader sees."""

import threading

import pytest
import torch
from care_helpers import ALL, add_commits, small_commits, tree
from writer_helpers import EVERY_SITE, check_dataset, named_files, read_site, snapshot_of

import lazycache as lc
from lazycache.errors import (
    CaptureError,
    CorruptShardError,
    SelectionError,
    SiteNotFoundError,
    StorageError,
)

NUMBERS = range(10)


def _shards(store):
    snapshot = snapshot_of(store)
    return {name: len(snapshot.shards(name)) for name in snapshot.sites}


def test_every_kind_of_site_and_table_is_merged_and_no_row_changes(tmp_path):
    """Ten commits become one file of each site and table; values, rows and widths stay bit for bit.

    Chunks and statistics are those of one write, older versions read as before, and a second time
    there is nothing to do.
    """
    store = small_commits(tmp_path, NUMBERS, sites=ALL)
    before = lc.open(tmp_path)
    held = {name: before[name].rows[:50].load() for name in ("resid_out_0", "z_0")}
    done = lc.compact(tmp_path)
    snapshot = check_dataset(store, NUMBERS, sites=ALL)
    # `gate` lacks the third call of every third batch: rows that it has not end its shards
    assert _shards(store) == {**dict.fromkeys(EVERY_SITE, 1), "gate:out@*": 4}
    assert [len(snapshot.table_files(table)) for table in snapshot.tables] == [1, 1, 1]
    assert (done.version, done.commits) == (len(NUMBERS) + 1, 1) == (snapshot.version, 1)
    for name in ("resid_out_0", "z_0"):
        rows = read_site(store, snapshot, name)
        assert rows.chunk_rows == [len(rows.rows)]
        assert torch.equal(before[name].rows[:50].load(), held[name])
    old = lc.open(tmp_path, snapshot=len(NUMBERS))
    for name in snapshot.sites:
        assert torch.equal(_flat(old, name), _flat(lc.open(tmp_path), name)), name
    mean = read_site(store, snapshot, "resid_out_0").values.double().mean(0)
    torch.testing.assert_close(lc.open(tmp_path)["resid_out_0"].mean("rows"), mean)
    kept = tree(tmp_path)
    again = lc.compact(tmp_path)
    assert (again.version, again.commits, again.replaced, again.written) == (11, 0, 0, 0)
    assert tree(tmp_path) == kept


def _flat(cache, name):
    if cache.snapshot.sites[name].layout == "ragged":
        return cache[name].rows.padded(-1)
    return cache[name].rows.load()


def test_only_neighbours_of_one_run_become_one_and_large_shards_stay(tmp_path):
    """Rows of two runs in turn stay apart, and what has half of the limit is not written again.

    Sites that are not asked for stay, and so do tables then.
    """
    store = small_commits(tmp_path, [0, 1], sites=("z_0",))
    add_commits(store, [2, 3], sites=("z_0",), run="other")
    add_commits(store, [4, 5, 6, 7], sites=("z_0",), run="main")
    with pytest.raises(SiteNotFoundError, match="z_1"):
        lc.compact(tmp_path, sites="z_1")
    lc.compact(tmp_path, sites=["z_*"], shard_bytes=1 << 20)
    snapshot = check_dataset(store, range(8), sites=("z_0",))
    ends = [addition.rows["tokens"][1] for addition in snapshot.additions]
    assert [shard.row_stop for shard in snapshot.shards("z_0")] == [ends[1], ends[3], ends[7]]
    assert len(snapshot.table_files("tokens")) == 8
    add_commits(store, [8, 9, 10, 11], sites=("z_0",))
    large = snapshot.shards("z_0")[2]
    lc.compact(tmp_path, shard_bytes=large.ref.rows * 36 * 2)  # 24 bytes of values, 12 of index
    snapshot = check_dataset(store, range(12), sites=("z_0",))
    assert snapshot.shards("z_0")[2] == large
    assert [len(snapshot.table_files(table)) for table in snapshot.tables] == [3, 3]
    with pytest.raises(SelectionError, match="shard_bytes"):
        lc.compact(tmp_path, shard_bytes=0)


def test_rows_are_written_in_tiles_and_back(tmp_path):
    """A layout of tiles is written for the sites that it fits, merged or not, and undone again."""
    store = small_commits(tmp_path, range(4), sites=ALL)
    expected = {name: _flat(lc.open(tmp_path), name) for name in ALL}
    lc.compact(tmp_path, layout="tile:4")
    tiles = {name: snapshot_of(store).shards(name)[0].ref.tile for name in ALL}
    assert tiles == {
        "resid_out_0": 4,
        "resid_out_1": 4,
        "z_0": 4,
        "pooled": 4,
        "pattern_0": None,
        "rnn:out@*": None,
        "gate:out@*": None,
    }
    cache = lc.open(tmp_path, check=True)
    for name in ALL:
        assert torch.equal(_flat(cache, name), expected[name]), name
    assert lc.compact(tmp_path, layout="tile:4").commits == 0
    add_commits(store, [4, 5], sites=("z_0",))
    assert lc.compact(tmp_path, sites="z_0").written == 1  # tiles and rows stay apart
    lc.compact(tmp_path, layout="row")
    assert {s.ref.tile for name in ALL for s in snapshot_of(store).shards(name)} == {None}
    lc.compact(tmp_path)
    for name in ALL:
        assert torch.equal(_flat(lc.open(tmp_path), name)[: len(expected[name])], expected[name])
    with pytest.raises(CaptureError, match="layout"):
        lc.compact(tmp_path, layout="tiles")


def _flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a value": lambda path, chunk: _flip(path, chunk.value_offset + 3),
    "an example": lambda path, chunk: _flip(path, chunk.index_offsets[0] + 8),
    "a position": lambda path, chunk: _flip(path, chunk.index_offsets[1]),
    "a width": lambda path, chunk: _flip(path, chunk.index_offsets[-1]),
    "the end": lambda path, chunk: path.write_bytes(path.read_bytes()[: chunk.value_offset + 10]),
    "the file": lambda path, _: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("site", ["resid_out_0", "pattern_0"])
def test_a_damaged_shard_is_not_copied_and_nothing_is_committed(tmp_path, damage, site):
    """A changed bit anywhere in a chunk, or a missing part, stops before the commit.

    The error names the file, and no other file is left.
    """
    store = small_commits(tmp_path, range(3), sites=(site,))
    ref = snapshot_of(store).shards(site)[1].ref
    DAMAGES[damage](tmp_path / ref.path, ref.chunks[0])
    before = tree(tmp_path)
    error = StorageError if damage == "the end" else CorruptShardError
    with pytest.raises(error, match=ref.path):
        lc.compact(tmp_path, sites=site)
    assert tree(tmp_path) == before


def test_a_damaged_table_file_is_not_copied(tmp_path):
    """A table file of other rows than the log says stops before the commit."""
    store = small_commits(tmp_path, range(3), sites=("z_0",))
    first, second, _ = snapshot_of(store).table_files("tokens")
    (tmp_path / second.ref.path).write_bytes((tmp_path / first.ref.path).read_bytes())
    before = tree(tmp_path)
    with pytest.raises(CorruptShardError, match=second.ref.path):
        lc.compact(tmp_path)
    assert tree(tmp_path) == before


def test_others_write_and_compact_meanwhile(tmp_path):
    """Two who compact and one who appends, at once: every row is there once, in its order.

    No file is left that no commit names.
    """
    sites = ("resid_out_0", "pooled")
    store = small_commits(tmp_path, range(12), sites=sites)
    start, errors = threading.Barrier(3), []

    def run(work):
        start.wait()
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - told below
            errors.append(exc)

    def compact():
        for _ in range(4):
            lc.compact(tmp_path, progress=False)

    append = lambda: add_commits(store, range(12, 24), sites=sites)  # noqa: E731
    threads = [threading.Thread(target=run, args=(work,)) for work in (compact, compact, append)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    snapshot = check_dataset(store, range(24), sites=sites)
    on_disk = {path for path in tree(tmp_path) if path.split("/")[0] in ("data", "stats", "tables")}
    assert on_disk == named_files(snapshot)
    lc.compact(tmp_path)
    assert _shards(store) == dict.fromkeys(sites, 1)
