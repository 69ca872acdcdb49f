"""A store that fails, delays, truncates, duplicates and times out by a plan that a seed decides.

Each call draws what happens to it. What the caller hears is what a store in the distance would
say: an error before anything happened, an error after everything did (a lost answer), an answer
that ends early, a request that is carried out twice, one that takes long. All of them pass: a
server that has a bad hour, not a lost disk.
"""

import errno
import threading
import time
from collections import Counter
from random import Random

from lazycache.errors import StorageError

FAULTS = ("fail", "lost answer", "truncate", "duplicate", "delay", "time out")


class FaultStore:
    """`inner`, of whose calls a share of `rate` meets a fault.

    Args:
        inner: The store that does the work.
        seed: Decides which calls meet which fault.
        rate: Share of the calls.
        most: Faults in all; after them nothing fails any more. None: without end.
        kinds: Which faults there are.
    """

    def __init__(self, inner, *, seed, rate=0.1, most=None, kinds=FAULTS, delay_s=0.002):
        self.inner, self._random, self._rate, self._left = inner, Random(seed), rate, most
        self._kinds, self._delay_s = kinds, delay_s
        self._lock = threading.Lock()
        self.injected = Counter()

    @property
    def url(self):
        return self.inner.url

    def _drawn(self, *possible):
        """What happens to this call; None: nothing."""
        with self._lock:
            if self._left == 0 or self._random.random() >= self._rate:
                return None
            kinds = [kind for kind in self._kinds if kind in possible]
            if not kinds:
                return None
            kind = self._random.choice(kinds)
            self.injected[kind] += 1
            self._left = None if self._left is None else self._left - 1
            return kind

    def _write(self, action):
        """Do something that changes the store, as the plan says."""
        kind = self._drawn("fail", "lost answer", "duplicate", "delay", "time out")
        if kind == "delay":
            time.sleep(self._delay_s)
        if kind == "fail":
            raise StorageError(errno.ECONNRESET, "refused (injected)")
        result = action()
        if kind == "duplicate":  # a proxy in between sends it again; the first answer is lost
            result = action()
        if kind in ("lost answer", "time out"):
            raise StorageError(errno.ETIMEDOUT, "no answer in time (injected)")
        return result

    def _read(self, action):
        """Ask the store for something, as the plan says."""
        kind = self._drawn("fail", "truncate", "delay", "time out", "duplicate")
        if kind == "delay":
            time.sleep(self._delay_s)
        if kind == "fail":
            raise StorageError(errno.ECONNRESET, "refused (injected)")
        if kind == "time out":
            raise StorageError(errno.ETIMEDOUT, "no answer in time (injected)")
        if kind == "duplicate":
            action()
        if kind == "truncate":
            raise StorageError(errno.ECONNRESET, "the answer ended early (injected)")
        return action()

    def get(self, path):
        return self._read(lambda: self.inner.get(path))

    def get_ranges(self, path, ranges):
        return self._read(lambda: self.inner.get_ranges(path, ranges))

    def local_path(self, path):
        """Nothing is a file of this machine: everything is a request."""

    def size(self, path):
        return self._read(lambda: self.inner.size(path))

    def exists(self, path):
        return self._read(lambda: self.inner.exists(path))

    def list(self, prefix):
        return iter(self._read(lambda: list(self.inner.list(prefix))))

    def put(self, path, data):
        self._write(lambda: self.inner.put(path, data))

    def put_if_absent(self, path, data):
        return self._write(lambda: self.inner.put_if_absent(path, data))

    def create(self, path):
        return _Upload(self, self.inner.create(path))

    def delete(self, path):
        self._write(lambda: self.inner.delete(path))


class _Upload:
    """Pieces of an object; a lost answer to the last one leaves it whole, and the caller unsure."""

    def __init__(self, faults, inner):
        self._faults, self._inner = faults, inner

    def write(self, buffers):
        kind = self._faults._drawn("fail", "delay")
        if kind == "delay":
            time.sleep(self._faults._delay_s)
        if kind == "fail":
            raise StorageError(errno.ECONNRESET, "refused (injected)")
        self._inner.write(buffers)

    def finish(self):
        kind = self._faults._drawn("fail", "lost answer", "delay")
        if kind == "fail":
            raise StorageError(errno.ECONNRESET, "refused (injected)")
        self._inner.finish()
        if kind == "lost answer":
            raise StorageError(errno.ETIMEDOUT, "no answer in time (injected)")

    def abort(self):
        self._inner.abort()
