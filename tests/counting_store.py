"""A store around another one that counts what is asked of it, and answers as late as a far one.

Two ways to use it. Around a store that a test builds itself::

    store = CountingStore(open_store(url, ...), latency=0.02)

And below a whole cache, opened as users open it::

    with counted_open(url) as (cache, store):
        cache["layer.0"][0].load()
    assert store.requests == 1
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import NamedTuple

import pytest

import lazycache as lc
from lazycache.storage.open_store import open_store

LISTED = 1000
"""Objects that one request for a listing tells of, as on S3."""


class Call(NamedTuple):
    """One call of a store."""

    name: str
    path: str
    ranges: tuple[tuple[int, int], ...]
    """What `get_ranges` asked for that is not empty; else nothing."""


class CountingStore:
    """Does what another store does; its files are no files of this machine.

    `log` has every call in order. `requests` counts what a server would be asked: each range is
    one, a listing is one for 1,000 objects, an upload is one. `bytes` were read, `written` written.
    `in_flight_max` is how many requests were on their way at once; the ranges of one call are on
    their way together. Every call but `local_path` waits `latency` seconds.
    """

    def __init__(self, inner, latency=0.0):
        self.inner, self.latency = inner, latency
        self._lock = threading.Lock()
        self.reset()

    def reset(self):
        """Count from zero."""
        with self._lock:
            self.log: list[Call] = []
            self.requests = self.bytes = self.written = self.in_flight_max = 0
            self._in_flight = 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def calls(self, name, prefix=""):
        """The calls of one name below a folder."""
        return [call for call in self.log if call.name == name and call.path.startswith(prefix)]

    @contextmanager
    def _asked(self, name, path, ranges=None):
        count = 1 if ranges is None else len(ranges)
        with self._lock:
            self.log.append(Call(name, path, tuple(ranges or ())))
            self.requests += count
            self._in_flight += count
            self.in_flight_max = max(self.in_flight_max, self._in_flight)
        try:
            if self.latency and count:
                time.sleep(self.latency)
            yield
        finally:
            with self._lock:
                self._in_flight -= count

    def _passed(self, *, read=0, written=0):
        with self._lock:
            self.bytes += read
            self.written += written

    def local_path(self, path):
        self.inner.local_path(path)

    def get(self, path):
        with self._asked("get", path):
            data = self.inner.get(path)
        self._passed(read=len(data))
        return data

    def get_ranges(self, path, ranges):
        with self._asked("get_ranges", path, [tuple(r) for r in ranges if r[0] < r[1]]):
            found = self.inner.get_ranges(path, ranges)
        self._passed(read=sum(len(part) for part in found))
        return found

    def size(self, path):
        with self._asked("size", path):
            return self.inner.size(path)

    def exists(self, path):
        with self._asked("exists", path):
            return self.inner.exists(path)

    def list(self, prefix):
        found = list(self.inner.list(prefix))
        for _ in range(1 + max(0, len(found) - 1) // LISTED):
            with self._asked("list", prefix):
                pass
        return iter(found)

    def put(self, path, data):
        with self._asked("put", path):
            self.inner.put(path, data)
        self._passed(written=len(data))

    def put_if_absent(self, path, data):
        with self._asked("put_if_absent", path):
            created = self.inner.put_if_absent(path, data)
        self._passed(written=len(data))
        return created

    def create(self, path):
        return _CountingUpload(self, path, self.inner.create(path))

    def delete(self, path):
        with self._asked("delete", path):
            self.inner.delete(path)


class _CountingUpload:
    def __init__(self, store, path, inner):
        self.store, self.path, self.inner = store, path, inner

    def write(self, buffers):
        self.store._passed(written=sum(view.nbytes for view in buffers))
        self.inner.write(buffers)

    def finish(self):
        with self.store._asked("create", self.path):
            self.inner.finish()

    def abort(self):
        self.inner.abort()


@contextmanager
def counted_open(url, *, latency=0.0, cache_bytes=0, cache_folder=None, **options):
    """`lc.open(url, **options)` over a `CountingStore`: the cache, and the store.

    The store counts from before the opening; `store.reset()` starts anew. There is no block cache
    unless `cache_bytes` says how large it may be; `cache_folder` is where it lies.
    """
    stores = []

    def counting(url, **of_store):
        stores.append(CountingStore(open_store(url, **of_store), latency))
        return stores[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lazycache.opening.open_store", counting)
        patch.setenv("LAZYCACHE_CACHE_BYTES", str(cache_bytes))
        if cache_folder is not None:
            patch.setenv("LAZYCACHE_CACHE_DIR", str(cache_folder))
        cache = lc.open(url, **options)
        try:
            yield cache, stores[0]
        finally:
            cache.close()
