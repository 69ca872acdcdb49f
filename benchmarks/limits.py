"""What the machine itself can do: the ways that ours are set beside.

Each is a `Way` of kind "limit", to be measured in the same rounds as what it limits.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparing import Way

Block = bytes | memoryview


def memcpy(source: torch.Tensor) -> Way:
    """Copy a tensor to memory that has its pages already: what a copy can be at best."""
    goal = torch.empty_like(source)
    goal.copy_(source)
    return Way("memcpy", "limit", lambda: goal.copy_(source))


def raw_append(path: Path, blocks: Sequence[Block], *, sync: bool = False) -> Way:
    """Append blocks to a new file with `os.write`, then `fdatasync` if `sync`."""

    def run() -> None:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for block in blocks:
                write_all(opened, block)
            if sync:
                os.fdatasync(opened)
        finally:
            os.close(opened)

    def gone() -> None:
        path.unlink(missing_ok=True)

    return Way("raw write + fdatasync" if sync else "raw write", "limit", run, before=gone)


def write_all(opened: int, block: Block) -> None:
    """Write all of a block: one call writes 2 GiB at most."""
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(opened, rest) :]


def scan(path: Path, *, cold: bool = False) -> Way:
    """Read every byte of a file through a new memory map, from the page cache or from the disk."""

    def run() -> None:
        with path.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        count = len(mapped) // 8
        np.bitwise_xor.reduce(np.frombuffer(mapped, np.uint64, count))

    name = "memmap scan, cold" if cold else "memmap scan"
    return Way(name, "limit", run, before=dropping(path) if cold else None)


def sequential(path: Path, *, block: int = 8 << 20) -> Way:
    """Read a file that is not in the page cache with `read`, block by block."""
    room = bytearray(block)

    def run() -> None:
        with path.open("rb", buffering=0) as opened:
            while opened.readinto(room):
                pass

    return Way("raw read, cold", "limit", run, before=dropping(path))


def dropping(path: Path) -> Callable[[], None]:
    """Return what takes a file, or the files of a folder, out of the page cache.

    Pages that someone has mapped stay: close what holds them before.
    """

    def drop() -> None:
        files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
        for file in files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    return drop
