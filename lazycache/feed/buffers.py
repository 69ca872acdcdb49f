"""Memory for batches, used again when a caller has dropped the batch that it held.

New memory is cleared by the system page by page, which takes about as long as a copy to it.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any, Self

import numpy as np

_LEAST = 1 << 20
"""Bytes below which the allocator has memory at hand by itself."""


class Buffers:
    """Gives memory, and takes it back when nothing refers to it any more.

    Keeps at most `most` free pieces, those that were last in use. Safe for several threads; where
    it is unpickled it begins empty.

    Example:
        >>> buffers = Buffers(2)
        >>> first = buffers.take(1 << 20)
        >>> address = first.ctypes.data
        >>> del first
        >>> buffers.take(1 << 20).ctypes.data == address
        True
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: deque[np.ndarray] = deque(maxlen=most)

    def take(self, nbytes: int) -> np.ndarray:
        """Return memory of the caller's own: uint8[nbytes], of any content."""
        if nbytes < _LEAST:
            return np.empty(nbytes, dtype=np.uint8)
        raw = self._kept(nbytes)
        lease = _Lease(raw)
        # what is handed out refers to the lease, and the lease not to what is kept
        ending = weakref.finalize(lease, self._free.append, raw)
        ending.atexit = False
        return np.asarray(lease)

    def clear(self) -> None:
        """Give the free pieces back to the system."""
        self._free.clear()

    def _kept(self, nbytes: int) -> np.ndarray:
        for _ in range(len(self._free)):
            try:
                raw = self._free.popleft()
            except IndexError:  # another thread was faster
                break
            if raw.size == nbytes:
                return raw
            self._free.append(raw)
        return np.empty(nbytes, dtype=np.uint8)

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self._most,)


class _Lease:
    """Bytes of a piece, as numpy sees them; when this goes they are free."""

    def __init__(self, raw: np.ndarray) -> None:
        self.__array_interface__: dict[str, Any] = raw.__array_interface__
