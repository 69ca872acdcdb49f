"""Rows to chunks: pure arithmetic over views."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.types import SiteSpec
from lazycache.writer.chunks import CHUNK_BYTES, OpenChunk, cut, target_rows
from lazycache.writer.parts import SitePart


def part_of(rows: int, row_bytes: int = 3) -> SitePart:
    spec = SiteSpec("s", "tokens", "uint8", (row_bytes,), row_bytes)
    data = bytes(i % 251 for i in range(rows * row_bytes))
    index = {"example": np.arange(rows), "position": np.arange(rows, dtype=np.int32)}
    return SitePart(spec, memoryview(data), index, rows)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 20))
def test_pieces_are_all_rows_in_order_and_free_each_part_once(rows, target):
    """Chunks of `target` rows hold every row once, and budget is freed with a part's last row."""
    chunk, chunks, freed = OpenChunk(), [], []
    for count in rows:
        part = part_of(count)
        for piece in cut(part, room=target - chunk.rows, target=target):
            chunk.add(piece)
            freed.append(piece.frees)
            if chunk.rows == target:
                chunks.append(chunk)
                chunk = OpenChunk()
    assert [c.rows for c in chunks] == [target] * (sum(rows) // target)
    assert chunk.rows == sum(rows) % target
    pieces = [p for c in [*chunks, chunk] for p in c.pieces]
    expected = b"".join(bytes(part_of(count).values) for count in rows)
    assert b"".join(bytes(p.values) for p in pieces) == expected
    assert [i for p in pieces for i in p.index["example"]] == [i for n in rows for i in range(n)]
    assert [n for n in freed if n] == [count * 3 for count in rows]
    assert sum(c.held for c in [*chunks, chunk]) == sum(rows) * 3


def test_a_piece_is_a_view_of_its_part():
    """Cutting copies neither values nor index columns."""
    part = part_of(10)
    pieces = list(cut(part, room=4, target=3))
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
def test_the_target_respects_rows_bytes_and_queue(
    row_bytes, chunk_rows, queue_bytes, sites, expected
):
    """Chunks are as large as readers like and the queue allows."""
    got = target_rows(
        row_bytes=row_bytes, chunk_rows=chunk_rows, queue_bytes=queue_bytes, sites=sites
    )
    assert got == expected
