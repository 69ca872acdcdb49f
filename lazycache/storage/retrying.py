"""Try again what may work a moment later: with growing pauses, jitter and a deadline.

Only calls that may be done twice are tried again: reads, listings, `size`, `exists`, `put` of the
same bytes, `delete`. `put_if_absent` is not: after a lost answer a second call would say that
somebody else was first. Whoever commits decides it by looking (`catalog/log.py`).
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lazycache.errors import StorageError
from lazycache.storage.store import ObjectInfo, Store, Upload
from lazycache.storage.transience import TRANSIENT

T = TypeVar("T")

VARIABLE = "LAZYCACHE_DEADLINE_SECONDS"
"""Environment variable: for how long a failing call is tried again."""

_DEADLINE_S = 60.0
_ONLY_TRY_S = 600.0  # where nothing is tried again
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 8.0


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long to try, and how fast the pauses grow."""

    deadline: float
    """Seconds after which nothing is tried again; 0 tries once."""
    first_pause: float = _FIRST_PAUSE_S
    """Longest first pause; each next one may be twice as long."""
    longest_pause: float = _LONGEST_PAUSE_S
    """No pause is longer."""

    @property
    def one_try(self) -> float:
        """Seconds that one try may wait for a server: after them there is time for another."""
        return self.deadline / 2 or _ONLY_TRY_S

    @classmethod
    def of_environment(cls) -> Patience:
        """Return what LAZYCACHE_DEADLINE_SECONDS says, else 60 seconds.

        Raises:
            StorageError: the variable is not a number of seconds.
        """
        said = os.environ.get(VARIABLE, "").strip()
        try:
            deadline = float(said) if said else _DEADLINE_S
        except ValueError:
            deadline = math.nan
        if not 0 <= deadline < math.inf:
            raise StorageError(f"{VARIABLE}={said!r} is not a number of seconds: 0 or more.")
        return cls(deadline)

    def pauses(self) -> Iterator[float]:
        """Yield how long to wait before each next try; ends when the deadline has passed.

        Example:
            >>> list(Patience(0.0).pauses())
            []
        """
        until = time.monotonic() + self.deadline
        longest = self.first_pause
        while (left := until - time.monotonic()) > 0:
            # a random part of it: clients that failed together must not come back together
            yield min(left, random.uniform(longest / 2, longest))  # noqa: S311 - no secret
            longest = min(2 * longest, self.longest_pause)


def is_transient(exc: StorageError) -> bool:
    """Whether a failure may pass by itself: its `errno` says so.

    Timeouts, lost connections, throttling and the 5xx of servers are; a full disk, missing rights
    and what is not there are not.

    Example:
        >>> import errno
        >>> is_transient(StorageError(errno.ETIMEDOUT, "late")), is_transient(StorageError("no"))
        (True, False)
    """
    return exc.errno in TRANSIENT


def patiently(call: Callable[[], T], *, patience: Patience | None = None) -> T:
    """Return what `call` returns, trying again while it fails transiently and time is left.

    `call` must be safe to do twice. Costs nothing more where it works at once.

    Raises:
        StorageError: a failure that does not pass, or the last one when time ran out.

    Example:
        >>> patiently(lambda: 7)
        7
    """
    began, tries, pauses = time.monotonic(), 0, None
    while True:
        tries += 1
        try:
            return call()
        except StorageError as exc:
            if not is_transient(exc):
                raise
            if pauses is None:
                pauses = (patience or Patience.of_environment()).pauses()
            pause = next(pauses, None)
            if pause is None:
                raise given_up(exc, tries=tries, seconds=time.monotonic() - began) from exc
        time.sleep(pause)


def given_up(exc: StorageError, *, tries: int, seconds: float) -> StorageError:
    """Return the error of a call that was tried until the deadline."""
    times = "once" if tries == 1 else f"{tries} times"
    message = f"{exc.strerror} Tried {times} within {seconds:.3g} s ({VARIABLE})."
    return StorageError(exc.errno, message)


class RetryingStore:
    """A `Store` that asks another one again when it failed for the moment.

    Example:
        >>> from lazycache.storage.fsspec_store import FsspecStore
        >>> store = RetryingStore(FsspecStore("memory://retrying", storage_options={}))
        >>> store.put("a", b"bytes")
        >>> store.get("a"), store
        (b'bytes', RetryingStore(FsspecStore('memory://retrying')))
        >>> store.delete("a")
    """

    def __init__(self, inner: Store, *, patience: Patience | None = None) -> None:
        self._inner = inner
        self._patience = patience or Patience.of_environment()

    @property
    def url(self) -> str:
        """The address of the store behind it."""
        return self._inner.url

    def __repr__(self) -> str:
        """Return what it is around."""
        return f"RetryingStore({self._inner!r})"

    def get(self, path: str) -> bytes:
        """Read a whole object."""
        return self._again(lambda: self._inner.get(path))

    def get_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges of one object; all again if one fails."""
        return self._again(lambda: self._inner.get_ranges(path, ranges))

    def local_path(self, path: str) -> Path | None:
        """Where the object is as a file of this machine."""
        return self._inner.local_path(path)

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return self._again(lambda: self._inner.size(path))

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self._again(lambda: self._inner.exists(path))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects below a folder, in order of path; a listing that breaks off starts anew."""
        yield from self._again(lambda: list(self._inner.list(prefix)))

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object; twice the same bytes are once."""
        self._again(lambda: self._inner.put(path, data))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a whole object unless there is one: tried once, see the module."""
        return self._inner.put_if_absent(path, data)

    def create(self, path: str) -> Upload:
        """Begin an object that is written in pieces; the store retries the pieces itself."""
        return self._inner.create(path)

    def delete(self, path: str) -> None:
        """Remove an object; no error if there is none."""
        self._again(lambda: self._inner.delete(path))

    def _again(self, call: Callable[[], T]) -> T:
        return patiently(call, patience=self._patience)
