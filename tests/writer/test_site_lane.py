"""A lane alone: how a site is added to rows that are there already."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from writer_helpers import make_batch, new_store, new_writer, read_site, snapshot_of

from lazycache.catalog.log import CommitLog
from lazycache.codec.dtypes import as_bytes
from lazycache.codec.spec import spec_of
from lazycache.errors import CommitConflictError
from lazycache.types import Commit
from lazycache.writer.parts import SitePart
from lazycache.writer.settings import Settings
from lazycache.writer.site_lane import SiteLane

SETTINGS = Settings(
    queue_bytes=1 << 20,
    shard_bytes=1 << 20,
    chunk_rows=16,
    commit_bytes=1 << 20,
    commit_seconds=60,
    rank=3,
)
SPEC = spec_of("late", "tokens", torch.zeros(1, 5))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two commits of one batch each."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    store = new_store(tmp_path / "dataset")
    writer = new_writer(store)
    for number in (1, 2):
        writer.write(make_batch(number))
        writer.commit()
    writer.close()
    return store


def part(store, start, stop):
    """Rows of the site `late` for rows of the second commit."""
    tokens = make_batch(2).tables["tokens"].columns
    index = {name: np.asarray(tokens[name])[start:stop] for name in ("example", "position")}
    values = torch.arange(start * 5, stop * 5, dtype=torch.float32).reshape(-1, 5)
    return SitePart(SPEC, as_bytes(values), index, stop - start)


def added(store, ranges, *, txn):
    """A commit that gives `late` to ranges of rows of commit 2, and what was freed."""
    freed = []
    lane = SiteLane(SPEC, store=store, settings=SETTINGS, free=freed.append, covers=2)
    for start, stop in ranges:
        lane.add(part(store, start, stop), row_start=start, sites=1)
    shards = lane.finish()
    assert sum(freed) == sum(stop - start for start, stop in ranges) * 20
    return Commit(
        version=0, txn=txn, writer="t", time="", run="main", sites=(SPEC,), shards=tuple(shards)
    )


def test_a_lane_can_cover_rows_of_an_earlier_commit(store):
    """Shards name the commit they cover, and rows between two ranges stay missing."""
    commit = CommitLog(store).append(
        added(store, [(1, 30), (30, 40), (45, 50)], txn="a"), base=2, validate=None
    )
    assert [(s.covers, s.row_start, s.rows) for s in commit.shards] == [(2, 1, 39), (2, 45, 5)]
    assert all(shard.path.endswith("-r3.parquet") for shard in commit.shards)
    snapshot = snapshot_of(store)
    stored = read_site(store, snapshot, "late")
    first = make_batch(1).tables["tokens"].rows
    rows = [*range(1, 40), *range(45, 50)]
    assert stored.rows.tolist() == [first + row for row in rows]
    assert stored.values[:, 0].tolist() == [row * 5 for row in rows]


def test_two_writers_cannot_add_one_site_to_the_same_rows(store):
    """Whoever commits second is told the site, and nothing of it becomes visible."""
    one, two = added(store, [(0, 20)], txn="a"), added(store, [(19, 30)], txn="b")
    log = CommitLog(store)
    log.append(one, base=2, validate=None)
    with pytest.raises(CommitConflictError, match="added site 'late' to the same rows of commit 2"):
        log.append(two, base=2, validate=None)
    assert snapshot_of(store).covered("late") == 20
    beside = replace(added(store, [(20, 30)], txn="c"), sites=())
    log.append(beside, base=2, validate=None)
    assert snapshot_of(store).covered("late") == 30
