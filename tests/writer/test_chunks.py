"""Rows to chunks: pure arithmetic over views."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.types import SiteSpec
from lazycache.writer.chunks import CHUNK_BYTES, OpenChunk, Room, chunk_room, cut
from lazycache.writer.parts import SitePart

WIDE = 1 << 40


def part_of(rows: int, row_bytes: int = 3) -> SitePart:
    spec = SiteSpec("s", "tokens", "uint8", (row_bytes,), row_bytes)
    data = bytes(i % 251 for i in range(rows * row_bytes))
    index = {"example": np.arange(rows), "position": np.arange(rows, dtype=np.int32)}
    return SitePart(spec, memoryview(data), index, rows)


def ragged_part(widths: list[int], row_bytes: int = 2) -> SitePart:
    spec = SiteSpec("s", "tokens", "uint8", (row_bytes, -1), row_bytes, "ragged")
    data = bytes(i % 251 for i in range(sum(widths) * row_bytes))
    starts = np.cumsum([0, *widths]) * row_bytes
    index = {"example": np.arange(len(widths)), "width": np.array(widths, np.int32)}
    return SitePart(spec, memoryview(data), index, len(widths), starts)


def chunks_of(parts: list[SitePart], room: Room) -> list[OpenChunk]:
    """Cut parts as a lane does; the last chunk may be open."""
    chunk, done = OpenChunk(), []
    for part in parts:
        for number, piece in enumerate(cut(part, left=chunk.left(room), room=room)):
            if number:
                done, chunk = [*done, chunk], OpenChunk()
            chunk.add(piece)
        if chunk.is_full(room):
            done, chunk = [*done, chunk], OpenChunk()
    return [*done, chunk]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 20))
def test_pieces_are_all_rows_in_order_and_free_each_part_once(rows, target):
    """Chunks of `target` rows hold every row once, and budget is freed with a part's last row."""
    parts = [part_of(count) for count in rows]
    *chunks, last = chunks_of(parts, Room(target, WIDE))
    assert [c.rows for c in chunks] == [target] * (sum(rows) // target)
    assert last.rows == sum(rows) % target
    pieces = [p for c in [*chunks, last] for p in c.pieces]
    assert b"".join(bytes(p.values) for p in pieces) == b"".join(bytes(p.values) for p in parts)
    assert [i for p in pieces for i in p.index["example"]] == [i for n in rows for i in range(n)]
    assert [p.frees for p in pieces if p.frees] == [count * 3 for count in rows]
    assert sum(c.held for c in [*chunks, last]) == sum(rows) * 3


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(1, 20),
    st.integers(1, 200),
)
def test_ragged_chunks_are_as_full_as_rows_and_bytes_allow(parts, most_rows, most_bytes):
    """No chunk is above either limit but with one row, and none could have taken the next row."""
    given_parts = [ragged_part(widths) for widths in parts]
    chunks = [c for c in chunks_of(given_parts, Room(most_rows, most_bytes)) if c.rows]
    pieces = [p for c in chunks for p in c.pieces]
    values = b"".join(bytes(p.values) for p in pieces)
    assert values == b"".join(bytes(p.values) for p in given_parts)
    widths = [c.index()["width"].tolist() for c in chunks]
    assert [w for ws in widths for w in ws] == [w for ws in parts for w in ws]
    for chunk, own in zip(chunks, widths, strict=True):
        assert chunk.nbytes == sum(own) * 2 == sum(p.values.nbytes for p in chunk.pieces)
        assert len(own) == 1 or (len(own) <= most_rows and sum(own) * 2 <= most_bytes)
    for one, following in pairwise(widths):
        assert len(one) == most_rows or (sum(one) + following[0]) * 2 > most_bytes
    assert [p.frees for p in pieces if p.frees] == [sum(widths) * 2 for widths in parts]


def test_a_row_that_is_wider_than_a_chunk_goes_alone():
    """A row is never split, and the rows beside it keep to the limit."""
    chunks = chunks_of([ragged_part([1, 1, 50, 1, 1])], Room(100, 10))
    assert [c.index()["width"].tolist() for c in chunks] == [[1, 1], [50], [1, 1]]


@pytest.mark.parametrize("make", [part_of, lambda rows: ragged_part([1] * rows)])
def test_a_piece_is_a_view_of_its_part(make):
    """Cutting copies neither values nor index columns."""
    part = make(10)
    pieces = list(cut(part, left=Room(4, WIDE), room=Room(3, WIDE)))
    assert [p.rows for p in pieces] == [4, 3, 3]
    assert all(p.values.obj is part.values.obj for p in pieces)
    assert all(np.shares_memory(p.index["example"], part.index["example"]) for p in pieces)


@pytest.mark.parametrize(
    ("row_bytes", "chunk_rows", "queue_bytes", "sites", "expected"),
    [
        (1536, 8192, 1 << 30, 1, 8192),  # as many as asked for
        (8192, 8192, 1 << 30, 1, 2048),  # 16 MiB
        (1536, 8192, 1 << 30, 30, 5825),  # a fair share of a quarter of the queue
        (1536, 8192, 64 << 20, 300, 128),  # never below 128 for the queue's sake
        (CHUNK_BYTES * 2, 8192, 1 << 30, 1, 1),  # a row is never split
        (1536, 5, 1 << 30, 1, 5),
    ],
)
def test_chunks_respect_rows_bytes_and_queue(row_bytes, chunk_rows, queue_bytes, sites, expected):
    """Chunks are as large as readers like and the queue allows."""
    spec = SiteSpec("s", "tokens", "uint8", (row_bytes,), row_bytes)
    room = chunk_room(spec, chunk_rows=chunk_rows, queue_bytes=queue_bytes, sites=sites)
    assert room == Room(expected, expected * row_bytes)


@pytest.mark.parametrize(
    ("queue_bytes", "sites", "nbytes"),
    [
        (1 << 30, 1, CHUNK_BYTES),
        (1 << 30, 32, 8 << 20),  # a fair share of a quarter of the queue
        (64 << 20, 300, 1 << 20),  # never below 1 MiB for the queue's sake
    ],
)
def test_ragged_chunks_respect_bytes_instead(queue_bytes, sites, nbytes):
    """Where rows differ, bytes are the limit; rows stay what was asked for."""
    spec = SiteSpec("s", "tokens", "uint8", (3, -1), 3, "ragged")
    room = chunk_room(spec, chunk_rows=77, queue_bytes=queue_bytes, sites=sites)
    assert room == Room(77, nbytes)
