"""lazycache.cache.selecting.plan: rows to shards and bytes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.selecting.plan import as_range, build, count_ranges
from lazycache.errors import CorruptShardError, SelectionError
from lazycache.types import ChunkRef, ShardRef, SiteSpec

SPEC = SiteSpec("s", "tokens", "float32", (2,), 8)


@dataclass
class At:
    ref: ShardRef
    row_start: int


def shard(path: str, sizes: list[int], *, length: int | None = None) -> ShardRef:
    chunks, offset = [], 64
    for rows in sizes:
        chunks.append(ChunkRef(rows, offset, 0, (0, 0)))
        offset += (rows * 8 + 127) // 64 * 64
    return ShardRef("s", path, length or offset, sum(sizes), 0, None, tuple(chunks))


@st.composite
def layouts(draw: st.DrawFn) -> list[At]:
    placed, row = [], 0
    for i in range(draw(st.integers(0, 5))):
        row += draw(st.sampled_from([0, 0, 1, 50]))
        ref = shard(f"p{i}", draw(st.lists(st.integers(0, 9), min_size=1, max_size=6)))
        placed.append(At(ref, row))
        row += ref.rows
    return placed


def slowly(placed: list[At]) -> dict[int, tuple[str, int]]:
    """Return path and byte offset of each row, chunk by chunk."""
    where = {}
    for at in placed:
        row = at.row_start
        for chunk in at.ref.chunks:
            for i in range(chunk.rows):
                where[row] = (at.ref.path, chunk.value_offset + 8 * i)
                row += 1
    return where


@given(layouts(), st.randoms())
def test_every_row_is_found_where_it_is(placed: list[At], random) -> None:
    """Any rows, in any order, over irregular chunks and holes, are where they were put."""
    plan, where = build(SPEC, placed), slowly(placed)
    rows = np.array(random.choices(sorted(where), k=20) if where else [], dtype=np.int64)
    chunk, offset = plan.locate(rows)
    found = [(plan.shards[plan.shard[c]].path, int(o)) for c, o in zip(chunk, offset, strict=True)]
    assert found == [where[row] for row in rows.tolist()]
    every = np.arange(-2, 200)
    assert plan.covered(every).tolist() == [row in where for row in every.tolist()]


@given(layouts(), st.integers(0, 60), st.integers(0, 30))
def test_spans_are_the_rows_one_after_the_other(placed: list[At], start: int, count: int) -> None:
    """Consecutive rows are whole byte ranges of chunks; a hole is an error that names the row."""
    plan, where = build(SPEC, placed), slowly(placed)
    rows = range(start, start + count)
    if not all(row in where for row in rows):
        first = next(row for row in rows if row not in where)
        with pytest.raises(SelectionError, match=f"row {first} "):
            plan.spans(rows.start, rows.stop)
        return
    spans = plan.spans(rows.start, rows.stop)
    bytes_ = [(plan.shards[s.shard].path, s.offset + 8 * i) for s in spans for i in range(s.rows)]
    assert bytes_ == [where[row] for row in rows]


def test_runs_of_covered_rows_are_merged() -> None:
    """Shards that follow each other are one run; a hole begins the next."""
    plan = build(SPEC, [At(shard("a", [3, 2]), 0), At(shard("b", [2]), 5), At(shard("c", [1]), 9)])
    assert [a.tolist() for a in plan.covered_spans()] == [[0, 9], [7, 10]]


@pytest.mark.parametrize("length", [80, 1])
def test_a_chunk_outside_its_file_is_refused(length: int) -> None:
    """A log that points behind the end of a shard is caught before anything is mapped."""
    with pytest.raises(CorruptShardError, match="shard bad of site 's'"):
        build(SPEC, [At(shard("bad", [4], length=length), 0)])


def test_rows_times_bytes_beyond_int64_are_refused() -> None:
    """A product that would wrap to a small number is no way past the check."""
    huge = ShardRef("s", "huge", 999, 1 << 61, 0, None, (ChunkRef(1 << 61, 64, 0, (0, 0)),))
    with pytest.raises(CorruptShardError, match="which cannot be"):
        build(SPEC, [At(huge, 0)])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "float64"}, "rows of 8 bytes"),
        ({"row_bytes": 4}, "rows of 4 bytes"),
        ({"shape": (0,), "row_bytes": 0}, "rows of 0 bytes"),
        ({"shape": (-1, -2)}, "rows of 8 bytes"),
        ({"shape": (1 << 50,), "row_bytes": 4 << 50}, "bytes; 1 to 1,073,741,824 can be read"),
        ({"shape": (2, *[1] * 32)}, "33 dimensions"),
        ({"layout": "column"}, "layout 'column'"),
    ],
)
def test_a_site_that_cannot_be_is_refused(change: dict, says: str) -> None:
    """Addresses are computed from what the log says of a site: it must fit together."""
    with pytest.raises(CorruptShardError, match=f"site 's' .*{says}"):
        build(replace(SPEC, **change), [At(shard("p", [4]), 0)])


def test_unaligned_values_are_refused() -> None:
    """Values that do not start at a multiple of 64 bytes were not written by us."""
    bad = ShardRef("s", "bad", 999, 1, 0, None, (ChunkRef(1, 65, 0, (0, 0)),))
    with pytest.raises(CorruptShardError, match="bytes 65 to 73"):
        build(SPEC, [At(bad, 0)])


def test_consecutive_rows_are_a_range() -> None:
    """Only rows that rise by one are a range."""
    assert as_range(np.array([3])) == range(3, 4)
    assert as_range(np.array([4, 3])) is None
    assert as_range(np.array([0, 0, 2])) is None
    assert as_range(np.array([], dtype=np.int64)) is None


def test_ranges_count_requests() -> None:
    """Neighbours and repeats are one request."""
    assert count_ranges(np.array([0, 8, 8, 16, 32]), row_bytes=8) == 2
