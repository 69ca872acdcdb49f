"""How much of mapped files stays in memory: clean pages that a process may give back at any time.

The system takes such pages back by itself where memory runs short, but they count as memory of the
process until then. Above a sixth of the memory that it may use they are given back; what is read
again is mapped again, from the page cache if it is still there.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import resource

LOOK_BYTES = 128 << 20
"""Bytes that are read between two looks at how much is resident."""

WINDOW_BYTES = 2 << 20
"""What a system may map around one page that is touched: at most a huge page (Linux: at least
64 KiB, all of a large folio)."""

_LEAST = 64 << 20
_FEWEST = 32
_SCARCE = 1 << 30
_STATM = "/proc/self/statm"
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def allowed_bytes() -> int:
    """Return the memory that this process may use: the least of what the system says.

    Counted are the machine's memory, a container's limit, and `RLIMIT_RSS` and `RLIMIT_DATA` of
    the process, which no Linux enforces for mapped files: who sets them means it all the same.

    Example:
        >>> allowed_bytes() > 0
        True
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for which in (resource.RLIMIT_RSS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(which)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    with suppress(OSError, ValueError):  # no such limit: absent, or `max`
        limits.append(int(_CGROUP.read_text(encoding="ascii")))
    return min(limits)


class Residency:
    """Counts what is touched of maps, and has them given back when too much is resident.

    Args:
        release: a method that gives back the pages of all maps; safe while others read them.
        most_bytes: resident bytes of files above which it is called; None: a sixth of what the
            process may use.

    Thread-safe. Cost: an addition per read; a look at `/proc` every 128 MiB.
    """

    def __init__(self, release: Callable[[], None], *, most_bytes: int | None = None) -> None:
        # weak: what owns both must end when its last user goes, not when cycles are collected
        self._release = weakref.WeakMethod(release)
        self._most = most_bytes
        self._touched = 0
        self._before: int | None = None
        self._lock = threading.Lock()

    def touched(self, nbytes: int, *, ranges: int = 1) -> None:
        """Say that bytes of so many separate ranges are about to be read."""
        with self._lock:
            if self._before is None:
                self._before = _resident()  # libraries, and maps of others
            self._touched += nbytes + ranges * WINDOW_BYTES
            if self._touched < LOOK_BYTES:
                return
            self._touched = 0
        release = self._release()
        if release is not None and _resident() - self._before > self._limit():
            release()
            # what is left is not ours: maps of others must not make us give back for ever
            self._before = _resident()

    def ranges_at_once(self) -> int:
        """Return how many scattered rows may be touched between two calls of `touched`."""
        limit = self._limit()
        # the worst case of all windows at once is guarded against where memory is scarce only
        window = WINDOW_BYTES if limit < _SCARCE else WINDOW_BYTES // 16
        return max(_FEWEST, limit // window)

    def _limit(self) -> int:
        if self._most is None:
            self._most = max(_LEAST, allowed_bytes() // 6)
        return self._most


def _resident() -> int:
    """Return the resident bytes of files that this process maps; 0 where nobody says."""
    try:
        # not by Path: at every large gather, a third of the time
        opened = os.open(_STATM, os.O_RDONLY)
    except OSError:
        return 0
    try:
        shared = os.read(opened, 128).split()[2]
    finally:
        os.close(opened)
    return int(shared) * os.sysconf("SC_PAGE_SIZE")
