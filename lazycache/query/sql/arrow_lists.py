"""Arrays of numpy as nested lists of Arrow. Pure."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

LARGEST_ARRAY = 99_999
"""DuckDB refuses longer fixed-size arrays; a longer dimension (a vocabulary) becomes a list."""


def fits_array(size: int) -> bool:
    """Say whether a dimension can be a fixed-size array."""
    return 0 < size <= LARGEST_ARRAY


def nested(values: np.ndarray, shape: tuple[int, ...], *, missing: np.ndarray | None) -> pa.Array:
    """Return [rows, *shape] as nested Arrow lists; `missing` rows are NULL."""
    mask = None if missing is None else pa.array(missing)
    if not shape:
        return pa.array(values, mask=missing)
    found = pa.array(values.reshape(-1))
    for axis in range(len(shape), 0, -1):
        size = shape[axis - 1]
        outer = mask if axis == 1 else None
        count = len(values) * math.prod(shape[: axis - 1])
        if fits_array(size):
            found = pa.FixedSizeListArray.from_arrays(found, size, mask=outer)
        else:
            # 64-bit offsets: rows times a vocabulary pass 2**31
            found = lists(found, np.arange(count + 1, dtype=np.int64) * size, mask=outer)
    return found


def lists(items: pa.Array, offsets: np.ndarray, *, mask: pa.Array | None = None) -> pa.Array:
    """Return lists of different lengths: `offsets` (int64[n + 1]) says where each begins."""
    return pa.LargeListArray.from_arrays(pa.array(offsets), items, mask=mask)
