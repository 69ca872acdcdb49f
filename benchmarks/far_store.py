"""A bucket that is a folder: `far:///folder`, with the delays of an object store, counted.

Every request waits `LATENCY` seconds, at most `PARALLEL` of them at once; all bytes pass a link of
`BANDWIDTH` bytes per second. These are the figures of one machine beside its object store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from benchmarks.comparing import Way

LATENCY, BANDWIDTH, PARALLEL = 0.02, 200e6, 16


class FarFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Reads of a local folder as if it were far away. Read only: `far://` writes nothing."""

    protocol = "far"
    requests, passed = 0, 0
    _counting, _link = threading.Lock(), threading.Lock()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return super()._strip_protocol(str(path).removeprefix("far://"))

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        data: bytes = LocalFileSystem().cat_file(self._strip_protocol(path), start, end, **kwargs)
        self._pass(len(data))
        return data

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open a file whose reads are requests, each for what is read and no more."""
        if mode != "rb":
            raise PermissionError(f"far:// is read only, not {mode!r}")
        size = LocalFileSystem().size(self._strip_protocol(path))
        return _FarFile(self, path, mode="rb", cache_type="none", size=size)

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Sequence[int],
        ends: Sequence[int],
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes]:
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self.cat_file, paths, starts, ends))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        self._pass(0)
        found: dict[str, Any] = super().info(path, **kwargs)
        return found

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        local = LocalFileSystem()
        found = local.find(path, *args, **kwargs)
        for _ in range(1 + len(found) // 1000):  # an object store lists 1,000 at a time
            self._pass(0)
        return found

    @classmethod
    def _pass(cls, count: int) -> None:
        """Wait as long as a request of so many bytes takes, and count it."""
        with cls._counting:
            FarFileSystem.requests += 1
            FarFileSystem.passed += count
        time.sleep(LATENCY)
        if count:
            with cls._link:
                time.sleep(count / BANDWIDTH)


class _FarFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An open file: every read is a request."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.cat_file(self.path, start, end)
        return data


fsspec.register_implementation("far", FarFileSystem, clobber=True)


def counted() -> tuple[int, int]:
    """Requests and bytes so far."""
    return FarFileSystem.requests, FarFileSystem.passed


def counting(way: Way) -> Way:
    """Count the requests and bytes of every run of a way; what it says is those of the last."""
    action = way.run

    def run() -> object:
        before = counted()
        done = None if action is None else action()
        way.requests, way.nbytes = (now - then for now, then in zip(counted(), before, strict=True))
        return done

    way.run = run
    return way
