"""Merging byte ranges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lazycache.storage.ranges import Merged, coalesce, scatter

BLOB = bytes(range(256))
RANGES = st.lists(st.tuples(st.integers(0, 255), st.integers(0, 40))).map(
    lambda pairs: [(start, min(256, start + n)) for start, n in pairs]
)


@given(RANGES, st.integers(0, 60))
def test_parts_come_back_as_asked(ranges, max_gap):
    """Reading the merged ranges and cutting them up equals reading each range on its own."""
    merged = coalesce(ranges, max_gap=max_gap)
    parts = scatter(ranges, merged, [BLOB[m.start : m.stop] for m in merged])
    assert [bytes(part) for part in parts] == [BLOB[a:b] for a, b in ranges]


@given(RANGES, st.integers(0, 60))
def test_as_few_requests_as_the_gap_allows(ranges, max_gap):
    """Results are ordered and further apart than the gap; no byte outside of a gap is read."""
    merged = coalesce(ranges, max_gap=max_gap)
    for before, after in pairwise(merged):
        assert after.start - before.stop > max_gap
    for piece in merged:
        wanted = sorted(ranges[i] for i in piece.members)
        reach = wanted[0][0]
        assert piece.start == reach
        for start, stop in wanted:
            assert start - reach <= max_gap
            reach = max(reach, stop)
        assert piece.stop == reach


@given(RANGES, st.integers(0, 60))
def test_every_range_with_bytes_is_served_once(ranges, max_gap):
    """Each range is a member of exactly one request, empty ones of none."""
    members = [i for m in coalesce(ranges, max_gap=max_gap) for i in m.members]
    assert sorted(members) == [i for i, (start, stop) in enumerate(ranges) if start < stop]


def test_a_contained_range_does_not_shorten_its_container():
    """(0, 100) stays whole when (10, 20) is asked for too, and (95, 120) joins it."""
    assert coalesce([(0, 100), (10, 20), (95, 120)], max_gap=0) == [Merged(0, 120, (0, 1, 2))]


def test_touching_ranges_merge_without_a_gap():
    """Neighbours need no gap to be one request; one byte apart does."""
    assert coalesce([(0, 4), (4, 8)], max_gap=0) == [Merged(0, 8, (0, 1))]
    assert coalesce([(0, 4), (5, 8)], max_gap=0) == [Merged(0, 4, (0,)), Merged(5, 8, (1,))]


def test_scatter_copies_nothing():
    """The parts are views of the buffer that was fetched."""
    buffer = bytes(100)
    (part,) = scatter([(3, 9)], [Merged(0, 100, (0,))], [buffer])
    assert part.obj is buffer
