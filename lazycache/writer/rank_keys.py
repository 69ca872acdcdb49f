"""A value and its row as one number that sorts as both: by value, and of equal ones the first row.

The upper 32 bits are those of a float32, turned so that they rise with it; below them are 31 bits
that fall with the row, and one that says which of the two zeros it was. Pure.
"""

from __future__ import annotations

import numpy as np

ROW_MASK = 0x7FFFFFFF
_ZERO = -(1 << 31)  # the bits of -0.0, which counts as 0


def to_keys(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return int64 keys, rising along the last axis.

    Args:
        values: float32, none of them NaN; -Inf where there is none.
        rows: int32; negative where there is none.

    Example:
        >>> values, rows = np.array([2, -0.0, 2, -np.inf], np.float32), np.array([7, 1, 3, -1])
        >>> from_keys(to_keys(values, rows.astype(np.int32)))
        (array([-inf,  -0.,   2.,   2.], dtype=float32), array([-1,  1,  7,  3], dtype=int32))
    """
    is_none = (rows < 0) | (values == -np.inf)
    bits = np.where(is_none, np.float32(-np.inf), values).astype(np.float32).view(np.int32)
    is_zero = bits == _ZERO
    bits = np.where(is_zero, 0, bits).astype(np.int64)
    behind = np.where(is_none, 0, ROW_MASK - rows.astype(np.int64))
    keys: np.ndarray = turned(bits) << 32 | behind << 1 | is_zero
    keys.sort(axis=-1)
    return keys


def from_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values, float32, and rows, int32, in the order of the keys; the row of none is -1."""
    bits = turned(keys >> 32).astype(np.int32)
    values = np.where(keys & 1, np.float32(-0.0), bits.view(np.float32))
    rows = (ROW_MASK - (keys >> 1 & ROW_MASK)).astype(np.int32)
    rows[values == -np.inf] = -1
    return values, rows


def turned(bits: np.ndarray) -> np.ndarray:
    """Turn the bits of float32 into numbers that rise with it, and back."""
    turned: np.ndarray = bits ^ (bits >> 31 & ROW_MASK)
    return turned
