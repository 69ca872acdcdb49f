"""Replay of the log: row numbers, placement, what contradicts, and replay bit by bit."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from catalog_helpers import (
    array,
    draft,
    full_commit,
    plain,
    ragged_site,
    shard,
    site,
    table_file,
)
from hypothesis import given
from hypothesis import strategies as st

from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError, SiteNotFoundError
from lazycache.types import Identity, RunInfo

IDENTITY = Identity(version=1, uuid="u", created="2026-01-01")
MAIN = RunInfo("main", {"model": "m"})
SPEC = site()


def replay(*commits):
    """The snapshot of drafts in order."""
    numbered = [replace(commit, version=i) for i, commit in enumerate(commits, 1)]
    return Snapshot.replay(IDENTITY, numbered)


def rows_commit(rows, **parts):
    """A commit of `rows` token rows, all of site resid_out_0."""
    defaults = {"runs": [MAIN], "sites": [SPEC], "tables": [table_file(rows)]}
    return draft(**{**defaults, "shards": [shard(SPEC, rows)], **parts})


def placed(snapshot, name="resid_out_0"):
    return [(s.row_start, s.row_stop) for s in snapshot.shards(name)]


def test_the_empty_snapshot():
    """Version 0: nothing, and asking for anything says so."""
    empty = replay()
    assert (empty.version, empty.commits, dict(empty.sites), dict(empty.runs)) == (0, (), {}, {})
    assert (empty.tables, empty.rows("tokens"), empty.table_files("tokens")) == ((), 0, ())
    assert empty.columns("tokens") == {}
    assert plain(empty.extents("tokens")) == {"run": [], "example": [], "start": [], "rows": []}
    with pytest.raises(SiteNotFoundError, match="There are none"):
        empty.shards("resid_out_0")


def test_rows_go_on_where_the_last_commit_ended():
    """Rows of commits follow each other, in each table on its own."""
    snapshot = replay(
        rows_commit(5),
        rows_commit(3, tables=[table_file(3), table_file(2, table="examples")]),
        rows_commit(4),
    )
    assert placed(snapshot) == [(0, 5), (5, 8), (8, 12)]
    assert [f.row_start for f in snapshot.table_files("tokens")] == [0, 5, 8]
    assert [f.row_start for f in snapshot.table_files("examples")] == [0]
    assert (snapshot.rows("tokens"), snapshot.rows("examples")) == (12, 2)
    assert snapshot.covered("resid_out_0") == 12
    assert snapshot.tables == ("examples", "tokens")


def test_several_files_in_one_commit():
    """Files and shards of one commit are placed by their own first row, in any order."""
    snapshot = replay(
        rows_commit(2),
        rows_commit(
            9,
            tables=[table_file(4, row_start=5), table_file(5, row_start=0)],
            shards=[shard(SPEC, 6, row_start=3), shard(SPEC, 3, row_start=0)],
        ),
    )
    assert placed(snapshot) == [(0, 2), (2, 5), (5, 11)]
    assert [(f.row_start, f.ref.rows) for f in snapshot.table_files("tokens")] == [
        (0, 2),
        (2, 5),
        (7, 4),
    ]


def test_a_site_added_later_to_earlier_rows():
    """A shard that names the commit it covers is placed there; rows without it stay missing."""
    late = site("late")
    snapshot = replay(
        rows_commit(5),
        rows_commit(6),
        draft(
            sites=[late],
            shards=[
                shard(late, 2, covers=2, row_start=4),
                shard(late, 3, covers=1, row_start=1),
                shard(late, 3, covers=2, row_start=0),
            ],
        ),
    )
    assert placed(snapshot, "late") == [(1, 4), (5, 8), (9, 11)]
    assert snapshot.covered("late") == 8
    assert snapshot.rows("tokens") == 11


def test_sites_are_in_natural_order():
    """Sites are listed 2 before 10, whatever order they came in."""
    specs = [site(f"resid_out_{i}") for i in (10, 2, 0)] + [site("embed")]
    snapshot = replay(draft(sites=specs[:2]), draft(sites=specs[2:]))
    assert list(snapshot.sites) == ["embed", "resid_out_0", "resid_out_2", "resid_out_10"]
    assert snapshot.shards("resid_out_10") == ()
    assert snapshot.tables == ("tokens",)


def test_an_unknown_site_names_the_nearest():
    """A typing error is answered with the site that was meant."""
    with pytest.raises(SiteNotFoundError, match="Nearest: resid_out_0"):
        replay(rows_commit(1)).covered("resid_ot_0")


def test_runs_are_in_order_of_appearance_and_keep_their_first_information():
    """A run declared again, by another rank or a resumed capture, stays what it was."""
    again = RunInfo("main", {"model": "other"})
    snapshot = replay(
        draft(runs=[RunInfo("z", {})]), draft(runs=[MAIN]), draft(runs=[again, RunInfo("a", {})])
    )
    assert list(snapshot.runs) == ["z", "main", "a"]
    assert snapshot.runs["main"] is MAIN


def test_columns_are_the_union_of_all_files():
    """Columns in order of first appearance; where types differ, the one that holds both."""
    snapshot = replay(
        rows_commit(1, tables=[table_file(1, columns={"example": "int64", "label": "int32"})]),
        rows_commit(1, tables=[table_file(1, columns={"text": "string", "label": "float64"})]),
    )
    assert snapshot.columns("tokens") == {"example": "int64", "label": "float64", "text": "string"}


def test_extents_say_which_example_each_row_is_of():
    """Neighbouring rows of one example are one extent, across files and commits, never runs."""
    other = RunInfo("other", {})
    snapshot = replay(
        rows_commit(5, tables=[table_file(5, examples=[3, 1], lengths=[2, 3])]),
        rows_commit(
            6,
            tables=[
                table_file(2, examples=[1], lengths=[2]),
                table_file(4, row_start=2, examples=[1, 3], lengths=[1, 3]),
            ],
        ),
        rows_commit(
            2, run="other", runs=[other], tables=[table_file(2, examples=[3], lengths=[2])]
        ),
    )
    assert plain(snapshot.extents("tokens")) == {
        "run": [0, 0, 0, 1],
        "example": [3, 1, 3, 3],
        "start": [0, 2, 8, 11],
        "rows": [2, 6, 3, 2],
    }


def test_a_replay_changes_no_earlier_snapshot():
    """An old snapshot stays as it is when later commits are replayed on it, twice even."""
    first = replay(rows_commit(5))
    before = picture(first)
    second = replace(rows_commit(3), version=2)
    a = Snapshot.replay(IDENTITY, [second], first)
    b = Snapshot.replay(IDENTITY, [second], first)
    assert picture(first) == before
    assert picture(a) == picture(b)
    assert placed(a) == [(0, 5), (5, 8)]


def test_no_new_commits_give_the_same_snapshot():
    """Replaying nothing returns the very object."""
    first = replay(rows_commit(5))
    assert Snapshot.replay(IDENTITY, [], first) is first


def test_commits_must_follow_each_other():
    """A hole and a repetition are both refused."""
    one = replace(draft(), version=1)
    three = replace(draft(), version=3)
    with pytest.raises(CorruptShardError, match="record 2 is missing: 3"):
        Snapshot.replay(IDENTITY, [one, three])
    with pytest.raises(CorruptShardError, match="record 2 is missing: 1"):
        Snapshot.replay(IDENTITY, [one, one])


KNOWN = table_file(5)
TWICE = [shard(SPEC, 1, row_start=row, path="data/x/p") for row in range(2)]
SCALAR = site("s", table="examples", shape=(), row_bytes=2)


@pytest.mark.parametrize(
    ("commit", "why"),
    [
        (rows_commit(3, sites=[]), "nobody declared"),
        (rows_commit(3, run="ghost"), "nobody declared"),
        (rows_commit(3, sites=[site(row_bytes=15)]), "15 bytes per row"),
        (rows_commit(3, sites=[site(dtype="float64")]), "16 bytes per row: 32 are needed"),
        (rows_commit(3, sites=[site(dtype="complex64", row_bytes=32)]), "'complex64'"),
        (rows_commit(3, sites=[replace(SPEC, layout="column")]), "'column'"),
        (rows_commit(3, sites=[site(shape=(1,) * 33, row_bytes=4)]), "33 dimensions"),
        (rows_commit(3, sites=[site(shape=(0,), row_bytes=0)]), "0 bytes per row"),
        (rows_commit(3, sites=[site(shape=(1 << 28, 2), row_bytes=1 << 31)]), "1,073,741,824"),
        (rows_commit(3, shards=TWICE), "named before"),
        (rows_commit(3, tables=[replace(table_file(3), path=KNOWN.path)]), "named before"),
        (rows_commit(3, shards=[shard(SPEC, 3, path=KNOWN.path)]), "named before"),
        (rows_commit(3, tables=[]), "added 0 rows"),
        (rows_commit(3, tables=[table_file(2)]), "added 2 rows"),
        (rows_commit(3, tables=[table_file(3, row_start=1)]), "0 was expected"),
        (rows_commit(3, tables=[table_file(3), table_file(2, row_start=4)]), "3 was expected"),
        (rows_commit(3, shards=[shard(SPEC, 3), shard(SPEC, 1, row_start=2)]), "same rows"),
        (rows_commit(3, shards=[shard(SPEC, 1, row_start=2), shard(SPEC, 3)]), "same rows"),
        (rows_commit(3, shards=[shard(SPEC, 3, covers=1, row_start=6)]), "added 5 rows"),
        (rows_commit(3, shards=[shard(SPEC, 3, covers=0)]), "added 0 rows"),
        (rows_commit(3, shards=[shard(SPEC, 3, covers=9)]), "added 0 rows"),
        (rows_commit(3, shards=[replace(shard(SPEC, 3), length=80)]), "does not fit"),
        (rows_commit(3, shards=[replace(shard(SCALAR, 3), site="resid_out_0")]), "index column"),
    ],
)
def test_contradictions_are_refused(commit, why):
    """A commit that contradicts the ones before it, or itself, is named with the reason."""
    with pytest.raises(CorruptShardError, match=why):
        replay(draft(runs=[MAIN], tables=[KNOWN]), commit)


def test_one_site_has_one_declaration():
    """Declaring a site again is fine if it is the same, and refused if it is not."""
    assert replay(draft(sites=[SPEC]), draft(sites=[site()])).version == 2
    with pytest.raises(CorruptShardError, match="resid_out_0"):
        replay(draft(sites=[SPEC]), draft(sites=[site(dtype="bfloat16")]))


def test_an_index_column_must_lie_inside_the_file():
    """A chunk whose example ids would be read beyond the end is refused."""
    good = shard(SPEC, 3)
    (chunk,) = good.chunks
    out = replace(chunk, index_offsets=(chunk.index_offsets[0], good.length - 11))
    with pytest.raises(CorruptShardError, match="index column"):
        replay(rows_commit(3, shards=[replace(good, chunks=(out,))]))


def picture(snapshot):
    """Everything that a snapshot says, as plain values."""
    return {
        "version": snapshot.version,
        "runs": plain(snapshot.runs),
        "run order": list(snapshot.runs),
        "sites": plain(snapshot.sites),
        "site order": list(snapshot.sites),
        "commits": plain(snapshot.commits),
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
    }


@st.composite
def histories(draw):
    """Sound commits: rows of two tables, shards with holes, sites added later, empty commits."""
    specs = [site("resid_out_10"), site("resid_out_2"), site("pooled", table="examples")]
    commits, added, covered = [], {}, set()
    for version in range(1, draw(st.integers(1, 8)) + 1):
        tables, shards = [], []
        for table in ("tokens", "examples"):
            at = 0
            for _ in range(draw(st.integers(0, 2))):
                lengths = draw(st.lists(st.integers(1, 4), max_size=3))
                ids = [draw(st.integers(-2, 2)) for _ in lengths]
                tables.append(
                    table_file(
                        sum(lengths), table=table, row_start=at, examples=ids, lengths=lengths
                    )
                )
                at += sum(lengths)
            added[version, table] = at
        for spec in specs:
            target = draw(st.sampled_from(range(1, version + 1)))
            rows = added[target, spec.table]
            free = (spec.name, target) not in covered
            if rows and free and draw(st.booleans()):
                covered.add((spec.name, target))
                cut = draw(st.integers(0, rows))
                covers = None if target == version else target
                for start, stop in ((cut, rows), (0, cut)):
                    if start < stop:
                        shards.append(
                            shard(spec, stop - start, row_start=start, covers=covers, chunk_rows=3)
                        )
        run = draw(st.sampled_from(["a", "b"]))
        commits.append(
            draft(
                version=version,
                run=run,
                runs=[RunInfo(run, {"v": version})],
                sites=specs if version == 1 else [],
                tables=tables,
                shards=shards,
            )
        )
    return commits


@given(histories(), st.data())
def test_replay_bit_by_bit_equals_replay_at_once(commits, data):
    """However the log arrives in parts, the snapshot is the same."""
    snapshot, rest = None, commits
    while rest:
        n = data.draw(st.integers(1, len(rest)))
        snapshot, rest = Snapshot.replay(IDENTITY, rest[:n], snapshot), rest[n:]
    assert picture(snapshot) == picture(Snapshot.replay(IDENTITY, commits))


@given(histories())
def test_row_numbers_never_change(commits):
    """Every row of every snapshot belongs to the same example in every later one."""
    last = Snapshot.replay(IDENTITY, commits)
    for n in range(1, len(commits)):
        early = Snapshot.replay(IDENTITY, commits[:n])
        for table in early.tables:
            rows = early.rows(table)
            assert example_of_rows(last, table)[:rows] == example_of_rows(early, table)
        for name in early.sites:
            assert set(placed(early, name)) <= set(placed(last, name))


@given(histories())
def test_extents_tile_the_rows_of_a_table(commits):
    """Extents equal the files' run lengths unrolled, without hole, and are never splittable."""
    snapshot = Snapshot.replay(IDENTITY, commits)
    for table in snapshot.tables:
        extents = snapshot.extents(table)
        assert extents.start.tolist() == (np.cumsum(extents.rows) - extents.rows).tolist()
        unrolled = [
            (file.run, example)
            for file in snapshot.table_files(table)
            for example, n in zip(file.ref.examples, file.ref.lengths, strict=True)
            for _ in range(n)
        ]
        assert example_of_rows(snapshot, table) == unrolled
        owners = list(zip(extents.run, extents.example, strict=True))
        assert all(a != b for a, b in pairwise(owners))


