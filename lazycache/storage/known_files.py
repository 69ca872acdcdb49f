"""Ranges of files that the log describes: from the store, or from blocks of it that are kept here.

These files never change. What the log says of one, its checksums with it, is a part of the name
under which its blocks are kept: of an object that another one has replaced, and that the log tells
of, nothing is read that was kept before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import numpy as np

from lazycache.errors import CorruptShardError
from lazycache.storage.block_cache import BlockCache, ObjectBlocks, block_cache
from lazycache.storage.block_file import BLOCK_BYTES, runs_of
from lazycache.storage.layout import IDENTITY
from lazycache.storage.ranges import MAX_GAP, Merged, coalesce, scatter
from lazycache.storage.store import Store

Result = TypeVar("Result")

_PLACES = ("endpoint_url", "account_name", "account_host", "host", "port")
_PLACE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL")


class KnownFile(Protocol):
    """What the log says of a file: a frozen dataclass whose `repr` is all of it."""

    @property
    def path(self) -> str:
        """Relative to the dataset."""
        ...

    @property
    def length(self) -> int:
        """Bytes of the whole file."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Got:
    """Ranges of a file, and what they took."""

    parts: list[memoryview]
    """The ranges, in the order in which they were asked for."""
    requests: int
    """Ranges that the store was asked for."""
    nbytes: int
    """Their bytes: what was wanted, and blocks around it that are kept from now on."""
    cached: int
    """Bytes that were here already."""


class KnownFiles(Protocol):
    """Where ranges of the files of a dataset come from. Thread-safe."""

    @property
    def extra_bytes(self) -> int:
        """How many more bytes than wanted may be asked for with each range."""
        ...

    def get_ranges(self, file: KnownFile, ranges: Sequence[tuple[int, int]]) -> Got:
        """Read `(start, stop)` ranges of a file.

        Raises:
            FileNotFoundError: there is no such file.
            StorageError: the store failed.
        """
        ...

    def forget(self, file: KnownFile) -> bool:
        """Keep nothing of a file any more; whether there was anything."""
        ...


class StoredFiles:
    """Ranges as the store gives them: one request each."""

    extra_bytes = 0

    def __init__(self, store: Store) -> None:
        self._store = store

    def get_ranges(self, file: KnownFile, ranges: Sequence[tuple[int, int]]) -> Got:
        """Read ranges; as `KnownFiles.get_ranges`."""
        found = self._store.get_ranges(file.path, ranges)
        asked = sum(start < stop for start, stop in ranges)
        return Got([memoryview(part) for part in found], asked, sum(map(len, found)), 0)

    def forget(self, file: KnownFile) -> bool:  # noqa: ARG002  # as the protocol has it
        """Return False: nothing is kept."""
        return False


