"""Bytes of a file as private memory: writable, of one owner, without a file descriptor.

Every call makes a mapping of its own (`MAP_PRIVATE`) of just the pages asked for. A write copies
the page it meets, so it reaches neither the file nor any other map, however it is done; pickling
or saving the memory writes these bytes and no others. The mapping ends with the last array or
tensor over it. Where libc cannot be called, Python's own `mmap` does the same, at the price of a
descriptor for each map.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

_PAGES = mmap.ALLOCATIONGRANULARITY
_FAILED = ctypes.c_void_p(-1).value

_live: set[int] = set()

_Page = ctypes.c_ubyte * 1


class _Libc:
    """mmap and munmap, called directly: Python's own map keeps a descriptor open."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._map = libc.mmap
        self._map.restype = ctypes.c_void_p
        self._map.argtypes = (
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        )  # fmt: skip
        self._unmap = libc.munmap
        self._unmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._advise = libc.madvise
        self._advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self._in_core = libc.mincore
        self._in_core.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)

    def map(self, fd: int, *, start: int, size: int) -> int:
        """Return the address of `size` bytes of a file from `start`, a multiple of the page."""
        # not reserved: what is not written to needs no memory of its own
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
        address = self._map(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, start)
        if address is None or address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        _live.add(address)
        return int(address)

    def unmap(self, address: int, size: int) -> None:
        """End a mapping."""
        # forgotten first: once it is unmapped, another thread may get the address
        _live.discard(address)
        self._unmap(address, size)

    def advise(self, address: int, size: int, advice: int) -> None:
        """Tell the system how bytes of a mapping will be used. What it refuses is no matter."""
        first = address - address % _PAGES
        self._advise(first, address + size - first, advice)

    def is_resident(self, address: int) -> bool:
        """Whether the page of an address is in the page cache. True where nobody says."""
        page = _Page()
        failed = self._in_core(address - address % _PAGES, 1, page)
        return bool(failed) or bool(page[0] & 1)


def _libc() -> _Libc | None:
    if not hasattr(mmap, "MAP_PRIVATE") or ctypes.sizeof(ctypes.c_long) < ctypes.sizeof(
        ctypes.c_int64
    ):
        return None
    try:
        return _Libc()
    except (OSError, TypeError, AttributeError):
        return None


LIBC: _Libc | None = _libc()
"""None where libc has no mmap that we can call."""


class _Pages:
    """Memory at an address, as numpy sees it; a mapping ends when this goes."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
        }


def private_map(fd: int, start: int, stop: int) -> np.ndarray:
    """Return bytes `start` to `stop` of an open file: uint8[stop - start], at least one.

    The caller has checked that the file has them, and may close the descriptor at once.

    Raises:
        OSError: the system refuses, for example because it has too many maps (ENOMEM).
    """
    first = start - start % _PAGES
    if LIBC is None:
        pages = mmap.mmap(fd, stop - first, access=mmap.ACCESS_COPY, offset=first)
        return np.frombuffer(pages, dtype=np.uint8)[start - first :]
    address = LIBC.map(fd, start=first, size=stop - first)
    pages_of = _Pages(address + start - first, stop - start)
    _at_end(pages_of, LIBC.unmap, address, stop - first)
    return np.asarray(pages_of)


def _at_end(owner: object, call: Callable[..., None], *args: int) -> None:
    ending = weakref.finalize(owner, call, *args)
    # at the end of the process the system unmaps; a tensor may still be in use until then
    ending.atexit = False


def give_back(raw: np.ndarray) -> None:
    """Give the pages of a map back to the system; they are read again when they are used.

    For maps that nobody writes to: a page that was written to would be what the file has again.
    """
    if LIBC is not None and raw.size and hasattr(mmap, "MADV_DONTNEED"):
        LIBC.advise(raw.ctypes.data, raw.size, mmap.MADV_DONTNEED)


def live_maps() -> int:
    """Return how many maps of this process exist."""
    return len(_live)


def is_full(exc: OSError) -> bool:
    """Whether a map was refused because the system has no room for more of them."""
    return exc.errno in {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
