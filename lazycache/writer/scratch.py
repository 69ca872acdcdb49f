"""Memory for what is computed and dropped: one piece per thread and purpose, used again."""

from __future__ import annotations

import math
import threading

import numpy as np

_KEPT = threading.local()


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
        kept = np.empty(size, np.uint8)
        setattr(_KEPT, purpose, kept)
    return kept[:size].view(dtype).reshape(shape)