def example_of_rows(snapshot, table):
    extents = snapshot.extents(table)
    names = list(snapshot.runs)
    return [
        (names[run], example)
        for run, example, rows in zip(extents.run, extents.example, extents.rows, strict=True)
        for _ in range(rows)
    ]


@given(histories())
def test_shards_are_ordered_and_disjoint(commits):
    """Shards of a site are in row order, inside their table, and never overlap."""
    snapshot = Snapshot.replay(IDENTITY, commits)
    for name, spec in snapshot.sites.items():
        spans = placed(snapshot, name)
        edges = [edge for span in spans for edge in span]
        assert edges == sorted(edges)
        assert not spans or spans[-1][1] <= snapshot.rows(spec.table)
        assert snapshot.covered(name) == sum(stop - start for start, stop in spans)


def test_ragged_sites_and_calls_are_placed_as_others_are():
    """Rows of calls have their own table; a site with fewer calls leaves a hole."""
    calls, ragged = site("rnn:out@*", table="calls"), ragged_site()
    first = full_commit("a", rows=3)
    second = draft(
        tables=[table_file(2), table_file(6, table="calls")],
        shards=[shard(calls, 4), shard(ragged, 2)],
    )
    third = draft(tables=[table_file(4, table="calls")], shards=[shard(calls, 4)])
    snapshot = replay(first, second, third)
    assert snapshot.tables == ("calls", "examples", "tokens")
    assert snapshot.rows("calls") == 16
    assert placed(snapshot, "rnn:out@*") == [(0, 6), (6, 10), (12, 16)]
    assert placed(snapshot, "pattern_0") == [(0, 3), (3, 5)]
    assert snapshot.covered("rnn:out@*") == 14


