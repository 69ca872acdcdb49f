"""The storage seam: what a place for bytes can do, in object-store words.

Paths are relative to the dataset, `/`-separated, and never leave it. A client never sees a partial
object: an object exists whole or not at all. Every failure is a `StorageError`; an object that is
not there is a plain `FileNotFoundError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing."""

    path: str
    """Relative to the dataset."""
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch; 0.0 where the store does not say."""


class Upload(Protocol):
    """An object being written: invisible until `finish`."""

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Append the buffers, in order. The caller may reuse them when this returns."""
        ...

    def finish(self) -> None:
        """Make the object durable and visible."""
        ...

    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `finish` or a second time."""
        ...


class Store(Protocol):
    """A folder, bucket prefix or memory that holds one dataset."""

    @property
    def url(self) -> str:
        """The address a user would give to open it; holds no secrets."""
        ...

    def get(self, path: str) -> bytes:
        """Read a whole object."""
        ...

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read `(start, stop)` byte ranges of one object; one request each."""
        ...

    def local_path(self, path: str) -> Path | None:
        """Where the object is as a file of this machine, to be memory-mapped; None if it is not.

        A link that leads out of the dataset is refused.
        """
        ...

    def size(self, path: str) -> int:
        """Bytes of an object."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a folder (`""` for everything), in order of path."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object, durably."""
        ...

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole object unless there is one: True if this call created it."""
        ...

    def create(self, path: str) -> Upload:
        """Begin an object that is written in pieces."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; no error if there is none."""
        ...
