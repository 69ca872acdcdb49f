"""Index arrays for rows and for units at once: torch pairs them up. Composed, never read. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazycache.cache.selecting.indexing import (
    consumed,
    index_array,
    is_array,
    is_mask,
    separated,
    split,
)
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.selection import Grid, Lead
from lazycache.errors import SelectionError


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Rows, each with units of its own."""

    rows: np.ndarray
    """int64[*lead]: absolute rows."""
    number: np.ndarray
    """int64[*lead]: which pair each belongs to."""
    units: np.ndarray
    """int64[pairs, *rest]: elements of a row, for each pair."""


def is_paired(leading: tuple[Any, ...], units: tuple[Any, ...]) -> bool:
    """Whether rows get units of their own: arrays on both sides, or apart among the units.

    What arrays apart from each other pick comes first in the result, before all rows.
    """
    if any(map(is_array, leading)):
        return any(map(is_array, units))
    return separated(units) and not all(isinstance(part, int) for part in leading)


def paired(lead: Lead, units: np.ndarray, parts: tuple[Any, ...], shape: tuple[int, ...]) -> Pairs:
    """Return what parts with index arrays (or a mask) of rows and units select.

    Args:
        lead: The rows.
        units: Element of a row for each unit.
        parts: Normalised, naming every dimension.
        shape: Of rows and units.

    Raises:
        SelectionError: the arrays make no pairs, an index is out of range, or examples of different
            length are left.
    """
    parts = _broadcast(_without_masks(parts, shape))
    cut = split(parts, lead.ndim)
    assert cut is not None, "without masks, no part is across"
    leading, rest = cut
    kept = lead.index(leading)
    if isinstance(kept, Grid) and kept.is_ragged():
        raise SelectionError(
            "examples of different length, each with units of its own, make no dense tensor: name "
            "positions too, x[examples, positions, units], or take one example at a time."
        )
    ndim = next(part.ndim for part in parts if is_array(part))
    chosen = index_array(units, rest)
    chosen = np.moveaxis(chosen, range(_place(rest), _place(rest) + ndim), range(ndim))
    among, free = chosen.shape[:ndim], chosen.shape[ndim:]
    rows, at = as_array(kept.flat()).reshape(kept.shape), 0
    if not any(map(is_array, leading)):
        rows = np.broadcast_to(rows, among + rows.shape)
    elif separated(parts):
        first = _place(leading)
        rows = np.moveaxis(rows, range(first, first + ndim), range(ndim))
    else:
        at = _place(leading)
    number = np.arange(math.prod(among)).reshape(among + (1,) * (rows.ndim - at - ndim))
    return Pairs(rows, np.broadcast_to(number, rows.shape), chosen.reshape(math.prod(among), *free))


def in_two_steps(parts: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """Write an index with single bools as one that adds dimensions and one that has no such bools.

    `True` picks the only entry of a dimension that it adds, `False` none; None if there are none.

    Example:
        >>> first, second = in_two_steps((np.array(True), 2, slice(1, 3)))
        >>> first, second
        ((None, 2, slice(1, 3, None)), (array([0]), slice(None, None, None)))
    """
    if not any(is_mask(part) and not part.ndim for part in parts):
        return None
    first: list[Any] = []
    second: list[Any] = []
    for part in parts:
        added = is_mask(part) and not part.ndim
        whole = [slice(None)] * consumed(part) if is_array(part) else [part]
        first.extend([None] if added else whole)
        if not isinstance(part, int):
            every = part if is_array(part) else slice(None)
            second.append(np.flatnonzero(part) if added else every)
    return tuple(first), tuple(second)


def _without_masks(parts: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Write masks as index arrays, one for each of their dimensions."""
    plain: list[Any] = []
    at = 0
    for part in parts:
        used = consumed(part)
        if is_mask(part):
            if part.shape != shape[at : at + used]:
                raise SelectionError(f"a mask of shape {part.shape} for {shape[at : at + used]}.")
            plain.extend(np.nonzero(part))
        else:
            plain.append(part)
        at += used
    return tuple(plain)


def _broadcast(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    arrays = [part for part in parts if is_array(part)]
    try:
        same = iter(np.broadcast_arrays(*arrays))
    except ValueError as exc:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise SelectionError(
            f"index arrays of shapes {shapes} make no pairs; for all their combinations index in "
            "two steps, x[rows][..., units]."
        ) from exc
    return tuple(next(same) if is_array(part) else part for part in parts)


def _place(parts: tuple[Any, ...]) -> int:
    """Return the first dimension of what index arrays pick, in the result of these parts."""
    if separated(parts):
        return 0
    kept = [is_array(part) for part in parts if not isinstance(part, int)]
    return kept.index(True)
