"""Which units of a row: an index of the row's own dimensions as a place in its bytes. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lazycache.cache.selecting.indexing import index_array
from lazycache.errors import MemoryBudgetError


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """The units that are read of every row, in elements of the row."""

    shape: tuple[int, ...]
    """Shape of what is left of one row."""
    start: int
    """First element, where the units are a strided window of the row."""
    strides: tuple[int, ...] | None
    """Elements from one unit to the next, per dimension; None: not a strided window."""
    positions: np.ndarray | None
    """int64[*shape] elements of the row, where `strides` is None."""

    @property
    def count(self) -> int:
        """How many elements of each row."""
        return math.prod(self.shape)

    @property
    def is_run(self) -> bool:
        """Whether they are consecutive elements: one byte range per row."""
        return self.strides is not None and (
            self.count <= 1 or self.strides == row_major(self.shape)
        )

    @property
    def span(self) -> tuple[int, int]:
        """First element and the element after the last, of a selection that is not empty."""
        if self.positions is not None:
            return int(self.positions.min()), int(self.positions.max()) + 1
        assert self.strides is not None
        reach = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return self.start, self.start + reach + 1


def places_of(units: Units) -> np.ndarray:
    """Return the elements of a row that are selected, in order: int64[n]."""
    if units.positions is not None:
        return units.positions.reshape(-1)
    assert units.strides is not None
    places = np.array(units.start, dtype=np.int64)
    for n, s in zip(units.shape, units.strides, strict=True):
        places = places[..., None] + np.arange(n) * s
    return places.reshape(-1)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a contiguous tensor.

    Example:
        >>> row_major((2, 3, 4))
        (12, 4, 1)
    """
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


@lru_cache(maxsize=64)
def all_units(shape: tuple[int, ...]) -> Units:
    """Return the whole row.

    Example:
        >>> all_units((2, 3)).count
        6
    """
    return Units(shape, 0, row_major(shape), None)


def select(shape: tuple[int, ...], index: tuple[Any, ...]) -> Units:
    """Return the units of a row of `shape` that a torch index names.

    Raises:
        SelectionError: the index does not fit the shape.

    Example:
        >>> select((12, 64), (3, slice(0, 8))).start
        192
    """
    return of_map(shape, index_array(unit_map(shape), index) if index else None)


def of_map(shape: tuple[int, ...], chosen: np.ndarray | None) -> Units:
    """Return the units that an indexed `unit_map(shape)` holds; None is the whole row."""
    if chosen is None:
        return all_units(shape)
    if chosen.size == 0:
        return Units(chosen.shape, 0, row_major(chosen.shape), None)
    strides = _strides(chosen, base=unit_map(shape))
    if strides is None:
        return Units(chosen.shape, 0, None, chosen.copy())
    return Units(chosen.shape, int(chosen[(0,) * chosen.ndim]), strides, None)


def as_map(shape: tuple[int, ...], units: Units) -> np.ndarray:
    """Return the indexed `unit_map(shape)` that holds these units: what `of_map` was given.

    Example:
        >>> as_map((2, 3), select((2, 3), (slice(None), 1))).tolist()
        [1, 4]
    """
    if units.positions is not None:
        return units.positions
    if not units.count:
        return np.empty(units.shape, dtype=np.int64)
    assert units.strides is not None
    base = unit_map(shape)
    size = base.itemsize
    strides = tuple(s * size for s in units.strides)
    return np.ndarray(units.shape, base.dtype, base, units.start * size, strides)


def _strides(chosen: np.ndarray, *, base: np.ndarray) -> tuple[int, ...] | None:
    """Return the elements from one unit to the next if they are a strided window of the row."""
    shape = chosen.shape
    if chosen.base is base or chosen is base:
        steps = [s // chosen.itemsize for s in chosen.strides]
        if min(steps, default=0) < 0:
            return None
    else:
        steps = _steps(chosen)
        if not _nested(shape, steps) or not np.array_equal(
            _window(shape, steps), chosen - chosen.flat[0]
        ):
            return None
    # over one entry no distance is ever gone: written so that a run is seen to be one
    plain = row_major(shape)
    return tuple(s if n > 1 else p for n, s, p in zip(shape, steps, plain, strict=True))


def _steps(chosen: np.ndarray) -> list[int]:
    """Return the difference of the first two entries along each dimension; 0 where there is one."""
    corner = chosen[(slice(0, 2),) * chosen.ndim]
    first = int(chosen.flat[0])
    lines = (np.moveaxis(corner, d, 0).reshape(len_, -1) for d, len_ in enumerate(corner.shape))
    return [int(line[-1, 0]) - first for line in lines]


def _nested(shape: tuple[int, ...], steps: list[int]) -> bool:
    """Whether each step goes beyond all that the steps after it reach: no entry comes twice."""
    reach = 0
    for n, step in zip(reversed(shape), reversed(steps), strict=True):
        if n > 1 and step <= reach:
            return False
        reach += (n - 1) * step
    return True


def _window(shape: tuple[int, ...], steps: list[int]) -> np.ndarray:
    window = np.zeros(shape, dtype=np.int64)
    for d, (n, step) in enumerate(zip(shape, steps, strict=True)):
        window += (np.arange(n) * step).reshape((-1,) + (1,) * (len(shape) - d - 1))
    return window


@lru_cache(maxsize=64)
def unit_map(shape: tuple[int, ...]) -> np.ndarray:
    """Return the element number of every unit: indexing it is indexing the row, natively.

    Cached, because a row of logits has 10^5 units and views of the map cost nothing.

    Example:
        >>> unit_map((2, 3))[1, ::2].tolist()
        [3, 5]
    """
    # one owner with the final shape: the base of every basic view of it is this very array
    try:
        numbers = np.empty(shape, dtype=np.int64)
    except MemoryError as exc:
        raise MemoryBudgetError(
            f"rows of shape {shape} are too wide to select units of: .load() the rows, then index."
        ) from exc
    numbers[...] = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    numbers.flags.writeable = False
    return numbers
