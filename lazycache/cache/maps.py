"""Shards of this machine as memory maps: private, writable, bounded in number and bytes.

A shard has up to two maps. The *source* never leaves the reader: gathers, copies and reductions
read it, so nothing that a caller does to a tensor can reach them. The *lent* map is what callers
hold as zero-copy tensors. Both are private (`MAP_PRIVATE`): a write copies the page and never
reaches the file. A caller that writes in place to a lent tensor changes the pages it holds, so the
next tensor is lent from a new map (torch counts in-place writes: `_version`).

torch closes the file descriptor once mapped, so maps cost no descriptors, and a map lives as long
as a tensor refers to it: eviction and close drop our reference and never unmap under a caller.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import torch

from lazycache.cache.gather import flat_tensor
from lazycache.errors import CorruptShardError, StorageError
from lazycache.storage.store import Store
from lazycache.types import ShardRef


class MappedShard:
    """The maps of one shard, made when first asked for."""

    def __init__(self, path: Path, ref: ShardRef, dtype: torch.dtype) -> None:
        self._path = path
        self._ref = ref
        self._dtype = dtype
        self.source = _map(path, ref)
        """The whole file, for reading only: never handed to a caller."""
        self._lent: tuple[torch.Tensor, int] | None = None

    def lend(self) -> torch.Tensor:
        """Return the file as a flat tensor of the site's dtype, untouched by earlier borrowers."""
        lent = self._lent
        if lent is None or lent[0]._version != lent[1]:  # noqa: SLF001  # torch's write counter
            storage = _map(self._path, self._ref)
            # outside inference mode, or the tensor would have no count of in-place writes
            with torch.inference_mode(mode=False):
                flat = flat_tensor(storage, self._dtype)
            lent = self._lent = (flat, flat._version)  # noqa: SLF001
        return lent[0]


class MapCache:
    """Maps by shard, least recently used first to go.

    Thread-safe: the lock covers the dictionary only, never a file operation. Two threads that miss
    at once may both map a shard; one map is kept.
    """

    def __init__(self, store: Store, *, max_maps: int, max_bytes: int) -> None:
        self._store = store
        self._max_maps = max_maps
        self._max_bytes = max_bytes
        self._bytes = 0
        self._maps: OrderedDict[str, tuple[MappedShard, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._maps)

    def get(self, ref: ShardRef, dtype: torch.dtype) -> MappedShard:
        """Return the maps of a shard, mapping it if it is not.

        Raises:
            CorruptShardError: the file is not there or does not have the length in the log.
            StorageError: the file cannot be mapped.
        """
        with self._lock:
            known = self._maps.get(ref.path)
            if known is not None:
                self._maps.move_to_end(ref.path)
                return known[0]
        path = self._store.local_path(ref.path)
        assert path is not None, "only shards of this machine are mapped"
        made = MappedShard(path, ref, dtype)
        with self._lock:
            kept = self._maps.setdefault(ref.path, (made, ref.length))[0]
            if kept is made:
                self._bytes += ref.length
            self._evict()
        return kept

    def _evict(self) -> None:
        while len(self._maps) > 1 and (
            len(self._maps) > self._max_maps or self._bytes > self._max_bytes
        ):
            _, (_, nbytes) = self._maps.popitem(last=False)
            self._bytes -= nbytes

    def clear(self) -> None:
        """Drop every map; those that a caller's tensor refers to stay valid until it is gone."""
        with self._lock:
            self._maps.clear()
            self._bytes = 0


def _map(path: Path, ref: ShardRef) -> torch.UntypedStorage:
    try:
        size = path.stat().st_size
    except FileNotFoundError as exc:
        raise CorruptShardError(f"shard {ref.path} of site {ref.site!r} is missing.") from exc
    except OSError as exc:
        raise StorageError(exc.errno, f"shard {ref.path}: {exc.strerror}", str(path)) from exc
    if size != ref.length:
        raise CorruptShardError(
            f"shard {ref.path} of site {ref.site!r} has {size:,} bytes; the log recorded "
            f"{ref.length:,}. It was truncated or replaced: restore the file from a copy."
        )
    try:
        storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=ref.length)
    except RuntimeError as exc:
        raise StorageError(f"shard {ref.path} cannot be mapped: {exc}") from exc
    assert isinstance(storage, torch.UntypedStorage), "torch declares its base class"
    return storage
