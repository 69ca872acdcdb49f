"""Lengths of rows that were worked out once: rows of a dataset never change, so neither do these.

A question about the most similar rows needs the length of every row, which costs more than the
products. They are kept with the reader, as float32, and end with it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.reading.reader import Reader
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.codec.dtypes import by_name

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

MOST_ROWS = 1 << 24
"""Rows of a dataset of which they are kept, of all sites together: 64 MiB."""

_Key = tuple[str, bytes | None, torch.dtype]


class RowNorms:
    """Lengths of the first rows of a table, by row number. Thread-safe.

    Two threads may work one out at once: both write the same.

    Example:
        >>> norms = RowNorms(4)
        >>> norms.keep(np.array([1, 3]), torch.tensor([0.0, 2.5]))
        >>> norms.of(np.array([3, 1])), norms.of(np.array([1, 2])), norms.of(np.array([9]))
        (tensor([2.5000, 0.0000]), None, None)
    """

    def __init__(self, rows: int) -> None:
        # 0 is a length that is not known, so that the system gives pages only as they are used
        self._lengths = np.zeros(min(rows, MOST_ROWS), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._lengths)

    def of(self, rows: Rows) -> torch.Tensor | None:
        """Return the lengths of rows, float32[n]; None if some are not known."""
        if isinstance(rows, range) and rows.step == 1:
            known = self._lengths[rows.start : rows.stop]
        else:
            rows = as_array(rows)
            known = self._lengths[rows[rows < len(self._lengths)]]
        if not len(rows) or len(known) < len(rows):
            return None
        # one look for what is not known, what is zero, and NaN, which hides both
        if not (float(known.min()) > 0 or known.all()):
            return None
        return torch.from_numpy(np.maximum(known, 0.0))

    def keep(self, rows: Rows, norms: torch.Tensor) -> None:
        """Keep the lengths of rows: int64[n], float32[n]."""
        rows = as_array(rows)
        there = rows < len(self._lengths)
        found = norms.numpy()
        self._lengths[rows[there]] = np.where(found == 0, np.float32(-1), found)[there]


class _Kept:
    """Those of one reader, by site, units and how they were computed; the last used stay."""

    def __init__(self) -> None:
        self._norms: OrderedDict[_Key, RowNorms] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _Key, rows: int) -> RowNorms:
        with self._lock:
            found = self._norms.setdefault(key, RowNorms(rows))
            self._norms.move_to_end(key)
            while len(self._norms) > 1 and sum(map(len, self._norms.values())) > MOST_ROWS:
                self._norms.popitem(last=False)
            return found


_of_readers: weakref.WeakKeyDictionary[Reader, _Kept] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def norms_of(x: LazyTensor, computed: torch.dtype) -> RowNorms | None:
    """Return the kept lengths of rows of `x`, as they are worked out in a dtype.

    None of what is no site as it is stored: tensors in memory may change, and what is worked out of
    several sites is not asked about twice.
    """
    reader = x.source.reader
    if not isinstance(reader, Reader) or x.dtype != by_name(x.source.spec.dtype).torch:
        return None
    _, stops = reader.covered_spans(x.site)
    if not len(stops):
        return None
    units = None if x.units is None else x.units.tobytes()
    with _lock:
        kept = _of_readers.setdefault(reader, _Kept())
    return kept.get((x.site, units, computed), int(stops.max()))
