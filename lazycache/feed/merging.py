"""Batches of several sources as one, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lazycache.cache.files.gather import words_of
from lazycache.errors import SelectionError


def merged(parts: Sequence[Any], places: np.ndarray) -> Any:
    """Return batches as one: row `i` of them, one behind the other, becomes row `places[i]`.

    Args:
        parts: Tensors [n, *row], or dicts of such and of lists, all alike.
        places: int64[rows]: a permutation of 0 to all rows - 1.

    Cost: one copy of the values.

    Raises:
        SelectionError: rows differ in shape or dtype, as functions for `norm=` may make them.

    Example:
        >>> merged([torch.tensor([10, 11]), torch.tensor([20])], np.array([2, 0, 1]))
        tensor([11, 20, 10])
        >>> merged([{"t": ["a", "b"]}, {"t": ["c"]}], np.array([2, 0, 1]))
        {'t': ['b', 'c', 'a']}
    """
    if isinstance(parts[0], dict):
        return {name: merged([part[name] for part in parts], places) for name in parts[0]}
    if isinstance(parts[0], torch.Tensor):
        return _tensor(parts, places)
    found: list[Any] = [None] * len(places)
    texts = [text for part in parts for text in part]
    for place, text in zip(places.tolist(), texts, strict=True):
        found[place] = text
    return found


def _tensor(parts: Sequence[torch.Tensor], places: np.ndarray) -> torch.Tensor:
    first = parts[0]
    made = first.new_empty((len(places), *first.shape[1:]))
    done = 0
    for part in parts:
        if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
            raise SelectionError(
                f"rows of {list(part.shape[1:])} in {part.dtype} cannot be mixed with rows of "
                f"{list(first.shape[1:])} in {first.dtype}: give all loaders one norm= and dtype=."
            )
        _put(made, places[done : done + len(part)], part)
        done += len(part)
    return made


def _put(made: torch.Tensor, places: np.ndarray, part: torch.Tensor) -> None:
    if made.device.type != "cpu":
        made[torch.from_numpy(places).to(made.device)] = part
        return
    # twice as fast as torch's own, and the same for every dtype
    _words(made)[places] = _words(part)


def _words(values: torch.Tensor) -> np.ndarray:
    return words_of(values.flatten(1) if values.ndim > 1 else values)
