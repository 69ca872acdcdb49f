"""A run goes, and a run is sealed."""

import pytest
import torch
from care_helpers import add_commits, small_commits
from writer_helpers import check_dataset, make_batch, new_writer, snapshot_of

import lazycache as lc
from lazycache.care.removing import remove_run, seal
from lazycache.errors import CommitConflictError, SelectionError
from lazycache.types import RunInfo

SITES = ("z_0", "pooled")


def test_a_run_goes_with_its_rows_and_those_behind_it_move_up(tmp_path):
    """Of three runs in turn the second goes, and what is left is as if it had never been.

    It merges over where that was, whose files go with `gc`; an open cache and the version before
    still have it.
    """
    store = small_commits(tmp_path, [0, 1], sites=SITES)
    add_commits(store, [2, 3], sites=(*SITES, "resid_out_0"), run="second")
    add_commits(store, [4], sites=SITES, run="main")
    held = lc.open(tmp_path)
    everything = held["z_0"].rows.load()
    with pytest.raises(SelectionError, match="second"):
        remove_run(tmp_path, "secnd")
    assert remove_run(tmp_path, "second") == 6
    check_dataset(store, [0, 1, 4], sites=SITES)
    assert "resid_out_0" not in lc.open(tmp_path)
    for cache in (held, lc.open(tmp_path, snapshot=5)):
        assert torch.equal(cache["z_0"].rows.load(), everything)
    lc.compact(tmp_path)
    snapshot = check_dataset(store, [0, 1, 4], sites=SITES)
    assert [len(snapshot.shards(name)) for name in SITES] == [1, 1]
    rows = lc.open(tmp_path).sql("SELECT run, count(*) FROM tokens GROUP BY run").fetchall()
    assert rows == [("main", snapshot.rows("tokens"))]
    lc.gc(tmp_path, grace_seconds=0)
    check_dataset(store, [0, 1, 4], sites=SITES)
    assert not list(tmp_path.glob("data/resid_out_0/*"))
    add_commits(store, [5], sites=SITES, run="second")
    check_dataset(store, [0, 1, 4, 5], sites=SITES)


@pytest.mark.parametrize("what", [remove_run, seal], ids=["removed", "sealed"])
def test_who_still_captures_to_it_is_refused(tmp_path, what):
    """A capture that goes on after its run was removed or sealed is told at its next commit.

    What it had committed is there, or gone, as was asked for, and another run goes on.
    """
    store = small_commits(tmp_path, [], sites=SITES)
    writer, other = (new_writer(store, run=RunInfo(name, {})) for name in ("main", "other"))
    writer.write(make_batch(0, sites=SITES))
    writer.commit()
    version = what(tmp_path, "main")
    writer.write(make_batch(1, sites=SITES))
    with pytest.raises(CommitConflictError, match="'main'"):
        writer.close()
    other.write(make_batch(2, sites=SITES))
    other.close()
    check_dataset(store, [2] if what is remove_run else [0, 2], sites=SITES)
    if what is seal:
        assert seal(tmp_path, "main") == snapshot_of(store).version == version + 1
        assert snapshot_of(store).sealed == {"main"}
        lc.compact(tmp_path)
        assert snapshot_of(store).sealed == {"main"}


def test_who_captures_the_sites_of_a_removed_run_declares_them_again(tmp_path):
    """Sites go with the only run that had them, while another run is about to add rows of them."""
    store = small_commits(tmp_path, [0, 1], sites=SITES, run="first")
    writer = new_writer(store, run=RunInfo("second", {}))
    remove_run(tmp_path, "first")
    for number, sites in ((2, SITES[:1]), (3, SITES)):
        writer.write(make_batch(number, sites=sites))
        writer.commit()
    writer.close()
    snapshot = check_dataset(store, [2, 3], sites=SITES[:1])
    assert [snapshot.covered(name) for name in SITES[1:]] == [2]


def test_a_run_that_only_describes_an_addition_is_neither_removed_nor_sealed(tmp_path):
    """Such a run has no rows: the error names the one that has them."""
    store = small_commits(tmp_path, [0], sites=SITES)
    writer = new_writer(store, run=RunInfo("note", {"adds_to": "main"}))
    writer.write(make_batch(1, sites=SITES))
    writer.close()
    for what in (remove_run, seal):
        with pytest.raises(SelectionError, match="'main'"):
            what(tmp_path, "note")
