"""How much the block cache may take on this machine, and what goes when it is full."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{40}")
_UNIT = 512  # of `st_blocks`, whatever the file system
_STEP = 64 << 20
_LOCK = ".lock"


class Room:
    """Keeps a folder of block files below a number of bytes. Thread-safe; processes share it.

    Nobody counts what all processes write: each looks at the folder after it has written a 32nd of
    the bound (64 MiB at most), one process at a time under a lock, and deletes the files that were
    used longest ago. A quarter of the bound is left free for what others write between their looks:
    eight processes, or sixteen with the default bound. Of the disk, half of what is free is never
    taken.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._bound = self._limit = max_bytes
        self._unseen = _STEP  # the first look is at the first write
        self._lock = threading.Lock()

    def make(self, nbytes: int) -> bool:
        """Make room for bytes that are to be written; False: they are too many to be kept.

        Cost: nothing, or from time to time a look at the size of every file in the folder.

        Raises:
            OSError: the folder cannot be looked at.
        """
        with self._lock:
            self._unseen += nbytes
            looks = self._unseen >= min(_STEP, self._limit // 32)
        if looks and self._tidy(nbytes):
            with self._lock:
                self._unseen = 0
        return nbytes <= self._limit // 4

    def _tidy(self, nbytes: int) -> bool:
        """Whether this process has looked; else another one is doing just this."""
        with self._alone() as alone:
            if alone:
                self._evict(nbytes)
        return alone

    def _evict(self, nbytes: int) -> None:
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        self._limit = min(self._bound, (used + shutil.disk_usage(self._folder).free) // 2)
        if used + nbytes <= self._limit * 3 // 4:
            return
        for _, size, path in files:
            if used + nbytes <= self._limit * 5 // 8:
                return
            with suppress(FileNotFoundError):
                path.unlink()
            used -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Yield when each file was used last, what it takes and where it is; no foreign files."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_mtime_ns, found.st_blocks * _UNIT, Path(entry.path)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process looks after the folder until the end of the block."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._folder / _LOCK, flags, 0o600)
        try:
            yield _locked(descriptor)
        finally:
            os.close(descriptor)  # which ends the lock, as the end of the process does


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
