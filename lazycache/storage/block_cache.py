"""Blocks of files far away, kept on this machine: shared by processes, bounded, never needed.

Whatever goes wrong with it (a full disk, a folder that may not be written or vanishes) is not an
error: then nothing is kept, and the bytes are asked for again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from lazycache.errors import StorageError
from lazycache.storage.block_file import BLOCK_BYTES, BlockFile
from lazycache.storage.block_room import Room
from lazycache.storage.cache_folder import cache_folder

DEFAULT_BYTES = 4 << 30
"""What the blocks of all datasets may take together where `LAZYCACHE_CACHE_BYTES` is not set."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class BlockCache:
    """A folder with one file for each object of which blocks are kept.

    Thread-safe, and safe with any number of processes: see `block_file` and `block_room`. Only the
    user who made a file can read it, and files of other users are not read.

    Example:
        >>> import tempfile
        >>> cache = BlockCache(Path(tempfile.mkdtemp()), max_bytes=1 << 20)
        >>> with cache.object("0" * 40, length=6) as blocks:
        ...     blocks.keep(0, memoryview(b"abcdef"))
        ...     found = bytearray(6)
        ...     blocks.load(0, memoryview(found)).tolist(), bytes(found)
        ([True], b'abcdef')
        >>> cache.forget("0" * 40)
        True
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._room = Room(folder, max_bytes=max_bytes)

    @contextmanager
    def object(self, name: str, *, length: int) -> Iterator[ObjectBlocks]:
        """Open what is kept of an object for a read. Cost: opening one file."""
        descriptor = self._opened(self._folder / name)
        if descriptor is None:
            yield ObjectBlocks(None, self._room)
            return
        try:
            yield ObjectBlocks(BlockFile(descriptor, length), self._room)
        finally:
            os.close(descriptor)

    def forget(self, name: str) -> bool:
        """Delete what is kept of an object; whether there was anything."""
        try:
            (self._folder / name).unlink()
        except OSError:
            return False
        return True

    def _opened(self, where: Path) -> int | None:
        """Return a descriptor of a file of ours; None if there can be none."""
        try:
            try:
                descriptor = os.open(where, _FLAGS, 0o600)
            except FileNotFoundError:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(where, _FLAGS, 0o600)
        except OSError:
            return None
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            with suppress(OSError):
                os.utime(descriptor)  # used now: the last to go
            return descriptor
        os.close(descriptor)
        return None


class ObjectBlocks:
    """What is kept of one object, during one read. Never raises `OSError`."""

    def __init__(self, file: BlockFile | None, room: Room) -> None:
        self._file, self._room = file, room

    def load(self, first: int, into: memoryview) -> np.ndarray:
        """Fill `into` with blocks as `BlockFile.load`; return which are there."""
        if self._file is not None:
            with suppress(OSError):
                return self._file.load(first, into)
        return np.zeros(-(-len(into) // BLOCK_BYTES), dtype=np.bool_)

    def keep(self, first: int, data: memoryview) -> None:
        """Keep blocks, unless they are too many or cannot be written."""
        if self._file is not None:
            with suppress(OSError):
                if self._room.make(len(data)):
                    self._file.keep(first, data)


def block_cache() -> BlockCache | None:
    """Return the block cache of this user; None if there is to be none.

    It lies in the folder `blocks` of `cache_folder()` and takes up to `LAZYCACHE_CACHE_BYTES`, 4
    GiB if that is not set; 0 is off. Reads and makes nothing.

    Raises:
        StorageError: `LAZYCACHE_CACHE_BYTES` is no number of bytes.
    """
    folder, most = cache_folder(), _max_bytes()
    if folder is None or not most:
        return None
    return BlockCache(folder / "blocks", max_bytes=most)


def _max_bytes() -> int:
    told = os.environ.get("LAZYCACHE_CACHE_BYTES", "").strip()
    if not told:
        return DEFAULT_BYTES
    if not (told.isascii() and told.isdecimal()):
        raise StorageError(
            f"LAZYCACHE_CACHE_BYTES is {told!r:.80}: give a number of bytes, such as {4 << 30}, or "
            "0 for no block cache."
        )
    return int(told)
