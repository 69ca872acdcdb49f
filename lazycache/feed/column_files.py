"""Numbers by position that are found piece by piece: in memory, or in a file that has no name."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import Any

import numpy as np

from lazycache.errors import StorageError

HELD_BYTES = 128 << 20
"""Most bytes of one column in memory; those of a larger one are in a file."""


class PiecewiseArray:
    """An array of `count` numbers whose parts are written one by one, in any order, then read.

    A small one is in memory. A larger one is a file in the folder for temporary files, without a
    name: the system keeps in memory what is used of it, and removes it with the process.

    Raises:
        StorageError: the disk is full; says where and how much is needed.
    """

    def __init__(self, count: int, dtype: np.dtype[Any], *, held_bytes: int = HELD_BYTES) -> None:
        self._dtype = dtype
        self._bytes = count * dtype.itemsize
        self._file: int | None = None
        if self._bytes <= held_bytes:
            self._values = np.empty(count, dtype=dtype)
            return
        try:
            self._file = _nameless(self._bytes)
            weakref.finalize(self, os.close, self._file)
            # only read through the map: a disk that is full would end the process at a write to it
            mapped = mmap.mmap(self._file, self._bytes, access=mmap.ACCESS_READ)
        except OSError as exc:
            raise self._failed(exc) from exc
        self._values = np.frombuffer(mapped, dtype=dtype)

    def write(self, first: int, values: np.ndarray) -> None:
        """Put numbers at places from `first` on."""
        if self._file is None:
            self._values[first : first + len(values)] = values
            return
        raw = np.ascontiguousarray(values, dtype=self._dtype).view(np.uint8).data
        offset = first * self._dtype.itemsize
        try:
            while raw:
                done = os.pwrite(self._file, raw, offset)
                raw, offset = raw[done:], offset + done
        except OSError as exc:
            raise self._failed(exc) from exc

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers at places: a copy."""
        return self._values.take(places)

    def _failed(self, exc: OSError) -> StorageError:
        return StorageError(
            f"a column of {self._bytes:,} bytes does not fit into {tempfile.gettempdir()}: {exc}. "
            "Name another folder for temporary files in TMPDIR, or fewer columns."
        )


def _nameless(size: int) -> int:
    """Return the descriptor of a file of `size` zero bytes that no folder lists."""
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())
