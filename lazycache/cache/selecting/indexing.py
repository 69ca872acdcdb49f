"""One index, torch's rules, on a numpy array of numbers. Pure.

Lazy tensors keep rows and units as arrays of numbers; indexing such an array is composing the
selection. torch's rules, not numpy's: an integer removes its dimension first and is never paired
with index arrays. Beyond torch, slices may have negative steps.
"""

from __future__ import annotations

import operator
from typing import Any, TypeGuard

import numpy as np
import torch

from lazycache.errors import SelectionError

FAR = 1 << 62
"""Beyond every row there can be, and so far inside int64 that sums do not leave it."""


def normalise(index: Any) -> tuple[Any, ...]:
    """Return an index as a tuple of int, slice, Ellipsis, None and numpy arrays (int64 or bool).

    `True` and `False` are masks of no dimension.

    Raises:
        SelectionError: floats, strings and what else is no index.

    Example:
        >>> normalise(([0, 2], ..., -1))
        (array([0, 2]), Ellipsis, -1)
    """
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(_part(part) for part in parts)


def _part(part: Any) -> Any:
    if part is Ellipsis or part is None:
        return part
    if isinstance(part, slice):
        return _plain_slice(part)
    if isinstance(part, (bool, np.bool_)):
        return np.array(part)
    if isinstance(part, torch.Tensor):
        part = part.detach().cpu().numpy()
    if not isinstance(part, (np.ndarray, list, range)):
        return _integer(part)
    return _array(part)


def _array(part: np.ndarray | list[Any] | range) -> np.ndarray | int:
    try:
        array = np.asarray(part)
    except ValueError as exc:
        raise SelectionError(f"an index list of lists of different length: {exc}.") from exc
    if array.size == 0 and not isinstance(part, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iu":
        raise SelectionError(f"an index array holds integers or bools, not {array.dtype}.")
    if array.ndim == 0:
        return _integer(int(array))
    if array.dtype == np.uint8:
        raise SelectionError(
            "uint8 is a mask to torch and integers to numpy: convert a mask with .bool() "
            "(.astype(bool)), indices with .long() (.astype('int64'))."
        )
    if array.dtype == np.uint64 and array.size:
        _integer(int(array.max()))
    return array.astype(np.int64, copy=False)


def _plain_slice(part: slice) -> slice:
    ends = (part.start, part.stop, part.step)
    # no sequence is so long that a larger number would select anything else
    start, stop, step = (
        None if end is None else max(-FAR, min(FAR, _operated(end))) for end in ends
    )
    if step == 0:
        raise SelectionError("a slice cannot have step 0.")
    return slice(start, stop, step)


def _integer(value: Any) -> int:
    number = _operated(value)
    if not -FAR <= number <= FAR:
        raise SelectionError(f"index {number} is out of range: no dimension is that long.")
    return number


def _operated(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as exc:
        raise SelectionError(
            f"{value!r} is no index. Use integers, slices, ..., lists or arrays of integers, masks."
        ) from exc


def is_array(part: Any) -> TypeGuard[np.ndarray]:
    """Whether a normalised part is an index array or a mask."""
    return isinstance(part, np.ndarray)


def is_mask(part: Any) -> TypeGuard[np.ndarray]:
    """Whether a normalised part is a mask."""
    return is_array(part) and part.dtype == np.bool_


def consumed(part: Any) -> int:
    """Return how many dimensions a normalised part indexes: a mask as many as it has, None none."""
    if is_mask(part):
        return part.ndim
    return 0 if part is None else 1


def split(parts: tuple[Any, ...], at: int) -> tuple[tuple[Any, ...], tuple[Any, ...]] | None:
    """Cut an index that names every dimension behind the first `at`; None if a mask is across it.

    What adds a dimension just there belongs to those behind it.

    Example:
        >>> split((0, slice(None), None, 1), 2)
        ((0, slice(None, None, None)), (None, 1))
    """
    used = place = 0
    while used < at:
        used += consumed(parts[place])
        place += 1
    return None if used > at else (parts[:place], parts[place:])


def separated(parts: tuple[Any, ...]) -> bool:
    """Whether index arrays have a slice or a new dimension between them.

    Then the dimension of what they pick is the first of the result, else it takes their place.
    """
    advanced = [is_array(part) for part in parts if not isinstance(part, int)]
    places = [i for i, array in enumerate(advanced) if array]
    return bool(places) and places[-1] - places[0] >= len(places)


def expand(index: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """Replace the ellipsis and fill up with full slices, so that every dimension is named.

    Raises:
        SelectionError: more indices than dimensions, or several ellipses.

    Example:
        >>> expand((..., 3), 3)
        (slice(None, None, None), slice(None, None, None), 3)
    """
    used = sum(consumed(part) for part in index if part is not Ellipsis)
    if sum(part is Ellipsis for part in index) > 1:
        raise SelectionError("an index can hold one ellipsis (...) only.")
    if used > ndim:
        raise SelectionError(f"{used} indices for {ndim} dimension{'s' * (ndim != 1)}.")
    fill = (slice(None),) * (ndim - used)
    for i, part in enumerate(index):
        if part is Ellipsis:
            return (*index[:i], *fill, *index[i + 1 :])
    return (*index, *fill)


def index_array(array: np.ndarray, index: Any) -> np.ndarray:
    """Index a numpy array by torch's rules; a basic index gives a view.

    Raises:
        SelectionError: the index does not fit the array's shape.

    Example:
        >>> index_array(np.arange(6).reshape(2, 3), (0, [2, 0])).tolist()
        [2, 0]
    """
    parts = expand(normalise(index), array.ndim)
    basic: list[Any] = []
    for part in parts:
        basic.extend([slice(None)] * consumed(part) if is_array(part) else [part])
    advanced = tuple(
        part if is_array(part) else slice(None) for part in parts if not isinstance(part, int)
    )
    try:
        # the ellipsis keeps a 0-d result an array (numpy would hand out a scalar)
        chosen = array[(*basic, Ellipsis)]
        return chosen[advanced] if any(map(is_array, parts)) else chosen
    except IndexError as exc:
        raise SelectionError(f"{exc} (shape {array.shape}).") from exc
