"""Uploads through the open files of a driver, and ones that wait in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from lazycache.errors import StorageError

_PART_BYTES = 8 << 20


class Puts(Protocol):
    """A store, as far as an upload needs it."""

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object."""
        ...


class MemoryUpload:
    """Pieces of an object for a file system whose open files are visible at once."""

    def __init__(self, store: Puts, path: str) -> None:
        self._store, self._path = store, path
        self._pieces: list[bytes] = []

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Copy the buffers: the caller may reuse them."""
        self._pieces.extend(bytes(view) for view in buffers)

    def finish(self) -> None:
        """Put the whole object."""
        self._store.put(self._path, b"".join(self._pieces))
        self._pieces = []

    def abort(self) -> None:
        """Forget the pieces."""
        self._pieces = []


class StreamUpload:
    """A file of fsspec whose object appears when it is closed, as on object stores.

    Holds one part of 8 MiB; parts are sent as they fill, by the thread that writes.
    """

    def __init__(
        self, fs: Any, key: str, *, explained: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._file = fs.open(key, "wb", block_size=_PART_BYTES)
        self._explained = explained

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Append; parts are sent as they fill."""
        with self._explained("write"):
            for view in buffers:
                self._file.write(view)

    def finish(self) -> None:
        """Send the last part and complete the object."""
        with self._explained("write"):
            self._file.close()

    def abort(self) -> None:
        """Discard the parts. The file must not close itself later: that would complete it."""
        if self._file.closed:
            return
        self._file.closed = True
        discard = getattr(self._file, "discard", None)  # Azure forgets blocks that nobody joined
        if discard is not None:
            with suppress(StorageError), self._explained("abort"):
                discard()
