"""An index of a dimension whose length differs from example to example: composed, never read. Pure.

Python's rules, applied to each example by itself: `-1` is the last entry of each, a slice takes
what there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lazycache.cache.selecting.indexing import index_array, is_array, is_mask
from lazycache.cache.selecting.places import slice_each
from lazycache.errors import SelectionError


@dataclass(frozen=True, slots=True, eq=False)
class Along:
    """What is selected of such a dimension."""

    windows: tuple[slice, ...] = ()
    """Slices, applied one after the other."""
    places: np.ndarray | None = None
    """int64[n] or int64[]: places in what the windows leave, perhaps counted from its end; of no
    dimension, it removes the one it indexes. None is all."""

    @property
    def removed(self) -> bool:
        """Whether one entry is selected, and the dimension is gone."""
        return self.places is not None and not self.places.ndim

    @property
    def is_whole(self) -> bool:
        """Whether everything is selected."""
        return not self.windows and self.places is None

    def index(self, part: Any) -> Along:
        """Return what a normalised part (an integer, a slice, int64[n]) selects of this.

        Raises:
            SelectionError: a mask, or an array that is not of one dimension.
        """
        if is_array(part) and (is_mask(part) or part.ndim != 1):
            raise SelectionError(
                f"an index array of {part.dtype} and shape {part.shape} for queries or keys, whose "
                "number differs from example to example: use integers, slices, lists of integers."
            )
        if self.places is not None:
            return replace(self, places=index_array(self.places, part))
        if isinstance(part, slice):
            whole = part == slice(None)
            return self if whole else replace(self, windows=(*self.windows, part))
        return replace(self, places=np.asarray(part, dtype=np.int64))

    def counts(self, sizes: np.ndarray) -> np.ndarray:
        """Return how many entries are selected where there are `sizes`: int64[n]."""
        if self.places is not None:
            return np.full(sizes.shape, self.places.size, dtype=np.int64)
        for window in self.windows:
            sizes = slice_each(window, sizes)[1]
        return sizes

    def outside(self, sizes: np.ndarray) -> np.ndarray:
        """Say for each size whether a place is asked for that it does not have: bool[n]."""
        if self.places is None or not self.places.size:
            return np.zeros(sizes.shape, dtype=np.bool_)
        left = Along(self.windows).counts(sizes)
        least, most = int(self.places.min()), int(self.places.max())
        beyond: np.ndarray = (most >= left) | (least < -left)
        return beyond

    def of(self, size: int) -> range | np.ndarray:
        """Return the entries that are selected of `size`: a range, or int64[n].

        The caller has looked with `outside`.
        """
        entries = range(size)
        for window in self.windows:
            entries = entries[window]
        if self.places is None:
            return entries
        first = self.places.reshape(-1)
        first = np.where(first < 0, first + len(entries), first)
        numbers: np.ndarray = entries.start + first * entries.step
        return numbers

    def shown(self) -> str:
        """Return what is asked for, for a message."""
        assert self.places is not None, "what slices take is always there"
        return ", ".join(map(str, self.places.reshape(-1)[:5].tolist()))
