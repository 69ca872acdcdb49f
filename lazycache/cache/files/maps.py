"""Shards of this machine as memory: what the reader keeps mapped, and what it lends out.

The *source* of a shard is a map of the whole file that never leaves the reader: gathers, copies and
aggregates read it, so nothing that a caller does to a tensor can reach them. A zero-copy load is
*lent*: a private map of just its rows, of its own, that ends with the caller's tensor. Neither
holds a file descriptor. Eviction and close drop our reference and never unmap under a reader.

A file is looked at before every use: one that was truncated, replaced or removed since is an error
that names it and not a crash of the process.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.files.private_map import give_back, is_full, live_maps, private_map
from lazycache.cache.files.residency import Residency
from lazycache.errors import CorruptShardError, StorageError
from lazycache.storage.store import Store
from lazycache.types import ShardRef

if sys.platform != "win32":
    import resource

MOST_LENT = 16_384
"""Maps of this process beyond which loads are copied: a quarter of what Linux allows it."""

MOST_MAPS = 4096
"""Maps of shards that a reader keeps."""

_LEAST_BYTES, _MOST_BYTES = 4 << 30, 1 << 40

_Key = tuple[str, int, torch.dtype]
_Identity = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class MappedShard:
    """The map of one whole shard, for reading only: never handed to a caller."""

    path: str
    """Where the file is."""
    identity: _Identity
    """Which file it was: another one at the same path is mapped anew."""
    raw: np.ndarray
    """uint8[length]: its bytes."""
    values: torch.Tensor
    """Its bytes as values of the site's dtype; bytes at the end that make no value are left off."""


def mappable_bytes() -> int:
    """Return the bytes of maps that a reader keeps: addresses, which cost no memory.

    A map that is made anew meets a page fault for every few pages again. Only where the addresses
    of a process are limited (`RLIMIT_AS`) are they few.
    """
    if sys.platform == "win32":
        return _LEAST_BYTES
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _MOST_BYTES if soft == resource.RLIM_INFINITY else _LEAST_BYTES


