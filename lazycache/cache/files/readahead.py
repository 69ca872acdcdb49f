"""Scattered rows that are not in the page cache: asked for all at once, before they are touched.

A page fault reads one row and what the system thinks comes next, megabytes of it, while the thread
waits; and then the next row. Told beforehand, the disk reads all rows side by side, and only them.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence

import numpy as np

from lazycache.cache.files.private_map import LIBC

SAMPLED = 5
"""Rows that are looked at to see whether the rest is in the page cache."""

_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)
_POPULATE_READ = 22
"""Linux 5.14 and later; others refuse it, and pages fault when they are read."""


def read_ahead(addresses: np.ndarray, *, row_bytes: int) -> None:
    """Have the pages of rows read that begin at ascending addresses of memory maps.

    Cost: ten microseconds where they are in the page cache; otherwise a call of the system for each
    row, and the disk works while the rows before are copied.
    """
    if LIBC is None or _WILL_NEED is None or len(addresses) < 2:  # noqa: PLR2004  # one just faults
        return
    sample = addresses[:: max(1, len(addresses) // SAMPLED)].tolist()
    if all(map(LIBC.is_resident, sample)):
        return
    for address in addresses.tolist():
        LIBC.advise(address, row_bytes, _WILL_NEED)


def is_resident(ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether the ends of ranges of memory maps, (address, bytes) each, are in the page cache."""
    if LIBC is None or _WILL_NEED is None:
        return True
    return all(LIBC.is_resident(address + size - 1) for address, size in ranges)


def read_ahead_ranges(ranges: Sequence[tuple[int, int]]) -> None:
    """Have ranges of memory maps read, (address, bytes) each, that are far from each other.

    Cost: ten microseconds where they are in the page cache; otherwise a call of the system for each
    range. Nothing waits for the disk.
    """
    if LIBC is None or _WILL_NEED is None:
        return
    sample = ranges[:: max(1, len(ranges) // SAMPLED)]
    if all(LIBC.is_resident(address + size - 1) for address, size in sample):
        return
    for address, size in ranges:
        LIBC.advise(address, size, _WILL_NEED)


def fault_in_ranges(ranges: Sequence[tuple[int, int]]) -> None:
    """Wait until ranges of memory maps, (address, bytes) each, are read, and map their pages.

    Who copies them then meets no page fault.
    """
    if LIBC is None or sys.platform != "linux":
        return
    for address, size in ranges:
        LIBC.advise(address, size, _POPULATE_READ)
