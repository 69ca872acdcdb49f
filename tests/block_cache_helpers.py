"""Files as the log describes them, with bytes that are told by their place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lazycache.storage.block_cache import BlockCache
from lazycache.storage.block_file import BLOCK_BYTES
from lazycache.storage.known_files import CachedFiles


@dataclass(frozen=True)
class File:
    """What a log says of a file."""

    path: str
    length: int
    crc: int = 0


def content(file: File) -> bytes:
    """The bytes of a file: other ones at every place, for every path and CRC."""
    seed = [file.crc, *file.path.encode()]
    return np.random.default_rng(seed).bytes(file.length)


def cached(store, folder: Path, max_bytes: int = 1 << 24, place: str = "here") -> CachedFiles:
    """Files of a store, over a block cache."""
    return CachedFiles(store, BlockCache(folder, max_bytes=max_bytes), place=place)


def taken(folder: Path) -> int:
    """The bytes that a folder takes on the disk."""
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(folder))


def blocks_of(ranges) -> set[int]:
    """The blocks that ranges touch."""
    return {b for a, z in ranges if a < z for b in range(a // BLOCK_BYTES, -(-z // BLOCK_BYTES))}
