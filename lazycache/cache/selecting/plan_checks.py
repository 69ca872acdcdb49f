"""Whether the log says what can be of the rows of a site. Pure.

Everything a reader computes addresses from is checked here: the log may come from anybody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lazycache.codec.dtypes import by_name
from lazycache.errors import CorruptShardError
from lazycache.types import RAGGED, ShardRef, SiteSpec

ALIGNMENT = 64
"""Values of every chunk start at a multiple of this many bytes."""

MOST_DIMENSIONS = 32
"""Dimensions of a row; numpy's own limit until version 2."""

MOST_ROW_BYTES = 1 << 30
"""Bytes of a row."""

WIDTH_BYTES = 4
"""Bytes of the width of one row of a ragged site: INT32."""


class Placed(Protocol):
    """A shard and its first row in the table, as a snapshot gives it."""

    @property
    def ref(self) -> ShardRef:
        """The shard."""
        ...

    @property
    def row_start(self) -> int:
        """Its first absolute row."""
        ...


def check_spec(spec: SiteSpec) -> None:
    """Refuse a site whose rows cannot be addressed as the log describes them.

    Everything a reader computes addresses from: the log may come from anybody.

    Raises:
        CorruptShardError: says what does not fit.
        UnsupportedDtypeError: the dtype is not known.
    """
    itemsize = by_name(spec.dtype).itemsize
    # a ragged row has so many bytes for every unit of its width
    fixed = spec.shape[:-1] if spec.layout == RAGGED else spec.shape
    problem = ""
    if spec.layout not in {"row", RAGGED}:
        problem = f"has layout {spec.layout!r}; this version reads 'row' and {RAGGED!r}"
    elif spec.layout == RAGGED and (len(spec.shape), *spec.shape[-1:]) != (2, -1):
        problem = f"has ragged rows of shape {spec.shape}; (heads, -1) can be read"
    elif len(spec.shape) > MOST_DIMENSIONS:
        problem = f"has {len(spec.shape)} dimensions; {MOST_DIMENSIONS} are the most"
    elif spec.row_bytes != math.prod(fixed) * itemsize or min(fixed, default=1) < 0:
        problem = f"has rows of {spec.row_bytes:,} bytes, which {spec.shape} {spec.dtype} are not"
    elif not 0 < spec.row_bytes <= MOST_ROW_BYTES:
        problem = f"has rows of {spec.row_bytes:,} bytes; 1 to {MOST_ROW_BYTES:,} can be read"
    if problem:
        raise CorruptShardError(f"site {spec.name!r} {problem}: the log is damaged.")


def check_values(
    spec: SiteSpec,
    placed: Sequence[Placed],
    *,
    shard: np.ndarray,
    units: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """Refuse values that are not inside their file: `units` times the bytes of a row of width 1."""
    lengths = _lengths(placed, shard)
    # divided and not multiplied: rows times bytes may be more than int64 holds
    room = (lengths - offsets) // spec.row_bytes if len(units) else units
    wrong = (offsets % ALIGNMENT != 0) | (offsets < 0) | (units < 0) | (units > room)
    if wrong.any():
        chunk = int(np.flatnonzero(wrong)[0])
        ref, start = placed[int(shard[chunk])].ref, int(offsets[chunk])
        stop = start + int(units[chunk]) * spec.row_bytes
        raise CorruptShardError(
            f"shard {ref.path} of site {spec.name!r}: the log puts rows at "
            f"bytes {start:,} to {stop:,} of {ref.length:,}, which cannot be."
        )


def check_widths(
    spec: SiteSpec,
    placed: Sequence[Placed],
    *,
    shard: np.ndarray,
    rows: np.ndarray,
    units: np.ndarray,
    widths_at: np.ndarray,
) -> None:
    """Refuse widths that are not inside their file, or that cannot add up."""
    room = (_lengths(placed, shard) - widths_at) // WIDTH_BYTES
    wrong = (widths_at < 0) | (widths_at % WIDTH_BYTES != 0) | (rows > room) | (units < rows)
    if wrong.any():
        chunk = int(np.flatnonzero(wrong)[0])
        raise CorruptShardError(
            f"shard {placed[int(shard[chunk])].ref.path} of site {spec.name!r}: the log puts the "
            f"widths of {int(rows[chunk]):,} rows at byte {int(widths_at[chunk]):,}, "
            f"{int(units[chunk]):,} together, which cannot be."
        )


def _lengths(placed: Sequence[Placed], shard: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.array([p.ref.length for p in placed], dtype=np.int64).take(shard)
    return lengths
