"""What is merged of random histories: neighbours of one run, and nothing a second time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.care.compacting_plan import content_bytes, shard_merges, table_merges
from lazycache.catalog.snapshot import Snapshot
from lazycache.types import (
    ChunkRef,
    Commit,
    Drop,
    Identity,
    RunInfo,
    ShardRef,
    SiteSpec,
    TableFileRef,
)

SITE = SiteSpec("x", "examples", "float32", (2,), 8)
IDENTITY = Identity(1, "u", "now")


def _shard(path, rows, start, covers):
    chunks = (ChunkRef(rows, 0, 0, (0,)),)
    return ShardRef("x", path, 1 << 20, rows, start, covers, chunks)


def _table(path, rows, start, covers):
    ids = np.arange(rows, dtype=np.int64)
    ones = np.ones(rows, np.int64)
    return TableFileRef("examples", path, 100, rows, start, {"example": "int64"}, ids, ones, covers)


@st.composite
def histories(draw):
    """Commits of three runs: rows that the site has, lacks, or has in several shards."""
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 60), max_size=3)), max_size=12
        )
    )
    commits = [
        Commit(1, "1", "w", "now", "a", runs=tuple(RunInfo(n, {}) for n in "abc"), sites=(SITE,))
    ]
    for version, (run, sizes) in enumerate(steps, 2):
        rows, shards = draw(st.integers(0, 3)), []
        for number, size in enumerate(sizes):
            if size:
                shards.append(_shard(f"s{version}-{number}", size, rows, None))
            rows += size + draw(st.sampled_from([0, 0, 0, 5]))
        tables = (_table(f"t{version}", rows, 0, None),) if rows or draw(st.booleans()) else ()
        commit = Commit(version, f"{version}", "w", "now", run, tables=tables, shards=())
        commits.append(
            commit
            if not tables
            else Commit(version, f"{version}", "w", "now", run, tables=tables, shards=tuple(shards))
        )
    removed = draw(st.sampled_from([(), (), ("b",)]))
    if removed:
        commits.append(Commit(len(commits) + 1, "r", "w", "now", "", removed=removed))
    return Snapshot.replay(IDENTITY, commits)


def _merged(snapshot, shard_bytes):
    """Carry a plan out on paper: the snapshot after it."""
    shards, tables, drops = [], [], []
    for number, merge in enumerate(
        shard_merges(snapshot, SITE, shard_bytes=shard_bytes, layout=None)
    ):
        first, rows = merge.shards[0], sum(s.ref.rows for s in merge.shards)
        assert len(merge.shards) > 1
        assert sum(content_bytes(s, SITE) for s in merge.shards) <= shard_bytes
        path = f"m{snapshot.version}-{number}"
        shards.append(_shard(path, rows, first.ref.row_start, first.base))
        drops.append(Drop("x", None, tuple(s.ref.path for s in merge.shards)))
    for number, merge in enumerate(table_merges(snapshot, "examples")):
        first, rows = merge.files[0], sum(f.ref.rows for f in merge.files)
        path = f"n{snapshot.version}-{number}"
        tables.append(_table(path, rows, first.ref.row_start, first.base))
        drops.append(Drop(None, "examples", tuple(f.ref.path for f in merge.files)))
    commit = Commit(
        snapshot.version + 1,
        "m",
        "w",
        "now",
        "",
        shards=tuple(shards),
        tables=tuple(tables),
        drops=tuple(drops),
    )
    return Snapshot.replay(IDENTITY, [commit], snapshot)


def _covered(snapshot):
    """Which run each row that the site has belongs to."""
    runs = {}
    for addition in snapshot.additions:
        runs |= dict.fromkeys(range(*addition.rows.get("examples", (0, 0))), addition.run)
    rows = [row for s in snapshot.shards("x") for row in range(s.row_start, s.row_stop)]
    return [(row, runs[row]) for row in rows]


@settings(max_examples=25, deadline=None)
@given(histories(), st.integers(1, 3000))
def test_a_plan_can_be_replayed_keeps_all_rows_and_leaves_nothing_to_do(snapshot, shard_bytes):
    """After a plan every row has its place and run, files are fewer, and the next plan is empty."""
    if "x" not in snapshot.sites:
        return
    after = _merged(snapshot, shard_bytes)
    assert _covered(after) == _covered(snapshot)
    assert after.rows("examples") == snapshot.rows("examples")
    assert list(shard_merges(after, SITE, shard_bytes=shard_bytes, layout=None)) == []
    assert list(table_merges(after, "examples")) == []
    unbounded = _merged(snapshot, 1 << 30)
    pieces = sum(
        (a, x) != (b - 1, y)
        for (a, x), (b, y) in zip(_covered(unbounded), _covered(unbounded)[1:], strict=False)
    )
    assert len(unbounded.shards("x")) == pieces + bool(_covered(unbounded))
