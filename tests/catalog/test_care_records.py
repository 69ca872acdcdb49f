"""Commits that replace files, remove and seal runs, or take over: records, replay, conflicts."""

from dataclasses import replace

import pytest
from catalog_helpers import draft, plain, shard, site, table_file
from history_helpers import IDENTITY

from lazycache.catalog import records
from lazycache.catalog.conflicts import check_compatible
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CommitConflictError, CorruptShardError
from lazycache.types import Commit, Drop, RunInfo, Session

SPEC = site()


def rows(count, run="main", *, version=0, first=False):
    """A commit of rows, all of which have the site."""
    runs = [RunInfo(run, {})] if first else []
    return draft(
        run=run,
        runs=runs,
        sites=[SPEC] * first,
        tables=[table_file(count)],
        shards=[shard(SPEC, count)],
        version=version,
    )


def replay(*commits):
    numbered = [replace(commit, version=at) for at, commit in enumerate(commits, 1)]
    return Snapshot.replay(IDENTITY, numbered)


def care(**said):
    """A commit of nothing but what looks after the dataset."""
    return replace(draft(run=""), **said)


def placed(snapshot):
    return [(one.row_start, one.row_stop, one.base) for one in snapshot.shards(SPEC.name)]


def drop_of(*commits):
    return Drop(SPEC.name, None, tuple(one.shards[0].path for one in commits))


def test_care_is_read_back_as_it_was_written():
    """Drops, removals, seals, sessions and expiries survive their record."""
    commit = Commit(
        version=9,
        txn="t",
        writer="w",
        time="now",
        run="main",
        drops=(Drop("a", None, ("data/a/1", "data/a/2")), Drop(None, "tokens", ("tables/x",))),
        removed=("old",),
        sealed=("main",),
        session=Session(3, "id"),
        expired=4,
    )
    assert plain(records.decode(records.encode(commit), version=9)) == plain(commit)


def test_a_cover_goes_on_over_later_commits():
    """One file stands for those of two commits of a run; rows and numbers stay."""
    one, two, three = rows(3, first=True), rows(4), rows(2)
    merged = shard(SPEC, 7, covers=1)
    snapshot = replay(one, two, three, care(drops=(drop_of(one, two),), shards=(merged,)))
    assert placed(snapshot) == [(0, 7, 1), (7, 9, 3)]
    assert (snapshot.rows("tokens"), snapshot.rewritten, snapshot.covered(SPEC.name)) == (9, 4, 9)


@pytest.mark.parametrize(
    ("merged", "why"),
    [
        (shard(SPEC, 8, covers=1), "covers rows 0 to 8 of commit 1"),
        (shard(SPEC, 3, covers=2, row_start=2), "covers rows 2 to 5 of commit 2"),
        (shard(SPEC, 3, covers=2, row_start=1), "same rows"),
    ],
    ids=["of two runs", "beyond the end", "beside what is there"],
)
def test_a_cover_has_rows_of_one_run_that_nobody_else_has(merged, why):
    """A file never holds rows of two runs, rows that are not there, or rows of another file."""
    one, two = rows(3, first=True), rows(4, "other", first=True)
    with pytest.raises(CorruptShardError, match=why):
        replay(one, two, care(drops=(drop_of(one),), shards=(merged,)))


def test_only_what_is_there_is_replaced():
    """A drop of a file that is not there, or no longer, is a contradiction."""
    one = rows(3, first=True)
    again = care(drops=(drop_of(one),))
    for commits in ([one, again, again], [one, care(drops=(Drop(None, "tokens", ("x",)),))]):
        with pytest.raises(CorruptShardError, match="not there to replace"):
            replay(*commits)


def test_table_files_are_replaced_whole():
    """Table files may be merged; a hole between those that are left is refused."""
    one, two = rows(3, first=True), rows(4)
    drop = Drop(None, "tokens", (one.tables[0].path, two.tables[0].path))
    whole = replace(table_file(7), covers=1)
    snapshot = replay(one, two, care(drops=(drop,), tables=(whole,)))
    assert [(file.row_start, file.ref.rows) for file in snapshot.table_files("tokens")] == [(0, 7)]
    assert [part.rows["tokens"] for part in snapshot.additions] == [(0, 3), (3, 7)]
    with pytest.raises(CorruptShardError, match="files of 3 of them"):
        replay(one, two, care(drops=(drop,), tables=(replace(table_file(3), covers=1),)))


def test_a_removed_run_leaves_and_those_behind_move_up():
    """Rows, shards, seal and arrays go; a site that only the run had goes too."""
    own = site("own")
    one = rows(3, "old", first=True)
    two = draft(run="old", sites=[own], shards=[shard(own, 3, covers=1)])
    three = replace(rows(4, "new", first=True), sites=())
    snapshot = replay(one, two, three, care(sealed=("old", "new")), care(removed=("old",)))
    assert placed(snapshot) == [(0, 4, 3)]
    assert (list(snapshot.runs), list(snapshot.sites)) == (["new"], [SPEC.name])
    assert (snapshot.rows("tokens"), snapshot.sealed) == (4, frozenset({"new"}))
    with pytest.raises(CorruptShardError, match="removes run 'ghost', which nobody declared"):
        replay(one, care(removed=("ghost",)))


OURS, OTHERS = Session(1, "ours"), Session(1, "others")
BASE = rows(3, first=True)


@pytest.mark.parametrize(
    ("mine", "theirs", "why"),
    [
        (care(drops=(drop_of(BASE),)), care(drops=(drop_of(BASE),)), "just replaced"),
        (care(drops=(drop_of(BASE),)), care(removed=("main",)), "just removed run 'main'"),
        (care(removed=("a",)), care(removed=("b",)), "just removed run 'b'"),
        (rows(3), care(removed=("main",)), "which this commit adds to"),
        (rows(3), care(sealed=("main",)), "just sealed run 'main'"),
        (care(sealed=("main",)), care(removed=("main",)), "nothing to seal"),
        (
            replace(rows(3), writer_session=OURS),
            replace(rows(3), session=OTHERS),
            "taken over rank 1 of run 'main'",
        ),
    ],
    ids=[
        "replaced twice",
        "replaced what left",
        "two removals",
        "removed",
        "sealed",
        "sealed what left",
        "taken over",
    ],
)
def test_what_cannot_follow_is_refused(mine, theirs, why):
    """A commit that another has made meaningless is a conflict that says what happened."""
    with pytest.raises(CommitConflictError, match=why):
        check_compatible(mine, theirs)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (rows(3), care(drops=(drop_of(BASE),))),
        (rows(3), care(removed=("other",))),
        (rows(3), care(sealed=("other",), expired=3)),
        (rows(3, first=True), care(removed=("main",))),
        (
            replace(rows(3), writer_session=OURS),
            replace(rows(3), session=Session(2, "another rank")),
        ),
        (
            replace(rows(3), writer_session=OURS, session=OURS),
            replace(rows(3), session=OTHERS),
        ),
    ],
    ids=["appending", "another run", "another seal", "a new run", "another rank", "beginning"],
)
def test_appends_go_on_beside_care(mine, theirs):
    """Who adds rows does not mind what is done to other rows, runs and ranks."""
    check_compatible(mine, theirs)