class CachedFiles:
    """Ranges from the block cache, and from the store what is not there.

    One request for each range of which no block is there, from the first block to the last; a part
    that is there divides it only where it is more than `MAX_GAP` bytes. Two threads or processes
    that lack the same blocks at once may both ask for them.
    """

    extra_bytes = 2 * (BLOCK_BYTES - 1)

    def __init__(self, store: Store, cache: BlockCache, *, place: str) -> None:
        self._store, self._cache, self._place = store, cache, place
        self._names: dict[str, tuple[KnownFile, str]] = {}

    def get_ranges(self, file: KnownFile, ranges: Sequence[tuple[int, int]]) -> Got:
        """Read ranges; as `KnownFiles.get_ranges`."""
        if any(stop > file.length for _, stop in ranges):  # the store says what is wrong with it
            return StoredFiles(self._store).get_ranges(file, ranges)
        pieces = coalesce([_blocks(file, *r) for r in ranges], max_gap=0)
        with self._cache.object(self._name(file), length=file.length) as kept:
            buffers, missing = _loaded(pieces, kept)
            fetched = self._store.get_ranges(file.path, missing) if missing else []
            for (start, _), data in zip(missing, fetched, strict=True):
                kept.keep(start // BLOCK_BYTES, memoryview(data))
        _filled(pieces, buffers, missing, fetched)
        nbytes = sum(map(len, fetched))
        cached = sum(map(len, buffers)) - nbytes
        return Got(scatter(ranges, pieces, buffers), len(missing), nbytes, cached)

    def forget(self, file: KnownFile) -> bool:
        """Delete the blocks of a file; whether there were any."""
        return self._cache.forget(self._name(file))

    def _name(self, file: KnownFile) -> str:
        """Return the name of its blocks; all that the log says of the file goes into it."""
        known = self._names.get(file.path)
        if known is None or known[0] is not file:
            text = f"lazycache blocks 1\n{self._place}\n{file!r}"
            known = file, sha256(text.encode(errors="surrogatepass")).hexdigest()[:40]
            self._names[file.path] = known
        return known[1]


def _blocks(file: KnownFile, start: int, stop: int) -> tuple[int, int]:
    """Return the bytes of the blocks that a range touches; of the last one, what there is."""
    if start >= stop:
        return 0, 0
    first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
    return first * BLOCK_BYTES, min(last * BLOCK_BYTES, file.length)


def _loaded(
    pieces: Sequence[Merged], kept: ObjectBlocks
) -> tuple[list[memoryview], list[tuple[int, int]]]:
    """Return memory for each piece with what is kept of it, and the ranges that are missing."""
    buffers, missing = [], []
    for piece in pieces:
        buffer = np.empty(piece.stop - piece.start, dtype=np.uint8).data
        there = kept.load(piece.start // BLOCK_BYTES, buffer)
        lacking = [
            (piece.start + a * BLOCK_BYTES, min(piece.start + b * BLOCK_BYTES, piece.stop))
            for a, b in runs_of(~there)
        ]
        missing += [(one.start, one.stop) for one in coalesce(lacking, max_gap=MAX_GAP)]
        buffers.append(buffer)
    return buffers, missing


def _filled(
    pieces: Sequence[Merged],
    buffers: list[memoryview],
    missing: Sequence[tuple[int, int]],
    fetched: Sequence[bytes],
) -> None:
    """Put what was fetched where it belongs; a piece of which nothing was there is not copied."""
    at = 0
    for (start, stop), data in zip(missing, fetched, strict=True):
        while pieces[at].stop <= start:
            at += 1
        piece = pieces[at]
        if (start, stop) == (piece.start, piece.stop):
            buffers[at] = memoryview(data)
        else:
            buffers[at][start - piece.start : stop - piece.start] = data


def known_files(
    store: Store, *, uuid: str, storage_options: Mapping[str, Any] | None
) -> KnownFiles:
    """Return where ranges of the files of a dataset come from. Reads nothing.

    Of a store far away they are kept in the block cache of this user; a folder of this machine and
    `memory://` are nearer than that. The address is a part of the name of the blocks, so that a
    dataset that gives itself out as another one changes nothing that is read of that one.

    Raises:
        StorageError: `LAZYCACHE_CACHE_BYTES` is no number of bytes.
    """
    near = store.url.startswith("memory://") or store.local_path(IDENTITY) is not None
    cache = None if near else block_cache()
    if cache is None:
        return StoredFiles(store)
    return CachedFiles(store, cache, place=f"{uuid}\n{store.url}\n{_server(storage_options)}")


def _server(storage_options: Mapping[str, Any] | None) -> str:
    """Return what says which server an address means; it is hashed and shown to nobody."""
    options = dict(storage_options or {})
    of_client = options.get("client_kwargs")
    if isinstance(of_client, Mapping):
        options = {**of_client, **options}
    told = [(key, options.get(key)) for key in _PLACES]
    told += [(key, os.environ.get(key)) for key in _PLACE_VARIABLES]
    return repr(told)


def checked(files: KnownFiles, file: KnownFile, read: Callable[[], Result]) -> Result:
    """Return what `read` returns of a file; if its checksums do not fit, what it returns anew.

    Blocks of bytes that are not what the log says are not kept: neither those that the store gave
    while the object was another one, nor those that a disk has changed.

    Raises:
        CorruptShardError: the bytes of the store do not fit either.
    """
    try:
        return read()
    except CorruptShardError:
        if not files.forget(file):
            raise
    try:
        return read()
    except CorruptShardError:
        files.forget(file)
        raise