def test_a_run_keeps_the_first_array_of_a_name():
    """The same tensor from two writers is one array: that of the first file."""
    one, again, other = array(), array(), array("second")
    mine = draft(runs=[MAIN], arrays=[one])
    snapshot = replay(mine, draft(arrays=[again]), draft(arrays=[other]))
    assert snapshot.arrays("main") == {one.name: one, other.name: other}
    assert snapshot.array("main", one.name) == one
    assert snapshot.array("main", "missing") is None
    assert snapshot.arrays("nobody") == {}


def test_runs_keep_arrays_of_their_own():
    """The same name in another run is another array."""
    other = array(crc=99, shape=(5,))
    second = draft(run="second", runs=[RunInfo("second", {})], arrays=[other])
    snapshot = replay(draft(runs=[MAIN], arrays=[array()]), second)
    assert snapshot.array("second", other.name) == other
    assert snapshot.array("main", other.name).shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("commits", "message"),
    [
        ([draft(arrays=[array()])], "adds an array to run 'main', which nobody declared"),
        ([draft(runs=[MAIN], arrays=[array(), array(crc=8)])], "another one of that name"),
        (
            [draft(runs=[MAIN], arrays=[array()]), draft(arrays=[array(dtype="int32")])],
            "another one of that name",
        ),
        ([draft(runs=[MAIN], arrays=[array(path="a"), array("w", path="a")])], "named before"),
        (
            [draft(runs=[MAIN], arrays=[array(path="a")]), draft(arrays=[array(path="a")])],
            "named before",
        ),
        ([draft(runs=[MAIN], arrays=[replace(array(), length=80)])], "does not fit"),
        (
            [rows_commit(3, arrays=[array(path="a")], shards=[shard(SPEC, 3, path="a")])],
            "named before",
        ),
    ],
)
def test_arrays_that_contradict_are_refused(commits, message):
    """Arrays need a run, a file of their own inside of which they lie, and one meaning."""
    with pytest.raises(CorruptShardError, match=message):
        replay(*commits)


def test_arrays_come_bit_by_bit_as_at_once():
    """Replaying on an earlier snapshot keeps its arrays, and refuses what contradicts them."""
    first = replace(draft(runs=[MAIN], arrays=[array()]), version=1)
    early = Snapshot.replay(IDENTITY, [first])
    second = replace(draft(arrays=[array("second")]), version=2)
    late = Snapshot.replay(IDENTITY, [second], early)
    assert late.arrays("main") == Snapshot.replay(IDENTITY, [first, second]).arrays("main")
    assert list(late.arrays("main")) == ["head_out_0.weight", "second"]
    assert list(early.arrays("main")) == ["head_out_0.weight"]
    with pytest.raises(CorruptShardError, match="another one of that name"):
        Snapshot.replay(IDENTITY, [replace(draft(arrays=[array(crc=8)]), version=2)], early)
