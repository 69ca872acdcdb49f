"""Indices of sequences as places in them: slices of many lengths at once, numbers checked. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from lazycache.cache.selecting.indexing import is_mask
from lazycache.errors import SelectionError


def slice_each(window: slice, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply a slice to sequences of `counts` entries: the first index and the new count of each.

    Example:
        >>> first, counts = slice_each(slice(-2, None), np.array([5, 1]))
        >>> first.tolist(), counts.tolist()
        ([3, 0], [2, 1])
    """
    step = 1 if window.step is None else window.step
    least, most = (0, counts) if step > 0 else (-1, counts - 1)
    first = _end(window.start, counts, least, most, default=least if step > 0 else most)
    stop = _end(window.stop, counts, least, most, default=most if step > 0 else least)
    span = stop - first if step > 0 else first - stop
    return first, np.maximum(0, -(-span // abs(step)))


def _end(value: int | None, counts: np.ndarray, least: Any, most: Any, *, default: Any) -> Any:
    if value is None:
        return np.broadcast_to(default, counts.shape)
    at = counts + value if value < 0 else np.full_like(counts, value)
    return np.clip(at, least, np.maximum(most, least))


def sliced(rows: range, window: slice) -> range:
    """Slice a range; of one entry or none the step is 1, however large it became.

    Example:
        >>> sliced(range(9), slice(4, None, 7))
        range(4, 5)
    """
    kept = rows[window]
    return kept if len(kept) > 1 else range(kept.start, kept.start + len(kept))


def checked_place(place: int, size: int, *, what: str) -> int:
    """Return an integer index as a place from 0.

    Raises:
        SelectionError: out of range.

    Example:
        >>> checked_place(-1, 5, what="examples")
        4
    """
    if not -size <= place < size:
        raise SelectionError(f"index {place} is out of range: there are {size:,} {what}.")
    return place % size


def checked_places(part: np.ndarray, size: int, *, what: str) -> np.ndarray:
    """Return an index array or mask as places from 0.

    Raises:
        SelectionError: an index out of range, or a mask of another shape.

    Example:
        >>> checked_places(np.array([0, -1]), 5, what="examples").tolist()
        [0, 4]
    """
    if is_mask(part):
        if part.shape != (size,):
            raise SelectionError(f"a mask of shape {part.shape} for {size:,} {what}.")
        return np.flatnonzero(part)
    least, most = int(part.min(initial=0)), int(part.max(initial=-1))
    if least < -size or most >= size:
        first = least if least < -size else most
        raise SelectionError(f"index {first} is out of range: there are {size:,} {what}.")
    return np.where(part < 0, part + size, part) if least < 0 else part
