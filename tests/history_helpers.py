"""Random sound histories of a dataset: rows, late sites, merged files, removed and sealed runs."""

import uuid
from dataclasses import replace
from itertools import pairwise

from catalog_helpers import draft, plain, shard, site, table_file
from hypothesis import strategies as st

from lazycache.catalog import records
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.layout import log_path, shard_path
from lazycache.types import Drop, EntryRef, Identity, RunInfo, Session

IDENTITY = Identity(version=1, uuid="u", created="2026-01-01")
SITES = [site("resid_out_10"), site("resid_out_2"), site("pooled", table="examples")]


def placed_shard(spec, rows, **where):
    """A shard in the folder of its site."""
    path = shard_path(spec.name, unique=uuid.uuid4().hex, rank=0)
    return shard(spec, rows, path=path, **where)


def add_rows(draw, snapshot, run):
    """Rows of one or two tables, and shards of some of them; sites as they are needed."""
    tables, shards, sites = [], [], []
    for table in draw(st.sampled_from([["tokens"], ["examples", "tokens"]])):
        at = 0
        for rows in draw(st.lists(st.integers(1, 4), min_size=1, max_size=2)):
            tables.append(table_file(rows, table=table, row_start=at))
            at += rows
        for spec in SITES:
            if spec.table == table and draw(st.booleans()):
                sites += [spec] * (spec.name not in snapshot.sites)
                cut = draw(st.integers(0, at))
                for first, last in ((0, cut), (cut, at)):
                    if first < last:
                        shards.append(placed_shard(spec, last - first, row_start=first))
    runs = [] if run in snapshot.runs else [RunInfo(run, {})]
    return draft(run=run, runs=runs, sites=sites, tables=tables, shards=shards)


def late_site(draw, snapshot, run):
    """Values of a site for the rows of an earlier commit that have none of it."""
    spec = draw(st.sampled_from(SITES))
    have = [] if spec.name not in snapshot.sites else snapshot.shards(spec.name)
    free = [
        (one.version, first, last)
        for one in snapshot.additions
        for table, (first, last) in one.rows.items()
        if table == spec.table and not any(s.row_start < last and first < s.row_stop for s in have)
    ]
    if not free:
        return draft(run=run)
    version, first, last = draw(st.sampled_from(free))
    sites = [] if spec.name in snapshot.sites else [spec]
    shards = [placed_shard(spec, last - first, covers=version)]
    owner = next(one.run for one in snapshot.additions if one.version == version)
    return draft(run=owner, sites=sites, shards=shards)


def _mergeable(placed, run_of):
    return [
        (a, b)
        for a, b in pairwise(placed)
        if a.row_start + a.ref.rows == b.row_start and run_of(a) == run_of(b)
    ]


def merge_shards(draw, snapshot, run):
    """Two neighbours of one run become one shard, which may go on over several commits."""
    runs = {one.version: one.run for one in snapshot.additions}
    pairs = [
        (name, pair)
        for name in snapshot.sites
        for pair in _mergeable(snapshot.shards(name), lambda one: runs[one.base])
    ]
    if not pairs:
        return draft(run=run)
    name, (a, b) = draw(st.sampled_from(pairs))
    rows = a.ref.rows + b.ref.rows
    spec = snapshot.sites[name]
    merged = placed_shard(spec, rows, row_start=a.ref.row_start, covers=a.base)
    drop = Drop(name, None, (a.ref.path, b.ref.path))
    return replace(draft(run="", shards=[merged]), drops=(drop,))


def merge_tables(draw, snapshot, run):
    """Two neighbouring files of one run become one table file."""
    pairs = [
        (name, pair)
        for name in snapshot.tables
        for pair in _mergeable(snapshot.table_files(name), lambda one: one.run)
    ]
    if not pairs:
        return draft(run=run)
    name, (a, b) = draw(st.sampled_from(pairs))
    rows = a.ref.rows + b.ref.rows
    merged = replace(table_file(rows, table=name, row_start=a.ref.row_start), covers=a.base)
    drop = Drop(None, name, (a.ref.path, b.ref.path))
    return replace(draft(run="", tables=[merged]), drops=(drop,))


def remove_run(draw, snapshot, run):
    """A run goes with its rows."""
    if run not in snapshot.runs:
        return draft(run=run)
    return replace(draft(run=""), removed=(run,))


def say(draw, snapshot, run):
    """A seal, a session, a value, an expiry: what is not of files of sites."""
    changes = {
        "sealed": (run,),
        "session": Session(draw(st.integers(0, 3)), uuid.uuid4().hex),
        "expired": draw(st.integers(1, 9)),
        "entries": (EntryRef("note", (), f"entries/{uuid.uuid4().hex}.json", 0, 2, 7),),
    }
    kind = draw(st.sampled_from(sorted(changes)))
    return replace(draft(run=run), **{kind: changes[kind]})


KINDS = [add_rows, add_rows, add_rows, late_site, merge_shards, merge_tables, remove_run, say]


@st.composite
def care_histories(draw, *, most=14):
    """Commits, each of which can follow those before it."""
    snapshot, commits = Snapshot.replay(IDENTITY, []), []
    for version in range(1, draw(st.integers(2, most)) + 1):
        kind = draw(st.sampled_from(KINDS)) if commits else add_rows
        run = draw(st.sampled_from(["a", "b"]))
        commits.append(replace(kind(draw, snapshot, run), version=version))
        snapshot = Snapshot.replay(IDENTITY, commits[-1:], snapshot)
    return commits


def write_records(store, commits):
    """Put the records of commits into a store that is a dataset."""
    for commit in commits:
        store.put(log_path(commit.version), records.encode(commit))


def seen(snapshot):
    """Everything that a snapshot says, as plain values; reads all that is put off."""
    return {
        "version": snapshot.version,
        "runs": list(plain(snapshot.runs).items()),
        "sites": list(plain(snapshot.sites).items()),
        "commits": plain(list(snapshot.commits)),
        "lines": plain(snapshot.lines()),
        "entries": plain(snapshot.entries),
        "care": (sorted(snapshot.sealed), snapshot.expired, snapshot.rewritten),
        "additions": plain(snapshot.additions),
        "declared": snapshot.declared(),
        "tables": {
            name: [
                snapshot.rows(name),
                plain(snapshot.table_files(name)),
                list(snapshot.columns(name).items()),
                plain(snapshot.extents(name)),
            ]
            for name in snapshot.tables
        },
        "shards": {name: plain(snapshot.shards(name)) for name in snapshot.sites},
        "runs_of": {name: snapshot.runs_of(name) for name in snapshot.sites},
        "paths": sorted(snapshot.paths()),
    }
