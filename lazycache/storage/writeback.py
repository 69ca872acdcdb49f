"""What was written on its way to the disk before anybody waits for it. Linux; elsewhere nothing."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

_STEP = 1 << 20
"""Bytes that go at once at least: what is smaller is soon synced."""

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, and do not wait
_Begin = Callable[[int, int, int, int], int]


class Writeback:
    """Tells the kernel to write a growing file to its disk, piece by piece.

    The kernel keeps what is written for up to half a minute, and then the sync of a commit waits
    for all of it, while the disk was idle. This is no sync: it makes nothing durable, says nothing
    of errors (the sync that follows does), and drops nothing from memory. It waits only where more
    is asked of the disk than it takes at once.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     writeback = Writeback()
        ...     writeback.wrote(file.fileno(), os.write(file.fileno(), bytes(2 << 20)))
        ...     writeback.begun
        2097152
    """

    def __init__(self) -> None:
        self.begun = 0
        """Bytes of the file, from its beginning, that the kernel was told of."""
        self._length = 0

    def wrote(self, fd: int, count: int) -> None:
        """Say that so many bytes were appended. Cost: a system call for every MiB or more."""
        self._length += count
        if self._length - self.begun >= _STEP:
            start, self.begun = self.begun, self._length
            begin = _begin()
            if begin is not None:
                begin(fd, start, self._length - start, _WRITE)  # refused by a pipe or a network


@functools.cache
def _begin() -> _Begin | None:
    """Return the system's call; None if it has none."""
    if sys.platform != "linux":
        return None
    found: _Begin | None = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        offset = ctypes.c_int64
        found.argtypes = ctypes.c_int, offset, offset, ctypes.c_uint  # type: ignore[attr-defined]
    return found
