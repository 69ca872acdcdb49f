"""Rows to chunks: which rows of which batches make one row group. Nothing is copied. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lazycache.writer.parts import SitePart

CHUNK_BYTES = 16 << 20
"""Bytes of values at which a chunk is large enough for any reader."""

_FEWEST_ROWS = 128  # below, headers and requests cost more than values; the budget holds anyway


def target_rows(*, row_bytes: int, chunk_rows: int, queue_bytes: int, sites: int) -> int:
    """Return how many rows a chunk should have.

    The open chunks of all sites are to hold at most a quarter of the queue, so that batches flow.

    Example:
        >>> target_rows(row_bytes=1536, chunk_rows=8192, queue_bytes=1 << 30, sites=30)
        5825
        >>> target_rows(row_bytes=1 << 20, chunk_rows=8192, queue_bytes=1 << 30, sites=1)
        16
    """
    fair = queue_bytes // (4 * sites) // row_bytes
    return max(1, min(chunk_rows, CHUNK_BYTES // row_bytes, max(_FEWEST_ROWS, fair)))


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive rows of one batch inside one chunk."""

    values: memoryview
    """Their bytes: a view of the batch's tensor."""
    index: Mapping[str, np.ndarray]
    """Their index columns."""
    rows: int
    """How many."""
    frees: int
    """Bytes of budget that are free once this is written: with its last piece, all of a part."""


def cut(part: SitePart, *, room: int, target: int) -> Iterator[Piece]:
    """Yield a part as pieces: the first of at most `room` rows, the others of `target`.

    A tensor stays in memory as long as any view of it, so its bytes are free only with its last
    piece, however few rows that has.
    """
    row_bytes = part.spec.row_bytes
    start = 0
    while start < part.rows:
        stop = min(part.rows, start + (room if start == 0 else target))
        yield Piece(
            values=part.values[start * row_bytes : stop * row_bytes],
            index={name: column[start:stop] for name, column in part.index.items()},
            rows=stop - start,
            frees=part.nbytes if stop == part.rows else 0,
        )
        start = stop


@dataclass(slots=True)
class OpenChunk:
    """Pieces that wait until there are rows enough for a chunk."""

    pieces: list[Piece] = field(default_factory=list)
    """In row order."""
    rows: int = 0
    """Of all pieces."""
    held: int = 0
    """Bytes of budget that writing them frees."""

    def add(self, piece: Piece) -> None:
        """Append rows."""
        self.pieces.append(piece)
        self.rows += piece.rows
        self.held += piece.frees

    def index(self) -> dict[str, np.ndarray]:
        """Return the index columns of all rows. Copies them: they are small."""
        names = self.pieces[0].index
        return {name: np.concatenate([p.index[name] for p in self.pieces]) for name in names}
