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


def array_of(values: np.ndarray, *, missing: np.ndarray | None = None) -> pa.Array:
    """Return numbers or bools [rows] as an Arrow array over the same memory; `missing` are NULL.

    As `pa.array`, which imports pandas when it first meets an array: half a second, and an error
    where several threads of DuckDB do it at once.

    Example:
        >>> array_of(np.array([1.0, 2.0]), missing=np.array([False, True])).to_pylist()
        [1.0, None]
    """
    gaps = None if missing is None or not missing.any() else _bits(~missing)
    kind = pa.from_numpy_dtype(values.dtype)
    data = _bits(values) if kind == pa.bool_() else pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values), [gaps, data])


def numbers_of(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers as numpy has them, 0 where they are NULL, and which are known: bool[rows].

    Without pandas, as `array_of`. Where nothing is NULL the numbers are Arrow's own memory, which
    is not to be written to.

    Example:
        >>> numbers, known = numbers_of(pa.array([5, None, 7]))
        >>> numbers.tolist(), known.tolist()
        ([5, 0, 7], [True, False, True])
    """
    known = known_of(array)
    dtype = np.dtype(array.type.to_pandas_dtype())  # says numpy's name, loads nothing
    first, data = array.offset, array.buffers()[1]
    if data is None:  # no rows
        return np.zeros(len(array), dtype), known
    values = np.frombuffer(data, dtype, len(array), first * dtype.itemsize)
    return (values if known.all() else np.where(known, values, dtype.type(0))), known


def known_of(array: pa.Array) -> np.ndarray:
    """Return which rows of any array are not NULL: bool[rows].

    Example:
        >>> known_of(pa.array(["a", None])).tolist()
        [True, False]
    """
    gaps = array.buffers()[0] if array.null_count else None
    if gaps is None:
        return np.ones(len(array), bool)
    first, stop = array.offset, array.offset + len(array)
    bits = np.frombuffer(gaps, np.uint8, -(-stop // 8))
    return np.unpackbits(bits, count=stop, bitorder="little")[first:].astype(bool)


def _bits(values: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def nested(values: np.ndarray, shape: tuple[int, ...], *, missing: np.ndarray | None) -> pa.Array:
    """Return [rows, *shape] as nested Arrow lists; `missing` rows are NULL."""
    mask = None if missing is None else array_of(missing)
    if not shape:
        return array_of(values, missing=missing)
    found = array_of(values.reshape(-1))
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
    return pa.LargeListArray.from_arrays(array_of(offsets), items, mask=mask)
