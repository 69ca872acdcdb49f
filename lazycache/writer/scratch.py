"""Memory for what is computed and dropped: one piece per thread and purpose, used again."""

from __future__ import annotations

import math
import threading

import numpy as np

_KEPT = threading.local()
_LINE = 64  # bytes of a cache line, and of what the widest instructions load at once


def scratch(purpose: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array with anything in it; the next call of this thread may return the same memory.

    Cost: nothing from the second time on; new memory of the size of a tile would cost as much as
    computing with it.

    Example:
        >>> wide = scratch("wide", (2, 3), np.dtype("float64"))
        >>> np.shares_memory(wide, scratch("wide", (4,), np.dtype("int32")))
        True
    """
    size = math.prod(shape) * dtype.itemsize
    kept: np.ndarray | None = getattr(_KEPT, purpose, None)
    if kept is None or kept.nbytes < size:
        kept = aligned((size,), np.dtype(np.uint8))
        setattr(_KEPT, purpose, kept)
    return kept[:size].view(dtype).reshape(shape)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return new memory that begins with a cache line.

    numpy's own begins at any 16 bytes. Then every wide load and store touches two lines, and sums
    and extremes over rows take one and a half times as long.

    Example:
        >>> aligned((3, 5), np.dtype("float32")).ctypes.data % 64
        0
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _LINE, np.uint8)
    first = -memory.ctypes.data % _LINE
    return memory[first : first + size].view(dtype).reshape(shape)
