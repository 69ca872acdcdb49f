"""Memory of the host for tensors that a sink keeps for a while: mapped apart, used again.

The heap is the wrong place for them. They outlive the forward pass that made them, and what the
model frees around them cannot be given back or used again for something larger: a process of 0.7 GB
had 1.0 GB after 50 batches, and stays at 0.7 GB with this. And memory that goes back to the system
between two batches costs a page fault for each 4 KiB, as much as the copy itself.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

_LEAST_BYTES = 1 << 20
"""Below this the heap serves as well."""

_STEPS = 8
"""Sizes between two powers of two: a block is at most an eighth larger than what it is for."""


class HostMemory:
    """Gives memory out, and gives it out again when the last view of a tensor is gone.

    It never holds more than the most that was in use at once. What is in use outlives it. May be
    used from several threads.

    Example:
        >>> memory = HostMemory()
        >>> x = memory.empty([1 << 20], torch.float32)
        >>> place = x.data_ptr()
        >>> del x
        >>> memory.empty([1 << 10, 1 << 10], torch.float32).data_ptr() == place
        True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[mmap.mmap]] = {}
        # filled by finalizers, which may run in any thread and inside of any call of ours
        self._returned: deque[mmap.mmap] = deque()
        self._used = 0
        self._most = 0
        self.nbytes = 0
        """Bytes that are mapped, in use or not."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor on the CPU whose contents are anything.

        Cost: none if a block of that size is free; else a system call, and a page fault for each
        page when it is first written.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < _LEAST_BYTES:
            return torch.empty(tuple(shape), dtype=dtype)
        block = self._take(_rounded(nbytes))
        array = np.frombuffer(block, np.uint8, nbytes)
        # the storage of the tensor, and of its views, holds the array
        weakref.finalize(array, self._returned.append, block).atexit = False
        return torch.from_numpy(array).view(dtype).view(tuple(shape))

    def _take(self, size: int) -> mmap.mmap:
        with self._lock:
            self._collect()
            self._used += size
            self._most = max(self._most, self._used)
            free = self._free.get(size)
            if free:
                return free.pop()
            self._shrink(self._most - size)
            self.nbytes += size
            return _mapped(size)

    def _collect(self) -> None:
        """Take back what finalizers have returned."""
        while self._returned:
            block = self._returned.popleft()
            self._used -= len(block)
            self._free.setdefault(len(block), []).append(block)

    def _shrink(self, limit: int) -> None:
        """Unmap free blocks, of other sizes than is asked for, until no more is mapped."""
        for blocks in self._free.values():
            while blocks and self.nbytes > limit:
                self.nbytes -= len(blocks.pop())  # the last reference: this unmaps it


def _mapped(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    huge = getattr(mmap, "MADV_HUGEPAGE", None)  # of Linux
    if huge is not None:
        with suppress(OSError):  # a kernel without them
            # a tenth of the time of copying, summing and writing went into page tables
            block.madvise(huge)
    return block


def _rounded(nbytes: int) -> int:
    """Return a size that blocks for so many bytes have.

    Example:
        >>> _rounded(1 << 20), _rounded((1 << 20) + 1)
        (1048576, 1179648)
    """
    step = (1 << (nbytes - 1).bit_length() - 1) // _STEPS
    return -(-nbytes // step) * step