class MapCache:
    """Maps by shard, least recently used first to go.

    A shard is its path, length and dtype: a log that gives one path to several sites cannot make
    one read with the measures of another. Thread-safe: the lock covers the dictionary only, never a
    file operation. Two threads that miss at once may both map a shard; one map is kept.
    """

    def __init__(self, store: Store, *, max_maps: int, max_bytes: int) -> None:
        self._store = store
        self._max_maps = max_maps
        self._max_bytes = max_bytes
        self._bytes = 0
        self._maps: OrderedDict[_Key, MappedShard] = OrderedDict()
        # also maps that were evicted and are still being read
        self._alive: weakref.WeakSet[MappedShard] = weakref.WeakSet()
        self._seen: dict[str, tuple[str, _Identity]] = {}
        self._lock = threading.Lock()
        self.residency = Residency(self.give_back)
        """Is told what is read of the maps."""

    def __len__(self) -> int:
        return len(self._maps)

    def get(self, ref: ShardRef, dtype: torch.dtype) -> MappedShard:
        """Return the map of a shard, mapping it if it is not. Cost: a look at the file.

        Raises:
            CorruptShardError: the file is not there or does not have the length in the log.
            StorageError: the file cannot be mapped.
        """
        key = (ref.path, ref.length, dtype)
        with self._lock:
            known = self._maps.get(key)
            if known is not None:
                self._maps.move_to_end(key)
        if known is not None:
            if _stated(known.path, ref) == known.identity:
                return known
            self._drop(key, known)
        made = self._mapped(ref, dtype)
        with self._lock:
            kept = self._maps.setdefault(key, made)
            if kept is made:
                self._bytes += ref.length
                self._alive.add(made)
            self._evict()
        return kept

    def look(self, ref: ShardRef, mapped: MappedShard) -> None:
        """Look whether the file of a map that is held still has its bytes. Raises as `get`."""
        _stated(mapped.path, ref)

    def lend(self, ref: ShardRef, start: int, stop: int) -> np.ndarray | None:
        """Return bytes of a shard as memory of the caller's own: uint8[stop - start].

        None where the process has so many maps already that a copy is the better choice.

        Raises:
            CorruptShardError: the file is not there or does not have the length in the log.
            StorageError: the file cannot be mapped.
        """
        if live_maps() >= MOST_LENT:
            return None
        try:
            return self._map(ref, start, stop)[0]
        except StorageError as exc:
            if is_full(exc):
                return None
            raise

    def _map(self, ref: ShardRef, start: int, stop: int) -> tuple[np.ndarray, str, _Identity]:
        """Map bytes of a shard: with them, where the file is and which it is."""
        known = self._seen.get(ref.path)
        if known is not None:
            path, seen = known
            raw, identity = _range(path, ref, start, stop)
            if identity == seen:
                return raw, path, identity
        # a file not seen before: the store says whether it lies inside the dataset
        where = self._store.local_path(ref.path)
        assert where is not None, "only shards of this machine are mapped"
        path = str(where)
        raw, identity = _range(path, ref, start, stop)
        self._seen[ref.path] = (path, identity)
        return raw, path, identity

    def _mapped(self, ref: ShardRef, dtype: torch.dtype) -> MappedShard:
        raw, path, identity = self._map(ref, 0, ref.length)
        # outside inference mode, whoever maps it first: it is read in and outside of it
        with torch.inference_mode(mode=False):
            whole = raw[: ref.length - ref.length % dtype.itemsize]
            return MappedShard(path, identity, raw, torch.from_numpy(whole).view(dtype))

    def _drop(self, key: _Key, mapped: MappedShard) -> None:
        with self._lock:
            if self._maps.get(key) is mapped:
                del self._maps[key]
                self._bytes -= key[1]

    def _evict(self) -> None:
        while len(self._maps) > 1 and (
            len(self._maps) > self._max_maps or self._bytes > self._max_bytes
        ):
            (_, length, _), _ = self._maps.popitem(last=False)
            self._bytes -= length

    def give_back(self) -> None:
        """Give the pages of all maps back to the system; who reads them maps them again."""
        with self._lock:
            maps = list(self._alive)
        for mapped in maps:
            give_back(mapped.raw)

    def clear(self) -> None:
        """Drop every map; what is being read stays valid until it is read."""
        with self._lock:
            self._maps.clear()
            self._bytes = 0


def _range(path: str, ref: ShardRef, start: int, stop: int) -> tuple[np.ndarray, _Identity]:
    """Map bytes of a shard that is what the log says; its descriptor is closed at once."""
    try:
        # not blocking: a pipe in the place of a file must not stop us
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        raise _failed(exc, path, ref) from exc
    try:
        identity = _checked(os.fstat(fd), ref)
        return private_map(fd, start, stop), identity
    except StorageError:
        raise
    except OSError as exc:
        raise _failed(exc, path, ref) from exc
    finally:
        os.close(fd)


def _stated(path: str, ref: ShardRef) -> _Identity:
    try:
        return _checked(os.stat(path), ref)  # noqa: PTH116  # at every read: half of Path's time
    except StorageError:
        raise
    except OSError as exc:
        raise _failed(exc, path, ref) from exc


def _checked(found: os.stat_result, ref: ShardRef) -> _Identity:
    if not stat.S_ISREG(found.st_mode):
        raise CorruptShardError(f"shard {ref.path} of site {ref.site!r} is not a file.")
    if found.st_size != ref.length:
        raise CorruptShardError(
            f"shard {ref.path} of site {ref.site!r} has {found.st_size:,} bytes; the log recorded "
            f"{ref.length:,}. It was truncated or replaced: restore the file from a copy."
        )
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _failed(exc: OSError, path: str, ref: ShardRef) -> StorageError:
    if isinstance(exc, FileNotFoundError):
        return CorruptShardError(f"shard {ref.path} of site {ref.site!r} is missing.")
    return StorageError(exc.errno, f"shard {ref.path} cannot be read: {exc.strerror}", path)
