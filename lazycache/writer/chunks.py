"""Rows to chunks: which rows of which batches make one row group. Nothing is copied. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from lazycache.types import RAGGED, SiteSpec
from lazycache.writer.parts import SitePart

CHUNK_BYTES = 16 << 20
"""Bytes of values at which a chunk is large enough for any reader."""

# below, headers and requests cost more than values; the budget holds anyway
_FEWEST_ROWS = 128
_FEWEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """How much fits into a chunk, or into what is left of one."""

    rows: int
    """Rows."""
    nbytes: int
    """Bytes of values; a chunk may have more if it has one row."""


def chunk_room(spec: SiteSpec, *, chunk_rows: int, queue_bytes: int, sites: int) -> Room:
    """Return how large the chunks of a site should be.

    The open chunks of all sites are to hold at most a quarter of the queue, so that batches flow.

    Example:
        >>> spec = SiteSpec("resid_out_3", "tokens", "bfloat16", (768,), 1536)
        >>> chunk_room(spec, chunk_rows=8192, queue_bytes=1 << 30, sites=30).rows
        5825
        >>> spec = SiteSpec("pattern_3", "tokens", "bfloat16", (12, -1), 24, "ragged")
        >>> chunk_room(spec, chunk_rows=8192, queue_bytes=1 << 30, sites=30)
        Room(rows=8192, nbytes=8947848)
    """
    fair = queue_bytes // (4 * sites)
    if spec.layout == RAGGED:
        return Room(chunk_rows, min(CHUNK_BYTES, max(_FEWEST_BYTES, fair)))
    fits, share = CHUNK_BYTES // spec.row_bytes, max(_FEWEST_ROWS, fair // spec.row_bytes)
    rows = max(1, min(chunk_rows, fits, share))
    return Room(rows, rows * spec.row_bytes)


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


def cut(part: SitePart, *, left: Room, room: Room) -> Iterator[Piece]:
    """Yield a part as pieces: the first fits into what is left of a chunk, each other is a chunk.

    The first has no rows if none fits; every other has at least one. A tensor stays in memory as
    long as any view of it, so its bytes are free only with its last piece, however few rows that
    has.
    """
    row = part.fitting(0, rows=left.rows, nbytes=left.nbytes)
    yield _piece(part, 0, row)
    while row < part.rows:
        first, row = row, part.fitting(row, rows=room.rows, nbytes=room.nbytes)
        row = max(row, first + 1)  # a row is never split
        yield _piece(part, first, row)


def _piece(part: SitePart, first: int, stop: int) -> Piece:
    return Piece(
        values=part.values[part.start(first) : part.start(stop)],
        index={name: column[first:stop] for name, column in part.index.items()},
        rows=stop - first,
        frees=part.nbytes if stop == part.rows else 0,
    )


@dataclass(slots=True)
class OpenChunk:
    """Pieces that wait until there are rows enough for a chunk."""

    pieces: list[Piece] = field(default_factory=list)
    """In row order."""
    rows: int = 0
    """Of all pieces."""
    nbytes: int = 0
    """Bytes of the values of all pieces."""
    held: int = 0
    """Bytes of budget that writing them frees."""

    def add(self, piece: Piece) -> None:
        """Append rows, if the piece has any."""
        if piece.rows:
            self.pieces.append(piece)
            self.rows += piece.rows
            self.nbytes += piece.values.nbytes
            self.held += piece.frees

    def left(self, room: Room) -> Room:
        """Return what still fits; negative if it holds more than `room`."""
        return Room(room.rows - self.rows, room.nbytes - self.nbytes)

    def is_full(self, room: Room) -> bool:
        """Whether not even a small row fits any more."""
        return self.rows >= room.rows or self.nbytes >= room.nbytes

    def index(self) -> dict[str, np.ndarray]:
        """Return the index columns of all rows. Copies them: they are small."""
        names = self.pieces[0].index
        return {name: np.concatenate([p.index[name] for p in self.pieces]) for name in names}
