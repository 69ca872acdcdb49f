"""An index of a stack, parted into the layers that it names and what it selects of each. Pure."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lazycache.errors import SelectionError, nearest


@dataclass(frozen=True, slots=True)
class StackIndex:
    """What an index selects."""

    layers: int | list[int]
    """Places of layers: one, without its dimension, or several."""
    rest: tuple[Any, ...]
    """Index of each of them; empty for all of it."""


def parted(index: Any, names: Sequence[str], ndim: int) -> StackIndex:
    """Part the index of a stack of `ndim` dimensions whose layers have these names.

    The first part is for the layers: an integer, a slice, integers, a mask, a name, names.

    Raises:
        SelectionError: no such layer; more indices than dimensions; arrays for layers and for
            what is in them at once.

    Example:
        >>> parted((slice(1, None), ..., 0), ["a", "b", "c"], 4)
        StackIndex(layers=[1, 2], rest=(Ellipsis, 0))
        >>> parted("b", ["a", "b", "c"], 4)
        StackIndex(layers=1, rest=())
    """
    parts = index if isinstance(index, tuple) else (index,)
    used = sum(_dimensions(part) for part in parts)
    if used > ndim:
        raise SelectionError(f"{used} indices for {ndim} dimensions.")
    if parts and parts[0] is None:
        raise SelectionError("None adds no dimension before the layers: .load() first.")
    if parts and parts[0] is Ellipsis:
        # an ellipsis that stands for no dimension leaves the layers to what follows
        parts = parts[1:] if used == ndim else (slice(None), *parts)
    first, rest = (parts[0], parts[1:]) if parts else (slice(None), ())
    layers = _layers(first, names)
    if isinstance(layers, list) and not isinstance(first, slice) and any(map(_is_array, rest)):
        raise SelectionError(
            "index arrays for layers and for what is in them would be paired up: index in two "
            "steps, x[layers][:, rows]."
        )
    return StackIndex(layers, rest)


def _is_array(part: Any) -> bool:
    return isinstance(part, (list, range, np.ndarray, torch.Tensor)) and np.ndim(part) > 0


def _dimensions(part: Any) -> int:
    if part is None or part is Ellipsis:
        return 0
    if isinstance(part, (bool, np.bool_)):
        return 0
    is_mask = _is_array(part) and np.asarray(part).dtype == np.bool_
    return int(np.ndim(part)) if is_mask else 1


def _layers(part: Any, names: Sequence[str]) -> int | list[int]:
    if isinstance(part, str):
        return _named(part, names)
    if isinstance(part, slice):
        return _several(list(range(len(names))[part]), part)
    if isinstance(part, (bool, np.bool_)):
        raise SelectionError(f"{part} is no index of layers; a mask is an array of bools.")
    if not _is_array(part):
        return _number(part, len(names))
    if isinstance(part, list) and all(isinstance(one, str) for one in part):
        return _several([_named(one, names) for one in part], part)
    array = np.asarray(part)
    if array.dtype == np.bool_:
        if array.shape != (len(names),):
            raise SelectionError(f"a mask of shape {array.shape} for {len(names)} layers.")
        return _several(np.flatnonzero(array).tolist(), part)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise SelectionError(f"{part!r} is no index of layers: integers, names, or a mask.")
    return _several([_number(one, len(names)) for one in array.tolist()], part)


def _several(places: list[int], part: Any) -> list[int]:
    if not places:
        raise SelectionError(f"{part!r} selects no layer.")
    return places


def _named(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise SelectionError(f"there is no layer {name!r} in this stack. {nearest(name, names)}")
    return list(names).index(name)


def _number(part: Any, count: int) -> int:
    try:
        number = operator.index(part)
    except TypeError as exc:
        raise SelectionError(f"{part!r} is no index of layers.") from exc
    if not -count <= number < count:
        raise SelectionError(f"index {number} is out of range: there are {count} layers.")
    return number % count
