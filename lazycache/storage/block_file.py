"""Blocks of one object far away, in one file here.

The file begins with a CRC-32 for each block of the object, zero of a block that is not there, and
goes on with the blocks at their places; where nothing was written it has holes, which take no room.
A block is written before its CRC, and counts only if both fit. So a process that is killed, two
that write at once, and a file that another one deletes meanwhile all cost a block at most.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from zlib import crc32

import numpy as np

BLOCK_BYTES = 4096
"""What is kept at a time: a page, so that one row does not cost much more than a row."""

_CRC = np.dtype("<u4")
_PIECE = 16_384  # blocks that are read at once: systems read at most 2 GiB


class BlockFile:
    """The blocks of an object of `length` bytes, in an open file. Methods raise `OSError`."""

    def __init__(self, descriptor: int, length: int) -> None:
        self._descriptor = descriptor
        blocks = -(-length // BLOCK_BYTES)
        self._values = -(-blocks * _CRC.itemsize // BLOCK_BYTES) * BLOCK_BYTES

    def load(self, first: int, into: memoryview) -> np.ndarray:
        """Fill `into` with the blocks from number `first` on; return which are there: bool[n].

        What of `into` belongs to other blocks is undefined. Cost: two reads, or one more for every
        hole; the CRC of each block, about 1 ms for 1 MiB.
        """
        count = -(-len(into) // BLOCK_BYTES)
        crcs = np.zeros(count, dtype=_CRC)
        size, at = count * _CRC.itemsize, first * _CRC.itemsize
        known = np.frombuffer(os.pread(self._descriptor, size, at), dtype=np.uint8)
        crcs.view(np.uint8)[: len(known)] = known
        there: np.ndarray = crcs != 0
        for start, stop in _pieces(there):
            part = into[start * BLOCK_BYTES : stop * BLOCK_BYTES]
            place = self._values + (first + start) * BLOCK_BYTES
            if os.preadv(self._descriptor, [part], place) == len(part):
                there[start:stop] = crcs[start:stop] == _crcs(part)
            else:
                there[start:stop] = False
        return there

    def keep(self, first: int, data: memoryview) -> None:
        """Write blocks from number `first` on; only the last one of the object may be shorter."""
        self._write(data, self._values + first * BLOCK_BYTES)
        self._write(_crcs(data).data.cast("B"), first * _CRC.itemsize)

    def _write(self, data: memoryview, place: int) -> None:
        done = 0
        while done < len(data):
            written = os.pwrite(self._descriptor, data[done:], place + done)
            if not written:
                raise OSError(errno.EIO, "nothing was written")
            done += written


def _crcs(data: memoryview) -> np.ndarray:
    """Return the checksum of each block; 1 stands for 0, which says that there is none."""
    starts = range(0, len(data), BLOCK_BYTES)
    return np.array([crc32(data[at : at + BLOCK_BYTES]) or 1 for at in starts], dtype=_CRC)


def _pieces(there: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield start and stop of runs of blocks that are there, cut to what is read at once."""
    for start, stop in runs_of(there):
        for at in range(start, stop, _PIECE):
            yield at, min(at + _PIECE, stop)


def runs_of(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return start and stop of each run of true flags.

    Example:
        >>> runs_of(np.array([True, True, False, True]))
        [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    starts, stops = edges[::2].tolist(), edges[1::2].tolist()
    return list(zip(starts, stops, strict=True))
